"""Cells of the CSV files that are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain_cell(value: Value) -> Value | str:
    """A value that no spreadsheet takes for a formula; texts that would be one get a quote."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def plain_row(row: Mapping[str, Value]) -> dict[str, Value | str]:
    """A row by column, each cell by ``plain_cell``."""
    return {key: plain_cell(value) for key, value in row.items()}
