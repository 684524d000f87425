"""Settings of a new run from a file: fields of the configuration, or the config.json of another run."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.dicom.kinds import NOTHING_ELSE, Accept
from ..errors import UserError
from ..runs.folder import read_json, read_run


@dataclass(frozen=True)
class Settings:
    """What a file says about a new run; command-line options come before it.

    Attributes:
        preset: name, or None.
        fields: {field of `Config`: value}.
        data: path of the training data, or None.
        seed: of the run, or None.
        skip_unreadable, anonymous, all_normal: as `data.open_data` takes them.
        accept: body parts and views of DICOM files that the run accepts.
        init: the weights that the run begins with, as `training.start.describe_init` returns them, or None.
        protocol: as `data.open_data` takes it.
    """

    preset: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    seed: int | None = None
    skip_unreadable: bool = False
    anonymous: bool = False
    init: dict[str, Any] | None = None
    all_normal: bool = False
    accept: Accept = NOTHING_ELSE
    protocol: str | None = None


def read_settings(path: str | Path) -> Settings:
    """Read the settings of a new run.

    Args:
        path: of a JSON or YAML file with fields of `Config` and `preset`; or of a run's config.json, which repeats the
            run.

    Raises:
        UserError: the file is missing, damaged, or of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--config {path} is not a file: give a JSON or YAML file, such as the config.json of a run")
    values = read_json(path) if path.suffix.lower() == ".json" else _read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"--config {path} should hold fields of the configuration and their values, such as epochs: 12")
    if isinstance(values.get("config"), dict):
        return _repeat(path)
    name = values.pop("preset", None)
    if name is not None and not isinstance(name, str):
        raise UserError(f"--config {path} has preset {name!r}: give the name of a preset")
    return Settings(name, values)


def _repeat(path: Path) -> Settings:
    """Return the settings of the run whose config.json this is."""
    if path.name != "config.json":
        raise UserError(f"--config {path} looks like a run's record: give the config.json in the run's own folder")
    record = read_run(path.parent)
    if record.converted:
        raise UserError(f"{path} is of published weights, which were not trained here: begin with them by --init")
    values = record.config.to_dict()
    name = values.pop("preset")
    return Settings(
        name,
        values,
        record.data,
        record.seed,
        record.skip_unreadable,
        record.anonymous,
        record.init,
        record.all_normal,
        record.accept,
        record.protocol,
    )


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise UserError(f"reading {path} needs PyYAML: pip install pyyaml, or write the settings as JSON") from None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())})") from error
    if isinstance(values, dict):  # PyYAML reads 1e-4 as text, because YAML 1.1 asks for a dot and a sign: 1.0e-4
        return {name: float(value) if _is_float(value) else value for name, value in values.items()}
    return values


def _is_float(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", value) is not None
