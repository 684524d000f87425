"""`python bench/cpu.py OUT.json`: where a training step on this CPU spends its time, peak memory, and startup.

- profile: the ten operators with the largest share of two steps of `simsid` and `squid`, batch 16, 128 x 128, with
  contiguous tensors and with channels_last ones, as the training command has them.
- convolutions: how long the step's convolutions take alone, in channels_last, one shape after the other, as a share of
  the step.
- scoring: the same shares for all scores of 16 images, and for the ranking score of `fastsquid --fast`.
- memory: of training and scoring with each preset at full size, each in a process of its own.
- startup: `import fastsquid`, `import torch`, and `score --fast` of one image, each a process.
- loading: from `import fastsquid` to the shipped model in memory.

Whatever is in OUT.json is not measured again.
"""

import collections
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from iterations import CASES, images_of, trainer_of
from rows import about
from torch.utils._python_dispatch import TorchDispatchMode

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.training.trainer import Trainer
from fastsquid.utils.allocator import keep_freed_memory
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.devices import peak_memory_mb
from fastsquid.utils.files import replacing

CPU = torch.device("cpu")
ROUNDS = 3
PRESETS = ("squid", "simsid", "fastsquid", "memae", "auto-encoder", "squid-small", "simsid-small", "fastsquid-small")


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--memory", metavar="PRESET", help="print the peak memory of a preset, MiB, and end")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return
    found = json.loads(options.out.read_text()) if options.out.exists() else {"about": about(CPU)}
    parts = {f"profile {name}": lambda name=name: profiles(name) for name in ("simsid", "squid")}
    parts |= {f"convolutions {name}": lambda name=name: convolutions(name) for name in ("simsid", "squid")}
    parts |= {f"scoring {name}": lambda name=name: scoring(name) for name in ("simsid", "squid", "fastsquid --fast")}
    parts |= {f"memory {name}": lambda name=name: ask("--memory", name) for name in PRESETS}
    parts |= {"startup": startup, "loading zhanglab": loading}
    for part, measure in parts.items():
        if part not in found:
            found[part] = measure()
            print(part, found[part], flush=True)
            with replacing(options.out) as file:
                json.dump(found, file, indent=1)


def cycle(trainer, images):
    """As many steps as generator and discriminator take in turn."""
    for iteration in range(trainer.config.generator_every):
        trainer.step(images, iteration)


def seconds_of(run):
    """The fastest of `ROUNDS` calls, after one that is not timed."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def profiles(name):
    """{layout: {"seconds", "operators": [(name, share of the operators' own time)]}}."""
    config, batch = CASES[name]
    found = {}
    for layout in ("contiguous", "channels_last"):
        trainer, images = trainer_of("torch", config, CPU), images_of(batch, config, CPU) / 255
        if layout == "contiguous":
            trainer.channels_last = False
            trainer.detector.to(memory_format=torch.contiguous_format)
        found[layout] = profile_of(lambda trainer=trainer, images=images: cycle(trainer, images))
    return found


def profile_of(run):
    """{"seconds", "operators": [(name, share of the operators' own time)]} of a call, the ten largest."""
    seconds = seconds_of(run)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    shares = [(row.key, round(row.self_cpu_time_total / whole, 4)) for row in rows[:10]]
    return {"seconds": round(seconds, 4), "operators": shares}


class Recorded(TorchDispatchMode):
    """Counts the convolutions that run, forward and backward, by their arguments."""

    OPERATORS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.OPERATORS:
            known = tuple(
                tuple(a.shape) if torch.is_tensor(a) else tuple(a) if isinstance(a, list) else a for a in args
            )
            self.calls[function, known] += 1
        return function(*args, **(kwargs or {}))


def convolutions(name):
    """Seconds of two steps, of their convolutions alone, floating-point operations, and the share."""
    config, batch = CASES[name]
    trainer, images = trainer_of("torch", config, CPU), images_of(batch, config, CPU) / 255
    step = seconds_of(lambda: cycle(trainer, images))
    with Recorded() as recorded:
        cycle(trainer, images)
    found = alone_of(recorded)
    return {"step_s": round(step, 3), **found, "share": round(found["convolutions_s"] / step, 3)}


def scoring(case):
    """`profile_of` scoring 16 images, the seconds of its convolutions alone, and their floating-point operations."""
    name, *fast = case.split()
    config = preset(name)
    images, detector = torch.rand(16, 1, config.image_size, config.image_size), Detector(config).eval().frozen()
    names = ("discriminator_image",) if fast else config.scores
    found = profile_of(lambda: detector.scores(images, names=names))
    with torch.no_grad(), Recorded() as recorded:  # `scores` has inference mode, in which none is recorded
        detector._scores(images, None, names)
    return {**found, **alone_of(recorded, 4)}


def alone_of(recorded, digits=3):
    """Of recorded convolutions, each shape on its own in channels_last: seconds, operations, and the highest rate."""
    alone, operations, fastest = 0.0, 0, 0.0
    for (function, known), count in recorded.calls.items():
        tensors = 3 if function is Recorded.OPERATORS[1] else 2
        given = [torch.randn(shape) for shape in known[:tensors]]
        given = [each.contiguous(memory_format=torch.channels_last) for each in given]
        rest = [list(each) if isinstance(each, tuple) else each for each in known[tensors:]]
        if tensors == 2 and rest[0] is not None:
            rest[0] = torch.randn(rest[0])
        seconds = seconds_of(lambda function=function, given=given, rest=rest: function(*given, *rest))
        alone += count * seconds
        operations += count * operations_of(function, known)
        fastest = max(fastest, operations_of(function, known) / seconds)
    return {
        "convolutions_s": round(alone, digits),
        "gflop": round(operations / 1e9, 2),
        "fastest_gflops": round(fastest / 1e9, 1),
    }


def operations_of(function, known):
    """Floating-point operations of a convolution, or of the gradients of its input and weight, by its arguments."""
    if function is Recorded.OPERATORS[1]:
        out, _, weight = known[:3]
        return sum(known[-1][:2]) * 2 * out[0] * out[2] * out[3] * torch.Size(weight).numel()
    image, weight, _, stride, padding = known[:5]
    sides = [(side + 2 * p - k) // s + 1 for side, p, k, s in zip(image[2:], padding, weight[2:], stride)]
    return 2 * image[0] * sides[0] * sides[1] * torch.Size(weight).numel()


def memory(name):
    """Peak MiB of a process: as it begins, with scoring of 64 images, and with two training steps."""
    config = preset(name)
    found = {"start": peak_memory_mb()}
    images = torch.rand(64, 1, config.image_size, config.image_size)
    detector = Detector(config).eval()
    detector.frozen().scores(images)
    found["scoring"] = peak_memory_mb()
    cycle(Trainer(detector.train()), images[: config.batch_size])
    found["training"] = peak_memory_mb()
    return {key: round(value) for key, value in found.items()}


def ask(*arguments):
    """What this script prints in a process of its own."""
    call = [sys.executable, __file__, "unused", *arguments]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def startup():
    """Seconds: {what: {"cpu", "elapsed"}}, the median of five processes."""
    from fastsquid import train

    with tempfile.TemporaryDirectory() as folder:
        run, image = Path(folder) / "run", Path(folder) / "0.png"
        train.main(["--preset", "fastsquid-digits", "--epochs", "1", "--device", "cpu", "--out", str(run)])
        from PIL import Image

        Image.new("L", (64, 64), 100).save(image)
        score = [
            "-m",
            "fastsquid.score",
            str(run),
            str(image),
            "--fast",
            "--out",
            f"{folder}/scores.csv",
            "--overwrite",
        ]
        calls = {"import torch": ["-c", "import torch"], "import fastsquid": ["-c", "import fastsquid"]}
        return {what: taken(call) for what, call in {**calls, "score of one image": score}.items()}


def loading():
    """Seconds from `import fastsquid` to the shipped model in memory, PyTorch imported before; the median of five."""
    code = "import time, torch; start = time.perf_counter(); import fastsquid; fastsquid.load('zhanglab'); "
    code += "print(time.perf_counter() - start)"
    call = [sys.executable, "-c", code]
    samples = [float(subprocess.run(call, check=True, capture_output=True, text=True).stdout) for _ in range(6)]
    return round(statistics.median(samples[1:]), 3)


def taken(arguments):
    samples = []
    # Python keeps compiled modules, whatever the environment here says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(6):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
        elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        samples.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, elapsed))
    cpu, elapsed = (statistics.median(values) for values in zip(*samples[1:]))  # the first one fills caches
    return {"cpu": round(cpu, 3), "elapsed": round(elapsed, 3)}


if __name__ == "__main__":
    run_command(main)
