"""Sorting with the official tool's order of equal values.

The tool sorts the overlaps of a lesion with a C++ ``std::sort``, which is free to order equal
values as it likes. Its Linux binaries use the GNU library: up to 16 values an insertion sort, which
keeps equal values in place; above, values are first partitioned around the median of three until
parts hold 16 or fewer. The result matters only where equal overlaps straddle the ``gamma`` cut and
just one of them is acceptable, which is rare but moves a whole lesion.
"""

from __future__ import annotations

from collections.abc import Sequence

_SMALL = 16


def descending_order(values: Sequence[int]) -> list[int]:
    """Indices that sort values in descending order, equal ones in the tool's order.

    The library's switch to a heap sort for inputs that partition badly is left out: with the
    median of three it takes a crafted sequence to reach it.
    """
    order = list(range(len(values)))
    pending = [(0, len(order))]
    while pending:
        first, last = pending.pop()
        while last - first > _SMALL:
            cut = _partition(order, values, first, last)
            pending.append((cut, last))
            last = cut
    # the closing insertion sort moves no element past an equal one
    return sorted(order, key=lambda position: -values[position])


def _partition(order: list[int], values: Sequence[int], first: int, last: int) -> int:
    """Split ``order[first:last]`` around the median of three; returns where the right part begins.

    Both cursors stop at values equal to the pivot, so equal values do change places.
    """
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    key = [values[order[place]] for place in (a, b, c)]
    if key[0] > key[1]:
        median = b if key[1] > key[2] else c if key[0] > key[2] else a
    else:
        median = a if key[0] > key[2] else c if key[1] > key[2] else b
    order[first], order[median] = order[median], order[first]
    pivot = values[order[first]]
    left, right = first + 1, last
    while True:
        while values[order[left]] > pivot:
            left += 1
        right -= 1
        while pivot > values[order[right]]:
            right -= 1
        if left >= right:
            return left
        order[left], order[right] = order[right], order[left]
        left += 1
