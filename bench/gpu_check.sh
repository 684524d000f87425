#!/usr/bin/env bash
# bench/gpu_check.sh [REPORT]: the kernels' tests on this machine's GPU, and their smallest cases under
# compute-sanitizer where that is on the PATH. Writes bench/results/gpu_check.md, or REPORT; exits with 1 if anything
# failed, with 2 if there is no GPU. PYTHON names the interpreter (python3), which needs torch, triton, pytest and
# what fastsquid imports.
set -uo pipefail
report=$(realpath -m "${1:-$(dirname "$0")/results/gpu_check.md}")
cd "$(dirname "$0")/.." || exit
source bench/gpu_setup.sh || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET # it would take the kernels off the GPU

need_gpu bench/gpu_check.sh
know_checkout

output=$(mktemp)
trap 'rm -f "$output" "$report.$$"' EXIT
rows=()
failed=0

check() { # NAME COMMAND...: runs it and notes its exit status, pytest's closing line and the sanitizer's summary
    local name=$1 status=0 verdict=passed lines
    shift
    # Five minutes in all, whatever hangs.
    timeout $((SECONDS < 299 ? 300 - SECONDS : 1)) "$@" 2>&1 | tee "$output" || status=$?
    lines=$(grep -E '^(no tests|[0-9]+ ).* in [0-9.]+s|SUMMARY:' "$output" | sed 's/^=* *//' | paste -sd ';')
    if ((status)); then
        verdict="**failed**, exit status $status"
        failed=1
    fi
    rows+=("| $name | $verdict | ${lines//;/; } |")
}

pytest=("$python" -m pytest -p no:cacheprovider -q)
kernels=(tests/test_memory_read.py tests/test_neighbor_attention.py)
check "kernels" "${pytest[@]}" "${kernels[@]}"
check "whole models" "${pytest[@]}" -k "not torch" tests/test_golden.py tests/test_inpainting.py tests/test_dispatch.py
check "torch.compile" "${pytest[@]}" -k "not torch" tests/test_compile.py
if command -v compute-sanitizer >/dev/null; then
    smallest=("${pytest[@]}" -k smallest "${kernels[@]}")
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # else tensors share allocations, and steps out of one go unseen
    # PyTorch's own calls of the driver may fail and be handled; what the kernels do is the matter here.
    check "memcheck" compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 1 "${smallest[@]}"
    check "racecheck" compute-sanitizer --tool racecheck --error-exitcode 1 "${smallest[@]}"
else
    rows+=("| compute-sanitizer | not run | it is not on the PATH |")
fi

{
    echo "# The kernels on a GPU"
    echo
    echo "Written by \`bench/gpu_check.sh\` on $(date -u +%F)."
    echo
    "$python" - <<'END'
import platform

import torch
import triton

print(f"- GPU: {torch.cuda.get_device_name()}")
print(f"- Python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}")
END
    echo "- driver: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader --id=0 2>/dev/null || echo unknown)"
    # The fingerprint of bench/resources.py: in its order of names, whatever the locale.
    echo "- kernels: $(LC_ALL=C && cat kernels/*.py | sha256sum | cut -d ' ' -f 1)"
    echo
    echo "| check | verdict | result |"
    echo "| --- | --- | --- |"
    printf '%s\n' "${rows[@]}"
} >"$report.$$" && mv "$report.$$" "$report" || exit 1
exit "$failed"
