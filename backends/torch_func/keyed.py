"""Random numbers as pure functions of a key: the same key gives the same numbers, in any order, on any device.

torch's generators carry hidden state and cannot be given one key per copy, so that a draw would depend on which
draws came before it, on chunking and on sharding. Here a key is an int64 tensor (one number, or one per copy); a
draw hashes the key with the position of every number (the finaliser of splitmix64, Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
SECOND = -7723592293110705685  # 0x94D049BB133111EB
MASK = (1 << 64) - 1


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 tensors of any shape; products wrap around, shifts are logical."""
    z = (z >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(z).mul_(FIRST)
    z = (z >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(z).mul_(SECOND)
    return (z >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(z)


def make_key(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The key of a run, int64[]."""
    return mix(torch.tensor(seed, dtype=torch.int64, device=device) * GOLDEN + 1)


def fold(key: Tensor, *words: str | int | Tensor) -> Tensor:
    """The key of a part of what `key` stands for: a draw by its name, a step or a copy by its number.

    A tensor of numbers gives a tensor of keys: `fold(key, torch.arange(5))` has shape key.shape + [5].
    """
    for word in words:
        if isinstance(word, Tensor):
            key = mix(mix(key[..., None] + GOLDEN) ^ mix(word.to(key.device, torch.int64) * GOLDEN + 3))
        else:
            key = mix(mix(key + GOLDEN) ^ mixed_number(_number(word)))
    return key


def fold_each(key: Tensor, *words: str | int) -> Tensor:
    """The keys of several parts of what `key` stands for, key.shape + [n]: what `fold` gives for each, at once."""
    mixed = torch.tensor([mixed_number(_number(word)) for word in words], dtype=torch.int64, device=key.device)
    return mix(mix(key[..., None] + GOLDEN) ^ mixed)


def mixed_number(number: int) -> int:
    """mix(number * GOLDEN + 3) as a signed number of 64 bits: what a word adds to a key, known without a tensor."""
    z = (number * GOLDEN + 3) & MASK
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


def _number(word: str | int) -> int:
    """A whole number below 2**62 that stands for a name."""
    if isinstance(word, int):
        return word
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 2


def bits(key: Tensor, *shape: int) -> Tensor:
    """Random int64 of shape key.shape + shape."""
    count = math.prod(shape)
    positions = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
    return mix(mix(key[..., None] + positions * GOLDEN) ^ key[..., None]).reshape((*key.shape, *shape))


def uniform(
    key: Tensor, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [low, high), shape key.shape + shape; made in float64, so that all dtypes agree."""
    unit = ((bits(key, *shape) >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
    return (low + (high - low) * unit).to(dtype)


def normal(
    key: Tensor, *shape: int, mean: float = 0.0, deviation: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal numbers, shape key.shape + shape, by the transform of Box and Muller; made in float64."""
    radius = torch.sqrt(-2.0 * torch.log1p(-uniform(fold(key, 1), *shape, dtype=torch.float64)))
    angle = 2.0 * math.pi * uniform(fold(key, 2), *shape, dtype=torch.float64)
    return (mean + deviation * radius * torch.cos(angle)).to(dtype)


def permutation(key: Tensor, size: int) -> Tensor:
    """A random order of 0..size-1, int64 of shape key.shape + [size]; cost size log size."""
    return torch.argsort(bits(key, size), dim=-1, stable=True)


def choose(key: Tensor, count: int, size: int) -> Tensor:
    """`count` different positions out of `size`, int64 of shape key.shape + [count]; needs count <= size.

    The first of `permutation(key, size)`, without sorting the others: cost size + count log count.
    """
    return torch.topk(bits(key, size), count, largest=False, sorted=True).indices
