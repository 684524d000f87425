"""A run as one graph of tensors, for other programs: what `python -m fastsquid.export` writes.

The graph holds what turns an image into its score and maps, and nothing that is decided about them afterwards:
threshold, quantiles and calibration are a JSON document beside it.
"""

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..data.framing import RULE
from ..errors import UserError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..model.memory import SpaceAwareMemory
from .maps import forward_maps

FORMAT = 1
PROPERTY, DOCUMENT = "fastsquid", "fastsquid.json"  # where the JSON is, in ONNX's metadata and in a pt2 file
INPUT, BATCH = "images", "batch"
# The exporter's own: nothing is converted from one to another, and ONNX Runtime has read it since 1.14.
OPSET = 18


class Portable(nn.Module):
    """Images, float32 (B, 1, S, S) in [0, 1] -> dict of float32 tensors, of any B from 1.

    `score` (B,), the one that the run ranks by, larger = more abnormal; where there is a discriminator `logit` (B,),
    what it says of the image or of its reconstruction, as the score asks, larger = more like a healthy one;
    `residual_map` (B, S, S), the smoothed squared error; `anomaly_map` (B, S, S), the map that explains the score, in
    standard deviations from the training images at each pixel. Of a group only `score` and `anomaly_map`, the means
    over its runs.

    Args:
        scorer: a `Scorer` of a finished run or group, on the CPU; it is copied.

    Raises:
        UserError: the run has no maps, as before it has finished.
    """

    def __init__(self, scorer: Any):
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
        """Return the outputs that the class describes, of images float32 (B, 1, S, S) in [0, 1]."""
        config = self.detector.config
        drawn = self.detector.draw(images)
        scores, _ = self.detector.scores(images, drawn)
        maps = forward_maps(self.detector, images, drawn)
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
    """The score that is minus the logit; where the run ranks by another, the papers'; None without discriminator.

    None too of a group, whose scores are standardized.
    """
    config = detector.config
    if not config.discriminator or isinstance(detector, Ensemble):
        return None
    return config.score if config.score.startswith("discriminator") else "discriminator"


def output_names(detector: Detector | Ensemble) -> list[str]:
    """The outputs of a detector's graph, in their order."""
    if isinstance(detector, Ensemble):
        return ["score", "anomaly_map"]
    return ["score", *["logit"] * detector.config.discriminator, "residual_map", "anomaly_map"]


def describe(scorer: Any) -> dict[str, Any]:
    """What must be known to read the graph's numbers, JSON-able; of the run's folder and images nothing is named."""
    config, run, name = scorer.detector.config, scorer.run, scorer.score_name
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
        "input_check": False,  # the graph has no `unlike_training`: whoever scores images must look at them
        "checkpoint": run.checkpoint,
        "epoch": run.epoch,
    }


def exported(scorer: Any) -> torch.export.ExportedProgram:
    """The run's `Portable` as a program of torch.export, without the paths of the code that it was made from."""
    size = scorer.image_size
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            Portable(scorer),
            (torch.zeros(2, 1, size, size),),  # one image would be taken to mean that there is always one
            dynamic_shapes={INPUT: {0: torch.export.Dim(BATCH)}},
            strict=False,
        ).run_decompositions({})  # autocast regions, which a file cannot hold, become plain; scores not asked for go
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(scorer: Any, file: IO[bytes]) -> None:
    """Writes an ONNX file into an open one."""
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
    assert written is not None  # as it is without a path to write to
    model = written.model_proto
    for part in (model.graph, *model.graph.node):
        del part.metadata_props[:]  # from which line of whose code it is
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    entry = model.metadata_props.add()
    entry.key, entry.value = PROPERTY, json.dumps(describe(scorer))
    file.write(model.SerializeToString())


def write_pt2(scorer: Any, file: IO[bytes]) -> None:
    """Writes a file of torch.export into an open one."""
    program = exported(scorer)
    content = io.BytesIO()  # PyTorch's own writer ends the process where a disk is full
    with _quiet():
        torch.export.save(program, content, extra_files={DOCUMENT: json.dumps(describe(scorer))})
    file.write(content.getbuffer())


def read_onnx(path: str) -> Callable[[torch.Tensor], dict[str, np.ndarray]]:
    """An ONNX file in ONNX Runtime, on the CPU, with as many threads as PyTorch: function of images as `Portable`,
    but that it gives arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT: images.numpy()})))


def read_pt2(path: str) -> Callable[[torch.Tensor], dict[str, np.ndarray]]:
    """A file of torch.export: function as `read_onnx` gives it."""
    with open(path, "rb") as file, _quiet():
        module = torch.export.load(file).module()

    @torch.inference_mode()
    def answer(images):
        return {name: values.numpy() for name, values in module(images).items()}

    return answer


WRITERS = {"onnx": write_onnx, "pt2": write_pt2}
READERS = {"onnx": read_onnx, "pt2": read_pt2}
# What runs the file, for people.
RUNTIMES = {"onnx": "ONNX Runtime", "pt2": "torch.export"}


def require_packages(kind: str) -> None:
    """Raises UserError where a package is missing that writing or running a kind of file needs."""
    for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--to {kind} needs the package {name}: pip install 'fastsquid[export]'")


@contextmanager
def _quiet():
    """PyTorch's exporters warn of what PyTorch itself is made of, and log what else they could export."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
