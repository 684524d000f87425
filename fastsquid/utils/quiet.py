"""Silence of libraries while they read files: their warnings may quote a file, such as a patient's name."""

import logging
import threading
import warnings


class _Quiet:
    """A context without warnings and without pydicom's log. Any number of threads may be inside.

    `warnings.catch_warnings` swaps the filters of the whole process. So the first thread in enters it, and the last one
    out leaves it.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
                # The loggers of pydicom's modules are below this one.
                self._logger = logging.getLogger("pydicom")
                self._propagate, self._logger.propagate = self._logger.propagate, False
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._logger.propagate = self._propagate
                self._caught.__exit__(None, None, None)


quiet = _Quiet()
