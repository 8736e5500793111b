"""Sparse text and sums of quadratics: their statistics, and what they are for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bilevel.errors import RecipeError
from bilevel.recipes.problems import quadratic_sums, sparse_text


def test_documents_are_sparse_of_unit_length_and_balanced() -> None:
    data = sparse_text(words=600, documents=400)
    for split in data:
        assert split.x.shape == (400, 600)
        assert torch.allclose(split.x.norm(dim=1), torch.ones(400), atol=1e-5)
        assert float((split.x > 0).double().mean()) < 0.12
        assert abs(int(split.y.sum()) - 200) <= 20
    assert not (data.train.x[:, None] == data.test.x[None, :50]).all(-1).any()


def test_few_words_tell_the_classes_apart_so_that_penalties_matter() -> None:
    data = sparse_text()
    scores = {
        c: LogisticRegression(C=c, max_iter=1_000).fit(data.train.x, data.train.y).score(data.test.x, data.test.y)
        for c in (1.0, 100.0)
    }
    assert 0.8 < scores[1.0] < 0.95  # 5 % of the labels are wrong
    assert scores[1.0] > scores[100.0] + 0.03


def test_quadratics_have_the_curvature_asked_for() -> None:
    data = quadratic_sums(inner=20, outer=4, samples=50_000, condition=100.0)
    u = data.train.u.double()
    eigenvalues = torch.linalg.eigvalsh(u.T @ u / len(u)).flip(0)
    expected = torch.logspace(0, -2, 20, dtype=torch.float64)
    assert torch.allclose(eigenvalues.log(), expected.log(), atol=0.06)
    assert float(data.train.v.square().sum(1).mean()) == pytest.approx(1.0, abs=0.02)
    assert [tuple(f.shape) for f in data.val] == [(50_000, 20), (50_000, 4), (50_000,)]
    assert not torch.isin(data.train.t[:100], data.val.t[:100]).any()


@pytest.mark.parametrize(
    "build",
    [
        lambda: sparse_text(words=0),
        lambda: sparse_text(words=100, telling=51),
        lambda: quadratic_sums(inner=0),
        lambda: quadratic_sums(condition=0.5),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
