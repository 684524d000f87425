"""Every image of a report, opened once: its score, its pictures, or why it cannot be read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..api import Scorer
from ..data.decoding import decoded
from ..data.dicom.patients import outside_ages
from ..errors import DivergedError, UserError
from ..utils.bars import bar
from .images import ReportImage, readable_error
from .page import SIDE, strip


def examine_images(scorer: Scorer, images: Sequence[ReportImage], source: str, batch_size: int) -> list[bytes]:
    """Score the images of a report and draw their pictures.

    Args:
        scorer: a run or group.
        images: of the report; score, error, unlike and age_outside are filled in.
        source: folder of the images, or CSV of their scores, for messages.
        batch_size: images per batch.

    Returns:
        the pictures of each image (`page.strip`), b"" where it cannot be read.

    Raises:
        DivergedError: the run gives values that are not finite.
        UserError: no image can be read, or a CSV's score is of another run, checkpoint or image.
    """
    files = [(index, image.path) for index, image in enumerate(images) if image.path is not None]
    strips = [b""] * len(images)
    with ThreadPoolExecutor() as pool:
        batches = decoded(files, scorer.image_size, batch_size, crop=scorer.crop, picture=SIDE, accept=scorer.accept)
        for batch in bar(batches, "scoring", total=-(-len(files) // batch_size)):
            for item, outside in zip(batch, outside_ages([item.age for item in batch], scorer.run.record.ages)):
                image = images[item.name]
                image.error, image.age_outside = readable_error(item.error) if item.error else "", outside
            found = {item.name: item for item in batch if item.image is not None}
            if not found:
                continue
            squares = [item.image for item in found.values() if item.image is not None]
            scores, drawn, heat = scorer.examine(squares, len(squares), cropped=True)
            if not all(np.isfinite(values).all() for values in (*scores.values(), drawn, heat)):
                raise DivergedError(f"{scorer.run.folder} gives values that are not finite: its training has diverged")
            if scorer.input_check is not None:
                for index, ratio in zip(found, scorer.unlike_training(squares, len(squares), cropped=True)):
                    images[index].unlike = float(f"{ratio:.4g}")  # as a CSV has it
            made = pool.map(strip, [item.picture for item in found.values()], drawn, heat)
            for index, score, pictures in zip(found, scores[scorer.score_name], made):
                _settle_score(scorer, images[index], float(score), source)
                strips[index] = pictures
    if not any(strips):
        raise UserError(f"none of the {len(images)} images could be read; of the first: {images[0].error}")
    return strips


def _settle_score(scorer, image, score, source):
    """Set the score of an image, or reject the score of a CSV that belongs to something else."""
    if image.score is None:
        image.score = float(f"{score:.9g}")  # as a CSV has it: float32, exactly
    # What half precision and other devices change is well within it, see test_half_precision.
    elif abs(image.score - score) > 0.02 * (abs(score) + scorer.calibration[scorer.score_name].std):
        raise UserError(
            f"{source} says {image.score:.6g} for {image.name}, but {scorer.run.folder} gives {score:.6g}: its "
            "scores are of another run, checkpoint or image, or of another score (--fast); write them again with "
            "python -m fastsquid.score"
        )
