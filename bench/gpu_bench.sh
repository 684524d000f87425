#!/usr/bin/env bash
# bench/gpu_bench.sh [CSV]: every benchmark on this machine's GPU in under eight minutes, ending in a short table.
# Rows go to bench/results/DEVICE.csv, or CSV. PYTHON names the interpreter (python3); FASTSQUID_COMMIT the commit, where git is
# absent. With SMALLEST=1 everything runs once at the smallest sizes, without a GPU in Triton's interpreter.
set -uo pipefail
results=${1:+--results $(realpath -m "$1")}
cd "$(dirname "$0")/.." || exit
source bench/gpu_setup.sh || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [[ ${SMALLEST:-} ]]; then
    options=(--smallest)
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || export TRITON_INTERPRET=1
else
    options=()
    unset TRITON_INTERPRET
    need_gpu bench/gpu_bench.sh
fi
know_checkout
# What matters most first, the sweeps last: a row is written when it is measured, and stays where the time ends.
failed=0
measure() {
    # shellcheck disable=SC2086
    timeout $((SECONDS < 460 ? 460 - SECONDS : 1)) "$python" -m pytest "$@" --benchmark \
        "${options[@]}" $results --benchmark-disable-gc --benchmark-quiet -q -p no:cacheprovider || failed=1
}
for part in memory_read neighbor_attention training scoring inpainting decoder_memory queue_write; do
    measure "bench/test_$part.py" -m "not sweep"
done
[[ ${SMALLEST:-} ]] || measure bench/test_memory_read.py bench/test_neighbor_attention.py -m sweep
csv=${1:-$(ls -t bench/results/*.csv | head -n 1)}
"$python" bench/report.py "$csv" && sed -n '1,/^$/d;p' "${csv%.csv}-table.md" | tail -n 60
exit "$failed"
