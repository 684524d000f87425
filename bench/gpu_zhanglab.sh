#!/usr/bin/env bash
# bench/gpu_zhanglab.sh DATA: the presets on ZhangLab X-rays at full size, on this machine's GPU, a part of the work a call.
# The seeds of a preset train beside each other for LIMIT seconds (400) of a call, which then scores, draws and packs what is
# finished, within ten minutes in all: $OUT/PRESET.tar.gz (OUT: bench/results/zhanglab, where it is unpacked) holds configurations,
# metrics of every epoch, score files, summaries and pictures, no weights. What is unfinished stays in runs/ for the next call;
# what bench/results/zhanglab holds is not trained again, and if calls on several machines left its seeds,
# `python -m fastsquid.train --resume bench/results/zhanglab/PRESET` sums them up.
# PRESETS, SEEDS and OPTIONS change the work, the same for every call: OPTIONS="--device cpu --width 2 --epochs 1" runs anywhere.
set -uo pipefail
if ! data=$(realpath -e "${1:-}" 2>/dev/null); then
    echo "error: ${1:-no folder} is no folder of images: give the one with train/NORMAL, val and test" >&2
    exit 2
fi
out=$(realpath -m "${OUT:-$(dirname "$0")/results/zhanglab}")
cd "$(dirname "$0")/.." || exit
source bench/gpu_setup.sh || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
read -ra presets <<<"${PRESETS:-simsid fastsquid memae auto-encoder squid}"
read -ra seeds <<<"${SEEDS:-0 1 2}"
read -ra options <<<"${OPTIONS:-}"
limit=${LIMIT:-400}
if [[ ${OPTIONS:-} != *"--device cpu"* ]]; then
    need_gpu bench/gpu_zhanglab.sh
    know_checkout
fi

# What a resumed run may be given again, and what draws its figures.
resumed=() device=()
for ((i = 0; i < ${#options[@]}; i++)); do
    [[ ${options[i]} =~ ^--(device|impl|compile|precision)$ ]] && resumed+=("${options[i]}" "${options[i + 1]}")
    [[ ${options[i]} =~ ^--(device|impl)$ ]] && device+=("${options[i]}" "${options[i + 1]}")
done

train() { # PRESET SEED: trains one seed to its end, or until the call's time is up
    local group=runs/zhanglab/$1 log=runs/zhanglab/$1-$2.log left=$((limit - SECONDS)) begin
    if [[ -f $group/group.json ]]; then
        begin=(--resume "$group" "${resumed[@]}")
    else
        begin=(--data "$data" --preset "$1" --seeds "${seeds[@]}" --out "$group" --monitor true)
        [[ $1 == squid ]] && begin+=(--epochs 1000) # which its authors advise
        begin+=("${options[@]}")
    fi
    # The signal saves the run.
    timeout -s INT -k 30 "$left" "$python" -m fastsquid.train "${begin[@]}" --only "$2" >>"$log" 2>&1
    local status=$?
    echo "$1, seed $2: $(tail -n 1 "$log")"
    ((status == 0 || status == 124)) # 124: the time was up
}

pack() { # PRESET: pictures of its finished seeds, and everything small of them, once
    local group=runs/zhanglab/$1 packed=runs/zhanglab/packed/$1 seed runs=()
    for seed in "${seeds[@]}"; do
        [[ -f $group/seed-$seed/summary.json ]] && runs+=("$group/seed-$seed")
    done
    ((${#runs[@]})) && [[ $(cat "$packed.seeds" 2>/dev/null) != "${runs[*]}" ]] || return 0
    "$python" -m fastsquid.figures "${runs[@]}" --out "$packed/figures" "${device[@]}" || failed=1
    "$python" -m fastsquid.locate "${runs[0]}" --out "$packed/localization" "${device[@]}" || failed=1
    if ((${#runs[@]} == ${#seeds[@]})); then
        "$python" -m fastsquid.train --resume "$group" "${resumed[@]}" || failed=1
    fi
    "$python" bench/collect.py "$group" "$packed" || failed=1
    mkdir -p "$out" && tar -czf "$out/$1.tar.gz" -C runs/zhanglab/packed "$1" && echo "${runs[*]}" >"$packed.seeds" || failed=1
}

failed=0
mkdir -p runs/zhanglab/packed
for preset in "${presets[@]}"; do
    pending=()
    for seed in "${seeds[@]}"; do
        committed=bench/results/zhanglab/$preset/seed-$seed/summary.json
        [[ -f $committed || -f runs/zhanglab/$preset/seed-$seed/summary.json ]] || pending+=("$seed")
    done
    if ((${#pending[@]} && SECONDS < limit - 60)); then # less is not worth the start
        echo "$preset: seeds ${pending[*]}"
        train "$preset" "${pending[0]}" &
        first=$! jobs=($!)
        until [[ -f runs/zhanglab/$preset/group.json ]] || ! kill -0 "$first" 2>/dev/null; do sleep 1; done
        for seed in "${pending[@]:1}"; do
            train "$preset" "$seed" &
            jobs+=($!)
        done
        for job in "${jobs[@]}"; do
            wait "$job" || failed=1
        done
    fi
    pack "$preset"
done
exit "$failed"
