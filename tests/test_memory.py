"""SpaceAwareMemory: shapes and answers, the queue's ring, scopes of the feature-map form, usage."""

import math
import pickle

import pytest
import torch
from conftest import XRAYS

import fastsquid
from fastsquid import SpaceAwareMemory, SpaceAwareMemory2d
from fastsquid.ops.reference import memory_read


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_answers():
    memory = SpaceAwareMemory(3, 10, 4)
    assert list(memory.state_dict()) == ["bank"] and memory.bank.abs().max() <= 0.5  # 1 / sqrt(4)
    x = randn(5, 3, 4)
    out, weights, indices = memory(x, return_weights=True, return_indices=True)
    assert torch.equal(memory(x), out) and out.shape == x.shape
    assert weights.shape == (5, 3, 10) and indices.shape == (5, 3, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 3))
    chosen = weights.gather(-1, indices)
    assert (chosen > 0).all() and (chosen.diff(dim=-1) <= 0).all() and ((weights > 0).sum(-1) == 5).all()
    assert torch.equal(memory(x, return_indices=True)[1], indices)
    torch.testing.assert_close(out, torch.einsum("brn,rnc->brc", weights, memory.bank))


def test_indices_of_inactive_slots_are_minus_one():
    memory = SpaceAwareMemory(2, 8, 4, top_k=3, selection="published")
    _, indices = memory(randn(4, 2, 4), return_indices=True)
    assert (indices[..., :2] >= 0).all() and (indices[..., 2] == -1).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(top_k=9), "top_k = 9 .*num_slots = 8"),
        (dict(top_k=2.0), "top_k = 2.0 .*whole number"),
        (dict(top_k=True), "top_k = True .*whole number"),
        (dict(kind="stack"), "kind = 'stack'"),
        (dict(selection="best"), "selection = 'best'"),
        (dict(shrinkage="soft"), "shrinkage = 'soft'"),
        (dict(top_k=0), "top_k = 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpaceAwareMemory(2, 8, 4, **arguments)


def test_bad_input_names_the_shape():
    with pytest.raises(ValueError, match=r"\(B, 2, 4\), got \(3, 4, 2\)"):
        SpaceAwareMemory(2, 8, 4)(randn(3, 4, 2))


def write(memory, x):
    memory.train()
    memory(x)
    memory.commit()


def test_queue_is_a_ring():
    """Every batch size after every other, against a list that is appended to."""
    memory, written = SpaceAwareMemory(2, 7, 3, kind="queue"), []
    for step, count in enumerate([3, 1, 5, 7, 9, 2, 16, 6]):
        batch = randn(count, 2, 3, seed=step)
        write(memory, batch)
        written += list(batch)
        for position, row in list(enumerate(written))[-7:]:
            assert torch.equal(memory.bank[:, position % 7], row)
        assert memory.pointer == len(written) % 7 and memory.filled == min(len(written), 7)


def test_queue_is_read_before_it_is_written():
    memory, x = SpaceAwareMemory(2, 7, 3, kind="queue"), randn(4, 2, 3)
    assert not memory(x).any()  # nothing filled
    memory.commit()
    torch.testing.assert_close(memory(x), memory_read(x, memory.bank[:, :4], 4)[0])


def test_only_commit_writes_and_only_the_latest_training_forward():
    memory = SpaceAwareMemory(2, 7, 3, kind="queue")
    first, second, other = randn(2, 2, 3), randn(2, 2, 3, seed=1), randn(2, 2, 3, seed=2)
    memory(first)
    memory(second)  # the later pass of the same step
    with torch.no_grad():
        memory(other)  # a pass for the discriminator
    memory.eval()
    memory(other)
    assert memory.filled == 0
    memory.commit()
    memory.commit()
    assert memory.filled == 2 and torch.equal(memory.bank[:, :2], second.transpose(0, 1))


def test_a_queue_can_be_filled_without_gradients():
    memory = SpaceAwareMemory(2, 7, 3, kind="queue")
    with torch.no_grad():
        memory(randn(2, 2, 3))
    memory.commit()
    assert memory.filled == 2


def test_queue_state_travels():
    memory = SpaceAwareMemory(2, 7, 3, kind="queue")
    write(memory, randn(9, 2, 3))
    other = SpaceAwareMemory(2, 7, 3, kind="queue")
    other.load_state_dict(memory.state_dict())
    write(memory, randn(3, 2, 3, seed=1))
    write(other, randn(3, 2, 3, seed=1))
    assert set(memory.state_dict()) == {"bank", "pointer", "filled"}
    for name, value in memory.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert memory.pointer == (9 + 3) % 7


def test_queue_has_no_gradient_and_matrix_has():
    x = randn(2, 2, 3).requires_grad_()
    queue, matrix = SpaceAwareMemory(2, 7, 3, kind="queue"), SpaceAwareMemory(2, 7, 3)
    write(queue, randn(7, 2, 3))
    assert not list(queue.parameters())
    queue(x).sum().backward()
    matrix(x).sum().backward()
    assert x.grad.any() and matrix.bank.grad.any() and not queue.bank.requires_grad
    matrix.commit()  # nothing to write


def test_usage():
    memory = SpaceAwareMemory(2, 8, 4, top_k=2)
    with torch.no_grad():
        memory.bank.zero_()
        memory.bank[:, :4] = torch.eye(4)
    memory(torch.eye(4)[:, None].repeat(1, 2, 1) * 9)
    usage = memory.usage()
    # Query i reads slot i, and of the equals the lowest other: 0 for 1, 2, 3 and 1 for 0.
    counts = torch.tensor([4, 2, 1, 1]) / 8
    assert usage["active"].tolist() == [4, 4] and usage["dead"].tolist() == [4, 4]
    torch.testing.assert_close(usage["entropy"], torch.full((2,), -(counts * counts.log()).sum().item()))
    memory.reset_usage()
    assert memory.usage()["active"].tolist() == [0, 0]


def test_usage_of_a_queue_counts_filled_slots_only():
    memory = SpaceAwareMemory(1, 8, 4, top_k=2, kind="queue")
    write(memory, randn(5, 1, 4))
    memory(randn(1, 1, 4, seed=1))
    assert memory.usage()["active"].item() == 2 and memory.usage()["dead"].item() == 3
    assert memory.usage()["entropy"] <= math.log(2) + 1e-6


@pytest.mark.parametrize("scope, regions, rows", [("patch", 9, 2), ("subwindow", 4, 18), ("global", 1, 72)])
def test_feature_map_scopes(scope, regions, rows):
    memory = SpaceAwareMemory2d(2, (12, 12), grid=3, num_slots=6, scope=scope, top_k=3)
    x = randn(2, 2, 12, 12)
    seen = []
    memory.memory.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    out = memory(x)
    assert out.shape == x.shape and memory.memory.num_regions == regions and seen[0].shape[0] == rows
    # By hand, window by window.
    side = 4 if scope == "patch" else 2
    for image in range(2):
        for i in range(0, 12, side):
            for j in range(0, 12, side):
                region = {"patch": i // 4 * 3 + j // 4, "subwindow": i // 2 % 2 * 2 + j // 2 % 2, "global": 0}[scope]
                window = x[image, :, i : i + side, j : j + side]
                expected, _ = memory_read(window.reshape(1, 1, -1), memory.memory.bank[region : region + 1], 3)
                torch.testing.assert_close(out[image, :, i : i + side, j : j + side], expected.view_as(window))


@pytest.mark.parametrize("scope", ["patch", "subwindow", "global"])
def test_feature_map_keeps_its_layout(scope):
    memory, x = SpaceAwareMemory2d(2, (12, 12), grid=3, num_slots=6, scope=scope), randn(4, 2, 12, 12)
    out, moved = memory(x), memory(x.to(memory_format=torch.channels_last))
    assert torch.equal(out, moved)
    assert out.is_contiguous() and moved.is_contiguous(memory_format=torch.channels_last)


def test_feature_map_of_another_shape_than_square():
    memory = SpaceAwareMemory2d(3, (4, 8), grid=2, num_slots=6)
    assert memory(randn(2, 3, 4, 8)).shape == (2, 3, 4, 8)


def test_feature_map_of_a_wrong_shape_is_named():
    memory = SpaceAwareMemory2d(4, (8, 8), grid=2, num_slots=6)
    for shape in ((1, 2, 16, 8), (1, 4, 12, 12)):
        with pytest.raises(ValueError, match=r"\(B, 4, 8, 8\)"):
            memory(randn(*shape))


def test_feature_map_queue():
    memory = SpaceAwareMemory2d(2, (4, 4), grid=2, num_slots=6, kind="queue")
    x = randn(3, 2, 4, 4)
    memory(x)
    memory.commit()
    assert memory.memory.filled == 3
    memory(x)
    assert (memory.usage()["active"] == 3).all() and memory.usage()["active"].shape == (4,)


@pytest.mark.parametrize(
    "arguments, message",
    [((2, (8, 8), 0, 6), "grid = 0 "), ((2, (8, 8), -2, 6), "grid = -2 "), ((2, (-8, 8), 2, 6), "height = -8 ")]
    + [((2, "88", 2, 6), "height = '8' "), ((2, 8, 2, 6), "size = 8 ")],
)
def test_sizes_of_a_feature_map(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpaceAwareMemory2d(*arguments)


def test_feature_map_that_cannot_be_cut():
    with pytest.raises(ValueError, match="12 x 12 .* 8 x 8 "):
        SpaceAwareMemory2d(2, (12, 12), grid=4, num_slots=6, scope="subwindow")
    with pytest.raises(ValueError, match="scope = 'window'"):
        SpaceAwareMemory2d(2, (12, 12), grid=3, num_slots=6, scope="window")
    for size in (12, (12,), (2, 12, 12)):
        with pytest.raises(ValueError, match=r"size = .* \(height, width\)"):
            SpaceAwareMemory2d(2, size, grid=2, num_slots=6)


@pytest.mark.filterwarnings("default")  # torch.compile warns while it traces
def test_compiles_without_a_graph_break():
    for kind in ("matrix", "queue"):
        memory, x = SpaceAwareMemory(2, 8, 4, kind=kind), randn(3, 2, 4)
        expected = memory(x)
        compiled = torch.compile(memory, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)


def test_a_queue_keeps_what_it_read_not_what_the_caller_makes_of_it():
    memory = SpaceAwareMemory(1, 8, 4, kind="queue")
    with torch.no_grad():
        x = torch.ones(3, 1, 4)
        memory(x)
        x -= 7
    memory.commit()
    assert torch.equal(memory.bank[0, :3], torch.ones(3, 4))


def test_loading_forgets_counts_and_noted_queries():
    """They are of slots that are replaced. A pickled memory holds no features of a batch either."""
    memory = SpaceAwareMemory(1, 8, 4, kind="queue")
    memory(randn(8, 1, 4))
    memory.commit()
    memory(randn(50, 1, 4))
    copy = pickle.loads(pickle.dumps(memory))
    copy.commit()
    assert torch.equal(copy.bank, memory.bank) and copy.usage()["active"].sum() > 0
    memory.load_state_dict(SpaceAwareMemory(1, 8, 4, kind="queue").state_dict())
    assert memory.usage()["active"].tolist() == memory.usage()["dead"].tolist() == [0]
    memory.commit()
    assert memory.filled == 0


def test_a_replica_of_data_parallel_is_no_queue():
    memory = SpaceAwareMemory(1, 8, 4, kind="queue")
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        memory._replicate_for_data_parallel()(randn(4, 1, 4))
    memory.eval()._replicate_for_data_parallel()(randn(4, 1, 4))


@pytest.mark.parametrize("kind", ["matrix", "queue"])
def test_a_memory_of_the_meta_device_is_initialized_later(kind):
    with torch.device("meta"):
        memory = SpaceAwareMemory(2, 8, 4, kind=kind)
    memory.to_empty(device="cpu").reset_parameters()
    torch.manual_seed(0)
    memory.reset_parameters()
    torch.manual_seed(0)
    expected = SpaceAwareMemory(2, 8, 4, kind=kind)
    assert all(torch.equal(one, other) for one, other in zip(memory.buffers(), expected.buffers(), strict=True))
    assert torch.equal(memory.bank, expected.bank)


def test_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        scores = fastsquid.load("zhanglab").score([XRAYS / "test" / "0000.jpeg"])
    finally:
        torch.set_default_dtype(torch.float32)
    assert scores.tolist() == pytest.approx(fastsquid.load("zhanglab").score([XRAYS / "test" / "0000.jpeg"]).tolist())
