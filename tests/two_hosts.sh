#!/usr/bin/env bash
# tests/two_hosts.sh [PYTHON]: score 3,000 images on a Ray cluster of two hosts, then again while one of them dies.
# The hosts are two network namespaces of this machine, joined by a cable of their own (a veth pair, 10.77.0.0/24), on
# one file system: Ray reaches the other node through the network only. Run as root, by hand: it takes two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
made=$(mktemp -d)
export PYTHONPATH=$PWD OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled RAY_TMPDIR=$made/ray
unset RAY_ADDRESS

end() { # all processes of both hosts, then the hosts
    for host in squid-a squid-b; do
        ip netns pids $host 2> /dev/null | xargs -r kill -9 || true
        ip netns delete $host 2> /dev/null || true
    done
    rm -rf "$made"
}
trap end EXIT

start() { # HOST ADDRESS OPTIONS: a node of the cluster
    ip netns exec "$1" timeout 90 "$python" -m ray.scripts.scripts start --node-ip-address="$2" --num-cpus=2 \
        --object-store-memory=300000000 --disable-usage-stats "${@:3}" > "$made/$1.log" 2>&1 ||
        { cat "$made/$1.log" >&2 && return 1; }
}

score() { # OUT
    ip netns exec squid-a timeout 300 "$python" -c 'import sys; from fastsquid import score; from fastsquid.archive import job
job.MOST_ROWS = 100; sys.exit(score.main(sys.argv[1:]))' "$made/run" "$made/images" --ray 10.77.0.1:6379 --out "$1" --actors 2
}

for host in squid-a squid-b; do
    ip netns add $host
    ip -n $host link set lo up
done
ip link add squid-a type veth peer name squid-b
number=1
for host in squid-a squid-b; do
    ip link set $host netns $host
    ip -n $host addr add 10.77.0.$number/24 dev $host
    ip -n $host link set $host up
    number=2
done

"$python" -m fastsquid.train --data tests/data/xrays --preset fastsquid-small --image-size 64 --width 4 --epochs 1 \
    --device cpu --out "$made/run" > "$made/train.log"
"$python" - "$made/images" << 'END'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

folder, generator = Path(sys.argv[1]), np.random.default_rng(0)
folder.mkdir()
for number in range(3000):
    Image.fromarray(generator.integers(0, 256, (64, 64), np.uint8)).save(folder / f"{number:04}.png")
END

start squid-a 10.77.0.1 --head --port=6379 --include-dashboard=false
start squid-b 10.77.0.2 --address=10.77.0.1:6379
received() { ip netns exec squid-b cat /sys/class/net/squid-b/statistics/rx_bytes; }
before=$(received)
score "$made/whole.parquet"
echo "the second host has received $(($(received) - before)) bytes"

score "$made/dying.parquet" &
scoring=$!
working() { ip netns pids squid-b | xargs -r ps -o args= -p | grep '^ray::MapBatches(_'; }
until found=$(working); do
    kill -0 $scoring # else the job has ended before the second host had work
    sleep 0.05
done
ip netns pids squid-b | xargs kill -9
echo "killed the second host while it did: $(sort <<< "$found" | uniq -c | xargs)"
wait $scoring

"$python" - "$made/whole.parquet" "$made/dying.parquet" << 'END'
import sys

import numpy as np
from pyarrow import dataset

tables = [dataset.dataset(path, format="parquet").to_table().sort_by("name") for path in sys.argv[1:]]
for table in tables:
    assert table["name"].to_pylist() == [f"{number:04}.png" for number in range(3000)], "a row is missing, or there twice"
    assert table["error"].null_count == 3000
np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], rtol=1e-4)
print("both jobs wrote every row once, with the same scores")
END
