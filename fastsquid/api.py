"""`load` and `Scorer`: a trained run as a Python object that scores images and draws heat maps."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .data.dicom.kinds import NOTHING_ELSE, Accept
from .data.inputs import Images, unit_batches
from .errors import UserError
from .model.detector import Detector
from .model.ensemble import Ensemble
from .models import resolve, shipped_name
from .runs.folder import why_uncalibrated
from .runs.input_check import read_check, why_unchecked
from .runs.trained import TrainedDetector, TrainedGroup, TrainedRun, load_maps, load_trained
from .scoring.batches import gather
from .scoring.input_check import InputCheck
from .scoring.maps import Moments, anomaly_maps
from .scoring.scores import Calibration, calibrated
from .scoring.thresholds import Threshold, offered_thresholds
from .utils.devices import choose_device

NO_PERCENTILES = (
    "the run has no percentiles, because it had no labeled validation images, or an earlier version made it: train or "
    "convert one with a val folder of NORMAL and other classes"
)

_Scored: TypeAlias = tuple[dict[str, torch.Tensor], "torch.Tensor | None"]


def load(
    run: str | Path,
    checkpoint: Literal["best", "last"] | None = None,
    device: str | torch.device = "auto",
    impl: Literal["auto", "triton", "torch"] = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    fast: bool = False,
    accept: Accept = NOTHING_ELSE,
) -> "Scorer":
    """Load a run folder for scoring, a group folder as the ensemble of its runs, or a model that fastsquid ships.

    >>> run = load(RUN)
    >>> run.score(["tests/data/xrays/test/0000.jpeg", "tests/data/xrays/test/0001.jpeg"]).shape
    (2,)

    Args:
        run: path of a run folder that `python -m fastsquid.train` or `fastsquid.convert` wrote, or of a finished group
            folder that `python -m fastsquid.train --seeds` wrote; or the name of a shipped model, `zhanglab`.
        checkpoint: `best`, `last`, or None for the best if the run has one.
        device: a PyTorch device, or `auto` for a GPU if there is one.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.
        precision: `fp32` or `bf16`, of convolutions and projections.
        fast: rank by `discriminator_image` and give no other score, so that the generator does not run.
        accept: a `data.Accept` with body parts and views of DICOM files that are read beside those that the run was
            trained with.

    Returns:
        a `Scorer`.

    Raises:
        UserError: the run does not exist, has no checkpoint yet, or is damaged; the runs of a group are not finished or
            do not belong together; or an argument has another value than these.
    """
    for name, value, known in (
        ("checkpoint", checkpoint, ("best", "last", None)),
        ("impl", impl, ("auto", "triton", "torch")),
        ("precision", precision, ("fp32", "bf16")),
    ):
        if value not in known:
            raise UserError(f"{name} = {value!r} is not one of {', '.join(map(repr, known))}")
    trained = load_trained(resolve(run), checkpoint, impl, choose_device(str(device)))
    if fast and not trained.detector.config.discriminator:
        raise UserError(f"{run} has no discriminator, which gives the fast score: leave fast out")
    frozen = dataclasses.replace(trained, detector=trained.detector.frozen(precision == "bf16"))
    return Scorer(frozen, load_maps(trained), fast, read_check(trained.runs[0]), accept | trained.record.accept)


class Scorer:
    """A detector for scoring. Every method takes images and returns arrays with one entry per image, in their order.

    Images can be a path, the bytes of a file, a file opened with mode "rb", a PIL image, a pydicom dataset, an array
    or a tensor; a folder, which stands for all images below it; or any iterable of these. One array can hold several:
    (H, W), (N, H, W) or (N, 1, H, W), uint8, uint16, or floats in [0, 1], of any size. Each image becomes a square of
    the model's size as files do (`data.read_image`), but floats are not rounded to 8 or 16 bits. If the run crops,
    all results, maps included, are of the exposed field of an image. DICOM is read as `python -m fastsquid.score`
    reads it. Do not give the `pixel_array` of a dataset: it is neither windowed nor inverted, and 12 bits in uint16
    are nearly black. Only one batch of an iterable is in memory at a time.

    Of several images, one whose file cannot be read has results of NaN, and a warning in the log names it. A single
    image that cannot be read raises a UserError, and so do several of which none can. An array of another shape, dtype
    or range always does. A UserError is a ValueError. Its message has the image's path, or its number from 0.

    The score of a group is the mean of its runs' scores. Each run's scores are standardized first, on its own normal
    validation images, or on its training images if there are none. Maps and reconstructions are means over the runs.

    A pickle or a copy holds everything. If its device does not exist where it is read, it is read onto the CPU.

    >>> run = load(RUN)
    >>> run.heatmap(np.zeros((100, 120), np.uint8)).shape
    (1, 64, 64)

    Attributes:
        score_name: the score that the preset ranks by.
        score_names: all scores that it gives.
        map_name: the map that explains the preset's score, one of `maps.forward_maps`.
        image_size: side of the model's square images in pixels.
        crop: whether every image is cropped to its exposed field before it is resized.
        calibration: {score: `scoring.scores.Calibration`}; None before a run has finished, and for weights that were
            converted without data. For a group, mean and std are over normal validation images.
        input_check: a `scoring.input_check.InputCheck`, of a group's first run; None if the run has none.
        fast: as for `load`.
        accept: body parts and views of DICOM files that are read beside those of frontal chest radiographs.
        device: on which it computes.

    Args:
        run: a `TrainedRun` or `TrainedGroup` with a frozen detector; or a `TrainedDetector` without a run folder.
        maps: normal values at every pixel, as `scoring.maps.calibrate_maps` returns them; None if the run has none.
        fast: as for `load`.
        input_check, accept: as the attributes.
    """

    def __init__(
        self,
        run: TrainedDetector,
        maps: dict[str, Moments] | None,
        fast: bool = False,
        input_check: InputCheck | None = None,
        accept: Accept = NOTHING_ELSE,
    ) -> None:
        self._trained, self.fast, self.input_check, self.accept = run, fast, input_check, accept
        self.calibration, detector = run.calibration, run.detector
        self.score_name: str = detector.config.score
        self.score_names = detector.config.scores
        self.map_name = detector.config.map
        if fast:
            self.score_name, self.score_names = "discriminator_image", ("discriminator_image",)
            if self.map_name != "residual":
                self.map_name = "discriminator_image"
        self.image_size, self.crop = detector.config.image_size, detector.config.crop
        self.device = next(detector.parameters()).device
        self._maps = maps

    @property
    def run(self) -> TrainedRun | TrainedGroup:
        """The run or group: its record, folder, checkpoint, epoch and more, see `runs.trained`.

        Raises:
            UserError: the detector has no run folder, as that of an `AnomalyDetector`.
        """
        if not isinstance(self._trained, (TrainedRun, TrainedGroup)):
            raise UserError("this detector has no run folder: fastsquid.load gives one that has")
        return self._trained

    def __repr__(self) -> str:
        config, run = self.detector.config, self._trained
        facts: dict[str, object] = {"preset": config.preset, "score": self.score_name, "image_size": self.image_size}
        if isinstance(run, (TrainedRun, TrainedGroup)):
            facts = {
                "run": shipped_name(run.folder) or str(run.folder),
                **facts,
                "seeds": run.seeds,
                "checkpoint": run.checkpoint,
            }
        facts["device"] = str(self.device)
        return f"Scorer({', '.join(f'{name}={value!r}' for name, value in facts.items())})"

    @property
    def has_percentiles(self) -> bool:
        """Whether `percentile` works: the run is calibrated and had labeled validation images."""
        return self.calibration is not None and self.calibration[self.score_name].quantiles is not None

    @property
    def thresholds(self) -> list[Threshold]:
        """The thresholds of the preset's score that the run offers, the one that `score` and `report` use first."""
        validation = getattr(self._trained, "validation", None)
        return offered_thresholds(self.score_name, validation, self.calibration)

    @property
    def detector(self) -> Detector | Ensemble:
        """The frozen detector, or the ensemble of a group."""
        return self._trained.detector

    def to(self, device: str | torch.device) -> "Scorer":
        """Compute on this PyTorch device from now on; return the scorer itself.

        Raises:
            UserError: the device does not exist.
        """
        self.device = choose_device(str(device))
        self.detector.to(self.device)
        return self

    def score(self, images: Images, batch_size: int = 64) -> NDArray[np.float32]:
        """Return the preset's anomaly scores, larger = more abnormal.

        Args:
            images: N images, as above.
            batch_size: images per batch.

        Returns:
            float32 (N,).

        Raises:
            UserError: no image, or one that cannot be used.
        """
        return self.scores(images, batch_size, names=[self.score_name])[self.score_name]

    def scores(
        self, images: Images, batch_size: int = 64, cropped: bool = False, names: Sequence[str] | str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return all scores, larger = more abnormal.

        Args:
            images, batch_size: as for `score`.
            cropped: the images are as `data.read_image` returns them for this run, so they are not cropped again.
            names: which of `score_names`, or one of them; None for all. Only what these need is computed:
                `discriminator_image` needs no generator.

        Returns:
            {score: float32 (N,)}.

        Raises:
            UserError: as for `score`; the run has no such score; or `names` is empty.
        """
        names = self.score_names if names is None else [names] if isinstance(names, str) else names
        if not names:
            raise UserError(f"names is empty: give some of {', '.join(map(repr, self.score_names))}, or None for all")
        for name in names:
            if name not in self.score_names:
                raise UserError(f"there is no score {name!r}: give some of {', '.join(map(repr, self.score_names))}")
        return self._gather(images, batch_size, lambda batch: self._scored(batch, names)[0], cropped)

    def reconstruct(self, images: Images, batch_size: int = 64) -> NDArray[np.float32]:
        """Return healthy images as the generator draws them, in the exposure of the given ones.

        Args:
            images, batch_size: as for `score`.

        Returns:
            float32 (N, S, S) in [0, 1].

        Raises:
            UserError: as for `score`.
        """

        def reconstruct(batch: torch.Tensor) -> dict[str, torch.Tensor]:
            student = self._scored(batch, ())[1]
            assert student is not None  # only `discriminator_image` needs none
            return {"student": student[:, 0]}

        return self._gather(images, batch_size, reconstruct)["student"]

    def heatmap(
        self, images: Images, kind: str | None = None, batch_size: int = 64, cropped: bool = False
    ) -> NDArray[np.float32]:
        """Return heat maps of where images are abnormal.

        Args:
            images, batch_size, cropped: as for `scores`.
            kind: one of `maps.forward_maps`. `residual` is the smoothed squared error of the reconstruction.
                `memory_distance` is the distance of the patches to the memory. If the discriminator has cells,
                `discriminator_image` is its judgment of them, `discriminator` its judgment of the reconstruction's,
                and `combined` their sum. None is `map_name`, the map that explains the preset's score.

        Returns:
            float32 (N, S, S), in standard deviations from the training images at each pixel.

        Raises:
            UserError: as for `score`; or the run has no such map, or none for this checkpoint.
        """
        kind = self.map_name if kind is None else kind
        calibration = {kind: self.normal_map(kind)}
        found = self._gather(images, batch_size, lambda batch: anomaly_maps(self.detector, batch, calibration), cropped)
        return found[kind]

    def examine(
        self, images: Images, batch_size: int = 64, cropped: bool = False
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], NDArray[np.float32]]:
        """Return what `scores`, `reconstruct` and `heatmap` return, from one pass of the network.

        Args:
            images, batch_size, cropped: as for `scores`.

        Returns:
            {score: float32 (N,)}; reconstructions, float32 (N, S, S) in [0, 1]; and heat maps, float32 (N, S, S).

        Raises:
            UserError: as for `heatmap`.
        """
        self.normal_map()  # raises before any image is read
        found = self._gather(images, batch_size, self._examine, cropped)
        reconstructions, heat = found.pop("reconstructions"), found.pop("heat")
        return found, reconstructions, heat

    def unlike_training(self, images: Images, batch_size: int = 64, cropped: bool = False) -> NDArray[np.float32]:
        """Return how unlike the training images these images are, whatever their score; above 1 counts as unlike.

        >>> run = load(RUN)
        >>> bool(run.unlike_training(np.zeros((64, 64), np.uint8))[0] > 1)
        True

        Args:
            images, batch_size, cropped: as for `scores`.

        Returns:
            float32 (N,) in [0, 99].

        Raises:
            UserError: as for `score`; or the run has no input check.
        """
        check = self.input_check
        if check is None:
            raise UserError(why_unchecked(self.run.folder, self.run.record))
        return self._gather(images, batch_size, lambda batch: {"ratio": check.ratios(batch)}, cropped)["ratio"]

    def calibrated(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return the papers' sigmoid((score - mean) / standard deviation) of raw scores, for display.

        Args:
            scores: the preset's scores (N,), as `score` returns them.

        Returns:
            float64 (N,) in [0, 1].

        Raises:
            UserError: the run is not calibrated.

        Source: SQUID 3.4.
        """
        return calibrated(scores, self._calibration())

    def percentile(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return the share of normal validation images that have a lower score, in percent.

        It is interpolated between their 101 quantiles: 0 below all of them, 100 above all of them.

        Args:
            scores: the preset's scores (N,), as `score` returns them.

        Returns:
            float64 (N,) in [0, 100].

        Raises:
            UserError: the run is not calibrated, or had no labeled validation images.
        """
        quantiles = self._calibration().quantiles
        if quantiles is None:
            raise UserError(NO_PERCENTILES)
        return np.interp(np.asarray(scores, np.float64), quantiles, np.arange(101.0))

    def normal_map(self, kind: str | None = None) -> Moments:
        """Return the normal values of a map at every pixel.

        Args:
            kind: as for `heatmap`.

        Returns:
            mean and standard deviation, float32 (S, S) on the CPU; for a group of R runs (R, S, S).

        Raises:
            UserError: the run has no such map, or none for this checkpoint.
        """
        kind = self.map_name if kind is None else kind
        if self._maps is None:
            folder = self.run.folder
            if self.calibration is None and self.run.record.converted:
                raise UserError(why_uncalibrated(folder, self.run.record))
            resumed = " and ".join(f"--resume {run}" for run in self.run.runs)
            raise UserError(
                f"{folder} has no maps for its {self.run.checkpoint} checkpoint; a finished run has maps for its best "
                f"checkpoint, or for its last if it has no best: python -m fastsquid.train {resumed} writes them"
            )
        if kind not in self._maps:
            raise UserError(f"there is no {kind!r} map: give one of {', '.join(map(repr, self._maps))}")
        return self._maps[kind]

    def _scored(self, batch: torch.Tensor, names: Sequence[str]) -> _Scored:
        detector: Any = self.detector
        return detector.scores(batch, names=names)

    @torch.inference_mode()
    def _examine(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        detector: Any = self.detector  # what `reconstruct` returns differs between a detector and an ensemble
        reconstructed = detector.reconstruct(batch)
        found: _Scored = detector.scores(batch, reconstructed)
        scores, reconstructions = found
        assert reconstructions is not None  # they are there already
        maps = anomaly_maps(detector, batch, {self.map_name: self.normal_map()}, reconstructed)
        given = {name: scores[name] for name in self.score_names}
        return {**given, "reconstructions": reconstructions[:, 0], "heat": maps[self.map_name]}

    def _calibration(self) -> Calibration:
        """Return the calibration of the preset's score."""
        if self.calibration is None:
            raise UserError(why_uncalibrated(self.run.folder, self.run.record))
        return self.calibration[self.score_name]

    def _gather(
        self,
        images: Images,
        batch_size: int,
        compute: Callable[[torch.Tensor], dict[str, torch.Tensor]],
        cropped: bool = False,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the results of `compute`, dicts of tensors (B, ...), over all batches."""
        unreadable: set[int] = set()
        crop = self.crop and not cropped
        batches = unit_batches(images, self.image_size, batch_size, crop, unreadable, self.accept)
        found = gather(compute, (batch.to(self.device) for batch in batches))
        for values in found.values():
            values[sorted(unreadable)] = torch.nan
        return {name: values.numpy() for name, values in found.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Tensors of a GPU could not be read on a machine without one.
        on_cpu = dataclasses.replace(self._trained, detector=copy.deepcopy(self.detector).cpu())
        return {**self.__dict__, "_trained": on_cpu}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            self.device = choose_device(str(self.device))
        except UserError:
            self.device = torch.device("cpu")
        self.detector.to(self.device)
