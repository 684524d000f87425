"""Wrong kernels are caught: each deliberate mistake below makes the test named beside it fail."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import test_memory_read as memory  # noqa: E402
import test_neighbor_attention as attention  # noqa: E402
from kernel_checks import change_blocks  # noqa: E402

import fastsquid.kernels  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")


def in_one_program(check):
    with pytest.MonkeyPatch.context() as patch:
        change_blocks(patch, dots_programs=1, gather_programs=2)
        check()


def on_hopper(check):
    with pytest.MonkeyPatch.context() as patch:
        check(patch)


MISTAKES = {
    "the last C-block is dropped": (
        "products",
        "tl.minimum(z * chunk + chunk, C), BLOCK_C)",
        "tl.minimum(z * chunk + chunk, C) // BLOCK_C * BLOCK_C, BLOCK_C)",
        lambda: memory.test_values_and_gradients((2, 3, 31, 63, 5)),
    ),
    "the last partial sum is dropped": (
        "rows",
        "mask=(n < pitch) & (z < splits), other=0.0)",
        "mask=(n < pitch) & (z < splits - 1), other=0.0)",
        lambda: memory.test_values_and_gradients((2, 2, 20, 700, 5)),
    ),
    "the weights are not renormalized": (
        "rows",
        "weight = weight / tl.where(total < 1e-12, 1e-12, total)",
        "weight = weight * 1.0",
        lambda: memory.test_values_and_gradients((3, 2, 10, 20, 3)),
    ),
    "ties go to the highest index": (
        "rows",
        "best, i = tl.max(left, 0, return_indices=True, return_indices_tie_break_left=True)",
        "best = tl.max(left, 0); i = tl.max(tl.where(left == best, n, -1), 0)",
        memory.test_ties_go_to_the_lowest_index,
    ),
    "the published rule keeps the k-th": (
        "rows",
        "(weight <= kth)",
        "(weight < kth)",
        lambda: memory.test_published_rule(5),
    ),
    "a queue's unfilled slots are read": (
        "products",
        "return tl.minimum(tl.load(filled_ptr, mask=queue != 0, other=N), N).to(tl.int32)",
        "return N + 0 * queue",
        memory.test_only_filled_slots_are_read,
    ),
    "the last column is not written": (
        "rows",
        "out.to(out_ptr.dtype.element_ty), mask=c < V)",
        "out.to(out_ptr.dtype.element_ty), mask=c < V - 1)",
        lambda: memory.test_values_and_gradients((3, 2, 10, 20, 3)),
    ),
    "columns after a program's first block are not written": (
        "rows",
        "tl.minimum(first + chunk, V), BLOCK_C)",
        "tl.minimum(first + BLOCK_C, V), BLOCK_C)",
        lambda: in_one_program(lambda: memory.test_values_and_gradients((2, 2, 10, 1100, 3))),
    ),
    "the softmax's gradient lacks its mean": (
        "rows",
        "y * (dy - tl.sum(y * dy, 1)[:, None])",
        "y * dy",
        lambda: memory.test_values_and_gradients((3, 2, 10, 20, 3)),
    ),
    "dM lacks the value path": (
        "rows",
        "tl.store(column + width, h.to(columns_ptr.dtype.element_ty), mask=inside)",
        "tl.store(column + width, (0 * h).to(columns_ptr.dtype.element_ty), mask=inside)",
        lambda: memory.test_values_and_gradients((3, 2, 10, 20, 3)),
    ),
    "dM lacks the score path": (
        "products",
        "acc = tl.dot(x, w, acc, input_precision=PRECISION, out_dtype=ACC)",
        "acc = tl.dot(x, w * tl.where(second, 1, 0), acc, input_precision=PRECISION, out_dtype=ACC)",
        lambda: memory.test_values_and_gradients((3, 2, 10, 20, 3)),
    ),
    "a border case is dropped": (
        "neighbor_attention",
        " & (nj >= 0) & (nj < W)",
        " & (nj >= 0)",
        lambda: attention.test_values_and_gradients((1, 3, 5, 2, 31), "mask"),
    ),
    "one neighbor is dropped": (
        "neighbor_attention",
        "for n in tl.range(8,",
        "for n in tl.range(7,",
        lambda: attention.test_values_and_gradients((1, 3, 5, 2, 31), "pad"),
    ),
    "neighbors of the same row are a row away": (
        "neighbor_attention",
        "(di * stride_i)",
        "((di + 1) * stride_i)",
        lambda: on_hopper(lambda patch: attention.test_the_blocks_of_an_h100(attention.f32, "mask", patch)),
    ),
    "padded neighbors are not counted": (
        "neighbor_attention",
        "outside = tl.where(pad != 0, 0.0,",
        "outside = tl.where(pad < 0, 0.0,",
        lambda: attention.test_values_and_gradients((2, 2, 2, 2, 5), "pad"),
    ),
    "dk comes from the wrong side": (
        "neighbor_attention",
        "dk += ds[:, None] * q",
        "dk += ds[:, None] * k",
        lambda: attention.test_values_and_gradients((2, 2, 2, 2, 5), "pad"),
    ),
}


@pytest.mark.skipif(
    memory.DEVICE == "cuda", reason="the unmutated kernels are tested there; mutants are made in the interpreter"
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a wrong kernel may compute with garbage
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(mistake, tmp_path, monkeypatch):
    name, right, wrong, check = MISTAKES[mistake]
    source = Path(importlib.import_module(f"fastsquid.kernels.{name}").__file__).read_text()
    assert right in source, "the kernel has changed: the mistake should follow"
    check()
    mutant = load_mutant(name, source.replace(right, wrong), tmp_path, monkeypatch)
    if name == "neighbor_attention":
        monkeypatch.setattr(fastsquid.kernels, name, mutant)
    for kernel, value in vars(mutant).items():  # the launchers of memory_read take kernels from two modules
        if type(value) is type(fastsquid.kernels.memory_read._dots) and kernel in vars(fastsquid.kernels.memory_read):
            monkeypatch.setattr(fastsquid.kernels.memory_read, kernel, value)
    with pytest.raises(AssertionError):
        check()


def load_mutant(name, source, folder, monkeypatch):
    """The kernels of a changed source, as a module of fastsquid.kernels; `rows` and `products` share `_limit`."""
    (folder / f"{name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(f"fastsquid.kernels.wrong_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module
