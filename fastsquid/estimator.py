"""A detector as scikit-learn knows outlier detectors: trained on an array of normal images, no run folder."""

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from . import config as configuration
from .api import Scorer, unit_batches
from .errors import UserError
from .model.detector import Detector
from .runs.trained import TrainedRun
from .scoring.input_check import fit_check
from .scoring.maps import calibrate_maps, forward_maps
from .scoring.scores import calibrate, standardize
from .training.epoch import Steps
from .training.trainer import Trainer
from .utils.devices import choose_device

# Fields of what the training command does beside training: it needs a validation split, or labels.
_OF_THE_COMMAND = ("preset", "contamination", "select", "monitor")


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Trains on normal images, and finds others that do not look like them.

    On a CPU `fit` ends in the same bits as `python -m fastsquid.train --select last` with the same images, seed and
    configuration; on a GPU as that command without compilation and in float32.

    Images X are (n, H, W), uint8, uint16, or floats in [0, 1], and everything else that stands for several in a
    `Scorer`: tensors, or lists of paths, of PIL images, of arrays of several sizes. They may have any size, at `fit`
    and later, and are resized to the preset's square.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X.reshape(-1, 8, 8) / 16
    >>> detector = AnomalyDetector(epochs=1, config={"width": 4, "slots": 8}).fit(X[y == 3][:16])
    >>> detector.score_samples(X[:5]).shape
    (5,)

    Args:
        preset: name of one in `config.PRESETS`.
        epochs: passes over the images; None for those of `config`, or of the preset.
        config: {field: value} of `Config` that the preset is to be changed in, or None. For a grid search it is one
            parameter, whose candidates are dicts.
        contamination: share of the training images, in [0, 0.5], that `predict` calls abnormal, as scikit-learn has
            it: it places `offset_` and changes no score. (The configuration's field of that name, which puts abnormal
            images among the training ones, is the training command's.)
        random_state: seed of weights, order and augmentation, from 0 to 2**64 - 1; or, as elsewhere in scikit-learn,
            None or a RandomState that a seed is drawn from.
        device: as PyTorch names them, or `auto`, a GPU if there is one.

    Attributes:
        scorer_: the trained detector as a `Scorer`, which has all its scores, heatmaps and reconstructions.
        offset_: the lowest of `score_samples` that is normal, a float.

    `fit` leaves the random state of NumPy, and PyTorch's of the CPU and of CUDA, as it was. A pickle holds everything;
    where there is no such device it is read onto the CPU.
    """

    def __init__(
        self,
        preset="fastsquid-small",
        *,
        epochs=None,
        config=None,
        contamination=0.05,
        random_state=0,
        device="auto",
    ):
        self.preset = preset
        self.epochs = epochs
        self.config = config
        self.contamination = contamination
        self.random_state = random_state
        self.device = device

    def fit(self, X, y=None):
        """Trains on images, all of which are taken as normal; what was fitted before is forgotten.

        Args:
            X: images, as above.
            y: ignored.

        Returns:
            the estimator itself.

        Raises:
            ValueError: something that is no image, a parameter out of its range, or a training that diverged.
        """
        contamination = self.contamination
        if not isinstance(contamination, Real) or not 0 <= contamination <= 0.5:
            raise UserError(f"contamination = {contamination!r} should be a share from 0 to 0.5")
        config, seed, device = self._config(), _seed(self.random_state), choose_device(str(self.device))
        images = torch.cat(list(unit_batches(_several(X), config.image_size, crop=config.crop))).to(device)
        judge = _train(config, images, seed, device)
        detector = judge.frozen()
        maps = calibrate_maps(detector, images, maps=forward_maps)
        run = TrainedRun(detector, calibrate(detector, images))
        self.scorer_ = Scorer(run, maps, input_check=fit_check(images))
        scores = self.scorer_.scores(images, cropped=True)[config.score].astype(np.float64)
        self.offset_ = float(np.percentile(-scores, 100 * contamination))
        return self

    def score_samples(self, X):
        """Minus the preset's anomaly score, larger = more normal: float64 (n,)."""
        check_is_fitted(self)
        return -self.scorer_.score(_several(X)).astype(np.float64)

    def decision_function(self, X):
        """`score_samples` less `offset_`, below 0 = abnormal: float64 (n,)."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """1 for normal images and -1 for abnormal ones: int64 (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _config(self):
        """The `Config` that the parameters stand for."""
        if not isinstance(self.config, (Mapping, type(None))):
            raise UserError(f"config = {self.config!r} should be a dict of fields to change in the preset, or None")
        changes = dict(self.config or {})
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        for name in _OF_THE_COMMAND:
            if name in changes:
                raise UserError(f"config has {name!r}, which is not of the estimator's training: leave it out")
        # A grid's values are NumPy's.
        changes = {name: value.item() if isinstance(value, np.generic) else value for name, value in changes.items()}
        return configuration.preset(self.preset, **changes, select="last")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def _train(config, images, seed, device):
    """The detector that scores, trained on float32 images (n, 1, S, S) in [0, 1] on the device."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        trainer = Trainer(Detector(config).to(device))
        steps = Steps(trainer, images)
        for epoch in range(config.epochs):
            for _ in steps.epoch(seed, epoch):
                pass
            steps.require_finite(epoch, "a lower lr in config may help")
    standardize(trainer.judge, images)
    return trainer.judge


def _several(X):
    """X, refused where it is one array of features, or a single image, which a `Scorer` would take."""
    if isinstance(X, (np.ndarray, torch.Tensor)) and X.ndim < 3:
        raise UserError(f"X has the shape {tuple(X.shape)}: give images as (n, H, W), a single one as X[None]")
    return X


def _seed(random_state):
    """A seed as the training command's, drawn where random_state is no number."""
    if not isinstance(random_state, Integral):
        return int(check_random_state(random_state).randint(2**31))
    if not 0 <= random_state < 2**64:
        raise UserError(f"random_state = {random_state} should be from 0 to 2**64 - 1")
    return int(random_state)
