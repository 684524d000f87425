"""TARGET PRESET...: how many nodes the CUDA graphs of a training cycle have, and how many bytes compiled graphs move.

A cycle is a step of the discriminator alone and one of both networks, in bfloat16. PyTorch counts the bytes: what each
kernel and convolution of a graph reads and writes. Every compiled graph counts once.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = "ATen", "Triton", "cudnn", "blas", "copies", "fills"

rows = []
for preset in sys.argv[2:]:
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TORCH_LOGS": "inductor_metrics"}
        call = [sys.executable, str(Path(__file__).with_name("compiled.py")), preset, "bf16"]
        done = subprocess.run(call, env=environment, stderr=subprocess.PIPE, text=True)
    errors = done.stderr
    assert done.returncode == 0, errors
    graphs = re.findall(r"captured (\d+) nodes: (.*)", errors)
    assert len(graphs) == 2, errors
    row = {"preset": preset, "nodes": sum(int(nodes) for nodes, _ in graphs), **dict.fromkeys(KINDS, 0)}
    for count, kind in re.findall(r"(\d+)(?: kernels)?(?: of)? (\w+)", " ".join(kinds for _, kinds in graphs)):
        row[kind] += int(count)
    row["megabytes"] = round(sum(map(int, re.findall(r"'num_bytes_accessed': (\d+)", errors))) / 1e6)
    rows.append(row)
    print(row, flush=True)
with open(sys.argv[1], "w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
