"""What is installed: versions agree, imports are light, nothing needs Triton, arrows point one way."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import XRAYS

import fastsquid
from fastsquid.models import MODELS

PACKAGE = Path(fastsquid.__file__).parent
ROOT = Path(__file__).parent.parent


def test_versions_agree():
    """One version in one place; the wheel's is checked below."""
    assert not re.search(r"\d+\.\d+\.\d+\b", re.sub(r'"[\w-]+>=[^"]*"', "", (ROOT / "setup.py").read_text()))
    assert f"## {fastsquid.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def pins(path):
    """{package: version} of the lines `package==version` of a file."""
    found = re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / path).read_text(), re.M)
    return {name.lower().replace("_", "-"): version for name, version in found}


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="not a checkout")
def test_lock_files_follow_what_they_lock():
    """Else `make lock` is due: constraints.txt in one, the lower ends of setup.py's ranges in the other."""
    locked, oldest, constraints = map(pins, (".ci/requirements.txt", ".ci/oldest.txt", "constraints.txt"))
    assert len(constraints) > 20 and constraints.items() <= {**locked, "torch": locked["torch"][: -len("+cpu")]}.items()
    floors = dict(re.findall(r'"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)[";]', (ROOT / "setup.py").read_text()))
    skipped = {"torch", "triton", "ruff", "basedpyright", "anomalib", "pyod", "timm"}
    for name, floor in floors.items():
        if name not in skipped:
            # A release 1.2 may be written 1.2.0, or have been followed by a corrected 1.2.1.
            assert (oldest[name] + ".").startswith(floor + "."), (name, floor, oldest[name])
    for path in (".ci/requirements.txt", ".ci/oldest.txt"):
        text = (ROOT / path).read_text()
        assert len(re.findall(r"==.*\\\n +--hash=sha256:", text)) == text.count("==") > 60


def test_import_without_triton_and_pydicom_changes_nothing():
    code = """
import os, sys
sys.modules["triton"] = sys.modules["pydicom"] = sys.modules["gdcm"] = None  # an import of them now fails
import torch
before = dict(os.environ), list(sys.path), torch.get_num_threads(), torch.get_default_dtype()
import fastsquid, fastsquid.kernels
assert before == (dict(os.environ), list(sys.path), torch.get_num_threads(), torch.get_default_dtype())
assert not {"sklearn", "matplotlib", "PIL"} & set(sys.modules), "the drop-in module needs none of these"
memory = fastsquid.SpaceAwareMemory(2, 8, 4)
assert memory(torch.ones(1, 2, 4)).shape == (1, 2, 4)
import fastsquid.train, fastsquid.evaluate, fastsquid.score
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wheel_works_in_an_empty_directory(tmp_path):
    (tmp_path / "source").mkdir()
    for part in ("fastsquid", "kernels"):
        shutil.copytree(ROOT / part, tmp_path / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "source"], check=True
    )
    (path,) = tmp_path.glob("*.whl")
    assert path.name.startswith(f"fastsquid-{fastsquid.__version__}-")
    wheel = zipfile.ZipFile(path)
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "fastsquid").rglob("*.py")}
    models = {path for path in (ROOT / "fastsquid" / "models").rglob("*") if path.suffix not in (".py", ".pyc")}
    assert len(models) >= 9 * len(MODELS)
    modules |= {path.relative_to(ROOT).as_posix() for path in models if path.is_file()}
    assert modules <= set(wheel.namelist())
    wheel.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    code = (
        "import fastsquid.kernels, fastsquid.train, fastsquid.data, fastsquid.reporting.page; "
        "assert fastsquid.reporting.page.page({}, []).endswith('</html>\\n'), 'what a report is made of is missing'; "
        f"assert fastsquid.load('zhanglab').score({str(XRAYS)!r}).shape == (20,); "
        "print(fastsquid.kernels.__file__)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    ).stdout
    assert out.strip() == str(tmp_path / "installed" / "fastsquid" / "kernels" / "__init__.py")


def imports(path):
    """Modules of fastsquid that a file imports, at the top or inside."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("fastsquid")}


# From top to bottom: a module imports its own layer and those below it.
LAYERS = [
    {"__main__"},
    {"train", "evaluate", "score", "report", "locate", "figures", "compare", "convert", "export", "study"},
    {"estimator", "exporting", "reporting", "archive", "cluster"},
    {"api"},
    {"training"},
    {"drawing"},
    {"runs", "models"},
    {"evaluation"},
    {"scoring"},
    {"model"},
    {"data"},
    {"config"},
    {"utils"},
    {"ops"},
    {"kernels"},
    {"errors", "__init__"},  # `__init__` for the version
]


def layer(name):
    """Number of a module's layer, 0 at the top."""
    room = (name.split(".") + ["__init__"])[1]
    found = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    return found[0] if found else len(LAYERS) - 1  # a name in fastsquid/__init__.py


def modules():
    """{module's name: names of fastsquid that it imports}."""
    return {
        path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): imports(path)
        for path in PACKAGE.rglob("*.py")
    }


def test_imports_go_down():
    for name, found in modules().items():
        if name == "fastsquid.__init__":
            continue
        for other in found - {"fastsquid"}:
            assert layer(other) >= layer(name), f"{name} imports {other}, which is above it"
        if layer(name) == 1:
            assert not any(layer(other) == 1 for other in found), f"{name} imports another command"
        if name.startswith("fastsquid.ops"):
            assert not {f for f in found if not f.startswith(("fastsquid.ops", "fastsquid.kernels"))}, name


def test_no_circle_of_imports():
    found = {name.removesuffix(".__init__"): others for name, others in modules().items()}
    graph = {  # without each module's own packages, which every import of it runs first
        name: {other for other in others if other in found and not f"{name}.".startswith(f"{other}.")}
        for name, others in found.items()
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_drop_in_memory_needs_little():
    code = "import sys, fastsquid; print(*(name for name in sys.modules if name.startswith('fastsquid.')))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert {name.split(".")[1] for name in out.split()} <= {"model", "ops", "kernels"}, out


def test_top_level_modules_are_doors():
    doors = {"__init__", "config", "errors", "api", "cluster", "estimator", *LAYERS[0], *LAYERS[1]}
    assert {path.stem for path in PACKAGE.glob("*.py")} == doors
