"""What is installed: versions agree, imports are light, nothing needs Triton, arrows point one way."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import fastsquid

PACKAGE = Path(fastsquid.__file__).parent
ROOT = Path(__file__).parent.parent


def test_versions_agree():
    assert re.search(r'version="(.*?)"', (ROOT / "setup.py").read_text()).group(1) == fastsquid.__version__
    assert f"## {fastsquid.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_installed():
    packages = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "fastsquid").rglob("__init__.py")
    }
    listed = set(
        re.findall(r'"(fastsquid[.\w]*)"', re.search(r"packages=\[.*?\]", (ROOT / "setup.py").read_text()).group())
    )
    assert listed == packages | {"fastsquid.kernels"}


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
    shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "runs", "tests", "*.egg-info", "build")
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "source"], check=True
    )
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    code = (
        "import fastsquid.kernels, fastsquid.train, fastsquid.data, fastsquid.report_page; "
        "assert fastsquid.report_page.page({}, []).endswith('</html>\\n'), 'what a report is made of is missing'; "
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


def test_arrows_point_one_way():
    """commands -> model -> modules -> ops -> kernels."""
    commands = {
        f"fastsquid.{name}"
        for name in (
            *("train", "evaluate", "score", "compare", "convert", "export"),
            *("figures", "locate", "study", "report"),
        )
    }
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
        found = imports(path)
        assert not found & commands, f"{name} imports a command"
        if name.startswith("fastsquid.ops"):
            assert not {f for f in found if not f.startswith(("fastsquid.ops", "fastsquid.kernels"))}, name
        if name in ("fastsquid.memory", "fastsquid.inpainting", "fastsquid.networks"):
            assert not found & {"fastsquid.model", "fastsquid.training", "fastsquid.checkpoint", "fastsquid.data"}, name
    for path in (ROOT / "kernels").glob("*.py"):
        assert "fastsquid" not in {
            n.split(".")[0] for n in re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.M)
        }
        assert "autograd" not in path.read_text()
