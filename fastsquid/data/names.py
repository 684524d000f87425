"""How images and their files are named: by their paths, or by hashes of their content that show no path."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .filetypes import ImageFile


class Names:
    """Name images by their paths.

    Attributes:
        csv_hint: for messages, which folder a CSV's names belong to.
    """

    csv_hint = "that its names are relative to, or --anonymous if they are hashes"

    def file(self, path: ImageFile) -> str:
        """Return what messages call an image file."""
        return str(path)

    def shard(self, shard: Path, folder: Path | None = None) -> str:
        """Return what messages call a shard that was found in a folder, or that the user named (folder None)."""
        return f"the shard {shard}"

    def inner_folder(self, path: str, folder: str | Path) -> str:
        """Return what messages call a folder that lies in one that the user named."""
        return f"the folder {path}"

    def image_and_file(self, name: Any, path: ImageFile) -> tuple[Any, str]:
        """Return the name of an image in results, and what messages call its file.

        Images with equal content may share a name: see `distinct`.

        Args:
            name: by its path, of any type.
            path: of its file.
        """
        return name, self.file(path)

    def images_and_files(
        self, names: Sequence[str], paths: Sequence[ImageFile]
    ) -> tuple[Sequence[str], Sequence[object]]:
        """Return N different names of N images, and what messages call their files.

        Args:
            names: N different names by their paths.
            paths: N files.
        """
        return names, paths

    def distinct(self) -> Callable[[str], str]:
        """Return a function that is applied to the names of `image_and_file` in turn, and makes them different."""
        return str

    def classes(self, classes: Sequence[str], labels: Sequence[int]) -> list[str]:
        """Return the names of the images' classes.

        Args:
            classes: N names of class folders.
            labels: N of 0 normal and 1 abnormal.
        """
        return list(classes)

    def quote(self, text: str) -> str:
        """Return text of a data file, such as a path, for a message."""
        return repr(text)

    def folder(self, path: str | Path) -> str:
        """Return what a report calls a folder or file, or "": its own name only, because its path could name people."""
        return Path(path).name


class HashNames(Names):
    """Name images by hashes of their files, and show no path below the given folder, as `--anonymous` asks."""

    csv_hint = "whose files have these hashes"

    def file(self, path: ImageFile) -> str:
        return content_name(path)

    def shard(self, shard: Path, folder: Path | None = None) -> str:
        return super().shard(shard) if folder is None else f"a shard in {folder}"

    def inner_folder(self, path: str, folder: str | Path) -> str:
        return f"a folder in {folder}"

    def image_and_file(self, name: Any, path: ImageFile) -> tuple[str, str]:
        name = self.file(path)
        return name, name

    def images_and_files(
        self, names: Sequence[str], paths: Sequence[ImageFile]
    ) -> tuple[Sequence[str], Sequence[object]]:
        with ThreadPoolExecutor() as pool:
            hashes = list(map(Distinct(), pool.map(content_name, paths)))
        return hashes, hashes

    def distinct(self) -> Callable[[str], str]:
        return Distinct()

    def classes(self, classes: Sequence[str], labels: Sequence[int]) -> list[str]:
        return [("normal", "abnormal")[label] for label in labels]

    def quote(self, text: str) -> str:
        return "(hidden by --anonymous)"

    def folder(self, path: str | Path) -> str:
        return ""


PATH_NAMES = Names()


def choose_names(anonymous: bool) -> Names:
    """Return how images are named: by hashes of their files if `anonymous`, else by their paths."""
    return HashNames() if anonymous else PATH_NAMES


def content_name(path: ImageFile) -> str:
    """Return the first 16 hex digits of the sha256 of a file's bytes; "unreadable" if it cannot be read.

    Whoever has the file can compute its name again.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "unreadable"


class Distinct:
    """Make repeated names distinct.

    >>> list(map(Distinct(), ["a", "b", "a", "a"]))
    ['a', 'b', 'a-2', 'a-3']
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        """Return the name, with -2, -3 and so on from the second time on."""
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}-{self._seen[name]}"
