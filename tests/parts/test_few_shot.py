"""Few-shot tasks of finite data: true labels, different samples, purity; and glyphs with labels that never change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes import glyphs as glyphs_module
from bilevel.recipes.digits import digits
from bilevel.recipes.few_shot import few_shot
from bilevel.recipes.glyph_store import GlyphImages
from bilevel.recipes.glyphs import glyphs_fixed_labels
from bilevel.recipes.records import Samples, SampleSplits

KEYS = fold(make_key(0), torch.arange(6).reshape(2, 3))


def numbered(counts: list[int]) -> SampleSplits:
    """Samples whose input says which split, class and number they are."""
    rows = [(label, number) for label, count in enumerate(counts) for number in range(count)]
    splits = (
        Samples(torch.tensor([[split, *row] for row in rows]).float(), torch.tensor([label for label, _ in rows]))
        for split in range(3)
    )
    return SampleSplits(*splits)


def test_samples_of_a_task_differ_and_have_the_labels_of_their_classes() -> None:
    splits = few_shot(numbered([9, 30, 12, 7]), ways=3, shots=2, queries=5)
    for number, stream in enumerate(splits):
        task = stream.sample(fold(make_key(1), torch.arange(200)))
        x = torch.cat([task.support.x, task.query.x], 1)
        y = torch.cat([task.support.y, task.query.y], 1)
        assert torch.equal(x[..., 0], torch.full(x.shape[:2], float(number)))
        for one, labels in zip(x, y, strict=True):
            assert len({tuple(row.tolist()) for row in one}) == 21
            classes = [one[labels == label, 1].unique() for label in range(3)]
            assert all(len(c) == 1 for c in classes)
            assert len({float(c) for c in classes}) == 3
        assert torch.equal(task.support.y[0], torch.tensor([0, 0, 1, 1, 2, 2]))
        # Over many tasks every sample of the small and of the large class is met.
        assert len(x[x[..., 1] == 1][:, 2].unique()) == 30
        assert len(x[x[..., 1] == 3][:, 2].unique()) == 7


def test_a_batch_of_keys_is_the_single_keys() -> None:
    stream = few_shot(digits(8), ways=2, shots=3, queries=4).train
    together = stream.sample(KEYS)
    assert together.support.x.shape == (2, 3, 6, 1, 8, 8)
    alone = stream.sample(KEYS[1, 2])
    assert torch.equal(together.query.x[1, 2], alone.query.x)
    assert torch.equal(together.support.y[1, 2], alone.support.y)
    assert stream.to("cpu", torch.float64).sample(KEYS).query.x.dtype == torch.float64


@pytest.mark.parametrize(
    "arguments", [{"ways": 0}, {"ways": 11}, {"shots": 0}, {"queries": 0}, {"shots": 30, "queries": 10}]
)
def test_bad_arguments_are_told(arguments: dict[str, int]) -> None:
    with pytest.raises(RecipeError) as caught:
        few_shot(digits(8), **arguments)
    assert caught.value.diagnostics[0].code == "B606"


# ---- labels that never change --------------------------------------------------------------------------------


@pytest.fixture
def few_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that say their split and class, in place of drawn ones."""

    def made(split: int, count: int) -> Tensor:
        marks = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 8, 28, 28).clone()
        marks[..., 0, 0] = split
        return marks

    images = GlyphImages(made(0, 60), made(1, 12), made(2, 12))
    monkeypatch.setattr(glyphs_module, "glyph_images", lambda writers, classes: images)


@pytest.mark.usefixtures("few_glyphs")
def test_a_training_class_has_one_label_and_a_test_class_many() -> None:
    splits = glyphs_fixed_labels(ways=4, shots=1, queries=2, classes=20, writers=8)
    keys = fold(make_key(0), torch.arange(300))
    labels: dict[str, dict[int, set[int]]] = {}
    for name, stream in splits._asdict().items():
        task = stream.sample(keys)
        classes = (task.support.x[..., 0, 5, 5] * 255).round().long()
        for c, label in zip(classes.flatten().tolist(), task.support.y.flatten().tolist(), strict=True):
            labels.setdefault(name, {}).setdefault(c, set()).add(label)
    assert len(labels["train"]) == 20
    assert all(len(own) == 1 for own in labels["train"].values())
    assert len(labels["val"]) == len(labels["test"]) == 12
    assert all(len(own) == 4 for own in labels["test"].values())


@pytest.mark.usefixtures("few_glyphs")
@pytest.mark.parametrize(
    "build",
    [
        lambda: glyphs_fixed_labels(ways=4, classes=3, queries=2, writers=8),
        lambda: glyphs_fixed_labels(ways=4, classes=61, queries=2, writers=8),
        lambda: glyphs_fixed_labels(ways=13, classes=60, queries=2, writers=8),
        lambda: glyphs_fixed_labels(ways=4, classes=20, queries=8, writers=8),
    ],
)
def test_bad_numbers_of_classes_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
