#!/usr/bin/env bash
# bench/gpu.sh [--plan] [PHASE...]: everything there is to learn on a rented GPU, in one command of ten minutes.
# Every phase has its own time limit and leaves its file in $OUT; a failed one does not stop the next. See docs/gpu.md.
# Without names: those that measure, facts check kernels step score. --plan prints phases and seconds, and runs nothing.
# Environment: DATA (folder of X-rays, data/zhanglab), OUT (a new folder results in WORK), WORK (runs/gpu: weights and
# compile cache), COMPILED (an archive of what $WORK/cache was on such a machine), SEEDS (0 1 2), PYTHON (python3),
# FASTSQUID_COMMIT (where git is absent), COMMAND_SECONDS (600) and SESSION_SECONDS (900) that are left, SMALLEST=1 (the
# smallest sizes, on any machine).
# Exit code 1 if a phase failed, 2 if nothing can begin.
set -uo pipefail
# Paths are the caller's; what is left open lies in the checkout.
for name in DATA OUT WORK COMPILED; do
    [[ ! ${!name:-} ]] || export "$name=$(realpath -m "${!name}")"
done
cd "$(dirname "$0")/.." || exit
fail() {
    echo "error: $1" >&2
    exit 2
}

# In the order of work. Those without seconds train as long as there is time, and share it.
order=(facts check kernels step score hotspots fastsquid simsid squid memae auto-encoder)
standard=(facts check kernels step score)
declare -A estimate=([facts]=10 [check]=150 [kernels]=120 [step]=120 [score]=75 [hotspots]=40 [fastsquid]=180)
declare -A limit=([facts]=20 [check]=165 [kernels]=130 [step]=130 [score]=95 [hotspots]=70 [fastsquid]=300)
declare -A file=([facts]=facts.json [check]=check.md [kernels]=kernels.csv [step]=step.csv [score]=score.csv [hotspots]=hotspots.txt)
least=90   # seconds in which a preset can be trained at all
start=150  # until the machine runs the command, and to bring the files back
around=25  # to install the checkout, and to sum up
fill=30    # that the compile cache may take after the tests

plan=
[[ ${1:-} == --plan ]] && plan=1 && shift
asked=("$@")
((${#asked[@]})) || asked=("${standard[@]}")
for name in "${asked[@]}"; do
    [[ " ${order[*]} " == *" $name "* ]] || fail "there is no phase $name: the phases are ${order[*]}"
done
command=${COMMAND_SECONDS:-600} session=${SESSION_SECONDS:-900}
for number in "$command" "$session"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "COMMAND_SECONDS and SESSION_SECONDS are whole numbers of seconds, not $number"
done
budget=$((session - start < command ? session - start : command))
phases=() fixed=0 open=0
for name in "${order[@]}"; do
    [[ " ${asked[*]} " == *" $name "* ]] || continue
    phases+=("$name")
    [[ ${estimate[$name]:-} ]] && fixed=$((fixed + estimate[$name])) || open=$((open + 1))
    : "${file[$name]:=$name.tar.gz}"
done
needed=$((fixed + around + open * least))
if ((needed > budget)); then
    session_text="a session of $session s, of which $start s start the machine"
    fail "these phases need $needed s and there are $budget s (a command of $command s; $session_text): leave out a phase"
fi
share=$((open ? (budget - fixed - around) / open : 0))
if [[ $plan ]]; then
    printf '%-14s %8s %8s  %s\n' phase seconds limit file
    for name in "${phases[@]}"; do
        printf '%-14s %8s %8s  %s\n' "$name" "${estimate[$name]:-$share}" "${limit[$name]:-$share}" "${file[$name]}"
    done
    printf '%-14s %8s %8s  %s\n' "in all" $((fixed + around + open * share)) "$budget" "with $around s around them"
    exit
fi

python=${PYTHON:-python3}
work=$(realpath -m "${WORK:-runs/gpu}")
export PYTHONPATH="$PWD:$PWD/bench${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/cache/inductor}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/cache/triton}
export WORK=$work/$(date -u +%Y%m%d-%H%M%S)-$$
unset TRITON_INTERPRET # it would take the kernels off the GPU
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    # The kernels are a package of their own place, fastsquid.kernels, once the checkout is installed.
    installed='import os, fastsquid.kernels; assert os.path.samefile(fastsquid.kernels.__path__[0], "kernels")'
    if ! "$python" -c "$installed" 2>/dev/null; then
        timeout 60 "$python" -m pip install -e . --no-deps --no-build-isolation --no-index --disable-pip-version-check -q ||
            fail "the checkout cannot be installed, see above"
    fi
elif [[ ${SMALLEST:-} ]]; then
    export TRITON_INTERPRET=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # seeds and tests share a few cores
else
    fail "PyTorch finds no GPU here; SMALLEST=1 tries everything without one"
fi
export OUT
OUT=$(realpath -m "${OUT:-$WORK/results}")
if [[ ! ${SMALLEST:-} ]]; then
    export DATA=${DATA:-data/zhanglab}
    if [[ ! -d $DATA/train ]]; then
        for name in "${phases[@]}"; do
            [[ ${file[$name]} != *.tar.gz ]] ||
                fail "phase $name needs X-rays, and $DATA has no folder train: set DATA, see docs/gpu.md"
        done
        unset DATA # random images are scored as fast
    fi
fi
mkdir -p "$OUT" "$WORK" || fail "$OUT or $WORK cannot be made"
if [[ ${COMPILED:-} ]]; then
    # Not which variant of a kernel was fastest there: that is measured here.
    mkdir -p "$work/cache" && tar -xf "$COMPILED" -C "$work/cache" --exclude='*.best_config' ||
        echo "WARNING: $COMPILED cannot be unpacked: everything is compiled here"
fi
[[ ${FASTSQUID_COMMIT:-} ]] || git rev-parse HEAD &>/dev/null ||
    echo "WARNING: no row will name its commit: set FASTSQUID_COMMIT"

failed=0 summary=()
end=$((budget - 10))
run() { # PHASE SECONDS COMMAND...: at most so long, and no longer than the command has
    local name=$1 seconds=$2 status verdict begin=$SECONDS
    shift 2
    ((seconds < end - SECONDS)) || seconds=$((end - SECONDS))
    echo "== $name, $seconds s at most"
    if ((seconds > 5)); then
        PHASE_END=$(($(date +%s) + seconds)) timeout -k 5 "$seconds" "$python" "$@" 2>&1
        status=$?
    else
        status=124
    fi
    case $status in
        0) verdict=ended ;;
        124 | 137) verdict="timed out" ;;
        *) verdict=failed ;;
    esac
    ((status == 0)) || failed=1
    [[ -f $OUT/${file[$name]} ]] || verdict+=", no file"
    summary+=("$(printf '%-14s %-20s %5d s  %s' "$name" "$verdict" $((SECONDS - begin)) "${file[$name]}")")
}

warm='' filled=''
fill_cache() { # PHASE...: compiles what these begin with, beside the phase that runs; once
    [[ ! $filled ]] && (($#)) || return 0
    filled=1
    "$python" bench/gpu/warm.py "$@" >"$WORK/warm.txt" 2>&1 &
    warm=$!
}
use_cache() { # before the first of them: what is not compiled by now, it compiles itself
    local begin=$SECONDS verdict=ended status=0
    [[ $warm ]] || return 0
    while kill -0 "$warm" 2>/dev/null && ((SECONDS < begin + fill)); do sleep 0.2; done
    kill "$warm" 2>/dev/null && verdict=stopped
    wait "$warm" || status=$?
    [[ $verdict == stopped ]] || ((status == 0)) || verdict=failed failed=1
    warm=
    echo "== compile cache"
    cat "$WORK/warm.txt"
    summary+=("$(printf '%-14s %-20s %5d s' "compile cache" "$verdict" $((SECONDS - begin)))")
}

everything() {
    local i name
    for i in "${!phases[@]}"; do
        name=${phases[i]}
        rm -f "$OUT/${file[$name]}" # of an earlier run
        case $name in
            check)
                fill_cache "${phases[@]:i+1}"
                run check "${limit[check]}" bench/gpu/check.py
                ;;
            facts) run facts "${limit[facts]}" bench/gpu/facts.py ;;
            kernels | step | score | hotspots) # nothing else may run beside what is timed
                use_cache
                run "$name" "${limit[$name]}" "bench/gpu/$name.py"
                ;;
            fastsquid)
                use_cache
                fill_cache "${phases[@]:i+1}"
                run fastsquid "${limit[fastsquid]}" bench/gpu/train.py fastsquid
                ;;
            *) # those from here on share what is left
                use_cache
                fill_cache "${phases[@]:i+1}"
                run "$name" $(((end - SECONDS) / (${#phases[@]} - i))) bench/gpu/train.py "$name"
                ;;
        esac
    done
    use_cache
    echo "== in all $SECONDS s, files in $OUT"
    printf '%s\n' "${summary[@]}"
    return "$failed"
}
everything 2>&1 | tee "$OUT/log.txt"
exit "${PIPESTATUS[0]}"
