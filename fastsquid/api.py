"""The door from Python: a trained detector as an object that scores, locates and draws; files and commands left out."""

import copy
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .data.images import convert_array, convert_image, read_image, to_unit
from .errors import UserError
from .model.detector import Detector
from .model.ensemble import Ensemble
from .runs.folder import why_uncalibrated
from .runs.input_check import read_check, why_unchecked
from .runs.trained import TrainedRun, load_maps, load_trained
from .scoring.input_check import InputCheck
from .scoring.maps import Moments, anomaly_maps
from .scoring.scores import calibrated
from .utils.devices import choose_device


def load(run, checkpoint=None, device="auto", impl="auto", precision="fp32", fast=False):
    """Opens a run folder for scoring, or a group folder as the ensemble of its runs.

    >>> run = load(RUN)
    >>> run.score(["tests/data/xrays/test/0000.jpeg", "tests/data/xrays/test/0001.jpeg"]).shape
    (2,)

    Args:
        run: path of a run folder that `python -m fastsquid.train` or `fastsquid.convert` wrote, or of a group folder
            that `python -m fastsquid.train --seeds` wrote, finished.
        checkpoint: `best`, `last`, or None for the best where the run has one.
        device: as PyTorch names them, or `auto`, a GPU if there is one.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.
        precision: of convolutions and projections, `fp32` or `bf16`.
        fast: rank by `discriminator_image` and give no other score, so that the generator does not run.

    Returns:
        a `Scorer`.

    Raises:
        UserError: no such run, no checkpoint in it yet, or one that is damaged; a group whose runs are not finished, or
            do not belong together; or an argument that is none of these.
    """
    for name, value, known in (
        ("checkpoint", checkpoint, ("best", "last", None)),
        ("impl", impl, ("auto", "triton", "torch")),
        ("precision", precision, ("fp32", "bf16")),
    ):
        if value not in known:
            raise UserError(f"{name} = {value!r} is not one of {', '.join(map(repr, known))}")
    trained = load_trained(run, checkpoint, impl, choose_device(str(device)))
    if fast and not trained.detector.config.discriminator:
        raise UserError(f"{run} has no discriminator, whose score the fast one is: leave fast out")
    frozen = dataclasses.replace(trained, detector=trained.detector.frozen(precision == "bf16"))
    return Scorer(frozen, load_maps(trained), fast, read_check(trained.runs[0]))


class Scorer:
    """A detector for scoring. All methods take images and give arrays whose first axis is that of the images.

    Images are a path, a PIL image, an array or a tensor; a list, or any other iterable, of these; or several in one
    array: (H, W), (N, H, W) or (N, 1, H, W), uint8, uint16, or floats in [0, 1], of any size. Each is made a square of
    the model's size just as files are (`data.read_image`), but that floats are not rounded to 8 or 16 bits. Where the
    run crops, every result is of an image's exposed field, maps too. DICOM files are read as
    `python -m fastsquid.score` reads them. Of an iterable only a batch is held at a time.

    What cannot be used as an image is refused by a UserError, a ValueError that names its path, or its number from 0.

    Of a group, a score is the mean of the runs' scores, each standardized on its own normal validation images (training
    images where there are none). Maps and reconstructions are the means of the runs' own.

    A pickle or a copy holds everything; where there is no such device it is read onto the CPU.

    Attributes:
        score_name: the score that the preset ranks by.
        score_names: all that it gives.
        map_name: the map that explains the preset's score, one of `maps.forward_maps`.
        image_size: side of the model's square images in pixels.
        crop: whether every image is cropped to its exposed field before it is resized.
        calibration: {score: `scoring.scores.Calibration`}; None before a run has finished, and for weights that were
            converted without data. For a group, mean and std are over normal validation images.
        run: a `runs.trained.TrainedRun`: the frozen detector, its record, folder, checkpoint, epoch and more.
        detector: the frozen `Detector`, or the `Ensemble` of a group.
        input_check: a `scoring.input_check.InputCheck`, for a group that of its first run; None where the run has none.
        device: on which it computes.

    Args:
        run, input_check: as the attributes.
        maps: normal values at every pixel, as `scoring.maps.calibrate_maps` returns them; None where the run has none.
        fast: as for `load`.
    """

    def __init__(
        self,
        run: TrainedRun,
        maps: dict[str, Moments] | None,
        fast: bool = False,
        input_check: InputCheck | None = None,
    ):
        self.run, self.fast, self.input_check = run, fast, input_check
        self.calibration, detector = run.calibration, run.detector
        self.score_name, self.score_names = detector.config.score, detector.config.scores
        self.map_name = detector.config.map
        if fast:
            self.score_name, self.score_names = "discriminator_image", ("discriminator_image",)
            if self.map_name != "residual":
                self.map_name = "discriminator_image"
        self.image_size, self.crop = detector.config.image_size, detector.config.crop
        self.device = next(detector.parameters()).device
        self._maps = maps

    @property
    def detector(self) -> Detector | Ensemble:
        """The frozen detector, or the ensemble of a group."""
        return self.run.detector

    def score(self, images, batch_size=64):
        """The preset's anomaly score, larger = more abnormal: float32 (N,)."""
        return self.scores(images, batch_size)[self.score_name]

    def scores(self, images, batch_size=64, cropped=False):
        """All scores by name, larger = more abnormal: dict of float32 (N,).

        Args:
            cropped: the images are as `data.read_image` gives them to this run; they are not cropped again.
        """
        return self._gather(images, batch_size, lambda batch: self.detector.scores(batch, fast=self.fast)[0], cropped)

    def reconstruct(self, images, batch_size=64):
        """The healthy images that are drawn for them: float32 (N, S, S) in [0, 1], in the images' own exposure."""
        drawn = self._gather(images, batch_size, lambda batch: {"student": self.detector.scores(batch)[1][:, 0]})
        return drawn["student"]

    def heatmap(self, images, kind=None, batch_size=64, cropped=False):
        """Where they are abnormal: float32 (N, S, S), in standard deviations from the training images at each pixel.

        Args:
            kind: one of `maps.forward_maps`: `residual`, the smoothed squared error of the reconstruction;
                `memory_distance` of the patches; or where the discriminator has cells what it says of them,
                `discriminator_image`, `discriminator` (on the reconstruction) or `combined`. None is `map_name`, the
                one that explains the preset's score.
            cropped: as `scores` takes it.

        Raises:
            UserError: the run has no such map, or none for this checkpoint.
        """
        kind = self.map_name if kind is None else kind
        calibration = {kind: self.normal_map(kind)}
        found = self._gather(images, batch_size, lambda batch: anomaly_maps(self.detector, batch, calibration), cropped)
        return found[kind]

    def examine(self, images, batch_size=64, cropped=False):
        """What `scores`, `reconstruct` and `heatmap` give, in one pass of the network: the three of them.

        Args:
            cropped: as `scores` takes it.

        Raises:
            UserError: as `heatmap`.
        """
        self.normal_map()  # or refused before there is work
        found = self._gather(images, batch_size, self._examine, cropped)
        drawn, heat = found.pop("drawn"), found.pop("heat")
        return found, drawn, heat

    def unlike_training(self, images, batch_size=64, cropped=False):
        """How unlike the training images they are, whatever their score: float32 (N,); above 1 counts as unlike.

        >>> run = load(RUN)
        >>> bool(run.unlike_training(np.zeros((64, 64), np.uint8))[0] > 1)
        True

        Args:
            cropped: as `scores` takes it.

        Raises:
            UserError: the run has no input check.
        """
        if self.input_check is None:
            raise UserError(why_unchecked(self.run.folder, self.run.record))
        found = self._gather(images, batch_size, lambda batch: {"ratio": self.input_check.ratios(batch)}, cropped)
        return found["ratio"]

    def calibrated(self, scores):
        """The papers' sigmoid((score - mean) / std) of the preset's raw scores: float64 (N,) in [0, 1].

        Raises:
            UserError: the run is not calibrated.
        """
        return calibrated(scores, self._calibration())

    def percentile(self, scores):
        """Of the preset's raw scores, what share of normal validation images scores less, in percent: float64 (N,).

        Interpolated between their 101 quantiles; 0 and 100 below and above all of them.

        Raises:
            UserError: the run is not calibrated, or had no labelled validation images.
        """
        quantiles = self._calibration().quantiles
        if quantiles is None:
            raise UserError(
                "there are no percentiles, since the run had no labelled validation images, or was of an earlier "
                "version: train or convert one with a val folder of NORMAL and other classes"
            )
        return np.interp(np.asarray(scores, np.float64), quantiles, np.arange(101.0))

    def normal_map(self, kind=None):
        """What is normal at every pixel of a map: mean and standard deviation, float32 (S, S) on the CPU.

        Of a group of R runs they are (R, S, S). `kind` is as for `heatmap`.

        Raises:
            UserError: as `heatmap`.
        """
        kind = self.map_name if kind is None else kind
        if self._maps is None:
            folder = self.run.folder
            if self.calibration is None and self.run.record.converted:
                raise UserError(why_uncalibrated(folder, self.run.record))
            resumed = " and ".join(f"--resume {run}" for run in self.run.runs)
            raise UserError(
                f"{folder} has no maps for its {self.run.checkpoint} checkpoint: a finished run has them for its "
                f"best, or where none is chosen for its last, and python -m fastsquid.train {resumed} writes those"
            )
        if kind not in self._maps:
            raise UserError(f"there is no {kind!r} map: give one of {', '.join(map(repr, self._maps))}")
        return self._maps[kind]

    @torch.inference_mode()
    def _examine(self, batch):
        drawn = self.detector.draw(batch)
        scores, reconstructions = self.detector.scores(batch, drawn)
        maps = anomaly_maps(self.detector, batch, {self.map_name: self.normal_map()}, drawn)
        given = {name: scores[name] for name in self.score_names}
        return {**given, "drawn": reconstructions[:, 0], "heat": maps[self.map_name]}

    def _calibration(self):
        """Of the preset's score."""
        if self.calibration is None:
            raise UserError(why_uncalibrated(self.run.folder, self.run.record))
        return self.calibration[self.score_name]

    def _gather(self, images, batch_size, compute, cropped=False):
        """The results of `compute`, dicts of tensors (B, ...), over all batches, as numpy arrays."""
        parts = {}
        for batch in unit_batches(images, self.image_size, batch_size, self.crop and not cropped):
            for name, values in compute(batch.to(self.device)).items():
                parts.setdefault(name, []).append(values.float().cpu())
        return {name: torch.cat(values).numpy() for name, values in parts.items()}

    def __getstate__(self):  # tensors of a GPU could not be read where there is none
        return {**self.__dict__, "run": dataclasses.replace(self.run, detector=copy.deepcopy(self.detector).cpu())}

    def __setstate__(self, state):
        self.__dict__.update(state)
        try:
            self.device = choose_device(str(self.device))
        except UserError:
            self.device = torch.device("cpu")
        self.detector.to(self.device)


def unit_batches(images, size, batch_size=64, crop=False):
    """Images of any kind that `Scorer` takes: batches of float32 (B, 1, size, size) in [0, 1], on the CPU.

    Raises:
        UserError: no images, something that cannot be used as one, or a batch size that is no whole number above 0.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise UserError(f"batch_size = {batch_size!r} should be a whole number, at least 1")
    batch, number = [], -1
    for number, image in enumerate(_single(images)):
        batch.append(to_unit(torch.from_numpy(_square(image, size, number, crop))))
        if len(batch) == batch_size:
            yield torch.stack(batch)[:, None]
            batch = []
    if number < 0:
        raise UserError("there are no images: give at least one")
    if batch:
        yield torch.stack(batch)[:, None]


def _single(images):
    """One image after the other; what is none is passed on, for `_square` to refuse it by its number."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim == 4 and images.shape[1] == 1:
            images = images[:, 0]
        if images.ndim == 3 and images.shape[2] not in (3, 4):  # which are colours, not X-rays of three columns
            yield from images
        else:
            yield images
    elif isinstance(images, Iterable) and not isinstance(images, (str, bytes)):
        for image in images:
            yield from _single(image)
    else:
        yield images


def _square(image, size, number, crop):
    """The square that `read_image`, `convert_image` or `convert_array` makes of one image."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image), size, crop=crop)
    try:
        if isinstance(image, Image.Image):
            return convert_image(image, size, crop)
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            # NumPy has no bfloat16.
            return convert_array(image.float() if image.is_floating_point() else image, size, crop)
        if isinstance(image, np.ndarray):
            return convert_array(image, size, crop)
        raise ValueError(f"it is of type {type(image).__name__}: give a path, a PIL image, an array or a tensor")
    except Exception as error:  # of a damaged PIL image decoders raise almost anything
        raise UserError(f"image {number}, counted from 0, cannot be used: {error}") from error
