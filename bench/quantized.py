"""`python bench/quantized.py RUN DATA OUT.md`: may an exported run compute in int8 or bfloat16?

The run is written as ONNX, as `python -m fastsquid.export` does, and its convolutions and matrix products are quantized
to int8 by ONNX Runtime, with ranges from training images. The file says how much the score differs on the validation
images, what that costs in AUC, and the time of a batch of 16. Bfloat16 is PyTorch's, because ONNX Runtime has no
convolution for it on a CPU. Its time counts only where the processor multiplies it natively.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from cpu import seconds_of
from rows import about
from sklearn.metrics import roc_auc_score

import fastsquid
from fastsquid.data import open_data
from fastsquid.exporting.portable import INPUT, read_onnx, write_onnx
from fastsquid.utils.allocator import keep_freed_memory
from fastsquid.utils.cli import Parser, run_command
from fastsquid.utils.devices import multiplies_bfloat16
from fastsquid.utils.files import replacing

BATCH, RANGES = 16, 128


def unit(images):
    """Images of a split, uint8, as a graph takes them."""
    return images.float() / 255


def quantized(source, target, images):
    """Write the ONNX file `source` with int8 convolutions and matrix products; `images` give the ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(images.split(BATCH))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # AVX2 adds two int8 products in 16 bits, which overflow with all bits in use.
        reduce_range="avx512_vnni" not in Path("/proc/cpuinfo").read_text(),
    )


def answers(graph, images):
    """{output: array (N, ...)} of all images."""
    found = [graph(batch) for batch in images.split(BATCH)]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def bfloat16(folder):
    """The run's score in bfloat16, as a graph with this one output."""
    run = fastsquid.load(folder, device="cpu", precision="bf16")
    return lambda images: {"score": run.scores(images, len(images), cropped=True)[run.score_name]}


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    for name in ("run", "data", "out"):
        parser.add_argument(name)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    run = fastsquid.load(options.run, device="cpu", impl="torch")
    data = open_data(options.data, size=run.image_size, splits=("train", "val"), crop=run.crop)
    images, labels = unit(data["val"].images), data["val"].labels
    ranges = unit(data["train"].images)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        with open(whole, "wb") as file:
            write_onnx(run, file)
        quantized(whole, small, ranges[:: len(ranges) // RANGES][:RANGES])
        sizes = {name: f"{path.stat().st_size / 1e6:.1f}" for name, path in (("float32", whole), ("int8", small))}
        graphs = {"float32": read_onnx(str(whole)), "int8": read_onnx(str(small)), "bfloat16": bfloat16(options.run)}
        found = {name: answers(graph, images) for name, graph in graphs.items()}
        taken = {name: seconds_of(lambda graph=graph: graph(images[:BATCH])) for name, graph in graphs.items()}
    if not multiplies_bfloat16(torch.device("cpu")):
        taken.pop("bfloat16")
    expected = found["float32"]
    facts = about(torch.device("cpu"))
    lines = [
        "# Exported runs in int8 and bfloat16",
        "",
        f"Written by `python bench/quantized.py` on {facts['device']}, PyTorch {facts['torch']}: "
        f"`{run.detector.config.preset}`, {len(images)} validation images, {RANGES} training images for the ranges of "
        "int8. Float32 and int8 ran in ONNX Runtime, bfloat16 in PyTorch. Differences are in standard deviations of "
        "the score over these images.",
        "",
        f"| arithmetic | file, MB | {BATCH} images, ms | validation AUC | largest difference of the score | mean |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, outputs in found.items():
        away = np.abs(outputs["score"] - expected["score"]) / expected["score"].std()
        lines.append(
            f"| {name} | {sizes.get(name, '')} | {f'{1e3 * taken[name]:.1f}' if name in taken else 'not measured'} | "
            f"{roc_auc_score(labels, outputs['score']):.4f} | {away.max():.2g} | {away.mean():.2g} |"
        )
    with replacing(options.out) as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_command(main)
