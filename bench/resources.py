"""Compiles every kernel in every configuration for several chips, with no GPU at hand, and says what each needs.

    python bench/resources.py                         writes bench/results/resources.md
    python bench/resources.py --check --chip sm_90    writes nothing, only says what fails

Both exit with 1 if a kernel does not compile, spills registers, or takes more memory than the chip gives a program.
Portable blocks are compiled twice: aligned (addresses, strides and C are multiples of 16, as at all shapes of the
papers; on AMD also tensors below 2 GiB) and unaligned (none of that). A launch is one of the two or lies between them.
A chip's own blocks are launched, and compiled, only aligned.
"""

import argparse
import hashlib
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from fastsquid import kernels
from fastsquid.kernels import configurations as kernel_configurations
from fastsquid.kernels import memory_read, neighbor_attention
from fastsquid.kernels.compilations import ACCUMULATOR, GRADIENTS, QUERIES, SLOTS, Configuration, configurations
from fastsquid.kernels.configurations import PORTABLE, blocks_for
from fastsquid.kernels.launch import INTERPRETED
from fastsquid.utils.files import replacing

REPORT = Path(__file__).parent / "results" / "resources.md"
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "i64",
}


class Chip(NamedTuple):
    """A target of the compiler, and what one program may have there."""

    target: GPUTarget
    shared: int  # bytes of shared memory
    tensor: int = 0  # columns of tensor memory


# Chips of the report. Their own blocks, if any, are in BLOCKS of kernels/configurations.py.
CHIPS = {
    "sm_80": Chip(GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": Chip(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Chip(GPUTarget("cuda", 100, 32), 227 * 1024, 512),
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}

H100 = (9, 0)  # whose programs the report counts

# Every memory of the papers at a batch of 16, and a large one: rows per region, regions, slots, slot dimension.
MEMORIES = {
    "SQUID in-painting": (16, 4, 200, 2048),
    "SQUID decoder, deepest": (64, 4, 200, 4096),
    "SQUID decoder, next": (64, 4, 200, 8192),
    "SimSID in-painting": (16, 16, 100, 512),
    "SimSID decoder, deepest": (256, 4, 100, 1024),
    "SimSID decoder, next": (256, 4, 100, 2048),
    "large": (256, 64, 1000, 2048),
}
# Likewise the in-painting blocks' attention: images, patches per side, heads, head dimension.
ATTENTIONS = {"SQUID": (16, 2, 8, 256), "SimSID": (16, 4, 8, 64), "large": (256, 8, 8, 64)}


class Resources(NamedTuple):
    """What a compiled kernel needs."""

    registers: int  # per thread
    spills: int  # what found no register: bytes per thread; on AMD bytes and registers, added up
    shared: int  # bytes per program
    tensor: int = 0  # columns of tensor memory per program


class Loop(NamedTuple):
    """An innermost loop of the machine code: its instructions, and how many of them are of a kind."""

    instructions: int
    barriers: int  # of the whole program
    products: int  # of the matrix units
    copies: int  # from global to shared memory, or loads


class Launch(NamedTuple):
    grid: tuple
    configuration: Configuration


@contextmanager
def recorded_launches(capability=None):
    """Launchers run but no kernel does: yields the list of their launches. Tensors may be on the device `meta`.

    Args:
        capability: of the chip whose blocks are launched, or None for the portable ones.
    """
    launches = []

    def record(kernel, *arguments, grid, warmup, **keywords):
        pointers = {n: a.dtype for n, a in zip(kernel.arg_names, arguments) if isinstance(a, torch.Tensor)}
        constants = {name: value for name, value in keywords.items() if name in kernel.arg_names}
        options = {name: value for name, value in keywords.items() if name not in kernel.arg_names}
        launches.append(Launch(grid, Configuration(kernel, pointers, constants, options)))

    with (
        mock.patch.object(type(memory_read._dots), "run", record),  # all kernels are of this class
        mock.patch.object(kernel_configurations, "_capability", lambda device: capability),
    ):
        yield launches


def compiled(config, chip, aligned):
    """Triton's compiled kernel."""
    names, target = config.kernel.arg_names, CHIPS[chip].target
    backend = make_backend(target)
    signature, attributes = {}, {}
    for i, parameter in enumerate(config.kernel.params):
        if parameter.name in config.constants:
            signature[parameter.name] = "constexpr"
            continue
        dtype = config.pointers.get(parameter.name)
        signature[parameter.name] = f"*{TYPES[dtype]}" if dtype else "i32"
        if aligned and not parameter.do_not_specialize:
            # Triton's own letters for what it sees in an argument: D, a multiple of 16; S, a tensor below 2 GiB.
            attributes[i,] = backend.parse_attr("DS" if dtype else "D")
    constants = {(names.index(name),): value for name, value in config.constants.items()}
    return triton.compile(ASTSource(config.kernel, signature, constants, attributes), target, config.options)


def machine_code(kernel):
    """Address and text of every instruction of a kernel compiled for NVIDIA; without those that fill up its end."""
    code = dumped(kernel, "-sass")
    lines = [(int(at, 16), text) for at, text in re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", code, re.M)]
    return [line for line in lines if line[1].strip() != "NOP"]


def longest_loop(lines):
    """The innermost `Loop` with most matrix instructions, else with most instructions, of a program's machine code.

    None where everything is unrolled.
    """
    jumps = [(int(target[1], 16), at) for at, text in lines if (target := re.search(r"\bBRA\b.*0x([0-9a-f]+)", text))]
    bodies = [(first, last) for first, last in jumps if first < last]
    inner = [b for b in bodies if not any(o != b and b[0] <= o[0] and o[1] <= b[1] for o in bodies)]
    loops = []
    for first, last in inner:
        words = [re.sub(r"^@!?U?P\w+ +", "", text).split()[0] for at, text in lines if first <= at <= last]
        names = [word.split(".")[0] for word in words]
        count = [sum(name in kinds for name in names) for kinds in (["BAR"], ["HGMMA", "HMMA"], ["LDGSTS", "LDG"])]
        loops.append(Loop(len(words), *count))
    return max(loops, key=lambda loop: (loop.products, loop.instructions), default=None)


def programs_a_multiprocessor(found, warps):
    """How many programs an H100's multiprocessor runs at a time: registers, shared memory and warps bind."""
    registers = -(-found.registers // 8) * 8 * 32 * warps
    return min(65536 // registers, 233472 // (found.shared + 1024), 64 // warps)


def dumped(kernel, option):
    """What cuobjdump says of a kernel compiled for NVIDIA."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, option, cubin.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(config, chip, aligned):
    """The `Resources` of one configuration on one chip."""
    kernel = compiled(config, chip, aligned)
    if CHIPS[chip].target.backend == "hip":
        names = ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
        registers, *spills = (int(re.search(rf"\.{name}:\s*(\d+)", kernel.asm["amdgcn"])[1]) for name in names)
        return Resources(registers, sum(spills), kernel.metadata.shared)
    usage = dumped(kernel, "--dump-resource-usage")
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    return Resources(registers, stack + local, kernel.metadata.shared, kernel.metadata.tmem_size)


def failures(outcome, chip):
    """What is wrong with a compilation, a phrase each; outcome: its `Resources`, or its error as text."""
    if isinstance(outcome, str):
        return [f"does not compile: {outcome}"]
    found, limits = [], CHIPS[chip]
    if outcome.spills:
        found.append(f"spills {outcome.spills}")
    if outcome.shared > limits.shared:
        found.append(f"takes {outcome.shared} bytes of shared memory; a program may have {limits.shared}")
    if outcome.tensor > limits.tensor:
        found.append(f"takes {outcome.tensor} columns of tensor memory; a program may have {limits.tensor}")
    return found


def own_blocks(chip):
    """The blocks of a chip that has its own, else PORTABLE."""
    target = CHIPS[chip].target
    return blocks_for(divmod(target.arch, 10) if target.backend == "cuda" else None)


@cache
def listed(chip):
    """Every configuration: first those of the portable blocks, then what a chip's own blocks add."""
    backend = CHIPS[chip].target.backend
    portable = configurations(backend, PORTABLE)
    known = {key(config) for config in portable}
    return portable + [config for config in configurations(backend, own_blocks(chip)) if key(config) not in known]


def key(config):
    """What tells configurations apart, hashable; the scale of the attention's logits changes no instruction."""
    parts = (part.items() for part in config[1:])
    return config.name, *(frozenset((name, value) for name, value in part if name != "SCALE") for part in parts)


def jobs_of(chip):
    """(chip, number of the configuration, aligned) of all compilations."""
    portable = len(configurations(CHIPS[chip].target.backend, PORTABLE))
    return [
        (chip, n, aligned) for n in range(len(listed(chip))) for aligned in (True, False)[: 2 if n < portable else 1]
    ]


def attempt(job):
    """`Resources`, or the error as text, of one job: chip, number of the configuration, aligned."""
    chip, number, aligned = job
    try:
        return measure(listed(chip)[number], chip, aligned)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def attempt_all(chips):
    """Outcome by job, of all that there is to compile."""
    jobs = [job for chip in chips for job in jobs_of(chip)]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return dict(zip(jobs, tqdm(pool.map(attempt, jobs), total=len(jobs), desc="compiling")))


def described(config):
    """What tells a configuration from the others of its kernel: dtypes of queries and slots, blocks, options."""
    pointers = config.pointers.keys()
    names = [*(QUERIES & pointers), *(SLOTS & pointers)] or GRADIENTS & pointers or ACCUMULATOR & pointers
    dtypes = dict.fromkeys(TYPES[config.pointers[name]] for name in names)
    blocks = {name: value for name, value in config.constants.items() if name.startswith("BLOCK_") or name == "UNROLL"}
    widened = ", widened" if config.constants.get("UPCAST") else ""
    return {"dtypes": ", ".join(dtypes) + widened} | blocks | config.options


def fingerprint():
    """Of the kernels' sources: a report with another one is stale."""
    sources = sorted(Path(kernels.__file__).parent.glob("*.py"), key=lambda path: path.name)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def table(rows):
    """Markdown lines of a list of dicts, which have the same keys."""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return [f"| {' | '.join(map(str, line))} |" for line in lines] + [""]


def summary_table(outcomes):
    rows = []
    for chip in dict.fromkeys(chip for chip, _, _ in outcomes):
        found = [outcome for job, outcome in outcomes.items() if job[0] == chip]
        fine = [outcome for outcome in found if not isinstance(outcome, str)]
        limits, most = CHIPS[chip], Resources(*map(max, zip(Resources(0, 0, 0), *fine)))
        rows.append(
            {
                "chip": chip,
                "configurations": len(listed(chip)),
                "compiled": f"{len(fine)} of {len(found)}",
                "spills": sum(outcome.spills > 0 for outcome in fine),
                "most registers": most.registers,
                "most shared memory": f"{most.shared} of {limits.shared}",
                "most tensor memory": f"{most.tensor} of {limits.tensor}" if limits.tensor else "",
            }
        )
    return table(rows)


def kernel_tables(outcomes):
    """Markdown lines: a section for each kernel, with a row for each configuration and a column for each chip.

    A cell is the worse of the compilations, aligned and unaligned.
    """
    sections, chips = {}, dict.fromkeys((chip for chip, _, _ in outcomes), "")
    for chip, number, _ in outcomes:
        config = listed(chip)[number]
        pair = [outcomes[job] for job in ((chip, number, True), (chip, number, False)) if job in outcomes]
        if any(isinstance(outcome, str) for outcome in pair):
            cell = "**does not compile**"
        else:
            worse = Resources(*map(max, zip(*pair)))
            cell = f"{worse.registers} / {worse.shared}" + (f" **spills {worse.spills}**" if worse.spills else "")
        rows = sections.setdefault(config.name, {})
        rows.setdefault(str(described(config)), described(config) | chips)[chip] = cell
    return [line for name, rows in sections.items() for line in (f"## {name}", "", *table(list(rows.values())))]


def loop_table():
    """Markdown lines: what an H100's multiprocessor runs of each kernel at a time, and its innermost loop."""
    listed_once = {}
    for number, config in enumerate(listed("sm_90")):
        described_as = described(config)
        dtypes = described_as.pop("dtypes")
        if dtypes in ("fp32", "bf16"):
            row = {"kernel": config.name, "blocks": blocks_text(described_as), "dtypes": dtypes}
            listed_once.setdefault(str(row), (row, number))
    jobs = [("sm_90", number, True) for _, number in listed_once.values()]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        figures = list(tqdm(pool.map(loop_row, jobs), total=len(jobs), desc="loops"))
    return table([row | found for (row, _), found in zip(listed_once.values(), figures)])


def blocks_text(described_as):
    """`B 16, N 64, C 64, num_warps 4, num_stages 3`."""
    return ", ".join(f"{name.removeprefix('BLOCK_')} {value}" for name, value in described_as.items())


def loop_row(job):
    """The figures of one row of `loop_table`."""
    chip, number, aligned = job
    config = listed(chip)[number]
    found, lines = measure(config, chip, aligned), machine_code(compiled(config, chip, aligned))
    loop = longest_loop(lines)
    return {
        "registers": found.registers,
        "programs a multiprocessor": programs_a_multiprocessor(found, config.options["num_warps"]),
        "of the program": len(lines),
        **(loop or Loop("", "", "", ""))._asdict(),
    }


def grids(forward, backward):
    """Programs and grid of each launch, by pass and kernel."""
    cells = {}
    for name, launches in (("forward", forward), ("backward", backward)):
        for grid, config in launches:
            factors = f" = {' × '.join(map(str, grid))}" if len(grid) > 1 else ""
            cells[f"{name} `{config.kernel.__name__}`"] = f"{math.prod(grid)}{factors}"
    return cells


def memory_grids(B, R, N, C):
    """Of the read with five chosen slots, of the one with all, and of the backward."""
    x, bank = torch.empty(B, R, C, device="meta"), torch.empty(R, N, C, device="meta")
    with recorded_launches(H100) as forward:
        out, y, index, weight = memory_read.forward(x, bank, bank, None, 5, False, True)
        memory_read.forward(x, bank, bank, None, 0, False, True)
    with recorded_launches(H100) as backward:
        memory_read.backward(out, x, bank, None, y, index, weight, True, True)
    return grids(forward, backward)


def attention_grids(B, G, heads, D):
    q = torch.empty(B, G, G, heads, D, device="meta")
    with recorded_launches(H100) as forward:
        out, lse = neighbor_attention.forward(q, q, q, True)
    with recorded_launches(H100) as backward:
        neighbor_attention.backward(out, q, q, q, out, lse, True, True)
    return grids(forward, backward)


def launch_table(names, shapes, grids_of):
    rows = [{"": title} | dict(zip(names, shape)) | grids_of(*shape) for title, shape in shapes.items()]
    return table(rows)


def report(outcomes):
    """The text of bench/results/resources.md."""
    lines = [
        "# What the kernels need",
        "",
        "Written by `python bench/resources.py`, which needs no GPU: it compiles every kernel in every configuration",
        "that it can be launched with: the portable blocks once with addresses, strides and C that are multiples of 16",
        "and once with any, a chip's own blocks with multiples of 16.",
        "",
        f"triton: {triton.__version__}",
        "",
        f"kernels: {fingerprint()}",
        "",
        "Registers are a thread's; shared memory (bytes) and tensor memory (columns) are a program's, of what the chip",
        "gives it; spills counts the compilations that ran out of registers.",
        "",
        *summary_table(outcomes),
        "The tables of kernels show registers / shared memory, the worse of a configuration's compilations.",
        "",
        *kernel_tables(outcomes),
        "## Innermost loops on an H100",
        "",
        "Aligned: the instructions of the program, and those of the loop with most matrix instructions. Of these, how",
        "many are barriers of all warps, matrix instructions, and copies or loads from global memory. Empty: it is",
        "unrolled.",
        "",
        *loop_table(),
        "## Programs launched at the papers' shapes",
        "",
        "The programs of each launch and its grid on an H100, at a batch of 16 images and at a large shape. The second",
        "number of the grid of `_dots` is S: each sum over the slot dimension is divided among S programs.",
        "",
        *launch_table(("rows", "regions", "slots", "dim"), MEMORIES, memory_grids),
        *launch_table(("images", "patches a side", "heads", "head dim"), ATTENTIONS, attention_grids),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", action="append", choices=CHIPS, help="with --check; may be repeated (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if arguments.chip and not arguments.check:
        parser.error("--chip needs --check, which writes nothing: the report has all chips")
    if INTERPRETED:
        parser.error("with TRITON_INTERPRET set, Triton compiles nothing: unset it")
    outcomes = attempt_all(arguments.chip or CHIPS)
    failed = False
    for (chip, number, aligned), outcome in outcomes.items():
        for phrase in failures(outcome, chip):
            failed, config = True, listed(chip)[number]
            described_as = ", ".join(f"{name} {value}" for name, value in described(config).items())
            print(f"{chip}, {config.name}, {described_as}, {'aligned' if aligned else 'unaligned'}: {phrase}")
    if not arguments.check:
        with replacing(REPORT) as file:
            file.write(report(outcomes))
    sys.exit(failed)


if __name__ == "__main__":
    main()
