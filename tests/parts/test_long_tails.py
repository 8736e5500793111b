"""Long tails: class sizes, balanced sets that share no image with them, and weights by the effective number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from bilevel.errors import RecipeError
from bilevel.recipes import long_tails
from bilevel.recipes.long_tails import class_balanced, class_sizes, glyphs_balanced, glyphs_long_tailed
from bilevel.recipes.records import Samples, SampleSplits


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Few images, drawn here: all of a class's writers would take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name, value in (("LARGEST", 40), ("JUDGES", 24), ("VAL", 4), ("TEST", 6)):
            patch.setattr(long_tails, name, value)
        yield


@pytest.mark.parametrize("imbalance", [10, 20, 50, 100, 200])
def test_sizes_fall_geometrically(imbalance: int) -> None:
    sizes = class_sizes(100, imbalance, 500)
    assert sizes[0] == 500
    assert sizes[-1] == max(1, round(500 / imbalance))
    ratios = [small / large for large, small in zip(sizes[:30], sizes[1:31], strict=True)]
    assert min(ratios) == pytest.approx(imbalance ** (-1 / 99), abs=0.01)
    assert max(ratios) == pytest.approx(imbalance ** (-1 / 99), abs=0.01)


def flat(samples: Samples) -> set[tuple[float, ...]]:
    return {tuple(image.flatten().tolist()) for image in samples.x}


def test_counts_of_every_class_and_disjoint_parts() -> None:
    long, dev = glyphs_long_tailed(4, imbalance=8, largest=40), glyphs_balanced(4, per_class=5)
    assert torch.bincount(long.train.y).tolist() == [40, 20, 10, 5]
    assert torch.bincount(long.val.y).tolist() == [4] * 4
    assert torch.bincount(long.test.y).tolist() == [6] * 4
    assert torch.bincount(dev.train.y).tolist() == [5] * 4
    assert flat(dev.test) == flat(long.test)
    parts = [flat(part) for part in (long.train, long.val, long.test, dev.train, dev.val)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_smaller_imbalance_only_adds_images() -> None:
    few, many = glyphs_long_tailed(4, imbalance=8, largest=40), glyphs_long_tailed(4, imbalance=2, largest=40)
    assert flat(few.train) < flat(many.train)


def test_weights_are_those_of_the_effective_number() -> None:
    long = glyphs_long_tailed(4, imbalance=8, largest=40)
    weights = class_balanced(long, beta=0.9)
    expected = torch.tensor([(1 - 0.9) / (1 - 0.9**n) for n in (40, 20, 10, 5)])
    assert torch.allclose(weights, expected / expected.mean(), atol=1e-6)
    assert torch.allclose(class_balanced(long, beta=0.0), torch.ones(4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: glyphs_long_tailed(0),
        lambda: glyphs_long_tailed(2, imbalance=0.5),
        lambda: glyphs_long_tailed(2, largest=10_000),
        lambda: glyphs_balanced(2, per_class=0),
        lambda: glyphs_balanced(2, per_class=1_000),
        lambda: class_balanced(glyphs_long_tailed(2, largest=4), beta=1.0),
        lambda: class_balanced(SampleSplits(*[Samples(torch.zeros(2, 1), torch.tensor([0, 2]))] * 3)),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
