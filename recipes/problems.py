"""Problems of benchmark_bilevel (Dagréou et al. 2022), made here: sparse text and finite sums of quadratics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, normal, permutation, uniform
from bilevel.dsl.datatypes import Records, integer, real, record, records
from bilevel.recipes.records import Samples, SampleSplits, bad_argument, require_positive
from bilevel.registry import data

LENGTH = 60  # words of a document
TILT = 1.5  # how much likelier a telling word is in the documents of its class, as a power of e
MISLABELLED = 0.05


def _documents(share: str) -> Records:
    return records(share, x=real("words"), y=integer())


@data(yields=record(train=_documents("documents"), val=_documents("documents"), test=_documents("documents")))
def sparse_text(words: int = 1_000, documents: int = 1_000, telling: int = 50) -> SampleSplits:
    """Two classes of documents as bags of words, x real[n, words] of unit length, y int64[n]; `documents` per split.

    Word w has frequency 1 / (w + 3) (Zipf); of the words beyond the hundred most frequent, or half, `telling` ones
    are likelier in one class. Counts of 60 words are weighted by log(n / documents with the word) of the training
    split. 5 % of all labels are wrong. For logistic regression with one penalty per word, of which most should be
    large. In place of 20newsgroups in Pedregosa 2016 and of benchmark_bilevel's logistic regressions. Cost: 12 MB.
    """
    require_positive("sparse_text", {"words": words, "documents": documents, "telling": telling})
    common = min(100, words // 2)
    if telling > words - common:
        raise bad_argument("sparse_text", "telling", f"at most {words - common}", telling)
    key = fold(make_key(0), "text")
    tilt = torch.zeros(words, dtype=torch.float64)
    chosen = common + permutation(fold(key, "telling"), words - common)[:telling]
    tilt[chosen] = TILT * (2.0 * (torch.arange(telling) % 2) - 1.0).double()
    frequency = 1.0 / (torch.arange(words, dtype=torch.float64) + 3.0)
    odds = torch.stack([frequency * torch.exp(-tilt), frequency * torch.exp(tilt)])
    counted = {name: _counted(fold(key, name), documents, odds) for name in ("train", "val", "test")}
    with_word = (counted["train"][0] > 0).sum(0).clamp(min=1)
    weight = torch.log(documents / with_word).clamp(min=0.0)
    return SampleSplits(*(_weighted(counts, labels, weight) for counts, labels in counted.values()))


def _counted(key: Tensor, documents: int, odds: Tensor) -> tuple[Tensor, Tensor]:
    """Counts real[documents, words] and labels, a share of them wrong; half of each class before that."""
    true = torch.arange(documents) % 2
    ends = (odds / odds.sum(1, keepdim=True)).cumsum(1)
    places = uniform(fold(key, "words"), documents, LENGTH, dtype=torch.float64)
    found = torch.searchsorted(ends[true], places).clamp(max=odds.shape[1] - 1)
    counts = torch.zeros(documents, odds.shape[1], dtype=torch.float64)
    counts.scatter_add_(1, found, torch.ones_like(places))
    wrong = torch.zeros_like(true)
    wrong[permutation(fold(key, "wrong"), documents)[: round(MISLABELLED * documents)]] = 1
    return counts, true ^ wrong


def _weighted(counts: Tensor, labels: Tensor, weight: Tensor) -> Samples:
    rows = counts * weight
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return Samples(rows.to(torch.get_default_dtype()), labels)


# ---- quadratics ----------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """The term of each sample: (u' inner + v' outer - t)^2 / 2."""

    u: Tensor
    v: Tensor
    t: Tensor


class TermSplits(NamedTuple):
    """Terms of the inner objective, and of the outer one."""

    train: Terms
    val: Terms


TERMS = records("samples", u=real("inner"), v=real("outer"), t=real())


@data(yields=record(train=TERMS, val=TERMS))
def quadratic_sums(inner: int = 100, outer: int = 10, samples: int = 1_024, condition: float = 100.0) -> TermSplits:
    """Two finite sums of quadratics in inner and outer variables, whose hypergradient is known in closed form.

    A sample is the term (u'z + v'x - t)^2 / 2 of inner z real[inner] and outer x real[outer]; `train` is for the
    inner objective, `val` for the outer one. The covariance of u has eigenvalues from 1 / condition to 1, evenly in
    their logarithms, in random directions. In place of the quadratics of benchmark_bilevel, whose terms have full
    matrices. Cost: 8 (inner + outer + 1) bytes a sample.
    """
    require_positive("quadratic_sums", {"inner": inner, "outer": outer, "samples": samples})
    if condition < 1.0:
        raise bad_argument("quadratic_sums", "condition", "1 or more", condition)
    key = fold(make_key(0), "quadratic sums")
    turn, _ = torch.linalg.qr(normal(fold(key, "directions"), inner, inner, dtype=torch.float64))
    scale = torch.logspace(0.0, -0.5 * float(torch.log10(torch.tensor(condition))), inner, dtype=torch.float64)
    return TermSplits(*(_terms(fold(key, name), samples, outer, scale, turn) for name in ("train", "val")))


def _terms(key: Tensor, samples: int, outer: int, scale: Tensor, turn: Tensor) -> Terms:
    u = (normal(fold(key, "u"), samples, len(scale), dtype=torch.float64) * scale) @ turn.T
    v = normal(fold(key, "v"), samples, outer, dtype=torch.float64) / outer**0.5
    t = normal(fold(key, "t"), samples, dtype=torch.float64)
    return Terms(*(field.to(torch.get_default_dtype()) for field in (u, v, t)))
