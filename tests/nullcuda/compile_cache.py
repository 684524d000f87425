"""TARGET PHASE...: what torch.compile makes for phases of bench/gpu.sh, as the archive that its COMPILED takes.

NULLCUDA_NAME is the name of the device that it is for, such as "NVIDIA H200". PyTorch and Triton must be of the same
versions there. The compiled graphs hold their kernels, so nothing else of the caches is packed.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("bench", "bench/gpu")]
cache = tempfile.TemporaryDirectory()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{cache.name}/inductor"
os.environ["TRITON_CACHE_DIR"] = f"{cache.name}/triton"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no worker processes, each with its own stand-in

import stand_in  # noqa: E402, F401
import torch  # noqa: E402
import warm  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

from fastsquid.utils.files import replacing  # noqa: E402

target = Path(sys.argv[1])
for configuration in dict.fromkeys(each for phase in sys.argv[2:] for each in warm.CONFIGURATIONS[phase]):
    print(*configuration, end=": ", flush=True)
    counters.clear()
    warm.compile_one(*configuration)
    torch.compiler.reset()
target.parent.mkdir(parents=True, exist_ok=True)
with replacing(target, "wb") as file, tarfile.open(fileobj=file, mode="w:xz", preset=9) as archive:
    for name in ("fxgraph", "aotautograd"):
        archive.add(f"{cache.name}/inductor/{name}", f"inductor/{name}")
size = target.stat().st_size / 2**20
print(f"{target}: {size:.1f} MiB for {torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
