"""A Ray cluster to work on: one that runs already, or one that is started on this machine for as long as it is used."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError

OLDEST = 2, 60  # as in setup.py


def require_ray() -> None:
    """Import Ray, which reports nothing to its makers unless RAY_USAGE_STATS_ENABLED asks for it.

    Raises:
        UserError: Ray is not installed, or a version that reads tables wrongly (setup.py says how).
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"--ray needs Ray ({error}): pip install 'ray[data]' pyarrow") from None
    if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise UserError(f"--ray needs Ray {needed}, but {ray.__version__} is here: pip install 'ray[data]>={needed}'")


def _require_answer(address: str) -> None:
    """Raise an OSError if nothing answers at HOST:PORT. Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def cluster(address: str, log: bool = False) -> Iterator[None]:
    """Use a Ray cluster in this block.

    Args:
        address: of a cluster, such as `10.0.0.1:6379`; or "" for the one that RAY_ADDRESS or `ray start` on this
            machine names. If there is none, one is started here, for this block.
        log: show what the workers print.

    Raises:
        UserError: as `require_ray`; there is no such cluster, or it ends in this block.
    """
    require_ray()
    import pyarrow as pa
    import ray
    import ray.data
    import ray.exceptions

    begun = not ray.is_initialized()
    if begun:
        try:
            _require_answer(address or os.environ.get("RAY_ADDRESS", ""))
            ray.init(
                address or None,
                include_dashboard=False if not address and "RAY_ADDRESS" not in os.environ else None,
                logging_level=logging.ERROR,
                log_to_driver=log,
            )
        except (OSError, ValueError) as error:
            if given := address or os.environ.get("RAY_ADDRESS"):
                raise UserError(f"there is no Ray cluster at {given} ({error})") from None
            if isinstance(error, ConnectionError):
                what = "the Ray cluster of `ray start` does not answer"
                raise UserError(f"{what} ({error}): give its address, or end it by `ray stop`") from None
            raise UserError(f"no Ray cluster could be started on this machine ({error})") from None
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what a worker raises is raised here too
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        if isinstance(error.cause, (OSError, pa.ArrowInvalid)):  # such as a full disk, or a damaged Parquet file
            why = str(error.cause).partition("\nTo change retry")[0].replace("\n", " ")  # without Ray's advice
            raise UserError(
                f"a worker has failed ({why}): when the cause is gone, give the same command again"
            ) from None
        raise
    except (ray.exceptions.RaySystemError, ConnectionError) as error:
        raise UserError(f"the Ray cluster has gone ({error}): give the same command again to continue") from None
    finally:
        if begun:
            ray.shutdown()
