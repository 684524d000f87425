"""Published checkpoints as run folders: they score as the published code recorded; what is no such file is refused."""

import csv
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS
from PIL import Image

import fastsquid
from fastsquid import SpaceAwareMemory, convert, evaluate, figures, locate, report, score, train
from fastsquid.config import preset
from fastsquid.data import open_data, read_image, to_unit
from fastsquid.drawing import papers
from fastsquid.model import published_checkpoint
from fastsquid.model.detector import Detector
from fastsquid.model.published import generator_state, published_discriminator_state, published_generator_state
from fastsquid.runs.data import fingerprint_of
from fastsquid.runs.folder import read_run
from fastsquid.runs.trained import load_run
from fastsquid.scoring.maps import forward_maps
from fastsquid.training import results

GOLDEN = Path(__file__).parent / "golden"
NAMES = {"squid_grid2": "squid", "simsid_matrix_grid2": "simsid", "simsid_queue_grid2": "simsid"}


class Published:
    """Files as the published code saves them, of the state that the recorded evaluation was made in."""

    def __init__(self, name, folder):
        arrays = np.load(GOLDEN / f"{name}.npz")
        self.system, self.name = NAMES[name], name
        self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        self.generator = self.part("generator/") | self.part("eval/buffer/") | self.part("after_step/")
        self.discriminator = self.part("discriminator/")
        for tensors in (self.generator, self.discriminator):  # which the recorded arrays leave out
            for key in [key for key in tensors if key.endswith("running_mean")]:
                tensors[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
        self.files = [folder / f"{name}-{part}.pth" for part in ("model", "discriminator")]
        self.save(self.generator, self.discriminator)

    def part(self, prefix):
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}

    def save(self, *states):
        for state, path in zip(states, self.files):
            torch.save(state, path)

    def arguments(self, out, *more):
        return [self.system, *self.files, "--out", out, "--device", "cpu", *more]


@pytest.fixture(params=NAMES)
def published(request, tmp_path):
    return Published(request.param, tmp_path)


@pytest.fixture
def squid(tmp_path):
    return Published("squid_grid2", tmp_path)


@pytest.fixture
def simsid(tmp_path):
    return Published("simsid_matrix_grid2", tmp_path)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, pictures):
    """A run that was converted with the X-rays."""
    folder = tmp_path_factory.mktemp("convert")
    theirs = Published("squid_grid2", folder)
    convert.main([str(argument) for argument in theirs.arguments(folder / "run", "--data", XRAYS)])
    return folder / "run"


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    theirs = Published("simsid_matrix_grid2", folder)
    convert.main([str(argument) for argument in theirs.arguments(folder / "run")])
    return folder / "run"


def leftovers(folder):
    """What a refused call has left beside the files it was given."""
    return [path for path in folder.iterdir() if path.suffix != ".pth"]


# The same numbers


def test_scores_are_the_published_codes(published, tmp_path, command):
    run = tmp_path / "run"
    code, out, err = command(convert.main, *published.arguments(run))
    assert code == 0 and err.startswith("warning: ") and "--top-k" in err and err.count("\n") == 1
    assert all(size in out for size in ("64 x 64 ", "width 4,", "4 levels", "2 x 2 patches", "top-5"))
    detector = load_run(run).detector
    config = preset(f"{published.system}-published", image_size=64, width=4, slots=20, memory=detector.config.memory)
    assert detector.config == config
    assert config.memory == ("matrix" if "matrix" in published.name else "queue")

    detector, images = detector.double(), published.arrays["x"].double()
    with torch.no_grad():
        out = detector.generator(images)
        logits = -detector.scores(detector.from_range(images))[0]["discriminator"]
    theirs = published.arrays["eval/logit_batch_of_one"][:, 0].double()
    assert (out.student - published.arrays["eval/recon"]).abs().max() <= 1e-5 * out.student.abs().max()
    assert (logits - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    # As users score, in float32: their pixels are rounded, and of those a ReLU or a slot may turn out otherwise.
    unit = detector.from_range(images)[:, 0].clamp(0, 1).numpy()
    np.testing.assert_allclose(-fastsquid.load(run, device="cpu").score(unit), theirs, atol=1e-4)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(unit):
        Image.fromarray((image * 65535).round().astype(np.uint16)).save(folder / f"{i}.png")
    assert command(score.main, run, folder, "--out", tmp_path / "scores.csv", "--device", "cpu")[0] == 0
    with open(tmp_path / "scores.csv", newline="") as file:
        np.testing.assert_allclose([-float(row["score"]) for row in csv.DictReader(file)], theirs, atol=1e-4)


def test_another_top_k_is_an_option(squid, tmp_path, command, refused):
    """Weights do not show it; `test_scores_are_the_published_codes` has the warning where it is left out."""
    code, out, err = command(convert.main, *squid.arguments(tmp_path / "run", "--top-k", "3"))
    assert code == 0 and "top-3" in out and not err
    assert load_run(tmp_path / "run").detector.config.top_k == 3
    for wrong in ("0", "21"):  # of 20 slots
        assert "top_k" in refused(convert.main, *squid.arguments(tmp_path / "no", "--top-k", wrong))


def test_every_weight_arrives(published, tmp_path, command):
    """As many numbers as the files hold, but those that nothing reads: SimSID's convolution, and the key bias."""
    assert command(convert.main, *published.arguments(tmp_path / "run"))[0] == 0
    ours = load_run(tmp_path / "run").detector.state_dict()
    used = sum(tensor.numel() for name, tensor in ours.items() if name.split(".")[-1] not in ("pointer", "filled"))
    unread = [t for name, t in published.generator.items() if name.startswith("inpaint_block.conv.")]
    keys = published.generator["inpaint_block.attention.in_proj_bias"].numel() // 3
    theirs = [*published.generator.values(), *published.discriminator.values()]
    assert used == sum(t.numel() for t in theirs) - sum(t.numel() for t in unread) - keys


def test_what_data_parallel_saves_and_other_precision(simsid, tmp_path, command):
    assert command(convert.main, *simsid.arguments(tmp_path / "plain"))[0] == 0
    states = [
        {f"module.{key}": value.double() if value.is_floating_point() else value for key, value in state.items()}
        for state in (simsid.generator, simsid.discriminator)
    ]
    simsid.save(*states)
    assert command(convert.main, *simsid.arguments(tmp_path / "parallel"))[0] == 0
    plain, parallel = (load_run(tmp_path / name).detector.state_dict() for name in ("plain", "parallel"))
    assert all(torch.equal(plain[name], parallel[name]) for name in plain) and plain.keys() == parallel.keys()


def test_the_oldest_pytorch(squid, tmp_path, command):
    """Its files were no zip archives, and BatchNorm counted nothing."""
    states = [
        {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        for state in (squid.generator, squid.discriminator)
    ]
    for state, path in zip(states, squid.files):
        torch.save(state, path, _use_new_zipfile_serialization=False)
    assert command(convert.main, *squid.arguments(tmp_path / "run"))[0] == 0


def test_sizes_and_parts_are_inferred(tmp_path, command):
    """Of a model that differs from the recorded ones in whatever the published code's configuration may change."""
    changes = dict(image_size=96, width=8, grid=3, slots=12, discriminator_width=64, decoder_memory=1, skips=1)
    config = preset("simsid-published", **changes, decoder_scope="patch", distillation=False)
    detector = Detector(config)
    torch.save(published_generator_state(detector.generator.state_dict(), "simsid", 4), tmp_path / "g")
    torch.save(published_discriminator_state(detector.discriminator.state_dict()), tmp_path / "d")
    arguments = ["simsid", tmp_path / "g", tmp_path / "d", "--out", tmp_path / "run", "--device", "cpu"]
    assert command(convert.main, *arguments)[0] == 0
    assert read_run(tmp_path / "run").config == config


def test_a_transformer_that_was_never_trained_is_not_in_use(simsid, tmp_path, command):
    """SimSID's `use_inpaint = False` keeps its weights in the file as they were made."""
    simsid.generator["inpaint_block.bottleneck_conv1.1.weight"] *= 1.01  # of the trained rest
    simsid.save(simsid.generator, simsid.discriminator)
    code, out, _ = command(convert.main, *simsid.arguments(tmp_path / "run"))
    assert code == 0 and "transformer" in out.replace(str(tmp_path), "")
    assert read_run(tmp_path / "run").config.inpainting == "memory"
    simsid.generator["inpaint_block.attn_norm2.bias"] += 0.01
    simsid.save(simsid.generator, simsid.discriminator)
    code, out, _ = command(convert.main, *simsid.arguments(tmp_path / "other"))
    assert code == 0 and "transformer" not in out.replace(str(tmp_path), "")
    assert read_run(tmp_path / "other").config.inpainting == "transformer"


# With data and without


def test_the_record(calibrated):
    run, theirs = (
        read_run(calibrated),
        [calibrated.parent / f"squid_grid2-{n}.pth" for n in ("model", "discriminator")],
    )
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in theirs]
    assert run.converted == {"system": "squid", "generator": digests[0], "discriminator": digests[1], "images": 8}
    assert run.data == str(XRAYS) and run.init is None and run.config.preset == "squid-published"
    expected = {"config.json", "checkpoint-000001", "scores-val.csv", "scores-test.csv", "maps.safetensors"}
    expected |= {"input-check.safetensors"}
    assert {path.name for path in calibrated.iterdir()} == expected | {"gallery.png", "summary.json"}
    summary = json.loads((calibrated / "summary.json").read_text())
    assert summary["split"] == "val" and summary["images"] == {"normal": 3, "abnormal": 3, "skipped": 0}
    assert summary["checkpoint"] == {"name": "last", "epoch": None, "chosen_by": None}


def test_calibration_is_of_the_normal_images(calibrated):
    run = fastsquid.load(calibrated, device="cpu")
    images = {name: sorted((XRAYS / name / "NORMAL").iterdir()) for name in ("train", "val")}
    train_scores, val_scores = run.scores(images["train"]), run.scores(images["val"])
    assert set(run.calibration) == set(run.score_names) and len(images["train"]) == 8 and len(images["val"]) == 3
    for name, calibration in run.calibration.items():
        values = train_scores[name].astype(np.float64)
        assert calibration.mean == pytest.approx(values.mean(), rel=1e-6)
        assert calibration.std == pytest.approx(values.std(), rel=1e-3)
        assert len(calibration.quantiles) == 101
        np.testing.assert_allclose(calibration.quantiles, np.percentile(val_scores[name], range(101)), rtol=1e-5)
    batch = torch.stack([to_unit(torch.from_numpy(read_image(path, 64))) for path in images["train"]])[:, None]
    residual = forward_maps(run.detector, batch)["residual"]
    np.testing.assert_allclose(run._maps["residual"][0], residual.mean(0), rtol=1e-4, atol=1e-7)


def test_the_scores_it_leaves_are_those_that_it_gives(calibrated, tmp_path, command):
    assert command(score.main, calibrated, XRAYS / "val", "--out", tmp_path / "s.csv", "--device", "cpu")[0] == 0
    with open(calibrated / "scores-val.csv", newline="") as file, open(tmp_path / "s.csv", newline="") as other:
        left = {row["name"]: row for row in csv.DictReader(file)}
        given = {row["name"]: row for row in csv.DictReader(other)}
    assert left.keys() == given.keys() and len(left) == 6
    for name, row in left.items():
        assert float(row["discriminator"]) == pytest.approx(float(given[name]["score"]), abs=1e-5)
        assert 0 <= float(given[name]["percentile"]) <= 100 and row["label"] == str(int("PNEUMONIA" in name))


def test_without_data_nothing_is_calibrated(uncalibrated, tmp_path, command, refused):
    assert {path.name for path in uncalibrated.iterdir()} == {"config.json", "checkpoint-000001", "summary.json"}
    code, _, err = command(score.main, uncalibrated, XRAYS / "test", "--out", tmp_path / "s.csv", "--device", "cpu")
    assert code == 0
    for column in ("percentile", "above_threshold", "unlike_training"):
        assert re.search(rf"\b{column}\b.*--data", err)
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["percentile"] == row["above_threshold"] == "" and row["score"] for row in rows)
    run = fastsquid.load(uncalibrated, device="cpu")
    image = XRAYS / "test" / "0000.jpeg"
    assert run.reconstruct(image).shape == (1, 64, 64)
    for method in (lambda: run.calibrated([0.0]), lambda: run.percentile([0.0]), lambda: run.heatmap(image)):
        with pytest.raises(ValueError, match="converted"):
            method()
    for main in (evaluate.main, locate.main, figures.main):
        assert "--data" in refused(main, uncalibrated)
    assert "--data" in refused(train.main, "--init", uncalibrated, "--out", "new")
    assert "calibrated" in refused(figures.main, uncalibrated, "--data", XRAYS, "--out", tmp_path / "figures")
    page = tmp_path / "report.html"
    assert "calibrated" in refused(report.main, uncalibrated, XRAYS / "test", "--out", page) and not page.exists()


@pytest.mark.parametrize("folders, count", [(["val"], 3), (["test"], 3), (["train"], 8), ([""], 3)])
def test_which_images_are_normal(squid, tmp_path, command, folders, count):
    """Of `train`, else the normal ones of `val`, else of `test`; of a plain folder all."""
    data = tmp_path / "data"
    source = XRAYS / ("train" if folders == ["train"] else "val")
    shutil.copytree(
        source / "NORMAL" if folders == ["train"] else source, data / folders[0] if folders != ["train"] else data
    )
    assert command(convert.main, *squid.arguments(tmp_path / "run", "--data", data))[0] == 0
    run = fastsquid.load(tmp_path / "run", device="cpu")
    values = run.score(sorted(source.glob("NORMAL/*")))
    assert read_run(tmp_path / "run").converted["images"] == count == len(values)
    assert run.calibration["discriminator"].mean == pytest.approx(values.mean(), rel=1e-6)
    assert (run.calibration["discriminator"].quantiles is None) == (folders != ["val"])


def test_images_that_are_not_known_to_be_healthy(squid, tmp_path, command, refused):
    data = shutil.copytree(XRAYS / "val" / "NORMAL", tmp_path / "scans")
    (data / "labels.csv").write_text("image,label\n")
    arguments = squid.arguments(tmp_path / "run", "--data", data)
    said = refused(convert.main, *arguments)
    assert "'labels.csv'" in said and "--all-normal" in said and not (tmp_path / "run").exists()
    assert command(convert.main, *arguments, "--all-normal")[0] == 0
    assert read_run(tmp_path / "run").all_normal is True


# What takes the run


def test_commands_take_it(calibrated, tmp_path, command):
    run = shutil.copytree(calibrated, tmp_path / "run")
    code, out, err = command(evaluate.main, run, "--device", "cpu", "--json", tmp_path / "metrics.json")
    assert code == 0 and re.search(r"^val\b.* 3 .* 3 .*\bconverted\b", out, re.M)
    left = json.loads((run / "summary.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["scores"] == left["scores"]
    assert command(locate.main, run, "--device", "cpu")[0] == 0 and (run / "localization" / "maps.png").is_file()
    page = tmp_path / "report.html"
    assert command(report.main, run, XRAYS / "val", "--out", page, "--device", "cpu")[0] == 0
    text = page.read_text(encoding="utf-8")
    assert re.search(r"published [^.\"]*\bsquid\b", text)
    assert re.search(r"Calibrated [^.\"]*\b8\b[^.\"]*\bxrays\b", text)
    assert not re.search(r"\btrained [^.\"]*\b8\b", text)
    assert "converted weights" in text and "epochs" not in text.split('"Preset"')[1][:60]


def test_figures_take_it(calibrated, tmp_path, command, monkeypatch):
    monkeypatch.setattr(
        papers, "embed", lambda slots, queries: (np.zeros((2, 2)), np.zeros(2, int), np.array([True, False]))
    )
    code, out, _ = command(figures.main, calibrated, "--out", tmp_path / "figures", "--device", "cpu")
    assert code == 0 and "skipped" not in out and len(list((tmp_path / "figures").glob("*.png"))) == 7


def test_training_begins_with_it(calibrated, tmp_path, command, refused):
    arguments = ["--init", calibrated, "--epochs", 1, "--batch-size", 4, "--out", tmp_path / "tuned", "--device", "cpu"]
    assert command(train.main, *arguments)[0] == 0
    record = read_run(tmp_path / "tuned")
    assert record.init["run"] == str(calibrated) and record.converted is None and record.data == str(XRAYS)
    before, after = (load_run(path).detector.state_dict() for path in (calibrated, tmp_path / "tuned"))
    name = "generator.student.output.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 1e-3
    content = {path.name: path.stat().st_mtime_ns for path in calibrated.iterdir()}
    said = refused(train.main, "--resume", calibrated)
    assert str(calibrated) in said and "--init" in said
    assert content == {path.name: path.stat().st_mtime_ns for path in calibrated.iterdir()}


# What is refused


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-run",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_never_run(squid, tmp_path, refused, monkeypatch, new):
    monkeypatch.chdir(tmp_path)
    torch.save({**squid.generator, "more": Bomb()}, squid.files[0], _use_new_zipfile_serialization=new)
    said = refused(convert.main, *squid.arguments(tmp_path / "run"))
    assert re.search(rf"{squid.files[0]} .*\bPython\b", said)
    assert not Path("pickle-was-run").exists() and not leftovers(tmp_path)
    torch.load(squid.files[0], weights_only=False)  # it is a bomb
    assert Path("pickle-was-run").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda whole: whole[: len(whole) // 2], "damaged"),
        (lambda whole: whole[:-50], "damaged"),
        (lambda whole: b"weights, they said\n" * 9, "damaged"),
        (lambda whole: b"", "damaged"),
        (lambda whole: None, "not exist"),
    ],
    ids=["half", "cut", "text", "empty", "missing"],
)
@pytest.mark.parametrize("which", [0, 1])
def test_files_that_are_none(squid, tmp_path, refused, content, message, which):
    path = squid.files[which]
    content = content(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert re.search(rf"{path} .*\b{message}\b", refused(convert.main, *squid.arguments(tmp_path / "run")))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    "value, message",
    [
        (torch.ones(3), r"\bTensor\b"),
        ({}, r"\bdict\b"),
        ({"state_dict": {"a": torch.ones(2)}}, "'state_dict'"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a'"),
        ({"a": torch.ones(1).expand(10**6, 10**6)}, "'a'"),
        ({"a": torch.ones(1, dtype=torch.half).expand(10**7, 10**7)}, "'a'"),
        (
            "nested",
            "'a'",
        ),
        ({"a": torch.ones(2)}, "in_conv.conv.conv1.0.weight"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_things_that_torch_saves(squid, tmp_path, refused, value, message):
    if value == "nested":
        value = {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}
    torch.save(value, squid.files[0])
    assert re.search(f"{squid.files[0]} .*{message}", refused(convert.main, *squid.arguments(tmp_path / "run")))


def changed(state, drop=(), **more):
    return {key: value for key, value in {**state, **more}.items() if key not in drop}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda g, d: (changed(g, ["up_blocks.1.conv.conv2.3.bias"]), d),
            r"model\.pth .*generator.*squid.* missing up_blocks\.1\.conv\.conv2\.3\.bias\n",
        ),
        (
            lambda g, d: ({k: v for k, v in g.items() if "down_blocks.2." not in k}, d),
            " missing down_blocks.2.mpconv.conv1.0.weight, down_blocks.2.mpconv.conv1.0.bias, "
            "down_blocks.2.mpconv.conv1.1.weight .*15",
        ),
        (
            lambda g, d: (changed(g, ["inpaint_block.memory.3.memMatrix"]), d),
            "missing inpaint_block.memory.3.memMatrix\n",
        ),
        (lambda g, d: ({**g, "head.weight": torch.ones(2)}, d), "unexpected head.weight\n"),
        (
            lambda g, d: ({**g, "out_conv.conv.weight": torch.ones(1, 5, 1, 1)}, d),
            r"shape out_conv\.conv\.weight \(1 x 5 x 1 x 1, .*1 x 4 x 1 x 1\)\n",
        ),
        (
            lambda g, d: ({**g, "in_conv.conv.conv1.1.num_batches_tracked": torch.ones(2, 2)}, d),
            r"shape in_conv\.conv\.conv1\.1\.num_batches_tracked \(2 x 2, ",
        ),
        (
            lambda g, d: (changed(g, ["out_conv.conv.bias"], more=torch.ones(1)), d),
            "missing out_conv.conv.bias; unexpected more\n",
        ),
        (
            lambda g, d: ({**g, "out_conv.conv.bias": torch.tensor([torch.nan])}, d),
            "finite out_conv.conv.bias\n",
        ),
        (
            lambda g, d: ({**g, "in_conv.conv.conv1.1.running_var": torch.tensor([1.0, 1.0, -1e-9, 1.0])}, d),
            "negative in_conv.conv.conv1.1.running_var\n",
        ),
        (
            lambda g, d: (g, changed(d, ["regressor.bias"])),
            r"discriminator\.pth .*discriminator.*squid.* missing regressor\.bias\n",
        ),
        (
            lambda g, d: (g, {**d, "regressor.weight": torch.ones(1, 2048)}),
            r"shape regressor\.weight \(1 x 2048, .*1 x 512\)\n",
        ),
        (lambda g, d: (g, {**d, "conv_model.14.weight": torch.ones(2)}), "unexpected conv_model.14.weight\n"),
        (
            lambda g, d: ({**g, "inpaint_block.memory.0.memMatrix": torch.ones(20, 60)}, d),
            r"inpaint_block\.memory\.0\.memMatrix .*\b60\b",
        ),
        (lambda g, d: (d, g), r"model\.pth [^:]*discriminator: "),
        (lambda g, d: (g, g), r"discriminator\.pth [^:]*generator: "),
    ],
)
def test_what_does_not_fit_is_named(squid, tmp_path, refused, change, message):
    squid.save(*change(squid.generator, squid.discriminator))
    assert re.search(message, refused(convert.main, *squid.arguments(tmp_path / "run", "--data", XRAYS)))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    "bank, message",
    [
        (None, "missing inpaint_block.memory.1.memMatrix\n"),
        (torch.ones(20, 8), r"shape inpaint_block\.memory\.1\.memMatrix \(20 x 8, .*20 x 64\)\n"),
        (torch.ones(20, 64).to(torch.complex64), "finite inpaint_block.memory.1.memMatrix\n"),
    ],
)
def test_banks_that_do_not_fit_are_named(simsid, tmp_path, refused, bank, message):
    """Also where queue and matrix are told apart by what the banks hold."""
    name = "inpaint_block.memory.1.memMatrix"
    state = changed(simsid.generator, [name]) if bank is None else {**simsid.generator, name: bank}
    simsid.save(state, simsid.discriminator)
    assert re.search(message, refused(convert.main, *simsid.arguments(tmp_path / "run")))


def test_the_other_system(squid, simsid, tmp_path, refused):
    for theirs, other in ((squid, "simsid"), (simsid, "squid")):
        said = refused(convert.main, other, *theirs.arguments(tmp_path / "run")[1:])
        assert re.search(rf"{theirs.files[0]} .*\b{theirs.system}\b.* {other}$", said.strip())
    assert "'memae'" in refused(convert.main, "memae", *squid.arguments(tmp_path / "run")[1:])


def test_nothing_half_written(squid, tmp_path, refused, monkeypatch):
    (tmp_path / "run").mkdir()
    assert f"{tmp_path / 'run'} exists" in refused(convert.main, *squid.arguments(tmp_path / "run"))
    (tmp_path / "run").rmdir()
    assert str(tmp_path / "no") in refused(convert.main, *squid.arguments(tmp_path / "run", "--data", tmp_path / "no"))
    assert "--data" in refused(convert.main, *squid.arguments(tmp_path / "run", "--data", ""))
    unlabeled = ["--data", shutil.copytree(XRAYS / "test", tmp_path / "only" / "test").parent]
    assert str(unlabeled[1]) in refused(convert.main, *squid.arguments(tmp_path / "run", *unlabeled))
    shutil.rmtree(tmp_path / "only")

    def full(*arguments):
        assert any(path.name.startswith(".run.") for path in tmp_path.iterdir())
        raise OSError(28, "No space left on device", "gallery.png")

    monkeypatch.setattr(results, "report_run", full)
    assert "gallery.png" in refused(convert.main, *squid.arguments(tmp_path / "run", "--data", XRAYS))
    assert not leftovers(tmp_path)


# One memory


def test_a_memory_reads_by_the_published_formula(published):
    """Softmax, the slots strictly above the fifth, their sum one."""
    memory = SpaceAwareMemory.from_published(published.generator, "inpaint_block.")
    assert (memory.num_regions, memory.num_slots, memory.slot_dim, memory.top_k) == (4, 20, 64, 5)
    assert memory.kind == ("matrix" if "matrix" in published.name else "queue") and memory.selection == "published"
    banks = [published.generator[f"inpaint_block.memory.{r}.memMatrix"] for r in range(4)]
    assert torch.equal(memory.bank.detach(), torch.stack(banks))
    if memory.kind == "queue":
        assert (memory.filled, memory.pointer) == (20, 0)

    x = torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1)).relu()
    for r, bank in enumerate(banks):
        weights = (x[:, r] @ bank.T).softmax(1)
        weights = torch.where(weights > weights.topk(5, dim=1).values[:, -1:], weights, 0)
        torch.testing.assert_close(memory(x)[:, r], weights / weights.sum(1, keepdim=True) @ bank)


def test_memories_in_their_places(published):
    """A detector whose memories are all read one by one draws what the published code drew."""
    files = [published_checkpoint.Published(path) for path in published.files]
    detector = published_checkpoint.build_detector(*files, published.system).double().eval()
    generator, state = detector.generator, published.generator
    generator.inpaint.memory = SpaceAwareMemory.from_published(state, "inpaint_block.").double().eval()
    for level, channels in enumerate((32, 16)):
        prefix = f"memory_blocks.{3 - level if published.system == 'squid' else level}."
        channels = channels if published.system == "squid" else None
        memory = SpaceAwareMemory.from_published(state, prefix, channels=channels)
        generator.student.memories[level].memory = memory.double().eval()
    with torch.no_grad():
        drawn = generator(published.arrays["x"].double()).student
    theirs = published.arrays["eval/recon"]
    assert (drawn - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_the_layout_there_and_back(published):
    """Every tensor of a published generator comes back, but SimSID's unused convolution; the key bias is zero."""
    state = generator_state(published.generator, published.system, levels=4)
    back = published_generator_state(state, published.system, levels=4)
    query, _, value = published.generator["inpaint_block.attention.in_proj_bias"].chunk(3)
    expected = {k: v for k, v in published.generator.items() if not k.startswith("inpaint_block.conv.")}
    expected["inpaint_block.attention.in_proj_bias"] = torch.cat([query, torch.zeros_like(query), value])
    assert back.keys() == expected.keys() and all(torch.equal(back[name], expected[name]) for name in back)


def test_decoder_memories(published):
    """SQUID's slots in the order of SpaceAwareMemory2d where it is told the channels; SimSID's are in it."""
    state = generator_state(published.generator, published.system, levels=4)
    for level, channels in enumerate((32, 16)):
        number = 3 - level if published.system == "squid" else level
        prefix, squid = f"memory_blocks.{number}.", published.system == "squid"
        memory = SpaceAwareMemory.from_published(published.generator, prefix, channels=channels if squid else None)
        assert memory.kind == "matrix" and torch.equal(
            memory.bank.detach(), state[f"student.memories.{level}.memory.bank"]
        )
        plain = SpaceAwareMemory.from_published(published.generator, prefix)
        assert torch.equal(plain.bank[2].detach(), published.generator[f"{prefix}memory.2.memMatrix"])
        assert torch.equal(plain.bank, memory.bank) != squid


@pytest.mark.parametrize(
    "change, arguments, message",
    [
        (lambda s: s, ["memory_blocks.0."], r"'memory_blocks\.0\.'.*'inpaint_block\.', 'memory_blocks\.2\.'"),
        (lambda s: {}, ["inpaint_block."], r"'inpaint_block\.'.*none"),
        (lambda s: changed(s, ["inpaint_block.memory.1.memMatrix"]), ["inpaint_block."], r"\[0, 2, 3\]"),
        (
            lambda s: {**s, "inpaint_block.memory.1.memMatrix": torch.ones(20, 8)},
            ["inpaint_block."],
            r"\(20, 64\), \(20, 8\)",
        ),
        (lambda s: s, ["inpaint_block.", 21], "top_k = 21"),
    ],
)
def test_memories_that_there_are_not(squid, change, arguments, message):
    with pytest.raises(ValueError, match=message):
        SpaceAwareMemory.from_published(change(squid.generator), *arguments)


def test_channels_that_do_not_divide(squid):
    with pytest.raises(ValueError, match="channels = 7 .*slot_dim = 128"):
        SpaceAwareMemory.from_published(squid.generator, "memory_blocks.3.", channels=7)


def test_the_recorded_data_is_what_is_opened(calibrated):
    record = read_run(calibrated)
    assert record.fingerprint == fingerprint_of(open_data(record.data, 64, splits=("train",))["train"])
