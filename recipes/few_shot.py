"""Few-shot tasks out of any finite data set with labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import bits, choose, fold
from bilevel.dsl.datatypes import Array, integer, record, records, stream
from bilevel.recipes.records import Samples, SampleSplits, Task, TaskSplits, bad_argument, require_positive
from bilevel.registry import tasks

IMAGE = Array((), "real", ranked=False)
TASK = record(
    support=records("ways*shots", x=IMAGE, y=integer()),
    query=records("ways*queries", x=IMAGE, y=integer()),
)


@dataclass(frozen=True, slots=True, eq=False)
class FewShotTasks:
    """Tasks out of the samples of one split."""

    samples: Samples
    members: Tensor  # int64[classes, most]: positions of the samples of each class, -1 where there are no more
    split: str
    ways: int
    shots: int
    queries: int
    true_labels: bool  # labels of the data set, not the places 0..ways-1 of the task's classes

    def sample(self, keys: Tensor) -> Task:
        """One task per key: x real[..., ways * shots, ...], y int64[..., ways * shots]; so the query.

        Classes of a task differ, and so do all its samples; they stand class by class.
        """
        keys = fold(keys.to(self.members.device), "few shot", self.split)
        classes = choose(fold(keys, "classes"), self.ways, len(self.members))
        members = self.members[classes]
        each = fold(fold(keys, "samples"), torch.arange(self.ways, device=keys.device))
        hashed = bits(each, members.shape[-1]).masked_fill(members < 0, torch.iinfo(torch.int64).max)
        order = torch.argsort(hashed, dim=-1, stable=True)[..., : self.shots + self.queries]
        chosen = members.gather(-1, order)
        labels = classes if self.true_labels else torch.arange(self.ways, device=keys.device).expand(classes.shape)
        parts = (chosen[..., : self.shots], chosen[..., self.shots :])
        support, query = (
            Samples(self.samples.x[p.flatten(-2)], labels.repeat_interleave(p.shape[-1], -1)) for p in parts
        )
        return Task(support, query)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> FewShotTasks:
        """The same tasks on `device`, their inputs in `dtype`."""
        samples = Samples(self.samples.x.to(device, dtype), self.samples.y.to(device))
        return replace(self, samples=samples, members=self.members.to(device))


def task_splits(
    part: str, data: SampleSplits, ways: int, shots: int, queries: int, true_labels: bool = False
) -> TaskSplits:
    """Tasks of each split out of the samples of that split."""
    require_positive(part, {"ways": ways, "shots": shots, "queries": queries})
    made = []
    for name in ("train", "val", "test"):
        samples: Samples = getattr(data, name)
        counts = torch.bincount(samples.y)
        if ways > len(counts):
            raise bad_argument(part, "ways", f"at most {len(counts)}, the classes of the data", ways)
        fewest = int(counts.min())
        if shots + queries > fewest:
            expected = f"at most {fewest}, the samples of the smallest class of {name}"
            raise bad_argument(part, "shots + queries", expected, shots + queries)
        made.append(FewShotTasks(samples, _members(samples.y, counts), name, ways, shots, queries, true_labels))
    return TaskSplits(*made)


def _members(labels: Tensor, counts: Tensor) -> Tensor:
    rows = [torch.nonzero(labels == label)[:, 0] for label in range(len(counts))]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


@tasks(yields=record(train=stream(TASK), val=stream(TASK), test=stream(TASK)))
def few_shot(data: SampleSplits, ways: int = 2, shots: int = 5, queries: int = 15) -> TaskSplits:
    """Few-shot tasks out of a data set with labels: each split's tasks are made of its own samples.

    The classes are those of the data in all three splits; a task relabels `ways` of them 0..ways-1. Source:
    papers/004, section 5 (2-way 5-shot tasks of MNIST and CIFAR-10). Cost: nothing beside the data.
    """
    return task_splits("few_shot", data, ways, shots, queries)
