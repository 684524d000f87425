"""The in-painting block: order of work, the patch code, the masked shortcut, its ablations."""

import copy
import pickle

import pytest
import torch
from conftest import DEVICE

from fastsquid.config import preset
from fastsquid.model.inpainting import InpaintingBlock, masked_shortcut
from fastsquid.ops.dispatch import HAS_TRITON

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")


def block(**changes):
    # 3 x 3 patches of 16, channels 32, 8 after the reduction, 2 x 2 cells: tokens of 32
    return InpaintingBlock(preset("digits", width=4, slots=10, shortcut=1.0, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(inpainting="memory"),
        dict(inpainting="convolution"),
        dict(memory="matrix"),
        dict(memory_scope="global"),
        dict(border="mask"),
        dict(shrinkage="none"),
        dict(shrinkage="hard"),
        dict(selection="published"),
    ],
)
def test_variants_keep_the_shape_and_give_gradients(changes):
    module, x = block(**changes), torch.randn(2 * 9, 32, 2, 2, requires_grad=True)
    module(x)
    module.memory.commit()
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert x.grad.any()
    unused = [name for name, p in module.named_parameters() if p.grad is None]
    assert unused == ["expand.0.bias"]  # BatchNorm follows: tests/test_layers.py


def test_keys_and_values_are_projected_once_a_patch():
    module, seen = block(), []
    module.mix.key_value.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].shape[:-1].numel()))
    module(torch.randn(2 * 9, 32, 2, 2))
    assert seen == [2 * 9]


def test_a_patch_sees_its_neighbors_and_not_itself():
    mix = block().mix
    query, memory = torch.randn(1, 3, 3, 32), torch.randn(1, 3, 3, 32, requires_grad=True)
    k, v = mix.key_value(memory).unflatten(-1, (2, 8, -1)).unbind(-3)
    v.retain_grad()
    from fastsquid.ops import neighbor_attention

    neighbor_attention(mix.query(query).unflatten(-1, (8, -1)), k, v)[0, 0, 1].sum().backward()
    touched = v.grad.abs().sum((0, 3, 4)) > 0
    assert touched.tolist() == [[True, False, True], [True, True, True], [False, False, False]]


@pytest.mark.parametrize("grid, size, planes", [(1, 48, 1), (2, 48, 3), (3, 48, 4), (4, 64, 5)])
def test_the_code_is_the_binary_patch_index(grid, size, planes):
    code = InpaintingBlock(preset("digits", grid=grid, image_size=size, width=8, decoder_memory=0)).code[:, :, 0, 0]
    assert code.shape == (grid**2, planes)
    weights = 2 ** torch.arange(planes - 1, -1, -1)
    assert (code @ weights.float()).tolist() == list(range(grid**2))


def test_queue_notes_the_tokens_channel_row_column():
    module, x = block(), torch.randn(1 * 9, 32, 2, 2)
    module(x)
    module.memory.commit()
    module.train()
    # Training mode again, so that BatchNorm gives the same.
    tokens = module.reduce(x)
    torch.testing.assert_close(module.memory.bank[:, 0], tokens.flatten(1))


def test_masked_shortcut():
    new, old = torch.ones(64, 3, 8, 8), torch.zeros(64, 3, 8, 8)
    out = masked_shortcut(new, old, 0.75, training=True)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert (out[:, :1] == out).all(), "a cell's channels share the mask"
    assert abs(out[:, 0].mean() - 0.75) < 0.03
    assert out[0, 0].any() and not out[:, 0].flatten(1).all(1).all()
    assert masked_shortcut(new, old, 0.75, training=False) is new
    assert masked_shortcut(new, old, 1.0, training=True) is new


def test_grid_of_one_is_the_constant():
    """G = 1: no neighbor at all, so attention gives Wo.bv + bo whatever the input."""
    mix = InpaintingBlock(preset("digits", grid=1, width=4, decoder_memory=0)).mix
    torch.nn.init.normal_(mix.value_bias)
    expected = mix.output(mix.value_bias)
    seen = []
    mix.output.register_forward_hook(lambda m, inputs, out: seen.append(out))
    dim = mix.value_bias.numel()
    mix(torch.randn(2, 1, 1, dim), torch.randn(2, 1, 1, dim))
    torch.testing.assert_close(seen[0], expected.expand(2, 1, 1, -1))


@pytest.mark.parametrize(
    "changes, impl",
    [
        *(
            (changes, "torch")
            for changes in ({}, dict(memory="matrix"), dict(memory_scope="global"), dict(border="mask"))
        ),
        pytest.param({}, "triton", marks=needs_triton),
    ],
    ids=str,
)
def test_folded_read_is_the_plain_one(changes, impl):
    module = InpaintingBlock(preset("digits", width=4, slots=10, **changes), impl).double().to(DEVICE)
    x = torch.randn(2 * 9, 32, 2, 2, dtype=torch.float64, device=DEVICE)
    module(x)
    module.memory.commit()
    module.eval()
    projected = []
    module.mix.key_value.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        plain = module(x)
    assert len(projected) == 1
    module.fold()
    assert module.folded.shape == (module.memory.num_regions, 10, 3 * 32)
    module.memory.reset_usage()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(module(x), plain)
    assert len(projected) == 1 and module.memory.reads.sum() > 0
    torch.testing.assert_close(module(x).detach(), plain)  # gradients are on
    assert len(projected) == 2
    with torch.no_grad():
        module.train()(x)
    assert len(projected) == 3


def test_a_folded_block_moves_as_if_folded_there():
    module, x = block().eval(), torch.randn(2 * 9, 32, 2, 2)
    module.memory.bank.normal_()
    module.memory.filled.fill_(10)
    there = copy.deepcopy(module).double()
    module.fold()
    there.fold()
    with torch.inference_mode():
        expected, expected_there = module(x), there(x.double())
        for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).double().float()):
            assert same.folded is not module.folded and torch.equal(same(x), expected)
        assert torch.equal(module.double()(x.double()), expected_there)
    assert "folded" not in "".join(module.state_dict())


@pytest.mark.parametrize("inpainting", ["convolution", "memory"])
def test_without_a_transformer_nothing_is_folded(inpainting):
    module = block(inpainting=inpainting)
    module.fold()
    assert module.folded is None
