"""The figures of the papers, drawn from trained detectors and their data."""

from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from ..data import to_unit
from ..errors import UserError
from ..evaluation.localization import finite_maps
from ..evaluation.summary import describe_checkpoint, describe_seeds
from ..evaluation.validation import reported_split
from ..scoring.gradcam import grad_cam
from ..scoring.scores import calibrated, score_images
from .curves import histogram_figure, precision_recall_figure, roc_figure
from .gallery import choose_images, spread
from .pictures import heat_figure, map_figure, reconstruction_figure, slot_figure, tsne_figure

POINTS = 750  # slots, and as many patch features, that t-SNE is given: less than half a minute on two cores


def draw_figures(runs, data):
    """Yields the name of each figure's file, and the figure or the reason why there is none.

    Args:
        runs: `TrainedRun`s of one configuration; all but the curves are of the first.
        data: splits by name.

    Raises:
        DivergedError: a detector gives scores that are not finite.
    """
    run = runs[0]
    try:
        labelled = reported_split(data)
        reason = "no labelled images"
    except UserError as error:
        labelled, reason = None, str(error)
    name = labelled or next(name for name in ("test", "val", "train") if name in data)
    split = data[name]
    scores = score_images(run.detector, split.images)
    title = f"{describe_seeds(run.seeds)}, {describe_checkpoint(run.checkpoint, run.epoch)}"
    where = f"{run.record.config.preset}, {title}, {name} split"

    if labelled is None:
        yield "roc.png", reason
        yield "precision_recall.png", reason
    else:
        every = [scores, *(score_images(other.detector, split.images) for other in runs[1:])]
        stacked = {score: np.stack([one[score] for one in every]) for score in scores}
        seeds = ", ".join(str(one.record.seed) for one in runs)
        which = where if len(runs) == 1 else f"{run.detector.config.preset}, seeds {seeds}, {name} split"
        yield "roc.png", roc_figure(split.labels, stacked, which)
        yield "precision_recall.png", precision_recall_figure(split.labels, stacked, which)

    chosen = choose_images(split)
    score = run.detector.config.score
    captions = _captions(split, chosen, scores[score][chosen], run.calibration[score])
    images = to_unit(split.images[torch.from_numpy(chosen)]).to(next(run.detector.parameters()).device)
    student, teacher = reconstruct(run.detector, images)
    heat = None if run.detector.discriminator is None else grad_cam(run.detector, images).cpu().numpy()
    images, student = (pictures[:, 0].cpu().numpy() for pictures in (images, student))
    teacher = None if teacher is None else teacher[:, 0].cpu().numpy()
    yield "reconstructions.png", reconstruction_figure(images, student, teacher, captions, where)
    if heat is None:
        yield "gradcam.png", "this configuration has no discriminator"
    else:
        side = run.detector.discriminator.side
        judged = "image" if score == "discriminator_image" else "reconstruction"
        coarse = f"{where}; {side} x {side} cells, interpolated"
        yield "gradcam.png", heat_figure(images, student, heat, judged, captions, coarse)

    if run.detector.generator.inpaint is None:
        yield "memory_tsne.png", "this configuration has no in-painting memory"
        yield "slot_usage.png", "this configuration has no in-painting memory"
    else:
        memory = run.detector.generator.inpaint.memory
        queries = read_memory(run.detector, split.images)
        slots = memory.bank.detach()[:, : int(memory.filled) if memory.kind == "queue" else None].float().cpu().numpy()
        yield "memory_tsne.png", tsne_figure(*embed(slots, queries), run.detector.config.grid, where)
        usage = {key: value.cpu().numpy() for key, value in memory.usage().items()}
        share = memory.reads[:, : slots.shape[1]].cpu().numpy() / len(queries)
        yield "slot_usage.png", slot_figure(share, usage, where)

    yield "score_histograms.png", histogram_figure(_by_group(run.detector, data, name, scores), where)


def reconstruct(detector, images):
    """What student and teacher draw for images (B, 1, H, W) in [0, 1]: the same each; the teacher's None without it."""
    with torch.no_grad():
        drawn = detector.generator(detector.to_range(images), teacher=True)
    student, teacher = (
        None if drawing is None else detector.restore(detector.from_range(drawing), images)
        for drawing in (drawn.student, drawn.teacher)
    )
    return student, teacher


def read_memory(detector, images, batch_size=64):
    """Reads the in-painting memory for images, and for nothing else: its `usage()` is afterwards of these.

    Args:
        detector: a `Detector` in eval mode that has an in-painting block.
        images: uint8 or uint16 (N, 1, H, W).

    Returns:
        the queries, float32 numpy (N, R, C); where the memory is global, (N * P, 1, C).
    """
    memory, device = detector.generator.inpaint.memory, next(detector.parameters()).device
    memory.reset_usage()
    queries = []
    handle = memory.register_forward_pre_hook(lambda module, inputs: queries.append(inputs[0].float().cpu()))
    try:
        with torch.no_grad():
            for batch in images.split(batch_size):
                detector.generator(detector.to_range(to_unit(batch.to(device))))
    finally:
        handle.remove()
    return torch.cat(queries).numpy()


def embed(slots, queries, most=POINTS):
    """t-SNE of memory slots and patch features together, of at most `most` each, evenly over regions.

    Args:
        slots: (R, N, C).
        queries: (M, R, C).

    Returns:
        points float32 (K, 2), the region of each (K,), and which of them are slots, bool (K,).

    Source: SQUID Figure 4; van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
    """
    parts, regions = [], []
    for vectors in (slots, queries.transpose(1, 0, 2)):
        flat = vectors.reshape(-1, vectors.shape[2])
        kept = spread(np.arange(len(flat)), most)
        parts.append(flat[kept])
        regions.append(kept // vectors.shape[1])
    points = np.concatenate(parts)
    # Perplexity counts neighbours: at most a third of the points can be near.
    perplexity = min(30, max((len(points) - 1) / 3, 1))
    with threadpool_limits(1):  # sums in one order; and where cores are busy, more threads take longer
        embedded = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    return embedded, np.concatenate(regions), np.arange(len(points)) < len(parts[0])


def _captions(split, chosen, scores, calibration):
    """What each image is, and its raw and calibrated score."""
    shown = calibrated(scores, calibration).tolist()
    captions = []
    for i, score, probability in zip(chosen, scores, shown):
        what = split.caption(i) or Path(split.names[i]).name[-18:]
        captions.append(f"{what}\nscore {score:#.4g}\ncalibrated {probability:.2f}")
    return captions


def _by_group(detector, data, name, scores):
    """{score: {group: (N,)}} of the training images, and of the split that `scores` are of."""
    split = data[name]
    groups = {score: {} for score in scores}
    if "train" in data:
        for score, values in (scores if name == "train" else score_images(detector, data["train"].images)).items():
            groups[score]["training"] = values
    if name != "train":
        for score, values in scores.items():
            if split.labels is None:
                groups[score]["unlabelled"] = values
            else:
                labels = split.labels.numpy()
                groups[score] |= {
                    group: values[labels == label]
                    for label, group in enumerate(("normal", "abnormal"))
                    if label in labels
                }
    return groups


def draw_maps(detector, split, calibration, where):
    """The figure of eight images of a split, each with its reconstruction and every map.

    Args:
        detector: a `Detector` in eval mode.
        split: a `Split`.
        calibration: as `calibrate_maps` gives it.
        where: what detector and images are, for the title.

    Raises:
        DivergedError: a map is not finite.
    """
    chosen = torch.as_tensor(choose_images(split))
    images = to_unit(split.images[chosen]).to(next(detector.parameters()).device)
    maps = {name: values.cpu().numpy() for name, values in finite_maps(detector, images, calibration).items()}
    _, student = detector.scores(images)
    captions = [split.caption(i) or Path(split.names[i]).name[-18:] for i in chosen.tolist()]
    cells = None if split.cells is None else split.cells[chosen].numpy()
    return map_figure(images[:, 0].cpu().numpy(), student[:, 0].cpu().numpy(), maps, captions, cells, where)
