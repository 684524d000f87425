"""Exported files: every output against the scorer's, the format, what is written beside, --verify and its failures."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import XRAYS
from forked_python import python
from test_docs import blocks, page

import fastsquid
from fastsquid import export
from fastsquid.api import Scorer
from fastsquid.config import preset
from fastsquid.data import find_images, read_images, to_unit
from fastsquid.errors import UserError
from fastsquid.exporting import portable, verification
from fastsquid.model.detector import Detector
from fastsquid.runs.data import real_images
from fastsquid.runs.records import RunRecord
from fastsquid.runs.trained import TrainedRun
from fastsquid.scoring.maps import calibrate_maps, forward_maps
from fastsquid.scoring.scores import Calibration

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

# SimSID differs in sizes, the auto-encoder has no memory.
SYSTEMS = ["squid-small", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("fastsquid-small", "memae-small"))]
KINDS = list(portable.WRITERS)
IMAGES = to_unit(read_images(find_images(XRAYS), 64)[0])


def scorer_of(system):
    """A shallow detector of a preset after one training forward, which fills the queue; calibrated on its images."""
    fields = preset(system).to_dict()
    shallow = {name: min(1, fields[name]) for name in ("combine", "decoder_memory", "skips")}
    detector = Detector(preset(system, width=4, levels=1, slots=8, **shallow))
    with torch.no_grad():
        detector.generator(detector.to_range(IMAGES[:6]))
        detector.generator.commit()
    frozen = detector.eval().frozen()
    calibration = {
        name: Calibration(float(values.mean()), float(values.std()))
        for name, values in frozen.scores(IMAGES)[0].items()
    }
    run = TrainedRun(frozen, calibration, Path("run"), RunRecord(frozen.config, None, 0), "last", 1, None, "")
    return Scorer(run, calibrate_maps(frozen, IMAGES, maps=forward_maps))


@pytest.fixture(scope="module", params=SYSTEMS)
def exported(request, tmp_path_factory):
    """A scorer, and {kind: its file}."""
    torch.manual_seed(0)
    scorer, folder = scorer_of(request.param), tmp_path_factory.mktemp("files")
    files = {kind: folder / f"scorer.{kind}" for kind in KINDS}
    with one_program(scorer):
        for kind, path in files.items():
            with open(path, "wb") as file:
                portable.WRITERS[kind](scorer, file)
    return scorer, files


@pytest.fixture(scope="module")
def files(by_residual, tmp_path_factory):
    """{kind: file} of the run `by_residual`, written by the command."""
    folder = tmp_path_factory.mktemp("by_residual")
    files = {kind: folder / f"scorer.{kind}" for kind in KINDS}
    with one_program(fastsquid.load(by_residual, device="cpu")):
        for kind, path in files.items():
            export.main([str(by_residual), "--to", kind, "--out", str(path)])
    return files


def one_program(scorer):
    """A context in which both kinds are written of one program: to make it takes longer than to write it."""
    program = portable.exported(scorer)
    return mock.patch.object(portable, "exported", lambda _: program)


@pytest.fixture(scope="module")
def ours():
    """A scorer of our own preset."""
    torch.manual_seed(0)
    return scorer_of("fastsquid-small")


def answers_of(scorer, images):
    """What a perfect file gives."""
    return {**verification._original(scorer, images), **verification._residual_map(scorer, images)}


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """More rounds are for speeds that are worth something."""
    monkeypatch.setattr(verification, "ROUNDS", 1)


def document(path):
    """The JSON of either kind of file."""
    if path.suffix == ".onnx":
        (entry,) = onnx.load(path).metadata_props
        assert entry.key == "fastsquid"
        return json.loads(entry.value)
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("fastsquid.json")]
        return json.loads(archive.read(name))


# What a file answers


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_the_scorers(exported, kind):
    scorer, files = exported
    answer, config = portable.READERS[kind](files[kind]), scorer.detector.config
    raw = forward_maps(scorer.detector, IMAGES)["residual"].numpy()
    scores, _, heat = scorer.examine(IMAGES, cropped=True)
    expected = {"score": scores[scorer.score_name], "residual_map": raw, "anomaly_map": heat}
    if config.discriminator:
        seen = scorer.detector.to_range(IMAGES)
        if config.score != "discriminator_image":
            seen = scorer.detector.generator(seen).student
        expected["logit"] = scorer.detector.discriminator(seen, norm="image").numpy()
    for size in (1, 2, 7):
        parts = [answer(batch) for batch in IMAGES.split(size)]
        assert set(parts[0]) == set(expected)
        for name, values in expected.items():
            assert parts[0][name].shape == (size, *values.shape[1:]) and parts[0][name].dtype == np.float32
            found = np.concatenate([part[name] for part in parts])
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4 if name == "anomaly_map" else 1e-5)


def test_exposure_is_taken_out_inside(exported):
    scorer, files = exported
    answer = portable.READERS["onnx"](files["onnx"])
    same, other = answer(IMAGES), answer(IMAGES * 0.5 + 0.25)
    agrees = np.allclose(same["score"], other["score"], atol=1e-3)
    assert agrees == scorer.detector.config.standardize


def test_the_onnx_file_is_well_formed(exported):
    scorer, files = exported
    model = onnx.load(files["onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    names = ["score", *["logit"] * scorer.detector.config.discriminator, "residual_map", "anomaly_map"]
    values = [(value.name, value.type.tensor_type) for value in (*model.graph.input, *model.graph.output)]
    assert [name for name, _ in values] == ["images", *names]
    for name, tensor in values:
        shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
        rest = {"images": [1, 64, 64], "score": [], "logit": []}.get(name, [64, 64])
        assert shape == ["batch", *rest] and tensor.elem_type == onnx.TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.type.tensor_type.elem_type for value in inferred.value_info}
    assert onnx.TensorProto.DOUBLE not in kinds | {tensor.data_type for tensor in inferred.initializer}


def test_keys_and_values_of_slots_are_projected_before(exported):
    scorer, files = exported
    program = torch.export.load(files["pt2"])
    used = {node.name for node in program.graph.nodes if node.users}
    targets = {
        spec.target for spec in program.graph_signature.input_specs if spec.arg.name in used and spec.target is not None
    }
    assert not any("key_value" in target or "teacher" in target for target in targets)
    transformer = scorer.detector.config.inpainting == "transformer"
    assert ("detector.generator.inpaint.folded" in targets) == transformer


# What is written beside


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_says_what_the_numbers_mean(by_residual, files, kind):
    run = fastsquid.load(by_residual)
    usual = run.calibration["residual"]
    assert document(files[kind]) == {
        "format": 1,
        "fastsquid": fastsquid.__version__,
        "preset": "squid-small",
        "score": "residual",
        "logit": "discriminator",
        "map": "residual",
        "image_size": 64,
        "value_range": [0, 1],
        "crop": False,
        "crop_rule": None,
        "calibration": {"mean": usual.mean, "std": usual.std},
        "quantiles": usual.quantiles,
        "threshold": run.run.validation["residual"]["threshold"],
        "trained_on": run.run.record.trained_on,
        "input_check": False,
        "checkpoint": "best",
        "epoch": run.run.epoch,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_path_is_in_a_file(files, kind):
    content = files[kind].read_bytes()
    if kind == "pt2":
        with zipfile.ZipFile(files[kind]) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for text in (b"/fastsquid/", b"site-packages", bytes(XRAYS.parent.parent), bytes(files[kind].parent)):
        assert text not in content
    # With the letters before it: three bytes alone are found in the weights of every twentieth training.
    assert not re.search(rb"[a-z_]{3}\.py\b", content)


def test_the_example_needs_no_torch(by_residual, files, tmp_path):
    """docs/commands/export.md scores images with ONNX Runtime alone; its numbers are ours."""
    (example,) = blocks(page("commands/export.md"), "python")
    shutil.copy(files["onnx"], tmp_path / "scorer.onnx")
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'fastsquid', 'onnx', 'onnxscript')))\n"
    paths = sorted((XRAYS / "test").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", blocked + example, *paths], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.array([re.fullmatch(r".*: (\S+) (\S+) (\S+)", line).groups() for line in done.stdout.split("\n")[:-1]])
    run = fastsquid.load(by_residual)
    scores = run.score(paths)
    for column, expected in zip(found.astype(float).T, (scores, run.calibrated(scores), run.percentile(scores))):
        np.testing.assert_allclose(column, expected, rtol=1e-3, atol=1e-3)
    assert len(found) == 4 and len(set(found[:, 0])) == 4


# --verify


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_not_utf_8(files, tmp_path, kind):
    read, path = portable.READERS[kind], shutil.copy(files[kind], tmp_path / "x\udcff\n.bin")
    assert read(str(path))(IMAGES[:1]).keys() == read(str(files[kind]))(IMAGES[:1]).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_verify_prints_differences_and_speeds(by_residual, files, tmp_path, command, kind, monkeypatch):
    monkeypatch.setitem(portable.WRITERS, kind, lambda _, file: file.write(files[kind].read_bytes()))
    out = tmp_path / "scorer.file"
    code, said, err = command(export.main, by_residual, "--to", kind, "--out", out, "--verify")
    assert code == 0 and not err and out.read_bytes() == files[kind].read_bytes()
    number = r" +(\d\.\de[-+]\d\d)"
    differences = re.search(rf"^66 images, in batches of 1 and of 7\n.*\nlargest difference{number * 4}$", said, re.M)
    assert max(map(float, differences.groups())) < 1e-3
    for who in ("fastsquid", portable.RUNTIMES[kind]):
        assert all(float(speed) > 0 for speed in re.search(rf"^{who} +([\d.]+) +([\d.]+)$", said, re.M).groups())
    assert f"threads: {torch.get_num_threads()} " in said and said.splitlines()[-1].startswith(str(out))


def test_verify_fails_where_a_weight_is_another(by_residual, files, tmp_path, command, monkeypatch):
    def tampered(scorer, file):
        model = onnx.load(files["onnx"])
        name = "detector.generator.student.output.weight"
        (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
        file.write(model.SerializeToString())

    monkeypatch.setitem(portable.WRITERS, "onnx", tampered)
    out = tmp_path / "scorer.onnx"
    out.write_text("old")
    code, said, err = command(export.main, by_residual, "--to", "onnx", "--out", out, "--overwrite", "--verify")
    assert code == 2 and "largest difference" in said
    assert re.fullmatch(rf"error: {out} .*\bscore\b.* [\d.e-]+ .*\b{verification.LIMIT}\b.*\n", err)
    assert [path.name for path in tmp_path.iterdir()] == ["scorer.onnx"] and out.read_text() == "old"


@pytest.mark.parametrize("output", ["score", "logit", "residual_map", "anomaly_map"])
@pytest.mark.parametrize("size", [1, 7])
def test_a_difference_in_one_output_of_one_batch_size_is_found(ours, output, size):
    def other(images):
        answer = answers_of(ours, images)
        if len(images) == size:
            last = answer[output].reshape(-1)[-1:]
            last += 0.002 * np.ravel(verification._units(ours)[output])[-1]
        return answer

    largest, _ = verification.compare(ours, other, IMAGES[:10])
    assert {name for name, difference in largest.items() if difference > 1e-3} == {output}
    with pytest.raises(UserError, match=rf"^it .*\b{output} .*\b0.002\b"):
        verification.require_agreement(largest, "it")


def test_scores_of_logits_count_in_logits():
    """Also where `combined` divides by small deviations, as after a short training."""
    scorer = scorer_of("fastsquid-small")
    scorer.detector.usual[:, 1] = 1e-4

    def other(images):
        answer = answers_of(scorer, images)
        return {**answer, "score": answer["score"] + np.float32(5)}  # of 20,000 per logit

    largest, _ = verification.compare(scorer, other, IMAGES[:8])
    assert largest["score"] == pytest.approx(5 / 2e4, rel=0.01)


def test_residual_scores_count_in_deviations():
    scorer = scorer_of("auto-encoder-small")
    assert scorer.calibration["residual"].std < 0.1  # in which a difference of 0.001 would be little
    shift = 0.002 * scorer.calibration["residual"].std

    def other(images):
        answer = answers_of(scorer, images)
        return {**answer, "score": answer["score"] + np.float32(shift)}

    largest, _ = verification.compare(scorer, other, IMAGES[:8])
    assert largest["score"] == pytest.approx(0.002, rel=0.01)


def test_not_a_number_is_a_difference():
    with pytest.raises(UserError, match=r"^it .*\bscore .*\bnan\b"):
        verification.require_agreement({"score": float("nan")}, "it")
    verification.require_agreement({"score": 1e-3}, "it")


def test_images_are_real_ones_of_the_run(unbroken):
    scorer = fastsquid.load(unbroken)
    images = real_images(scorer.run.record, 66)
    test = to_unit(read_images(find_images(XRAYS / "test"), 64)[0])
    assert images.shape == (66, 1, 64, 64) and images.dtype == torch.float32
    for image in images:
        assert any(torch.equal(image, one) for one in test)
    assert len({image.numpy().tobytes() for image in images}) == 4
    other = real_images(scorer.run.record, 66, XRAYS / "val" / "NORMAL")
    assert len({image.numpy().tobytes() for image in other}) == 3


# What is refused


def test_refusals(unbroken, tmp_path, refused, monkeypatch):
    out = tmp_path / "out" / "scorer.onnx"
    out.parent.mkdir()

    def error(*arguments):
        return refused(export.main, *arguments, "--out", out)

    assert re.search("--data .*--verify", error(unbroken, "--to", "pt2", "--data", XRAYS))
    assert re.search("--anonymous .*--verify", error(unbroken, "--to", "pt2", "--anonymous"))
    assert re.search("--accept-view .*--verify", error(unbroken, "--to", "pt2", "--accept-view", "lateral"))
    assert re.search("--data .*empty", error(unbroken, "--to", "pt2", "--verify", "--data", ""))
    assert "'coreml'" in error(unbroken, "--to", "coreml")
    assert f"{tmp_path} " in error(tmp_path, "--to", "onnx")
    assert "nowhere " in error(unbroken, "--to", "onnx", "--verify", "--data", "nowhere")
    unfinished = shutil.copytree(unbroken, tmp_path / "run")
    (unfinished / "maps.safetensors").unlink()
    said = error(unfinished, "--to", "onnx")
    assert f"{unfinished} has no maps" in said and f"python -m fastsquid.train --resume {unfinished}" in said
    assert f"{out.parent} " in refused(export.main, unbroken, "--to", "pt2", "--out", out.parent)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            assert re.search(rf"\b{name}\b.*pip install onnx onnxruntime onnxscript", error(unbroken, "--to", "onnx"))
            portable.require_packages("pt2")
    assert not list(out.parent.iterdir())


def test_an_existing_file_is_kept(by_residual, files, tmp_path, command, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "scorer.pt2"  # the default
    out.write_text("old")
    said = refused(export.main, "no run at all", "--to", "pt2")
    assert f"{out.name} exists" in said and "--overwrite" in said and out.read_text() == "old"
    monkeypatch.setitem(portable.WRITERS, "pt2", lambda _, file: file.write(b"new"))
    assert command(export.main, by_residual, "--to", "pt2", "--overwrite")[0] == 0 and out.read_text() == "new"


def test_a_full_disk(by_residual, tmp_path):
    """Where PyTorch's own writer would end the process."""
    (tmp_path / "s").write_text("old")
    done = subprocess.run(
        [python(), "-m", "fastsquid.export", by_residual, "--to", "pt2", "--out", tmp_path / "s", "--overwrite"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and os.strerror(errno.EFBIG) in done.stderr
    assert (tmp_path / "s").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
