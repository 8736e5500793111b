"""Keys and random numbers against splitmix64 in Python's whole numbers, and several at once against one by one."""

from __future__ import annotations

import math

import pytest
import torch

from bilevel.backends.torch_func.keyed import MASK, bits, choose, fold, fold_each, make_key, mix, permutation, uniform

WORDS = ("amplitude", 7, "phase", 0, "x" * 300)


def finalised(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014) of a number of 64 bits."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_hash_is_splitmix64() -> None:
    numbers = torch.randint(-(2**63), 2**63 - 1, (200,), generator=torch.Generator().manual_seed(0))
    assert [z & MASK for z in mix(numbers).tolist()] == [finalised(z & MASK) for z in numbers.tolist()]


def test_the_hash_leaves_its_argument_alone() -> None:
    numbers = torch.arange(5)
    mix(numbers)
    assert numbers.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_keys_of_several_parts_are_those_of_each(shape: tuple[int, ...]) -> None:
    key = fold(make_key(1), torch.arange(math.prod(shape)).reshape(shape)) if shape else make_key(1)
    assert torch.equal(fold_each(key, *WORDS), torch.stack([fold(key, word) for word in WORDS], -1))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 1), (3, 50), (50, 50), (7, 5000)])
def test_a_choice_is_the_beginning_of_a_permutation(count: int, size: int) -> None:
    keys = fold(make_key(2), torch.arange(6))
    assert torch.equal(choose(keys, count, size), permutation(keys, size)[..., :count])


def test_fewer_numbers_are_the_first_of_more() -> None:
    keys = fold(make_key(3), torch.arange(4))
    assert torch.equal(bits(keys, 3), bits(keys, 9)[:, :3])
    assert torch.equal(uniform(keys, 3), uniform(keys, 9)[:, :3])
