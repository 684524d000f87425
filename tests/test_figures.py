"""The figures command: what each figure shows, against numbers computed here; Grad-CAM against its definition."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import assert_decided
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from fastsquid import figures, train
from fastsquid.config import SCORES, preset
from fastsquid.data import Split, open_data, to_unit
from fastsquid.drawing import curves, gallery, papers
from fastsquid.drawing import save as saving
from fastsquid.drawing.pictures import slot_figure, tsne_figure
from fastsquid.drawing.save import save_figure
from fastsquid.errors import UserError
from fastsquid.model.detector import Detector
from fastsquid.model.networks import Reconstruction
from fastsquid.runs import checkpoint
from fastsquid.runs.folder import create_run, read_run
from fastsquid.runs.group import read_agreeing_runs
from fastsquid.runs.records import RunRecord
from fastsquid.runs.trained import load_run
from fastsquid.scoring import gradcam
from fastsquid.scoring.scores import calibrate, calibrated, score_images

XRAYS = Path(__file__).parent / "data" / "xrays"
FILES = [
    "gradcam.png",
    "memory_tsne.png",
    "precision_recall.png",
    "reconstructions.png",
    "roc.png",
    "score_histograms.png",
    "slot_usage.png",
]


@pytest.fixture(scope="module")
def runs(unbroken, data, tmp_path_factory):
    """Two seeds of one configuration: disturbed copies of a run, to which images look less alike."""
    folders = []
    for seed in (0, 1):
        run = shutil.copytree(unbroken, tmp_path_factory.mktemp("runs") / f"seed-{seed}")
        read = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**read, "seed": seed}))
        record, latest = read_run(unbroken), checkpoint.latest_checkpoint(unbroken)
        detector, state = load_run(unbroken).detector, checkpoint.read_state(latest, record.config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in detector.parameters():
                parameter += 2 * parameter.std(correction=0) * torch.randn_like(parameter)
        state.detector(state.chosen).calibration = calibrate(detector, data["train"].images)
        tensors = detector.state_dict()
        checkpoint.save_checkpoint(run, state, tensors, {}, tensors)
        folders.append(run)
    return folders


@pytest.fixture(scope="module")
def loaded(runs):
    return [load_run(run) for run in runs]


@pytest.fixture(scope="module")
def data():
    return open_data(XRAYS, 64)


def run_and_keep(*arguments):
    """Runs the command: what it prints, and its figures by file name."""
    kept, out = {}, io.StringIO()

    def save(figure, path):
        kept[path.name] = figure
        save_figure(figure, path)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(saving, "save_figure", save)
        figures.main([str(argument) for argument in arguments])
    return out.getvalue().splitlines(), kept


@pytest.fixture(scope="module")
def result(runs, tmp_path_factory):
    """The command on two seeds: the folder it wrote to, what it printed, and the figures."""
    folder = tmp_path_factory.mktemp("figures") / "f"
    return folder, *run_and_keep(*runs, "--out", folder)


@pytest.fixture(scope="module")
def drawn(result):
    return result[2]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run without teacher, in-painting block or labels, on 16-bit images."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "data").mkdir()
    for path in (XRAYS / "train" / "NORMAL").iterdir():
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L").resize((64, 64)))
        Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "data" / f"{path.stem}.png")
    options = "--preset simsid-small --grid 2 --width 4 --slots 8 --epochs 1 --device cpu --distillation false"
    run = folder / "run"
    train.main([*options.split(), "--inpainting", "off", "--data", str(folder / "data"), "--out", str(run)])
    return run


def texts(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def bounds(band):
    """Lower and upper edge of a fill_between, over its x in order."""
    by_x = {}
    for x, y in band.get_paths()[0].vertices:
        by_x.setdefault(x, []).append(y)
    edges = [(x, min(ys), max(ys)) for x, ys in sorted(by_x.items())]
    return np.array(edges).T


def noisy(runs=3, count=60):
    """Labels, and scores of several runs with ties, some of them good and some of them bad."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 3 == 0).astype(int)
    strength = dict(zip(SCORES, (1.5, 0.5, 0.0, -0.5)))
    return labels, {name: (rng.normal(size=(runs, count)) + s * labels).round(1) for name, s in strength.items()}


def bold_first(scores):
    """The names of scores, that of the ranking score first, which is the last one here."""
    *others, ranking = scores
    return [ranking, *others]


def rates(labels, scores, threshold):
    called = scores >= threshold
    return called[labels == 0].mean(), called[labels == 1].mean(), labels[called].mean()


def test_roc_of_several_runs():
    labels, scores = noisy()
    names = bold_first(scores)
    (axis,) = curves.roc_figure(labels, scores, names[0], "here").axes
    assert len(axis.lines) == 5 and len(axis.collections) == 1  # the last line is chance
    assert axis.get_title().splitlines()[1:] == ["here", "40 normal and 20 abnormal images"]
    for i, name in enumerate(names):
        runs = scores[name]
        areas = [roc_auc_score(labels, row) for row in runs]
        assert texts(axis)[i] == f"{SCORES[name].label}: {np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}"
        x = axis.lines[i].get_xdata()
        drawn = []
        for row in runs:
            points = np.array([(0, 0)] + [rates(labels, row, t)[:2] for t in sorted(set(row), reverse=True)])
            drawn.append(np.interp(x + 1e-9, *points.T))  # the upper end of a vertical step
        mean, std = np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1)
        np.testing.assert_allclose(axis.lines[i].get_ydata(), mean, atol=1e-12)
        if i == 0:
            np.testing.assert_allclose(bounds(axis.collections[0]), [x, mean - std, mean + std], atol=1e-12)
        assert std.max() > 0.02


def test_precision_recall_of_several_runs():
    labels, scores = noisy()
    names = bold_first(scores)
    (axis,) = curves.precision_recall_figure(labels, scores, names[0]).axes
    assert len(axis.lines) == 5 and len(axis.collections) == 1
    assert axis.lines[-1].get_ydata()[0] == pytest.approx(1 / 3)
    for i, name in enumerate(names):
        runs = scores[name]
        areas = [average_precision_score(labels, row) for row in runs]
        assert texts(axis)[i] == f"{SCORES[name].label}: {np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}"
        x = axis.lines[i].get_xdata()
        drawn = []
        for row in runs:
            points = [rates(labels, row, t)[1:] for t in sorted(set(row), reverse=True)]
            drawn.append([next(p for recall, p in points if recall >= at - 1e-12) for at in x])
        mean, std = np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1)
        np.testing.assert_allclose(axis.lines[i].get_ydata(), mean, atol=1e-12)
        if i == 0:
            np.testing.assert_allclose(bounds(axis.collections[0]), [x, mean - std, mean + std], atol=1e-12)


@pytest.mark.parametrize("draw", [curves.roc_figure, curves.precision_recall_figure])
def test_curves_of_one_run_have_no_band(draw):
    labels, scores = noisy(runs=1)
    (axis,) = draw(labels, {name: runs[0] for name, runs in scores.items()}, "residual").axes
    (same,) = draw(labels, scores, "residual").axes
    assert len(axis.lines) == 5 and not axis.collections and not any("±" in text for text in texts(axis))
    for a, b in zip(axis.lines, same.lines):
        np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())


@pytest.mark.parametrize("draw", [curves.roc_figure, curves.precision_recall_figure])
@pytest.mark.parametrize("runs", [1, 3])
def test_the_ranking_score_is_emphasized(draw, runs):
    labels, scores = noisy(runs)
    (axis,) = draw(labels, scores, "residual").axes
    first, *others = axis.lines[:-1]
    assert first.get_label().startswith(SCORES["residual"].label) and first.get_color() == SCORES["residual"].color
    for line in others:
        assert line.get_linewidth() <= first.get_linewidth() / 2 and line.get_alpha() <= 0.5
        assert line.get_zorder() < first.get_zorder() and first.get_alpha() is None
    weights = [text.get_fontweight() for text in axis.get_legend().get_texts()]
    assert weights[0] == "bold" and "bold" not in weights[1:]
    # The legend is outside of the axes.
    axis.figure.draw_without_rendering()
    assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0


def test_legends_of_training_curves_cover_no_line(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: kept.append(figure))
    losses = dict.fromkeys(("discriminator", "generator", "student", "adversarial", "teacher", "distillation"), 1.0)
    line = {"epoch": 1, "losses": losses, "validation": dict.fromkeys(SCORES, 0.5)}
    for history in ([line], [line, {**line, "epoch": 2}], [{**line, "validation": {}}]):
        curves.draw_curves(history, tmp_path / "curves.png")
        figure = kept.pop()
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert len(texts(axis)) == (7 if axis.get_ylabel() == "AUC" else 6)
            assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0


def test_the_gallery_explains_itself(monkeypatch, tmp_path, data, unbroken):
    """Full names of scores beside the first column, numbers of each image, a color bar for the difference."""
    kept, run = [], load_run(unbroken)
    monkeypatch.setattr(gallery, "save_figure", lambda figure, path: kept.append(figure))
    gallery.draw_gallery(run.detector, data["val"], run.calibration, tmp_path / "gallery.png")
    (figure,) = kept
    first = [text.get_text() for text in figure.axes[0].texts]
    for name in ("discriminator", "residual", "patch_residual"):
        assert SCORES[name].label in first
    scores, _ = run.detector.scores(to_unit(data["val"].images[gallery.choose_images(data["val"])]))
    for column, axis in enumerate(figure.axes[:6]):
        for name in ("discriminator", "residual", "patch_residual"):
            mean, std = run.calibration[name].mean, run.calibration[name].std
            shown = [float(text.get_text()) for text in axis.texts if re.fullmatch(r"[-+][\d.]+", text.get_text())]
            assert min(abs(value - (scores[name][column].item() - mean) / std) for value in shown) < 0.06
    (bar,) = figure.axes[-1].child_axes
    assert bar.get_ylabel() and bar.get_ylim()[0] == 0


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_figure_is_the_same_file(tmp_path, kind):
    labels, scores = noisy()
    for name in ("a", "b"):
        save_figure(curves.roc_figure(labels, scores, "residual"), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_histograms_of_scores_that_are_almost_the_same():
    one = np.float32(1000)
    groups = {"normal": np.full(5, one), "abnormal": np.full(5, np.nextafter(one, np.float32(2000)))}
    (axis,) = curves.histogram_figure({"residual": groups}).axes
    assert len(axis.get_legend().get_texts()) == 2


def test_histograms_have_area_one():
    rng = np.random.default_rng(0)
    groups = {"training": rng.normal(size=200), "normal": rng.normal(size=9), "abnormal": rng.normal(3, 1, size=30)}
    figure = curves.histogram_figure({name: groups for name in SCORES})
    assert [axis.get_title() for axis in figure.axes] == list([s.label for s in SCORES.values()])
    for axis in figure.axes:
        assert texts(axis) == ["training (200)", "normal (9)", "abnormal (30)"]
        filled = axis.patches[::2]
        assert len(axis.patches) == 6 and len({tuple(np.unique(p.get_xy()[:, 0])) for p in filled}) == 1  # same bins
        for polygon in filled:
            x, y = polygon.get_xy().T
            assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 == pytest.approx(1)


def test_a_figure_fits_its_limit(tmp_path):
    figure = Figure(figsize=(4, 4))
    figure.subplots().imshow(np.random.default_rng(0).random((400, 400)))
    save_figure(figure, tmp_path / "free.png")
    save_figure(figure, tmp_path / "small.png", 150_000)
    assert (tmp_path / "small.png").stat().st_size <= 150_000 < (tmp_path / "free.png").stat().st_size


def test_grad_cam_is_its_definition(monkeypatch):
    """The discriminator written out, image by image, in float64."""
    config = preset("simsid-small", width=4, slots=8)
    detector = Detector(config).double().eval()
    images = torch.rand(3, 1, 64, 64, dtype=torch.float64)
    for parameter in detector.discriminator.parameters():  # biases and BatchNorm weights that matter
        torch.nn.init.normal_(parameter, std=0.1)
    detector.discriminator.logit.weight.detach().abs_().neg_()  # something raises every score
    # A reconstruction that depends on the image, which an untrained generator's hardly does.
    monkeypatch.setattr(detector.generator, "forward", lambda images: Reconstruction(images.flip(-1), *[None] * 5))
    student = detector.to_range(images).flip(-1)
    convolutions = [m for m in detector.discriminator.layers if isinstance(m, torch.nn.Conv2d)]
    norms = [None, *(m for m in detector.discriminator.layers if isinstance(m, torch.nn.BatchNorm2d))]
    for layer in (4, 2):
        heat = gradcam.grad_cam(detector, images, layer)
        assert heat.shape == (3, 64, 64) and heat.dtype == torch.float32
        assert heat.min() >= 0 and torch.equal(heat.amax((1, 2)), torch.ones(3))
        for image, mine in zip(student, heat):
            x = image[None]
            for i, (convolution, norm) in enumerate(zip(convolutions, norms)):
                x = F.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=2)
                if norm is not None:
                    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
                    x = (x - mean) / (variance + norm.eps).sqrt()
                    x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
                x = torch.where(x > 0, x, 0.2 * x)
                if i == layer:
                    maps = x
            score = -(detector.discriminator.logit.weight[0] @ x.flatten() + detector.discriminator.logit.bias[0])
            (gradient,) = torch.autograd.grad(score, maps)
            total = sum(gradient[0, k].mean() * maps[0, k] for k in range(maps.shape[1])).clamp_min(0)
            assert total.shape == (64 >> (layer + 1),) * 2 and total.max() > 0
            expected = F.interpolate(total[None, None], size=(64, 64), mode="bilinear")[0, 0]
            torch.testing.assert_close(mine, (expected / expected.max()).float(), atol=1e-6, rtol=0)


def test_grad_cam_image_by_image(unbroken, data, monkeypatch):
    detector = load_run(unbroken).detector
    # X-rays are much alike, and some of their maps too, depending on the CPU's rounding. Moved ones are not.
    images = torch.stack([image.roll(8 * i, -1) for i, image in enumerate(to_unit(data["val"].images))])
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    frozen = gradcam.grad_cam(detector.frozen(), images)  # it needs no gradients of the parameters
    torch.testing.assert_close(frozen, gradcam.grad_cam(detector, images), atol=1e-3, rtol=0)
    # After three epochs reconstructions are much alike; the images themselves are not.
    monkeypatch.setattr(detector.generator, "forward", lambda images: Reconstruction(images, *[None] * 5))
    together = gradcam.grad_cam(detector, images)
    alone = torch.cat([gradcam.grad_cam(detector, image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(together, 2))
    # It leaves nothing behind.
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert not any(module._forward_hooks for module in detector.modules())


def test_grad_cam_where_nothing_raises_the_score(loaded, data):
    detector = loaded[0].detector.frozen()
    torch.nn.init.zeros_(detector.discriminator.logit.weight)
    assert not gradcam.grad_cam(detector, to_unit(data["val"].images[:2])).any()
    with pytest.raises(RuntimeError, match="eval"):
        gradcam.grad_cam(detector.train(), to_unit(data["val"].images[:2]))


def test_curves_of_two_runs(drawn, loaded, data):
    split = data["val"]
    scores = [score_images(run.detector, split.images) for run in loaded]
    assert (scores[0]["residual"] != scores[1]["residual"]).all()
    for name, measure in (("roc.png", roc_auc_score), ("precision_recall.png", average_precision_score)):
        (axis,) = drawn[name].axes
        assert len(axis.collections) == 1 and "squid-small, seeds 0, 1, val split" in axis.get_title()
        for text, score in zip(texts(axis), scores[0]):
            values = [measure(split.labels, one[score]) for one in scores]
            assert text.endswith(f": {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")


def test_pictures_show_images_and_scores(drawn, loaded, data):
    run, split = loaded[0], data["val"]
    order = [*np.flatnonzero(split.labels == 0), *np.flatnonzero(split.labels == 1)]
    images = to_unit(split.images[order])
    scores, (_, student) = score_images(run.detector, split.images[order]), run.detector.scores(images)
    teacher = run.detector.generator(run.detector.to_range(images), teacher=True).teacher.detach()
    shown = calibrated(torch.tensor(scores["discriminator"]).double(), run.calibration["discriminator"])
    expected = {
        "reconstructions.png": [images, teacher, student, (images - student).abs()],
        "gradcam.png": [images, student, images],
    }
    for name, columns in expected.items():
        *axes, bar = drawn[name].axes
        assert len(axes) == 6 * len(columns) and bar.get_xlabel()
        for i in range(6):
            row = axes[i * len(columns) : (i + 1) * len(columns)]
            kind = ("normal", "abnormal")[i // 3]
            found = re.fullmatch(rf"{kind}\nscore (\S+)\ncalibrated (\d\.\d\d)", row[0].get_ylabel())
            assert found[1] == f"{float(found[1]):#.4g}"  # four digits, the last of which rounding may change
            assert float(found[1]) == pytest.approx(scores["discriminator"][i], rel=1e-3)
            assert float(found[2]) == pytest.approx(shown[i].item(), abs=0.005 + 1e-5)
            for axis, pictures in zip(row, columns):
                np.testing.assert_allclose(axis.images[0].get_array(), pictures[i, 0], atol=1e-5)
            if name == "gradcam.png":
                heat = gradcam.grad_cam(run.detector, images)[i]
                np.testing.assert_allclose(row[-1].images[1].get_array(), heat, atol=1e-3)
    assert "squid-small, seed 0, best checkpoint" in drawn["gradcam.png"].get_suptitle()
    assert "2 x 2 cells" in drawn["gradcam.png"].get_suptitle()


def test_memory_figures(drawn, loaded, data):
    detector, split = loaded[0].detector, data["val"]
    memory = detector.generator.inpaint.memory
    axis, key = drawn["memory_tsne.png"].axes[0], drawn["memory_tsne.png"].axes[0].child_axes[0]
    features, slots = axis.collections
    assert len(features.get_offsets()) == 6 * 4 and len(slots.get_offsets()) == 7 * 4
    assert texts(axis) == ["patch feature (24)", "memory slot (28)"]
    assert not np.array_equal(features.get_paths()[0].vertices, slots.get_paths()[0].vertices)  # two markers
    assert len(np.unique(features.get_facecolors()[:, :3], axis=0)) == 4
    assert [text.get_text() for text in key.texts] == ["0", "1", "2", "3"]

    # Slots and queries straight from the module, the whole split at once.
    queries = papers.read_memory(detector, split.images, batch_size=4)
    assert queries.shape == (6, 4, memory.slot_dim)
    usage = {name: value.clone() for name, value in memory.usage().items()}
    counts = memory.reads.clone()
    _, weights = memory(torch.from_numpy(queries), return_weights=True)
    expected = (weights > 0).sum(0)
    assert_decided(torch.from_numpy(queries), memory.bank.detach(), [memory.top_k], torch.float32)
    assert torch.equal(counts, expected) and 6 * 4 <= counts.sum() <= 6 * 4 * memory.top_k
    picture = drawn["slot_usage.png"].axes[0].images[0].get_array()
    np.testing.assert_allclose(picture.filled(0), expected.sort(descending=True).values / 6)
    assert picture.mask.sum() == usage["dead"].sum() == (expected == 0).sum()
    numbers = [label.get_text() for label in drawn["slot_usage.png"].axes[0].child_axes[0].get_yticklabels()]
    assert numbers == [f"{d} dead, {e:.1f} nats" for d, e in zip(usage["dead"], usage["entropy"])]
    assert f"{usage['dead'].sum()} of 28 slots dead" in drawn["slot_usage.png"].axes[0].get_title()


def test_t_sne_takes_its_share_of_every_region():
    rng = np.random.default_rng(0)
    slots, queries = rng.normal(size=(4, 30, 5)), rng.normal(size=(50, 4, 5)) + 50
    points, regions, is_slot = papers.embed(slots, queries, most=20)
    assert points.shape == (40, 2) and is_slot.sum() == 20
    for chosen in (is_slot, ~is_slot):
        assert np.bincount(regions[chosen]).tolist() == [5, 5, 5, 5]
    # What is far apart stays apart.
    gap = np.linalg.norm(points[is_slot].mean(0) - points[~is_slot].mean(0))
    assert gap > np.linalg.norm(points[is_slot] - points[is_slot].mean(0), axis=1).mean()
    # Where vectors hold their own region and kind, these are what the points get.
    for region in range(4):
        slots[region, :, :2], queries[:, region, :2] = (region, 1), (region, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papers.TSNE, "fit_transform", lambda self, vectors: vectors[:, :2])
        points, regions, is_slot = papers.embed(slots, queries, most=20)
    assert np.array_equal(points, np.stack([regions, is_slot], 1))
    points, regions, _ = papers.embed(slots[:1, :1], queries[:1, :1])  # as few as there can be
    assert len(points) == 2 and np.isfinite(points).all()
    assert not tsne_figure(points, regions, np.array([True, False]), 2).axes[0].child_axes  # one region: no key


def test_slots_of_many_regions_and_of_one_query(tmp_path):
    for regions in (1, 64):
        share = np.eye(regions, 5)
        usage = {"dead": 5 - share.sum(1).astype(int), "entropy": np.zeros(regions)}
        figure = slot_figure(share, usage)
        save_figure(figure, tmp_path / "s.png")
        assert len(figure.axes[0].child_axes) == (regions == 1)


def test_choice_of_images():
    def split(labels, classes=None, findings=None):
        labels = None if labels is None else torch.tensor(labels)
        images = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
        return Split(images, labels, [""] * 20, classes=classes, findings=findings)

    assert gallery.choose_images(split(None)).tolist() == [1, 3, 6, 8, 11, 13, 16, 18]
    assert gallery.choose_images(split([0, 1] * 10)).tolist() == [2, 6, 12, 16, 3, 7, 13, 17]
    assert gallery.choose_images(split([0] * 19 + [1])).tolist() == [2, 7, 11, 16, 19]
    one, two = ["NORMAL", "a"] * 10, ["NORMAL"] + ["a"] * 10 + ["b"] * 9
    assert gallery.choose_images(split([0, 1] * 10, one)).tolist() == [2, 6, 12, 16, 3, 7, 13, 17]
    assert gallery.choose_images(split([0] + [1] * 19, two)).tolist() == [0, 3, 8, 13, 17]
    assert split([0, 1] * 10, one).caption(1) == "abnormal" and split([0] + [1] * 19, two).caption(1) == "a"
    assert split([0] + [1] * 19, two).caption(0) == "normal" and split(None).caption(0) == ""
    several = split([0] * 18 + [1, 1], ["NORMAL"] * 18 + ["abnormal", "b"], [()] * 18 + [("a", "b"), ("b",)])
    assert gallery.choose_images(several).tolist() == [2, 6, 11, 15, 18, 19]  # no image twice
    assert several.caption(18) == "abnormal" and several.caption(19) == "b"


def test_the_command(result):
    folder, lines, _ = result
    assert sorted(os.listdir(folder)) == FILES and sorted(lines) == [str(folder / name) for name in FILES]
    for name in FILES:
        with Image.open(folder / name) as image:
            assert image.format == "PNG" and image.width >= 1500 and image.height > 300


def test_other_formats(bare, tmp_path, refused):
    lines, _ = run_and_keep(bare, "--out", tmp_path / "f", "--format", "pdf", "svg")
    names = ("gradcam", "reconstructions", "score_histograms")
    files = [f"{name}.{kind}" for name in names for kind in ("pdf", "svg")]
    assert sorted(os.listdir(tmp_path / "f")) == files and set(files) <= {Path(line).name for line in lines}
    for name in files:
        start = (tmp_path / "f" / name).read_bytes()[:5]
        assert start == (b"%PDF-" if name.endswith("pdf") else b"<?xml")
    assert "--format" in refused(figures.main, bare, "--format", "gif")


def test_a_run_without_labels_teacher_or_memory(bare):
    lines, drawn = run_and_keep(bare)
    assert [line.split(" ")[0] for line in lines if "skipped" in line] == [
        "roc",
        "precision_recall",
        "memory_tsne",
        "slot_usage",
    ]
    kept = ["gradcam.png", "reconstructions.png", "score_histograms.png"]
    assert sorted(os.listdir(bare / "figures")) == sorted(drawn) == kept
    (bare / "figures" / "roc.png").touch()  # of other data, drawn before
    run_and_keep(bare, "--overwrite")
    assert sorted(os.listdir(bare / "figures")) == kept
    pictures = drawn["reconstructions.png"].axes
    assert len(pictures) == 8 * 3 + 1
    assert [axis.get_title() for axis in pictures[:3]] == ["input", "student", "difference"]
    sixteen = open_data(bare.parent / "data", 64)["train"].images
    assert sixteen.dtype == torch.uint16
    np.testing.assert_allclose(pictures[3].images[0].get_array(), sixteen[1, 0].float() / 65535)
    assert all(texts(axis) == ["training (8)"] for axis in drawn["score_histograms.png"].axes)


def test_a_labeled_split_of_one_class(bare):
    run = load_run(bare)
    data = {"test": open_data(XRAYS, 64, splits=("train",))["train"]}  # labeled, all of them normal
    (roc, no_roc), (pr, no_pr) = itertools.islice(papers.draw_figures([run], data), 2)
    assert [roc, pr] == ["roc", "precision_recall"] and no_roc == no_pr and "abnormal" in no_roc


def test_refusals(runs, bare, tmp_path, refused):
    out = tmp_path / "out"
    assert "--out" in refused(figures.main, *runs)
    assert str(runs[0]) in refused(figures.main, runs[0], runs[0], "--out", out)
    message = refused(figures.main, runs[0], bare, "--out", out)
    assert all(word in message for word in (str(bare), "preset", "'simsid-small'", "'squid-small'"))
    assert str(tmp_path) in refused(figures.main, tmp_path)
    assert str(tmp_path / "nowhere") in refused(figures.main, runs[0], "--data", tmp_path / "nowhere", "--out", out)
    assert not out.exists()
    out.write_text("")
    assert str(out) in refused(figures.main, runs[0], "--out", out)


def test_existing_figures_are_kept(result, refused):
    folder, printed, _ = result
    assert {Path(line.split()[0]).stem for line in printed} == set(figures.FIGURES)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    said = refused(figures.main, "no run at all", "--out", folder)
    assert f"{folder}/" in said and "--overwrite" in said
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_an_unfinished_run_is_refused(bare, tmp_path, refused):
    run = shutil.copytree(bare, tmp_path / "run")
    latest, config = checkpoint.latest_checkpoint(run), read_run(run).config
    state = checkpoint.read_state(latest, config)
    state.last.calibration = None
    tensors = load_run(bare).detector.state_dict()
    checkpoint.save_checkpoint(run, state, tensors, {})
    assert str(run) in refused(figures.main, run)


def test_which_runs_agree(tmp_path):
    def run(name, config, data, seed, fingerprint):
        create_run(tmp_path / name, RunRecord(config, data, seed, fingerprint=fingerprint))
        return tmp_path / name

    digits, squid = preset("digits"), preset("squid-small")
    # DigitAnatomy draws its training images from the seed.
    first = read_agreeing_runs([run("a", digits, None, 0, "0"), run("b", digits, None, 1, "1")])
    assert first.seed == 0
    # The same images elsewhere are the same data; other images in the same folder are not.
    here, there = (run(name, squid, f"/data/{name}", seed, "0") for seed, name in enumerate(("c", "d")))
    assert read_agreeing_runs([here, there]).data == "/data/c"
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "e"))):
        read_agreeing_runs([here, run("e", squid, "/data/c", 1, "1")])
