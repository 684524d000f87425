"""A run as one graph of tensors for other programs, as `python -m fastsquid.export` writes it.

The graph turns images into scores and maps. Threshold, quantiles and calibration are not part of it: they are in a JSON
document inside the file.
"""

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..api import Scorer
from ..data.framing import RULE
from ..errors import UserError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..model.memory import SpaceAwareMemory
from ..scoring.maps import forward_maps

FORMAT = 1
PROPERTY, DOCUMENT = "fastsquid", "fastsquid.json"  # where the JSON is, in ONNX's metadata and in a pt2 file
INPUT, BATCH = "images", "batch"
# PyTorch's exporter writes this version itself, so nothing is converted. ONNX Runtime reads it since 1.14.
OPSET = 18


class Portable(nn.Module):
    """Compute the score and the maps of images. The outputs are float32:

    - `score` (B,): the score that the run ranks by, larger = more abnormal.
    - `logit` (B,): the discriminator's logit of the image or of its reconstruction, whichever the score uses; larger =
      more like a healthy image. Absent without a discriminator.
    - `residual_map` (B, S, S): the smoothed squared error.
    - `anomaly_map` (B, S, S): the map that explains the score, in standard deviations from the training images at each
      pixel.

    A group has only `score` and `anomaly_map`, the means over its runs.

    Args:
        scorer: of a finished run or group, on the CPU; it is copied.

    Raises:
        UserError: the run has no maps, because it is not finished.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        mean, deviation = scorer.normal_map()
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.detector = copy.deepcopy(scorer.detector)
        for module in self.detector.modules():
            if isinstance(module, SpaceAwareMemory):
                module.reads = None  # a graph counts nothing

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return {output: tensor} of images, float32 (B, 1, S, S) in [0, 1] with B at least 1."""
        config = self.detector.config
        detector: Any = self.detector  # what `reconstruct` returns differs between a detector and an ensemble
        reconstructed = detector.reconstruct(images)
        scores, _ = detector.scores(images, reconstructed)
        maps = forward_maps(self.detector, images, reconstructed)
        anomaly = (maps[config.map] - self.mean) / self.deviation
        if isinstance(self.detector, Ensemble):
            return {"score": scores[config.score], "anomaly_map": anomaly.mean(1)}
        logit = logit_name(self.detector)
        return {
            "score": scores[config.score],
            **({"logit": -scores[logit]} if logit else {}),
            "residual_map": maps["residual"],
            "anomaly_map": anomaly,
        }


def logit_name(detector: Detector | Ensemble) -> str | None:
    """Return the score that is minus the output `logit`.

    It is `Config.logit`, and None for a group, whose scores are standardized.
    """
    return None if isinstance(detector, Ensemble) else detector.config.logit


def output_names(detector: Detector | Ensemble) -> list[str]:
    """Return the names of a graph's outputs, in their order."""
    if isinstance(detector, Ensemble):
        return ["score", "anomaly_map"]
    return ["score", *["logit"] * detector.config.discriminator, "residual_map", "anomaly_map"]


def describe(scorer: Scorer) -> dict[str, Any]:
    """Return what a reader of the graph's numbers must know, as JSON values. It names no folder and no image."""
    config, run, name = scorer.detector.config, scorer.run, scorer.score_name
    assert scorer.calibration is not None  # a run with maps is calibrated
    calibration = scorer.calibration[name]
    return {
        "format": FORMAT,
        "fastsquid": __version__,
        "preset": config.preset,
        "score": name,
        "logit": logit_name(scorer.detector),
        "map": scorer.map_name,
        "image_size": config.image_size,
        "value_range": [0, 1],
        "crop": config.crop,
        "crop_rule": RULE if config.crop else None,
        "calibration": {"mean": calibration.mean, "std": calibration.std},
        "quantiles": calibration.quantiles,
        "threshold": run.validation[name]["threshold"] if run.validation else None,
        "trained_on": run.record.trained_on,
        "input_check": False,  # the graph has no `unlike_training`: its user must look at the images
        "checkpoint": run.checkpoint,
        "epoch": run.epoch,
    }


def exported(scorer: Scorer) -> torch.export.ExportedProgram:
    """Return the run's `Portable` as a program of torch.export, without paths of source files."""
    size = scorer.image_size
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            Portable(scorer),
            (torch.zeros(2, 1, size, size),),  # with a batch of one, the exporter would fix the batch size
            dynamic_shapes={INPUT: {0: torch.export.Dim(BATCH)}},
            strict=False,
        ).run_decompositions({})  # removes autocast regions, which a file cannot hold, and unused scores
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(scorer: Scorer, file: IO[bytes]) -> None:
    """Write the run as ONNX into an open file."""
    program = exported(scorer)
    with _quiet():
        written = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=output_names(scorer.detector),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert written is not None  # it is None only with a path to write to
    model = written.model_proto
    for part in (model.graph, *model.graph.node):
        del part.metadata_props[:]  # paths and lines of source files
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    entry = model.metadata_props.add()
    entry.key, entry.value = PROPERTY, json.dumps(describe(scorer))
    file.write(model.SerializeToString())


def write_pt2(scorer: Scorer, file: IO[bytes]) -> None:
    """Write the run as torch.export does into an open file."""
    program = exported(scorer)
    content = io.BytesIO()  # PyTorch's own writer ends the process if the disk is full
    with _quiet():
        torch.export.save(program, content, extra_files={DOCUMENT: json.dumps(describe(scorer))})
    file.write(content.getbuffer())


def read_onnx(path: str) -> Callable[[torch.Tensor], dict[str, np.ndarray]]:
    """Open an ONNX file in ONNX Runtime, on the CPU, with as many threads as PyTorch.

    Returns:
        a function that takes images as `Portable` does and returns {output: float32 array}.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = Path(path).read_bytes()  # ONNX Runtime cannot open a path that is not UTF-8
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT: images.numpy()})))


def read_pt2(path: str) -> Callable[[torch.Tensor], dict[str, np.ndarray]]:
    """Open a file of torch.export; return a function like that of `read_onnx`."""
    with open(path, "rb") as file, _quiet():
        module = torch.export.load(file).module()

    @torch.inference_mode()
    def answer(images):
        return {name: values.numpy() for name, values in module(images).items()}

    return answer


WRITERS = {"onnx": write_onnx, "pt2": write_pt2}
READERS = {"onnx": read_onnx, "pt2": read_pt2}
# The programs that run the files, for messages.
RUNTIMES = {"onnx": "ONNX Runtime", "pt2": "torch.export"}


def require_packages(kind: str) -> None:
    """Check that the packages are installed that writing and running a kind of file need.

    Raises:
        UserError: one is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--to {kind} needs the package {name}: pip install onnx onnxruntime onnxscript")


@contextmanager
def _quiet():
    """Silence the warnings and log lines of PyTorch's exporters, which are about PyTorch's own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
