"""What a meter counts of single operators: bytes that are really touched, matrices, convolutions, fresh bytes, layers."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap

from bilevel.costs import Work
from bilevel.graphs import LARGE
from bilevel.meter import SEEN, Meter, aten, layers


def counted(function: object, *given: object) -> Work:
    assert callable(function)
    meter = Meter()
    with torch.no_grad(), meter:
        kept = function(*given)
    del kept
    return meter.work


def test_numbers_that_are_repeated_count_once() -> None:
    row, table = torch.ones(10), torch.ones(20, 10)
    assert counted(torch.add, table, row.expand(20, 10)).moved == 4 * (200 + 10 + 200)
    assert counted(torch.add, torch.ones(()).expand(20, 10), table).moved == 4 * (1 + 200 + 200)


def test_what_is_filled_reads_nothing() -> None:
    assert counted(torch.zeros_like, torch.ones(100)).moved == 400
    assert counted(lambda x: x.new_zeros(50), torch.ones(100)).moved == 200
    assert counted(torch._efficientzerotensor, 1000).moved == 0


def test_products_count_operations_bytes_and_matrices() -> None:
    found = counted(torch.bmm, torch.ones(6, 3, 4), torch.ones(6, 4, 5))
    assert (found.products, found.matrices) == (2 * 6 * 3 * 4 * 5, 6)
    assert (found.packed, found.moved) == (4 * 6 * (12 + 20 + 15), 0)
    assert counted(torch.mm, torch.ones(3, 4), torch.ones(4, 5)).matrices == 0


def test_convolutions_count_what_is_set_up() -> None:
    picture, filters = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    forward = counted(torch.conv2d, picture, filters)
    assert (forward.convolutions, forward.setups) == (2 * 2 * 4 * 6 * 6 * 3 * 9, 1)
    assert forward.packed == 4 * (picture.numel() + filters.numel() + 2 * 4 * 6 * 6)

    def back() -> object:
        return grad(lambda w: torch.conv2d(picture, w).sum())(filters)

    assert counted(back).setups == 1 + 1  # nobody asks for the way back into the picture


def test_fresh_bytes_are_the_rise_of_what_is_alive_and_large_results() -> None:
    def twice(count: int, keep: bool) -> None:
        kept = []
        for _ in range(3):
            made = torch.empty(count)
            kept += [made] if keep else []
            del made

    assert counted(twice, 100, False).fresh == 400  # the second and third have the place of the first
    assert counted(twice, 100, True).fresh == 1200
    assert counted(twice, LARGE // 4, False).fresh == 3 * LARGE


def test_layers_are_transforms_around_operators() -> None:
    def module() -> torch.Tensor:
        """A product and its tangents under two transforms."""
        return vmap(lambda x: jvp(lambda y: y * 2.0, (x,), (x,))[1])(torch.ones(3))

    meter = Meter()
    before = vmap
    with torch.no_grad(), meter, layers(module, meter):
        module()
    found = meter.work
    assert found.transforms == 2
    assert 0 < found.layers <= 2 * (found.operators + found.views)
    assert vmap is before and meter.depth == 0

    def back() -> torch.Tensor:
        _, pull = vjp(lambda x: x * 2.0, torch.ones(3))
        done = meter.layers
        found: torch.Tensor = pull(torch.ones(3))[0]
        assert meter.layers == done  # called after its `vjp` has ended
        return found

    with meter, layers(back, meter):
        back()


def test_what_was_met_before_counts_the_same() -> None:
    def work(device: str) -> Work:
        table = torch.ones(4, 6, device=device)
        return counted(lambda: aten._unsafe_view(torch.mm(table, table.t()), [2, 8]).contiguous() + 1.0)

    first = work("meta")
    assert work("meta") == first == work("cpu")
    assert first.peak == first.fresh == 4 * 16 * 2  # neither the view nor what it makes contiguous is stored again


def test_what_is_written_over_is_what_is_given_back_each_time() -> None:
    def doubled(device: str) -> tuple[Work, bool, list[int]]:
        table, meter = torch.ones(4, 6, device=device), Meter()
        meter.asked = []
        with torch.no_grad(), meter:
            one = table + 1.0
            back = one.add_(table).mul_(2.0)
            del table
        return meter.work, back is one, [asked.made[0].number for asked in meter.asked]

    SEEN.clear()
    (first, over, places), (second, again, later) = doubled("meta"), doubled("meta")
    assert over and again
    assert first == second == doubled("cpu")[0]
    assert first.peak == 4 * 24  # one table, however often it is written to
    assert places == later == [1, 2, 3]  # and another content after each


def test_an_operator_that_cannot_write_its_result_over_its_operand_is_refused_each_time() -> None:
    row, table = torch.ones(6, device="meta"), torch.ones(4, 6, device="meta")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            counted(row.add_, table)
    assert counted(table.add_, row).moved == 4 * (24 + 6 + 24)
