"""The examples in the docstrings of the public objects below run as they stand."""

import doctest

import pytest

from fastsquid import SpaceAwareMemory, SpaceAwareMemory2d
from fastsquid.model.detector import Detector
from fastsquid.ops import memory_read, neighbor_attention


@pytest.mark.parametrize(
    "thing",
    [SpaceAwareMemory, SpaceAwareMemory2d, memory_read, neighbor_attention, Detector],
    ids=lambda thing: thing.__name__,
)
def test_example(thing):
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs={})
    failed, attempted = doctest.DocTestRunner().run(example)
    assert not failed and attempted
