"""What every command does besides its own work."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastsquid
from fastsquid import __main__ as console
from fastsquid import evaluate, figures, report, score, study, train
from fastsquid.utils.cli import REQUIRED, run_command, stop_compile_workers

ROOT = Path(__file__).parents[1]
OPTIONS = Path(__file__).parent / "data" / "options.txt"


def every_option():
    """One line per option or argument: the command, its names, whether it is required."""
    for command in console.COMMANDS:
        for action in importlib.import_module(f"fastsquid.{command}").parser()._actions:
            names = " ".join(action.option_strings) or action.metavar or action.dest
            yield f"{command}: {names}{' (required)' * action.required}"


def test_options_are_frozen():
    """A script that uses an option must not break in silence: who changes one changes this list."""
    assert list(every_option()) == OPTIONS.read_text().splitlines()


@pytest.mark.parametrize("command", console.COMMANDS)
def test_help_is_short_and_has_defaults(command):
    """The usage names what is required; every option has one name, and its default where it has one."""
    parser = importlib.import_module(f"fastsquid.{command}").parser()
    said = parser.format_help()
    usage, *_ = said.split("\n\n")
    optional = [a for a in parser._actions if a.option_strings and not a.required]
    assert "[option ...]" in usage and not any(f"{a.option_strings[-1]} " in usage for a in optional)
    entries = re.findall(r"^  --\S+", said, re.M)  # and -h, --help
    assert len(entries) == len(set(entries)) == sum(bool(a.option_strings) for a in parser._actions) - 1
    assert not re.search(r"--\w+_", said)
    for action in optional:
        default = action.default[0] if isinstance(action.default, list) else action.default
        if default not in (None, False, "==SUPPRESS=="):
            assert f"default: {default}" in " ".join((action.help or "").split()), action.option_strings


def test_help_of_train_begins_with_what_is_used_most():
    parser = importlib.import_module("fastsquid.train").parser()
    groups = {group.title: [a.option_strings[0] for a in group._group_actions] for group in parser._action_groups}
    order = [title for title in groups if groups[title]]
    assert groups[order[0]][1:5] == ["--data", "--preset", "--out", "--resume"]
    assert order[1:4] == ["reading images", "device and speed", "cluster"] and len(order) == 6
    assert groups[order[4]][:3] == ["--epochs", "--batch-size", "--lr"] and len(groups[order[4]]) < 12


def test_help_needs_no_pytorch():
    code = """if True:
        import importlib, sys
        from fastsquid.__main__ import COMMANDS
        for command in COMMANDS:
            importlib.import_module(f"fastsquid.{command}").parser().format_help()
        heavy = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "RecursionError", "ImportError"])
def test_ctrl_c_during_imports_is_one_line(error):
    """What is imported may turn the interruption into another error."""
    code = f"""if True:
        import os, signal, time
        from fastsquid.utils.cli import run_command

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

        def main():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt:
                raise {error} from None

        run_command(main)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "error: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM to send there")
def test_sigterm_leaves_nothing_half_written(tmp_path):
    """As `docker stop` and Slurm send it. A fork that gets it ends without a word."""
    code = f"""if True:
        import os, signal, time
        from fastsquid.utils.cli import run_command
        from fastsquid.utils.files import replacing

        def main():
            begun, end = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(end, b"a signal during the fork would be lost")
                time.sleep(60)
                os._exit(1)
            os.read(begun, 1)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
            with replacing({str(tmp_path / "out.csv")!r}):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)

        run_command(main)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 143 and done.stderr == "error: interrupted\n" and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(closed):
    """As a daemon has it."""
    code = "from fastsquid.utils.cli import run_command; run_command(lambda: print('done'))"
    assert subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send there")
def test_ctrl_c_before_the_command_begins_is_no_traceback(tmp_path):
    """While the command's own modules are imported; sitecustomize makes the first of them send the signal."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'fastsquid.config':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-m", "fastsquid.train"], capture_output=True, text=True, env=environment)
    assert done.returncode in (-2, 130) and done.stderr == ""
    code = "import signal, fastsquid; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_an_error_without_ctrl_c_is_not_hidden():
    code = "from fastsquid.utils.cli import run_command\nrun_command(lambda: 1 / 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_required_packages_are_those_of_setup():
    listed = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.S)[1]
    assert sorted(REQUIRED.values()) == sorted(re.findall(r'"([a-z-]+)', listed))


@pytest.mark.parametrize(
    "module, code", [*((module, 2) for module in REQUIRED), ("torch.nowhere", 1), ("fastsquid.nowhere", 1)]
)
def test_a_package_that_is_not_installed_is_one_line(module, code, command):
    def main(arguments=()):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    if code == 1:
        with pytest.raises(ModuleNotFoundError):
            run_command(main)
    else:
        _, _, err = command(main)
        assert sys.executable in err and f"pip install {REQUIRED[module]}\n" in err and err.count("\n") == 1


def test_train_without_pytorch(tmp_path):
    """As in a checkout whose environment is not activated: -S leaves out the installed packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "fastsquid.train", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.endswith("pip install torch\n")


def test_one_command_for_all(tmp_path, command, refused):
    assert command(console.main, "--version")[1] == f"fastsquid {fastsquid.__version__}\n"
    code, out, _ = command(console.main)
    assert code == 0 and all(f"  {name} " in out for name in console.COMMANDS)
    for mistyped, meant in (("scores", "score"), ("trian", "train"), ("Evaluate", "evaluate")):
        assert re.search(rf"{mistyped!r}.*\b{meant}\?$", refused(console.main, mistyped).strip())
    assert all(name in refused(console.main, "xyz") for name in console.COMMANDS)
    assert re.search(r"--sede\b.*--seed\?$", refused(console.main, "train", "--sede", "1").strip())
    assert str(tmp_path) in refused(console.main, "evaluate", tmp_path)
    with pytest.raises(SystemExit) as ended:
        console.main(["score", "--help"])
    assert ended.value.code == 0


def test_torchrun_is_for_training_only(refused, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in set(console.COMMANDS) - {"train"}:
        assert "only fastsquid.train uses them: start this command with python" in refused(console.main, name)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "RUN" in refused(console.main, "score")


@pytest.mark.parametrize(
    "arguments, meant",
    [
        ("train --seed 0 1", "--seeds 0 1"),
        ("train --seed 1 1 --epochs 2", "--seeds 1 1"),
        ("train --learning-rate 1e-3", "--lr"),
        ("train --learning_rate=1e-3", "--lr"),
        ("score run images --gpu 0", "--device"),
        ("train --preset SQUID", "squid"),
        ("train --order Shared", "shared"),
        ("train --impl Torch", "torch"),
        ("compare a b --score RESIDUAL", "residual"),
        ("evaluate run --size 3", None),  # it has no such option
        ("train --epochs 2 3", None),
        ("train --impl xyz", None),
    ],
)
def test_what_was_meant(arguments, meant, refused):
    found = re.findall(r"did you mean (.*)\?", refused(console.main, *arguments.split()))
    assert found == ([meant] if meant else [])


@pytest.mark.parametrize(
    "arguments, name",
    [
        ([train.main, "--config", ""], "--config"),
        ([train.main, "--preset="], "--preset"),
        ([train.main, "--resume", ""], "--resume"),
        ([study.main, "sweep", "--out", ""], "--out"),
        ([evaluate.main, "run", "--data", ""], "--data"),
        ([figures.main, "a", ""], "RUN"),
        ([score.main, "run", "a.png", "", "--out", "s.csv"], "IMAGE|FOLDER"),
        ([report.main, "run", "", "--out", "r.html"], "FOLDER|CSV"),
    ],
)
def test_an_empty_value_is_not_the_default(arguments, name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(*arguments).startswith(f"error: {name} is empty: give a value")
    assert not list(tmp_path.iterdir())


def test_workers_that_do_not_end_are_killed(monkeypatch):
    """PyTorch asks its pool of compile workers to end, and waits for five minutes."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pool = SimpleNamespace(process=process)
    compiler = SimpleNamespace(_pool_set=[pool, SimpleNamespace()], shutdown_compile_workers=lambda: process.wait(300))
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiler)
    stop_compile_workers(0.1)
    assert process.returncode < 0


def test_workers_that_end_are_waited_for(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    compiler = SimpleNamespace(
        _pool_set=[SimpleNamespace(process=process)], shutdown_compile_workers=lambda: process.wait(300)
    )
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiler)
    stop_compile_workers(60)
    assert process.returncode == 0


def test_pytorch_has_what_is_used():
    code = "import torch._inductor.async_compile as c; assert c._pool_set is not None and c.shutdown_compile_workers"
    subprocess.run([sys.executable, "-c", code], check=True)
