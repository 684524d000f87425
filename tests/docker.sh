#!/usr/bin/env bash
# tests/docker.sh [PYTHON]: run the Dockerfile's pip commands in a new virtual environment, on the files that Docker
# copies, and try the command. With PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels it needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
mapfile -t kept < <(sed -n 's/^!//p' .dockerignore | grep -vx wheels)
git ls-files -z "${kept[@]}" Dockerfile tests/data/xrays | xargs -0 cp --parents -t "$made"
"${1:-python3}" -m venv "$made/venv"
export PATH="$made/venv/bin:$PATH"
(cd "$made" && sed -n 's/^RUN pip/pip/p' Dockerfile | bash -eux)
mv "$made/tests/data/xrays" "$made/data"
rm -r "$made/fastsquid" "$made/kernels" # what is installed must do
cd "$made"
fastsquid --version
fastsquid train --data data --preset fastsquid-small --width 4 --slots 8 --epochs 1 --out runs/mine
fastsquid score runs/mine data --out scores.csv
fastsquid export runs/mine --to onnx
python -c 'import gdcm, pydicom, webdataset'
