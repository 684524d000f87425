"""`AnomalyDetector`: an outlier detector for scikit-learn, which trains on images in memory and has no run folder."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin  # pyright: ignore[reportMissingTypeStubs]
from sklearn.utils import check_random_state  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from sklearn.utils.validation import (  # pyright: ignore[reportMissingTypeStubs]
    check_is_fitted,  # pyright: ignore[reportUnknownVariableType]
)

from . import config as configuration
from .api import Scorer
from .data.inputs import Images, require_normal_folders, unit_batches
from .errors import UserError
from .model.detector import Detector
from .models import resolve
from .runs.trained import TrainedDetector, TrainedRun, load_run, load_weights
from .scoring.input_check import fit_check
from .scoring.maps import calibrate_maps, forward_maps
from .scoring.scores import calibrate, standardize
from .training.epoch import Steps
from .training.trainer import Trainer
from .utils.devices import choose_device

# Fields of the training command only: they need a validation split, or labels.
_OF_THE_COMMAND = ("preset", "contamination", "select", "monitor")
_PRESET = "fastsquid-small"


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """A detector that trains on normal images and finds images that do not look like them.

    On a CPU `fit` gives the same bits as `python -m fastsquid.train --select last --precision fp32` with the same
    images, seed and configuration. On a GPU it gives what that command gives with `--compile off` besides.

    Images X are (n, H, W), uint8, uint16, or floats in [0, 1]. Tensors, and lists of paths, PIL images or arrays of
    several sizes also work, as for a `Scorer`. Images may have any size, in `fit` and later, and are resized to the
    preset's square.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X.reshape(-1, 8, 8) / 16
    >>> detector = AnomalyDetector(epochs=1, config={"width": 4, "slots": 8}).fit(X[y == 3][:16])
    >>> detector.score_samples(X[:5]).shape
    (5,)

    Args:
        preset: name of one in `config.PRESETS`; None for the configuration of `init`, or without it `fastsquid-small`.
        epochs: passes over the images; None for the number in `config`, or in the preset.
        config: {field: value} of `Config` to change in the preset, or None. For a grid search it is one parameter,
            whose candidates are dicts.
        contamination: share of the training images, in [0, 0.5], that `predict` calls abnormal, as in scikit-learn. It
            sets `offset_` and changes no score. (The field `contamination` of `Config` puts abnormal images among the
            training images, and is for the training command only.)
        random_state: seed of weights, order and augmentation, from 0 to 2**64 - 1; or, as elsewhere in scikit-learn,
            None or a RandomState that a seed is drawn from.
        device: a PyTorch device, or `auto` for a GPU if there is one.
        init: fine-tune the weights of this run: path of a run folder, or the name of a shipped model, `zhanglab`. None
            begins with random weights. A smaller `lr` in `config` changes them less.

    Attributes:
        scorer_: the trained detector as a `Scorer`, for all its scores, heat maps and reconstructions.
        offset_: the lowest of `score_samples` that is normal, a float.

    `fit` leaves PyTorch's random state on the CPU and on CUDA as it was. It draws from NumPy's only if `random_state`
    is None. A pickle holds everything. If its device does not exist where it is read, it is read onto the CPU.
    """

    def __init__(
        self,
        preset: str | None = None,
        *,
        epochs: int | None = None,
        config: Mapping[str, Any] | None = None,
        contamination: float = 0.05,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device = "auto",
        init: str | Path | None = None,
    ) -> None:
        self.preset = preset
        self.epochs = epochs
        self.config = config
        self.contamination = contamination
        self.random_state = random_state
        self.device = device
        self.init = init

    def fit(self, X: Images, y: object = None) -> "AnomalyDetector":
        """Train on images, which all count as normal. An earlier fit is forgotten.

        Args:
            X: images, as above.
            y: ignored.

        Returns:
            the estimator itself.

        Raises:
            ValueError: an image that cannot be used, a folder whose images are not known to be healthy, a parameter
                out of its range, weights of `init` that do not fit the configuration, or a training that diverged.
        """
        contamination = self.contamination
        if not isinstance(contamination, Real) or not 0 <= contamination <= 0.5:
            raise UserError(f"contamination = {contamination!r} should be a share from 0 to 0.5")
        begun = None if self.init is None else load_run(resolve(self.init))
        config = self._config(begun)
        require_normal_folders(X)
        seed, device = _seed(self.random_state), choose_device(str(self.device))
        images = torch.cat(list(unit_batches(_several(X), config.image_size, crop=config.crop))).to(device)
        trained = _train(config, images, seed, device, begun)
        detector = trained.frozen()
        maps = calibrate_maps(detector, images, maps=forward_maps)
        trained = TrainedDetector(detector, calibrate(detector, images))
        self.scorer_ = Scorer(trained, maps, input_check=fit_check(images))
        scores = self.scorer_.scores(images, cropped=True, names=[config.score])[config.score].astype(np.float64)
        self.offset_ = float(np.percentile(-scores, 100 * contamination))
        return self

    def score_samples(self, X: Images) -> NDArray[np.float64]:
        """Return minus the preset's anomaly scores of images X, larger = more normal: float64 (n,)."""
        check_is_fitted(self)
        scores = self.scorer_.score(_several(X)).astype(np.float64)
        if np.isnan(scores).any():  # which `predict` would call normal
            raise UserError(f"image {np.isnan(scores).argmax()}, counted from 0, cannot be read: leave it out of X")
        return -scores

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """Return `score_samples` of images X minus `offset_`, below 0 = abnormal: float64 (n,)."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Images) -> NDArray[np.int64]:
        """Return 1 for normal images of X and -1 for abnormal ones: int64 (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _config(self, begun: TrainedRun | None = None) -> configuration.Config:
        """Return the `Config` that the parameters describe, with the run that `init` names."""
        given: object = self.config
        if not isinstance(given, (Mapping, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"config = {given!r} should be a dict of fields to change in the preset, or None")
        changes: dict[str, Any] = dict(self.config or {})
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        for name in _OF_THE_COMMAND:
            if name in changes:
                raise UserError(f"config has {name!r}, which only the training command uses: leave it out")
        # The values of a parameter grid are NumPy scalars.
        changes = {name: value.item() if isinstance(value, np.generic) else value for name, value in changes.items()}
        if begun is None or self.preset is not None:
            return configuration.preset(_PRESET if self.preset is None else self.preset, **changes, select="last")
        changes |= {"contamination": 0.0, "select": "last", "monitor": False}
        return configuration.Config.from_dict({**begun.record.config.to_dict(), **changes})

    def __sklearn_tags__(self) -> Any:
        parent: Any = super()
        tags = parent.__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def _train(
    config: configuration.Config, images: torch.Tensor, seed: int, device: torch.device, begun: TrainedRun | None
) -> Detector:
    """Return the detector that scores, trained on float32 images (n, 1, S, S) in [0, 1] on the device.

    It begins with the weights of the run `begun`, or None for random ones.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        detector = Detector(config).to(device)
        if begun is not None:
            load_weights(detector, begun)
        trainer = Trainer(detector)
        steps = Steps(trainer, images)
        for epoch in range(config.epochs):
            for _ in steps.epoch(seed, epoch):
                pass
            steps.require_finite(epoch, "a lower lr in config may help")
    standardize(trainer.evaluated, images)
    return trainer.evaluated


def _several(X: Any) -> Any:
    """Return X; reject one array of features or a single image, which a `Scorer` would take."""
    if isinstance(X, (np.ndarray, torch.Tensor)) and X.ndim < 3:
        shape: tuple[int, ...] = tuple(cast(Any, X).shape)
        raise UserError(f"X has the shape {shape}: give images as (n, H, W), a single one as X[None]")
    return cast(Any, X)


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed as the training command's; it is drawn if random_state is not a whole number."""
    if not isinstance(random_state, (int, np.integer)):
        return int(check_random_state(random_state).randint(2**31))
    if not 0 <= random_state < 2**64:
        raise UserError(f"random_state = {random_state} should be from 0 to 2**64 - 1")
    return int(random_state)
