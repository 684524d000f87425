"""Whether a JSON document of a run folder has the fields and types of its dataclass."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..config import Config, ConfigError
from ..errors import CheckpointError

_NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}


def require_fields(path: Path, kind: type, values: object) -> None:
    """Check the values of a JSON document.

    Args:
        path: of the document, for messages.
        kind: a dataclass. A value of type `Config` is checked by `Config.from_dict`.
        values: the document.

    Raises:
        CheckpointError: a field without a default is missing, or a value has another type than the field.
    """
    if found := _problem(values, kind, "content"):
        raise CheckpointError(f"{path} is damaged: its {found}; use another copy of the run")


def config_of(path: Path, values: dict[str, Any]) -> Config:
    """Return the configuration in a JSON document.

    Args:
        path: of the document, for messages.
        values: its part `config`.

    Raises:
        CheckpointError: a field is unknown, or values do not fit together.
    """
    try:
        return Config.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path} holds a configuration that cannot be built: {error}") from None


def _problem(value: Any, kind: Any, name: str) -> str | None:
    """Return what is wrong with a value, or None."""
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):  # of one type and None
        return None if value is None else _problem(value, arguments[0], name)
    if get_origin(kind) is list:
        parts = {f"{name}[{i}]": (one, arguments[0]) for i, one in enumerate(value)} if type(value) is list else None
        expected = "a list"
    elif get_origin(kind) is dict:
        parts = {f"{name}.{key}": (one, arguments[1]) for key, one in value.items()} if type(value) is dict else None
        expected = "an object"
    elif dataclasses.is_dataclass(kind) and kind is not Config:
        expected, parts = "an object", None
        if type(value) is dict:
            hints, parts = get_type_hints(kind), {}
            for f in dataclasses.fields(kind):
                if f.name in value:
                    parts[f"{name}.{f.name}".removeprefix("content.")] = (value[f.name], hints[f.name])
                elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                    return f"{name} has no {f.name}"
    else:
        fits = (
            kind is Any
            or (kind is Config and type(value) is dict)
            or (kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max)  # NaN is not
            or (kind is not float and type(value) is kind)
        )
        return None if fits else f"{name} should be {_NAMES.get(kind, 'an object')}"
    if parts is None:
        return f"{name} should be {expected}"
    return next((found for key, (one, of) in parts.items() if (found := _problem(one, of, key))), None)
