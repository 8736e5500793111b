"""Which known name a misspelt one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], limit: int | None = None) -> str | None:
    """The known name closest to `word` by edit distance, or None where all are too far; the first wins a tie.

    >>> nearest("thata", ["phi", "theta"])
    'theta'
    """
    names = list(known)
    if limit is None:
        limit = min(3, len(word) // 3)
    best = next((name for name in names if name != word and name.casefold() == word.casefold()), None)
    for name in () if best else names:
        distance = edit_distance(word, name, limit)
        if distance <= limit and name != word:
            best, limit = name, distance - 1
    return best


def edit_distance(first: str, second: str, limit: int = 1_000) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words; `limit + 1` where more.

    >>> edit_distance("lvel", "level"), edit_distance("levle", "level")
    (1, 1)
    """
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        before, above, row = row, before, [i]
        for j, right in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)
