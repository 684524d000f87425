# Sourced by the scripts for a GPU, in the project's root.
python=${PYTHON:-python3}

need_gpu() { # SCRIPT: exits with 2 where there is none
    if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        echo "error: $1 needs a GPU, and PyTorch finds none here" >&2
        exit 2
    fi
}

know_checkout() { # installs it where its folder kernels/ is not known as fastsquid.kernels
    local installed='import os, fastsquid.kernels; assert os.path.samefile(fastsquid.kernels.__path__[0], "kernels")'
    if ! "$python" -c "$installed" 2>/dev/null; then
        "$python" -m pip install -e . --no-deps --no-build-isolation -q || exit 1
    fi
}
