#!/usr/bin/env bash
# The tests whose numbers could depend on the machine, under other CPUs, thread counts and users than this one:
#
#   tests/everywhere.sh [--list | VARIANT] [PYTEST OPTION...]
#
# Runs one variant, or all of them in sequence: a quarter of an hour each on one core. Prints one line per variant; a
# failed one's output follows it. Exits 1 if a variant failed. Needs .venv (`make .venv/ready`), or PYTHON=path/to/python.
# pytest's own options follow: `-n 2` for two workers, which conftest.py gives a share of the cores each.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$PWD/.venv/bin/python}

# What computes in float32 or ranks computed numbers, quickest first. Not here: files, DICOM, report pages, checkpoints,
# and what trains for long, whose numbers are compared bit for bit with themselves only.
numeric=(
    metrics            # ranks, ties and bootstrap intervals
    neighbors          # distances to training images
    perturb            # convolutions and resampling of images
    memory             # the memory module and its queue
    reference          # the definition of both operations, and the torch path
    inpainting         # attention and memory together
    networks           # layers of both networks
    steps              # training steps on every kind of image
    model              # scores of a batch and of one image
    golden             # whole models against stored numbers
    maps               # maps against their definitions
    memory_read        # kernels in the interpreter, whose dots are numpy's
    neighbor_attention
    kernel_memory
    mutations          # each wrong kernel is still caught
    score              # scores of files, in batches of any size
    scorer
    estimator
    export             # ONNX Runtime's numbers beside PyTorch's
    locate             # AUCs of near-tied cells
    figures            # Grad-CAM, usage of slots, printed scores
    evaluate           # AUCs of perturbed images
    selection          # AUCs watched in training
)

declare -A variants=(
    [machine]=""
    [blas-haswell]="OPENBLAS_CORETYPE=Haswell"
    [blas-skylakex]="OPENBLAS_CORETYPE=SkylakeX"
    [blas-zen]="OPENBLAS_CORETYPE=Zen"
    [aten-avx2]="ATEN_CPU_CAPABILITY=avx2"
    [aten-default]="ATEN_CPU_CAPABILITY=default"
    [one-thread]="OMP_NUM_THREADS=1"
    [old-cpu]="OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2"
    [unwritable-caches]="XDG_CACHE_HOME=/dev/null/cache MPLCONFIGDIR=/dev/null/matplotlib"
    [no-root]="HOME=/nonexistent XDG_CACHE_HOME=/nonexistent/cache MPLCONFIGDIR=/nonexistent/matplotlib"
)
order=(machine blas-haswell blas-skylakex blas-zen aten-avx2 aten-default one-thread old-cpu unwritable-caches no-root)

# Sets `as` to the command that starts another one as a user without root; to nothing where the caller is one. Where
# that user cannot reach the Python (below /root, say), it gets the right to read everything, and to write nothing more.
unprivileged() {
    [ "$(id -u)" = 0 ] || return
    as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    "${as[@]}" sh -c "'$python' -c '' && test -r tests/everywhere.sh" 2> /dev/null ||
        as+=(--inh-caps=-all,+dac_read_search --ambient-caps=+dac_read_search)
}

run() {
    local name=$1 as=() folder log start=$SECONDS status
    shift
    folder=$(mktemp -d) log=$(mktemp)
    [ "$name" = no-root ] && unprivileged
    [ ${#as[@]} = 0 ] || chown 65534:65534 "$folder"
    # shellcheck disable=SC2086  # the settings are words
    env -u OPENBLAS_CORETYPE -u ATEN_CPU_CAPABILITY -u OMP_NUM_THREADS -u XDG_CACHE_HOME -u MPLCONFIGDIR \
        -u PYTHONUNBUFFERED -u PYTEST_ADDOPTS \
        PYTHONDONTWRITEBYTECODE=1 TMPDIR="$folder" ${variants[$name]} "${as[@]}" \
        "$python" -m pytest -q -p no:benchmark "$@" "${numeric[@]/%/.py}" > "$log" 2>&1
    status=$?
    printf '%-18s %s  %d s  %s\n' "$name" "$([ $status = 0 ] && echo passed || echo FAILED)" \
        $((SECONDS - start)) "$(tail -n 1 "$log")"
    [ $status = 0 ] || cat "$log"
    rm -rf "$folder" "$log"
    return $status
}

case "${1-}" in
    --list)
        for name in "${order[@]}"; do printf '%-18s %s\n' "$name" "${variants[$name]}"; done
        exit
        ;;
    "" | -*) chosen=("${order[@]}") ;;
    *)
        [ -n "${variants[$1]+known}" ] || { echo "error: no variant $1; --list lists them" >&2; exit 2; }
        chosen=("$1")
        shift
        ;;
esac
numeric=("${numeric[@]/#/tests/test_}")
failed=0
for name in "${chosen[@]}"; do run "$name" "$@" || failed=1; done
exit $failed
