"""The door from Python: a trained run as an object that scores, locates and draws; files and commands left out."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .checkpoint import load_run, read_maps
from .cli import choose_device
from .data.images import convert_array, convert_image, read_image, to_unit
from .errors import UserError
from .maps import anomaly_maps
from .model import calibrated


def load(run, checkpoint=None, device="auto", impl="auto", precision="fp32"):
    """Opens a run folder for scoring.

    Args:
        run: path of a run folder that `python -m fastsquid.train` wrote.
        checkpoint: `best`, `last`, or None for the best where the run has one.
        device: as PyTorch names them, or `auto`, a GPU if there is one.
        impl: `auto`, `triton` or `torch`, for the memory read and the neighbor attention.
        precision: of convolutions and projections, `fp32` or `bf16`.

    Returns:
        a `Scorer`.

    Raises:
        UserError: no such run, no checkpoint in it yet, or one that is damaged.
    """
    detector, record, state, name = load_run(run, checkpoint, impl, choose_device(str(device)))
    return Scorer(
        detector.frozen(precision == "bf16"),
        state[name]["calibration"],
        read_maps(run, state[name]["epoch"]),
        {
            **record,
            "folder": Path(run),
            "checkpoint": name,
            "epoch": state[name]["epoch"],
            "validation": state[name]["validation"],
        },
    )


class Scorer:
    """A detector for scoring. All methods take images and give arrays whose first axis is that of the images.

    Images are a path, a PIL image, an array or a tensor; a list (or other iterable) of any of these; or several in one
    array: (H, W), (N, H, W) or (N, 1, H, W), uint8, uint16, or floats in [0, 1], of any size. Each is made a square of
    the model's size just as files are. DICOM files are read as `python -m fastsquid.score` reads them.

    Attributes:
        score_name: the score that the run's preset ranks by.
        score_names: all that it gives.
        image_size: side of the model's square images in pixels.
        calibration: {score: {mean, std, quantiles}} as `evaluation.calibrate` gives it; None before a run has finished.
        run: the run's config.json, with its `folder`, the `checkpoint` that this is, its `epoch`, and of its
            `validation` {score: {auc, threshold}}, or None without labelled validation images.
        detector: the frozen `Detector`.
    """

    def __init__(self, detector, calibration, maps, run):
        self.detector, self.calibration, self.run = detector, calibration, run
        self.score_name, self.score_names = detector.config.score, detector.config.scores
        self.image_size = detector.config.image_size
        self.device = next(detector.parameters()).device
        self._maps = maps and {name: [moment.to(self.device) for moment in moments] for name, moments in maps.items()}

    def score(self, images, batch_size=64):
        """The preset's anomaly score, larger = more abnormal: float32 (N,)."""
        return self.scores(images, batch_size)[self.score_name]

    def scores(self, images, batch_size=64):
        """All scores by name, larger = more abnormal: dict of float32 (N,)."""
        return self._gather(images, batch_size, lambda batch: self.detector.scores(batch)[0])

    def reconstruct(self, images, batch_size=64):
        """The healthy images that are drawn for them: float32 (N, S, S) in [0, 1], in the images' own exposure."""
        drawn = self._gather(images, batch_size, lambda batch: {"student": self.detector.scores(batch)[1][:, 0]})
        return drawn["student"]

    def heatmap(self, images, kind="residual", batch_size=64):
        """Where they are abnormal: float32 (N, S, S), in standard deviations from the training images at each pixel.

        Args:
            kind: `residual`, the smoothed squared error of the reconstruction, or `memory_distance` of the patches.

        Raises:
            UserError: the run has no such map, or none for this checkpoint.
        """
        self._require_map(kind)
        return self._gather(images, batch_size, lambda b: anomaly_maps(self.detector, b, self._maps))[kind]

    def examine(self, images, batch_size=64):
        """What `scores`, `reconstruct` and `heatmap` give, in one pass of the network: the three of them.

        Raises:
            UserError: as `heatmap`.
        """
        self._require_map("residual")
        found = self._gather(images, batch_size, self._examine)
        drawn, heat = found.pop("drawn"), found.pop("heat")
        return found, drawn, heat

    def calibrated(self, scores):
        """The papers' sigmoid((score - mean) / std) of the preset's raw scores: float64 (N,) in [0, 1].

        Raises:
            UserError: the run has not finished.
        """
        self._require_calibration()
        values = torch.as_tensor(np.asarray(scores, np.float64))
        return calibrated(values, self.calibration[self.score_name]).numpy()

    def percentile(self, scores):
        """Of the preset's raw scores, what share of normal validation images scores less, in percent: float64 (N,).

        Interpolated between their 101 quantiles; 0 and 100 below and above all of them.

        Raises:
            UserError: the run has not finished, or had no labelled validation images.
        """
        self._require_calibration()
        quantiles = self.calibration[self.score_name].get("quantiles")
        if quantiles is None:
            raise UserError(
                f"{self.run['folder']} has no percentiles: it was trained without labelled validation images, or by an "
                "earlier version; train with a val folder of NORMAL and other classes"
            )
        return np.interp(np.asarray(scores, np.float64), quantiles, np.arange(101.0))

    @torch.inference_mode()
    def _examine(self, batch):
        drawn = self.detector.draw(batch)
        scores, reconstructions = self.detector.scores(batch, drawn)
        maps = anomaly_maps(self.detector, batch, self._maps, drawn)
        return {**scores, "drawn": reconstructions[:, 0], "heat": maps["residual"]}

    def _require_map(self, kind):
        if self._maps is None:
            folder, which = self.run["folder"], self.run["checkpoint"]
            raise UserError(
                f"{folder} has no maps for its {which} checkpoint: python -m fastsquid.train --resume {folder} "
                "writes those of the checkpoint that the run stands for"
            )
        if kind not in self._maps:
            raise UserError(f"this run has no {kind!r} map: give one of {', '.join(map(repr, self._maps))}")

    def _require_calibration(self):
        if self.calibration is None:
            folder = self.run["folder"]
            raise UserError(
                f"{folder} has not finished, and is not calibrated: python -m fastsquid.train --resume {folder}"
            )

    def _gather(self, images, batch_size, compute):
        """The results of `compute`, dicts of tensors (B, ...), over all batches, as numpy arrays."""
        parts = {}
        for batch in _batches(images, self.image_size, batch_size):
            for name, values in compute(batch.to(self.device)).items():
                parts.setdefault(name, []).append(values.float().cpu())
        if not parts:
            raise UserError("there are no images: give at least one")
        return {name: torch.cat(values).numpy() for name, values in parts.items()}


def _batches(images, size, batch_size):
    """float32 (B, 1, size, size) in [0, 1], of at most `batch_size` images each."""
    batch = []
    for number, image in enumerate(_single(images)):
        batch.append(to_unit(torch.from_numpy(_square(image, size, number))))
        if len(batch) == batch_size:
            yield torch.stack(batch)[:, None]
            batch = []
    if batch:
        yield torch.stack(batch)[:, None]


def _single(images):
    """One image after the other."""
    if isinstance(images, (str, Path, Image.Image)):
        yield images
    elif isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim not in (2, 3, 4) or (images.ndim == 4 and images.shape[1] != 1):
            raise UserError(
                f"images have the shape {tuple(images.shape)}: give (H, W), (N, H, W) or (N, 1, H, W), and colour "
                "images as PIL images"
            )
        yield from images.reshape(-1, *images.shape[-2:])
    else:
        for image in images:
            yield from _single(image)


def _square(image, size, number):
    """The square that `read_image`, `convert_image` or `convert_array` makes of one image."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image), size)
    try:
        if isinstance(image, Image.Image):
            return convert_image(image, size)
        return convert_array(image.detach().cpu() if isinstance(image, torch.Tensor) else image, size)
    except ValueError as error:
        raise UserError(f"image {number} cannot be used: {error}") from None
