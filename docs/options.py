"""`python docs/options.py [--check]`: the tables of options in docs/commands, made from the commands' parsers.

Each page has a table between `<!-- options -->` and `<!-- end of options -->`. The page of `train` also has one between
`<!-- configuration -->` and `<!-- end of configuration -->`, with a row per field of `Config`. `--check` writes
nothing, and exits with 1 if a page differs.
"""

import argparse
import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "commands"


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the argument parser of a command, by its name."""
    return importlib.import_module(f"fastsquid.{command}").parser()


def code(value: object) -> str:
    """Return a value as an option takes it, in Markdown."""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def row(*cells: str) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def split_help(action: argparse.Action) -> tuple[str, str]:
    """Return what an option is and its default, both in Markdown.

    A help text may name a default in words: `file to write; default: scorer.onnx or scorer.pt2`.
    """
    text = " ".join((action.help or "").split())
    match = re.search(r"(?:^|; | \()default: ([^;)]*)\)?", text)
    said = match[1] if match else ""
    what = (text[: match.start()] + text[match.end() :]).strip("; ") if match else text
    value = action.default[0] if isinstance(action.default, list) else action.default
    if action.required and action.option_strings:
        return what, "required"
    if value is None or value is False:
        return what, said
    rest = said.removeprefix(str(value))
    return what, code(value) + (rest if rest.startswith(",") else "")


def values(action: argparse.Action) -> str:
    """Return what an option or argument takes, in Markdown."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return " ".join(map(code, action.choices))
    name = code(action.metavar or (action.type.__name__ if action.type in (int, float) else action.dest).upper())
    if action.nargs == "?":
        return f"[{name}]"
    return f"{name} ..." if action.nargs == "+" else " ".join([name] * (action.nargs or 1))


def option_table(command: str) -> list[str]:
    """Return the lines of a command's table of options, without the fields of the configuration."""
    lines = [row("option", "values", "default", "what it is"), "|---|---|---|---|"]
    for action in parser_of(command)._actions:
        if action.default == argparse.SUPPRESS:
            continue
        name = action.option_strings[0] if action.option_strings else str(action.metavar)
        what, default = split_help(action)
        lines.append(row(code(name), values(action) if action.option_strings or action.choices else "", default, what))
    return lines


def field_table() -> list[str]:
    """Return the lines of the table of configuration fields."""
    from fastsquid.config import Config

    lines = [row("option", "values", "`squid`", "what it is"), "|---|---|---|---|"]
    for field in dataclasses.fields(Config):
        if field.name != "preset":
            choices = " ".join(map(code, get_args(field.type))) or code(field.type.__name__.upper())
            option = code(f"--{field.name.replace('_', '-')}")
            lines.append(row(option, choices, code(field.default), field.metadata["help"]))
    return lines


def updated(text: str, name: str, lines: list[str]) -> str:
    """Return a page with new lines between its marks of that name.

    Raises:
        ValueError: the page does not have these marks once.
    """
    before, after = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if text.count(before) != 1 or text.count(after) != 1:
        raise ValueError(f"a page should have {before.strip()} and {after} once each")
    return text[: text.index(before) + len(before)] + "\n".join(lines) + "\n" + text[text.index(after) :]


def main(arguments: list[str] | None = None) -> int:
    """Write or check all tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page differs")
    options = parser.parse_args(arguments)
    old = []
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = updated(text, "options", option_table(path.stem))
        if path.stem == "train":
            new = updated(new, "configuration", field_table())
        if new != text:
            old.append(path.relative_to(ROOT).as_posix())
            if not options.check:
                path.write_text(new, encoding="utf-8")
    for name in old:
        print(f"{name} {'differs: run python docs/options.py' if options.check else 'written'}")
    return int(options.check and bool(old))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
