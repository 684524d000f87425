"""Image files and shards that a command line names."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .images import find_images
from .names import content_name
from .sources.shards import ShardFile, find_shards, is_shard, read_shard, shard_title


def list_files(paths: Sequence[Path], anonymous: bool) -> list[tuple[str, Path | ShardFile]]:
    """Return the name and the file of every image that paths stand for.

    Args:
        paths: of image files, shards, and folders that are searched for either. The images of a single folder or shard
            are named by their path inside it, all others by their path as given.
        anonymous: do not name files in error messages.

    Raises:
        UserError: a folder without images, or with both images and shards.
    """
    files = []
    for path in paths:
        if path.is_dir() or is_shard(path):
            found = _inside(path, anonymous)
            files += [((file.relative_to(path) if len(paths) == 1 else file).as_posix(), file) for file in found]
        else:
            files.append((path.as_posix(), path))
    return files


def _inside(path, anonymous):
    """The images of a folder or shard."""
    called = content_name if anonymous else str
    if not path.is_dir():
        return [sample.image for sample in read_shard(path, called)]
    images, title = find_images(path), shard_title(path, anonymous)
    shards = find_shards(path, images)
    if images and shards:
        raise UserError(
            f"{path} holds both images, as {called(images[0])}, and shards, as {title or shards[0]}: move "
            "one of them elsewhere, or give them one by one"
        )
    if not (images or shards):
        raise UserError(f"{path} holds no images")
    return images or [sample.image for shard in shards for sample in read_shard(shard, called, title)]
