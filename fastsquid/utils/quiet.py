"""Silence of libraries while they read files: their warnings may quote what a file says, such as a patient's name."""

import logging
import threading
import warnings


class _Quiet:
    """A context in which nothing is warned of, and pydicom logs nothing; any number of threads may be inside.

    `warnings.catch_warnings` swaps the filters of the whole process: the first thread in enters it, the last leaves it.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
                # Its modules have loggers of their own below this one.
                self._logger = logging.getLogger("pydicom")
                self._propagate, self._logger.propagate = self._logger.propagate, False
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._logger.propagate = self._propagate
                self._caught.__exit__(*error)


quiet = _Quiet()
