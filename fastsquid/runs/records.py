"""What the JSON files of a run folder hold, as dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import __version__
from ..config import Config
from ..data.dicom.kinds import Accept
from ..scoring.scores import Calibration

FORMAT = 1


@dataclass(frozen=True)
class InitRecord:
    """The part `init` of config.json, as `training.start.describe_init` returns it."""

    run: str
    checkpoint: str
    sha256: str
    trained_on: dict[str, Any] | None = None


@dataclass(frozen=True)
class ConvertedRecord:
    """The part `converted` of config.json, as the command convert writes it."""

    system: str
    generator: str
    discriminator: str
    images: int | None = None


@dataclass(frozen=True)
class TrainedOnRecord:
    """The part `trained_on` of config.json."""

    images: int
    source: str | None = None


@dataclass(frozen=True)
class EpochLine:
    """A line of metrics.jsonl.

    Attributes:
        epoch: from 1.
        losses: {loss: its mean over the epoch}.
        seconds: of training until then.
        lr: the generator's learning rate.
        validation: {score: AUC} on labeled validation images.
        perturbed: as `evaluation.robustness.perturbed_aucs` returns them.
    """

    epoch: int
    losses: dict[str, float]
    seconds: float
    lr: float = 0.0
    validation: dict[str, float] | None = None
    perturbed: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunRecord:
    """config.json: what a run is of.

    Attributes:
        config: the configuration.
        data: path of the training data, or None for DigitAnatomy. For converted weights, the data that calibrated
            them, or None without any.
        seed: of weights, order and augmentation.
        skip_unreadable, anonymous, all_normal: as `data.open_data` takes them.
        init: the weights that the run begins with, as `training.start.describe_init` returns them, or None.
        converted: for published weights {"system": `squid` or `simsid`, "generator" and "discriminator": sha256 of
            the files, "images": number of images that calibrated them, or None}; None for a trained run.
        ages: lowest and highest age of the training patients in years, or None.
        fingerprint: sha256 of the training images; None before the run has begun.
        copies: images that are in two splits, as `data.duplicates.count_copies` counts them; None before the run has
            begun, and for a run of an earlier version.
        accept_body, accept_view: the values of `Accept` that the images were read with.
        protocol: name of the publication's split that the data was read with, or None.
        trained_on: {"images": number of images, "source": the name of `data.known_source`, or None}, or None.
        fastsquid, torch: versions that made the run.
    """

    config: Config
    data: str | None
    seed: int
    skip_unreadable: bool = False
    anonymous: bool = False
    init: dict[str, Any] | None = None
    converted: dict[str, Any] | None = None
    ages: list[float] | None = None
    fingerprint: str | None = None
    trained_on: dict[str, Any] | None = None
    copies: dict[str, dict[str, dict[str, int]]] | None = None
    all_normal: bool = False
    accept_body: list[str] = field(default_factory=list)
    accept_view: list[str] = field(default_factory=list)
    protocol: str | None = None
    fastsquid: str = __version__
    torch: str = torch.__version__

    @property
    def accept(self) -> Accept:
        """What the run accepts of DICOM files."""
        return Accept.from_options(self.accept_body, self.accept_view)

    def to_json(self) -> dict[str, Any]:
        """Return the document of config.json."""
        values = {name: value for name, value in _shallow(self).items() if name != "config"}
        return {"format": FORMAT, **values, "config": self.config.to_dict()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunRecord:
        """Return the record that a document of config.json holds."""
        known = {name: values[name] for name in _names(cls) if name in values}
        return cls(**{**known, "config": Config.from_dict(values["config"])})


@dataclass(frozen=True)
class GroupRecord:
    """group.json: runs that differ in their seed. Fields are those of `RunRecord`, with a list of seeds."""

    config: Config
    data: str | None
    seeds: list[int]
    skip_unreadable: bool = False
    anonymous: bool = False
    init: dict[str, Any] | None = None
    all_normal: bool = False
    accept_body: list[str] = field(default_factory=list)
    accept_view: list[str] = field(default_factory=list)
    protocol: str | None = None

    def run(self, seed: int) -> RunRecord:
        """Return the record that the run of a seed begins with."""
        shared = {name: value for name, value in _shallow(self).items() if name != "seeds"}
        return RunRecord(seed=seed, **shared)

    def to_json(self) -> dict[str, Any]:
        """Return the document of group.json."""
        return {"format": FORMAT, "fastsquid": __version__, **_shallow(self), "config": self.config.to_dict()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GroupRecord:
        """Return the record that a document of group.json holds."""
        known = {name: values[name] for name in _names(cls) if name in values}
        return cls(**{**known, "config": Config.from_dict(values["config"])})


@dataclass
class DetectorState:
    """What is known of one detector in a checkpoint.

    Attributes:
        epoch: that it was trained to; None for converted weights.
        validation: {score: {"auc", "threshold"}} on labeled validation images; None without any.
        calibration: {score: `Calibration`}; None before the run has finished.
        criterion: the AUC that chose the epoch, or None.
    """

    epoch: int | None
    validation: dict[str, dict[str, float]] | None = None
    calibration: dict[str, Calibration] | None = None
    criterion: float | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DetectorState:
        """Return the state that a part of state.json holds."""
        calibration = values.get("calibration")
        if calibration is not None:
            calibration = {name: Calibration(**usual) for name, usual in calibration.items()}
        return cls(values["epoch"], values.get("validation"), calibration, values.get("criterion"))


@dataclass
class CheckpointState:
    """state.json: everything of a checkpoint but its tensors.

    Attributes:
        config: of the run, as a dict.
        epoch: finished epochs.
        iteration: finished steps of the current epoch.
        sums: {loss: its sum over these steps}.
        seconds: of training so far.
        first_step_seconds: of the first step, which compiles; None before it.
        peak_memory_mb: of the training process.
        finished: whether the detectors are calibrated and training is over.
        best: the detector of the epoch with the highest validation AUC; None where none was chosen.
        last: the latest detector; None before the first checkpoint.
        sha256: {file's stem: sha256 of the tensors}.
        metrics_sha256: of the lines of metrics.jsonl up to this epoch; None in a checkpoint of an earlier version.
        number: of the checkpoint's folder; None as above.
        record: what config.json says beside the configuration and the path of the data; None as above.
        machine: device, precision and versions of the process that finished the training; None before, and as above.
    """

    config: dict[str, Any]
    epoch: int = 0
    iteration: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    first_step_seconds: float | None = None
    peak_memory_mb: float = 0.0
    finished: bool = False
    best: DetectorState | None = None
    last: DetectorState | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    metrics_sha256: str | None = None
    number: int | None = None
    record: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None

    @property
    def chosen(self) -> str:
        """`best` or `last`, whichever detector the run stands for."""
        return "best" if self.best else "last"

    def detector(self, name: str) -> DetectorState | None:
        """Return what is known of the detector `best` or `last`."""
        return {"best": self.best, "last": self.last}[name]

    def to_json(self) -> dict[str, Any]:
        """Return the document of state.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CheckpointState:
        """Return the state that a document of state.json holds."""
        known = {name: values[name] for name in _names(cls) if name in values}
        for name in ("best", "last"):
            if known.get(name) is not None:
                known[name] = DetectorState.from_json(known[name])
        return cls(**known)


@dataclass(frozen=True)
class Summary:
    """summary.json: the metrics of the run's chosen detector.

    Attributes:
        preset: of the configuration.
        seed: of the run.
        split: that is reported; None where nothing is labeled.
        images: {"normal", "abnormal", "skipped"}: numbers of images of the split; None without it.
        scores: {score: metrics as `evaluation.metrics.evaluate` returns them}.
        checkpoint: {"name", "epoch", "chosen_by"}.
        facts: about the training: epochs, seconds, device, versions.
        by_class: as `evaluation.summary.evaluate_run` returns it; None also in a summary of an earlier version.
    """

    preset: str
    seed: int
    split: str | None
    images: dict[str, int] | None
    scores: dict[str, dict[str, Any]]
    checkpoint: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    by_class: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of summary.json."""
        values = _shallow(self)
        facts = values.pop("facts")
        return {"preset": values.pop("preset"), "seed": values.pop("seed"), **facts, **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Summary:
        """Return the summary that a document of summary.json holds."""
        own = [name for name in _names(cls) if name != "facts"]
        facts = {name: value for name, value in values.items() if name not in own}
        return cls(**{name: values[name] for name in own if name in values}, facts=facts)


def _names(cls) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _shallow(record) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
