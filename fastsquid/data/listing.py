"""Image files and shards that a command line names."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .finding import find_files, log_skipped, no_images
from .names import Names
from .sources.shards import ShardFile, find_shards, is_shard, read_shard


def list_files(paths: Sequence[Path], names: Names) -> list[tuple[str, Path | ShardFile]]:
    """Return the name and the file of every image that paths stand for.

    Args:
        paths: of image files, shards, and folders that are searched for either. The images of a single folder or shard
            are named by their path inside it, all others by their path as given.
        names: what messages call files.

    Raises:
        UserError: a folder without images, or with both images and shards.
    """
    files = []
    for path in paths:
        if path.is_dir() or is_shard(path):
            found = _inside(path, names)
            files += [((file.relative_to(path) if len(paths) == 1 else file).as_posix(), file) for file in found]
        else:
            files.append((path.as_posix(), path))
    return files


def _inside(path, names):
    """Return the images of a folder or shard."""
    if not path.is_dir():
        return [sample.image for sample in read_shard(path, names)]
    found = find_files(path, names=names)
    images, shards = found.images, find_shards(path, found.images)
    if images and shards:
        raise UserError(
            f"{path} holds both images, such as {names.file(images[0])}, and shards, such as "
            f"{names.shard(shards[0], path)}: move one of them elsewhere, or give them one by one"
        )
    if not (images or shards):
        raise no_images(path, found)
    found.others = sorted(set(found.others).difference(shards))
    log_skipped([found], names)
    return images or [sample.image for shard in shards for sample in read_shard(shard, names, path)]
