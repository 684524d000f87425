"""`pytest bench/ --benchmark`: what runs, how variants of one case are measured together, and where rows go."""

import os
from pathlib import Path

import pytest
import torch
from rows import Results, new_file
from timing import measure, quantiles

from fastsquid.ops.dispatch import HAS_TRITON
from fastsquid.utils.devices import multiplies_bfloat16


class Playback:
    """A clock for pytest-benchmark that shows what has been measured."""

    now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


playback = Playback()
WRITTEN = pytest.StashKey[Path]()


def pytest_addoption(parser):
    group = parser.getgroup("fastsquid")
    group.addoption("--benchmark", action="store_true", help="run the benchmarks, which are only collected otherwise")
    group.addoption("--sweep", action="store_true", help="also the sweeps, the large cases and compiled whole models")
    group.addoption("--smallest", action="store_true", help="the smallest sizes once, to see that everything runs")
    group.addoption("--results", type=Path, help="CSV to put rows in (default: a new runs/bench/DEVICE-N.csv)")
    group.addoption("--on-cpu", action="store_true", help="measure the CPU where there is a GPU")


def pytest_configure(config):
    config.on_gpu = torch.cuda.is_available() and not config.getoption("on_cpu")
    config.addinivalue_line("markers", "large: on a GPU or with --sweep")
    config.addinivalue_line("markers", "sweep: a size around the papers', to see how time grows")
    config.addinivalue_line("markers", "smallest: with --smallest only")


def pytest_collection_modifyitems(config, items):
    running = config.getoption("benchmark") or config.getoption("benchmark_only")
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=playback))
        item.add_marker(pytest.mark.filterwarnings("default"))  # torch.compile warns while it traces
        if not running:
            item.add_marker(pytest.mark.skip(reason="benchmarks run with: pytest bench/ --benchmark"))
        elif (item.get_closest_marker("smallest") is not None) != config.getoption("smallest"):
            item.add_marker(pytest.mark.skip(reason="the sizes of --smallest and no others run with it, and only then"))
        elif item.get_closest_marker("large") and not (config.on_gpu or config.getoption("sweep")):
            item.add_marker(pytest.mark.skip(reason="takes minutes on a CPU: --sweep runs it"))
        elif reason := _cannot_run(item.callspec.params.get("variant"), config):
            item.add_marker(pytest.mark.skip(reason=reason))


def _cannot_run(variant, config):
    if variant == "triton":
        if not HAS_TRITON:
            return "Triton is not installed"
        if not config.on_gpu and not config.getoption("smallest"):
            return "the kernels need a GPU; their interpreter is no measure of speed"
        if not config.on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            return "the kernels need a GPU, or Triton's interpreter: set TRITON_INTERPRET=1"
    if variant == "torch-bf16" and (config.on_gpu or not multiplies_bfloat16(torch.device("cpu"))):
        return "for a CPU that multiplies bfloat16 natively"
    if variant == "flex" and not config.on_gpu:
        return "FlexAttention is compared on a GPU"


@pytest.fixture(scope="session")
def device(pytestconfig):
    return torch.device("cuda" if pytestconfig.on_gpu else "cpu")


@pytest.fixture(scope="session", autouse=True)
def float32_products_are_float32():
    """TF32 off, for all variants alike, unless a benchmark says otherwise."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def measured():
    """Samples of the latest group of variants."""
    return {}


@pytest.fixture
def record(request, benchmark, results):
    """record(samples, work=None, images=None, dtype="float32") puts one variant's samples in pytest-benchmark's tables,
    by a clock that plays them back, and in the CSV."""

    def report(samples, work=None, images=None, dtype="float32"):
        params = dict(request.node.callspec.params)
        name, mode = params.pop("variant"), params.pop("mode", "both")
        group = request.node.originalname.removeprefix("test_").replace("_", " ")
        shown = " ".join(str(value) for key, value in sorted(params.items()) if key != "dtype")
        benchmark.group = f"{group} {shown} {mode} {dtype}"
        benchmark.extra_info.update(variant=name, unhidden_ms=1e3 * quantiles(samples.unhidden)[1])
        recorded = iter(samples.hidden)
        benchmark.pedantic(lambda: playback.advance(next(recorded)), rounds=len(samples.hidden))
        results.add((group, shown, name, mode, dtype), samples, work, images)

    return report


@pytest.fixture
def compare(request, measured, device, record):
    """Measures and records one variant of a case: compare(build, sets=1, work=None, images=None, dtype="float32").

    All selected variants of the case are measured together, in turn, when the first of them is asked for;
    `build(names)` checks that they agree and gives {name: Variant}.
    """

    def report(build, sets=1, work=None, images=None, dtype="float32"):
        params = dict(request.node.callspec.params)
        name = params.pop("variant")
        case = (request.node.originalname, *sorted(map(str, params.items())))
        if measured.get("case") != case:
            measured.clear()
            torch._dynamo.reset()
            quick = request.config.getoption("smallest")
            samples = measure(build(_selected(request, params)), 1 if quick else sets, device, quick)
            measured.update(case=case, samples=samples)
        record(measured["samples"][name], work, images, dtype)

    return report


def _selected(request, params):
    """Names of the variants of this case that are to run."""
    return [
        item.callspec.params["variant"]
        for item in request.session.items
        if item.originalname == request.node.originalname
        and {k: v for k, v in item.callspec.params.items() if k != "variant"} == params
        and not any(mark.name == "skip" for mark in item.iter_markers())
    ]


@pytest.fixture(scope="session")
def results(pytestconfig, device):
    results = Results(device, pytestconfig.getoption("results") or new_file(device), pytestconfig.getoption("smallest"))
    pytestconfig.stash[WRITTEN] = results.path
    return results


def pytest_terminal_summary(terminalreporter, config):
    if WRITTEN in config.stash:
        terminalreporter.write_line(f"rows are in {config.stash[WRITTEN]}")
