"""The images that a run is trained, calibrated or evaluated on."""

import hashlib
import json
import logging

from ..data import open_data
from ..errors import UserError
from ..evaluation.metrics import require_both_classes
from ..evaluation.robustness import uncropped_size
from ..utils import distributed

log = logging.getLogger(__name__)


def open_run_data(run):
    """The run's splits, after what its report would stumble over is refused; what is skipped is said.

    Args:
        run: of config.json `config`, `data`, `seed`, `skip_unreadable` and `anonymous`.
    """
    config = run["config"]
    data = open_data(
        run["data"],
        config.image_size,
        run["seed"],
        run["skip_unreadable"],
        contamination=config.contamination,
        anonymous=run["anonymous"],
        crop=config.crop,
    )
    for name in ("val", "test"):
        if name in data and data[name].labels is not None:
            require_both_classes(data[name].labels, f"the {name} split of {run['data']}")
    skipped = sum(split.skipped for split in data.values())
    if skipped and distributed.leads():
        log.warning("skipped %d unreadable image%s", skipped, "s" * (skipped > 1))
    return data


def open_uncropped(run):
    """The validation images before cropping, where perturbations of them are monitored; None where `data` has them."""
    config = run["config"]
    if not (config.monitor and config.crop and distributed.leads()):
        return None
    skip, anonymous = run["skip_unreadable"], run["anonymous"]
    size = uncropped_size(config)
    return open_data(run["data"], size, run["seed"], skip, splits=("val",), anonymous=anonymous).get("val")


def fingerprint_of(split):
    """sha256 of a split's images, so that a run is only resumed on what it began with."""
    digest = hashlib.sha256(json.dumps([split.names, list(split.images.shape)]).encode())
    digest.update(split.images.numpy())
    return digest.hexdigest()


def data_of(folder, run, given=None):
    """Path of the data that a command looks at, as `open_data` takes it.

    Args:
        folder, run: a run folder and what `read_run` gave of it.
        given: what --data says, or None for the run's own.

    Raises:
        UserError: a converted run that has no data of its own.
    """
    if not given and run["converted"] and run["data"] is None:
        raise UserError(f"{folder} was converted without data: say by --data which images to look at")
    return given or run["data"]
