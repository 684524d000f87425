"""The figures of the papers, drawn from trained detectors and their data."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from ..data.images import select_images, to_unit
from ..data.split import Split
from ..errors import UserError
from ..evaluation.summary import describe_checkpoint, describe_seeds
from ..evaluation.validation import reported_split, shown_split
from ..model.detector import Detector
from ..runs.trained import TrainedRun
from ..scoring.batches import split_batches
from ..scoring.gradcam import grad_cam
from ..scoring.scores import Calibration, calibrated, score_images
from .curves import histogram_figure, precision_recall_figure, roc_figure
from .gallery import caption_or_name, choose_images, spread
from .pictures import heat_figure, reconstruction_figure, slot_figure, tsne_figure

POINTS = 750  # slots that t-SNE takes, and as many patch features: less than half a minute on two cores


def draw_figures(runs: list[TrainedRun], data: dict[str, Split]) -> Iterator[tuple[str, Figure | str]]:
    """Yield the name of each figure, and the figure or the reason why there is none.

    Args:
        runs: of one configuration. The curves are of all runs, every other figure is of the first.
        data: splits by name.

    Raises:
        DivergedError: a detector gives scores that are not finite.
    """
    run = runs[0]
    detector, record, calibration = run.detector, run.record, run.calibration
    assert isinstance(detector, Detector) and record is not None and calibration is not None
    try:
        labeled = reported_split(data)
        reason = "no labeled images"
    except UserError as error:
        labeled, reason = None, str(error)
    name = shown_split(data)
    split = data[name]
    scores = score_images(detector, split.images)
    title = f"{describe_seeds(list(run.seeds))}, {describe_checkpoint(run.checkpoint, run.epoch)}"
    where = f"{record.config.preset}, {title}, {name} split"

    if labeled is None:
        yield "roc", reason
        yield "precision_recall", reason
    else:
        assert split.labels is not None
        every = [scores, *(score_images(other.detector, split.images) for other in runs[1:])]
        stacked = {score: np.stack([one[score] for one in every]) for score in scores}
        seeds = ", ".join(str(seed) for one in runs for seed in one.seeds)
        which = where if len(runs) == 1 else f"{detector.config.preset}, seeds {seeds}, {name} split"
        yield "roc", roc_figure(split.labels, stacked, record.config.score, which)
        yield "precision_recall", precision_recall_figure(split.labels, stacked, record.config.score, which)

    chosen = choose_images(split)
    score = detector.config.score
    captions = _captions(split, chosen, scores[score][chosen], calibration[score])
    images = to_unit(select_images(split.images, chosen)).to(next(detector.parameters()).device)
    student, teacher = draw_both(detector, images)
    heat = None if detector.discriminator is None else grad_cam(detector, images).cpu().numpy()
    images, student = (pictures[:, 0].cpu().numpy() for pictures in (images, student))
    teacher = None if teacher is None else teacher[:, 0].cpu().numpy()
    yield "reconstructions", reconstruction_figure(images, student, teacher, captions, where)
    if heat is None or detector.discriminator is None:
        yield "gradcam", "this configuration has no discriminator"
    else:
        side = detector.discriminator.side
        judged = "image" if detector.config.logit == "discriminator_image" else "reconstruction"
        coarse = f"{where}; {side} x {side} cells, interpolated"
        yield "gradcam", heat_figure(images, student, heat, judged, captions, coarse)

    if detector.generator.inpaint is None:
        yield "memory_tsne", "this configuration has no in-painting memory"
        yield "slot_usage", "this configuration has no in-painting memory"
    else:
        memory = detector.generator.inpaint.memory
        queries = read_memory(detector, split.images)
        filled = int(memory.filled) if memory.kind == "queue" else None
        slots = memory.bank.detach()[:, :filled].float().cpu().numpy()
        yield "memory_tsne", tsne_figure(*embed(slots, queries), detector.config.grid, where)
        usage = {key: value.cpu().numpy() for key, value in memory.usage().items()}
        assert memory.reads is not None
        share = memory.reads[:, : slots.shape[1]].cpu().numpy() / len(queries)
        yield "slot_usage", slot_figure(share, usage, where)

    yield "score_histograms", histogram_figure(_by_group(detector, data, name, scores), where)


def draw_both(detector: Detector, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the reconstructions of student and teacher.

    Args:
        detector: in eval mode.
        images: (B, 1, H, W) in [0, 1].

    Returns:
        two tensors like `images`; None in place of the second for a detector without a teacher.
    """
    with torch.no_grad():
        drawn = detector.generator(detector.to_range(images), teacher=True)
    student = detector.restore(detector.from_range(drawn.student), images)
    teacher = None if drawn.teacher is None else detector.restore(detector.from_range(drawn.teacher), images)
    return student, teacher


def read_memory(detector: Detector, images: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Read the in-painting memory for images and return the queries. Its `usage()` is then of these reads only.

    Args:
        detector: in eval mode, with an in-painting block.
        images: uint8 or uint16 (N, 1, H, W).
        batch_size: images per pass.

    Returns:
        the queries, float32 (N, R, C); (N * P, 1, C) where the memory is global.
    """
    assert detector.generator.inpaint is not None
    memory, device = detector.generator.inpaint.memory, next(detector.parameters()).device
    memory.reset_usage()
    queries = []
    handle = memory.register_forward_pre_hook(lambda module, inputs: queries.append(inputs[0].float().cpu()))
    try:
        with torch.no_grad():
            for batch in split_batches(images, device, batch_size):
                detector.generator(detector.to_range(batch))
    finally:
        handle.remove()
    return torch.cat(queries).numpy()


def embed(slots: np.ndarray, queries: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embed memory slots and patch features together in the plane by t-SNE.

    Args:
        slots: (R, N, C).
        queries: (M, R, C).
        most: largest number of slots, and of patch features; they are chosen evenly over regions.

    Returns:
        points float32 (K, 2), the region of each (K,), and whether each is a slot, bool (K,).

    Source: SQUID Figure 4; van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
    """
    parts, regions = [], []
    for vectors in (slots, queries.transpose(1, 0, 2)):
        flat = vectors.reshape(-1, vectors.shape[2])
        kept = spread(np.arange(len(flat)), most)
        parts.append(flat[kept])
        regions.append(kept // vectors.shape[1])
    points = np.concatenate(parts)
    # Perplexity counts neighbors: at most a third of the points can be near.
    perplexity = min(30, max((len(points) - 1) / 3, 1))
    with threadpool_limits(1):  # one order of sums; and on busy cores more threads take longer
        embedded = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    return embedded, np.concatenate(regions), np.arange(len(points)) < len(parts[0])


def _captions(split: Split, chosen: np.ndarray, scores: np.ndarray, calibration: Calibration) -> list[str]:
    """Return for each image its kind or name, and its raw and calibrated score."""
    shown = calibrated(scores, calibration).tolist()
    captions = []
    for i, score, probability in zip(chosen, scores, shown):
        captions.append(f"{caption_or_name(split, i)}\nscore {score:#.4g}\ncalibrated {probability:.2f}")
    return captions


def _by_group(
    detector: Detector, data: dict[str, Split], name: str, scores: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Return {score: {group: (N,)}} of the training images, and of the split `name` that `scores` are of."""
    split = data[name]
    groups: dict[str, dict[str, np.ndarray]] = {score: {} for score in scores}
    if "train" in data:
        for score, values in (scores if name == "train" else score_images(detector, data["train"].images)).items():
            groups[score]["training"] = values
    if name != "train":
        for score, values in scores.items():
            if split.labels is None:
                groups[score]["unlabeled"] = values
            else:
                labels = split.labels.numpy()
                groups[score] |= {
                    group: values[labels == label]
                    for label, group in enumerate(("normal", "abnormal"))
                    if label in labels
                }
    return groups
