"""A function of every copy: by vmap, and without it where there is one copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import Tree, each_copy, leaves


@pytest.mark.parametrize("count", [1, 3])
def test_one_copy_is_given_without_its_axis_and_its_result_gets_one(count: int) -> None:
    tree = {"w": torch.randn(count, 2, 3), "rest": [torch.arange(count), (torch.ones(count, 1),)]}
    fixed, seen = torch.ones(2), []

    def one(tree: Tree, factor: Tensor) -> Tree:
        seen.append((tree["w"].shape, torch._C._functorch.peek_interpreter_stack() is None))
        return {"sum": tree["w"].sum() * factor, "kept": (tree["rest"][0], fixed)}

    numbers = torch.arange(2.0, count + 2)
    found, expected = each_copy(one)(tree, numbers), torch.vmap(one)(tree, numbers)
    assert seen == [((2, 3), count == 1), ((2, 3), False)]
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert torch.equal(a, b) and a.shape == b.shape
