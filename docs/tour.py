"""`python docs/tour.py`: run the commands and the Python of docs/tour.md, and write what they print into the page.

A `console` block holds commands after `$`, each followed by its output. A `python` block may be followed by a `text`
block with its output. Everything runs in one process and one folder, which is removed at the end.
"""

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tour.md"


def run(text: str, folder: Path) -> str:
    """Return the page with the output of everything in it.

    Args:
        text: of the page.
        folder: an empty one to work in; `tests` of the repository appears in it.
    """
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "bench").symlink_to(ROOT / "bench")
    names: dict[str, object] = {}

    def answer(block: re.Match[str]) -> str:
        language, content, said = block["language"], block["content"], block["said"]
        if language == "console":
            commands = re.findall(r"^\$ (.*)\n", content, re.M)
            return "```console\n" + "".join(f"$ {line}\n{output_of(line)}" for line in commands) + "```\n"
        with written() as out:
            exec(compile(content, "tour.md", "exec"), names)
        return f"```python\n{content}```\n" + (f"\n```text\n{out.getvalue()}```\n" if said else "")

    before = Path.cwd()
    os.chdir(folder)
    try:
        blocks = r"^```(?P<language>console|python)\n(?P<content>.*?)^```\n(?P<said>\n```text\n.*?^```\n)?"
        return re.sub(blocks, answer, text, flags=re.M | re.S)
    finally:
        os.chdir(before)


def output_of(line: str) -> str:
    """Return what a command prints: one of fastsquid in this process, any other in a shell."""
    words = shlex.split(line)
    if words[:2] != ["python", "-m"]:
        done = subprocess.run(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout
    from fastsquid.utils.cli import run_command

    main = importlib.import_module(words[2]).main
    with written() as out:
        try:
            run_command(lambda: main(words[3:]))
        except SystemExit:
            pass
    return out.getvalue().replace(f"{ROOT}/", "")


@contextmanager
def written():
    """Collect what is printed, on standard output and standard error."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        yield out


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as made:
        new = run(PAGE.read_text(encoding="utf-8"), Path(made))
    PAGE.write_text(new, encoding="utf-8")
