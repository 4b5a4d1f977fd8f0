"""A table that is looked at for long: sorted by the column that the user chooses, with one row selected. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpen.gpenctl.tables import Record, is_number, plain

BETWEEN = 2  # blanks between two columns


class Field(NamedTuple):
    """One column. The higher `drop`, the sooner it gives way on a narrow terminal; 0 never does. `sort` gives what rows
    are sorted by, where that is not the record's item `key`. Figures have the largest first; they, and what `is_right`,
    stand on the right. `is_long`: the text may be cut off. `stretch`: characters that a picture in it may have beyond
    what it needs."""

    key: str
    heading: str
    text: Callable[[Record], str]
    drop: int = 0
    is_figure: bool = False
    is_right: bool = False
    sort: Callable[[Record], Any] | None = None
    is_long: bool = False
    stretch: int = 0

    def rank(self, row: Record) -> Any:
        """What rows are sorted by."""
        return self.sort(row) if self.sort else row.get(self.key)


def natural(text: str) -> tuple[Any, ...]:
    """What a text with numbers in it is sorted by: 10.0.0.9 before 10.0.0.10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text))


class Sheet:
    """Rows in the order that the user wants, and the one that is selected: it stays so wherever it moves."""

    def __init__(self, fields: Sequence[Field], identity: Callable[[Record], str]) -> None:
        self.fields = {field.key: field for field in fields}
        self.rows: list[Record] = []
        self.order = fields[0].key
        self.is_reversed = False
        self._identity = identity
        self._selected = ""
        self._first = 0  # of the rows that are shown

    def take(self, rows: Sequence[Record]) -> None:
        """Have these rows instead. Where the selected one is gone, the one in its place is selected."""
        place = self.place
        self.rows = list(rows)
        self._sort()
        if self.rows and self.selected is None:
            self._select(place)

    @property
    def selected(self) -> Record | None:
        """The selected row; None where there is none."""
        return next((row for row in self.rows if self._identity(row) == self._selected), None)

    @property
    def place(self) -> int:
        """Which of the rows is selected, from 0."""
        selected = self.selected
        return next((place for place, row in enumerate(self.rows) if row is selected), 0)

    def is_selected(self, row: Record) -> bool:
        return self._identity(row) == self._selected

    def move(self, steps: int) -> None:
        """Select the row so many below, or above."""
        self._select(self.place + steps)

    def _select(self, place: int) -> None:
        if self.rows:
            self._selected = self._identity(self.rows[max(0, min(place, len(self.rows) - 1))])

    def sort_by(self, key: str) -> None:
        """Sort by this column; by the same again, the other way round."""
        self.is_reversed = key == self.order and not self.is_reversed
        self.order = key
        self._sort()

    def sort_next(self, shown: Sequence[str], steps: int) -> None:
        """Sort by the column so many to the right of the present one, of those that are shown."""
        place = shown.index(self.order) if self.order in shown else 0
        if shown:
            self.order, self.is_reversed = shown[(place + steps) % len(shown)], False
            self._sort()

    def reverse(self) -> None:
        """Sort the other way round."""
        self.is_reversed = not self.is_reversed
        self._sort()

    @property
    def is_descending(self) -> bool:
        """Whether the largest is first."""
        field = self.fields[self.order]
        return field.is_figure != self.is_reversed

    def _sort(self) -> None:
        """Rows that have nothing to be sorted by are the last, either way."""
        field, first = self.fields[self.order], next(iter(self.fields.values()))
        self.rows.sort(key=lambda row: _comparable(first.rank(row)))
        ranked = [(field.rank(row), row) for row in self.rows]
        known = [(rank, row) for rank, row in ranked if rank not in (None, "")]
        known.sort(key=lambda item: _comparable(item[0]), reverse=self.is_descending)
        self.rows = [row for _, row in known] + [row for rank, row in ranked if rank in (None, "")]

    def window(self, height: int) -> list[Record]:
        """The rows that so many lines show: the selected one is among them."""
        place, most = self.place, max(0, len(self.rows) - height)
        self._first = min(max(self._first, place - height + 1), place, most)
        return self.rows[self._first:self._first + height]


def _comparable(rank: Any) -> tuple[int, Any]:
    """Numbers before texts; anything can be compared with anything."""
    if is_number(rank):
        return 0, rank
    return (1, rank) if isinstance(rank, tuple) else (2, plain(rank))


class Fitted(NamedTuple):
    """A column as it is shown, and how wide."""

    field: Field
    width: int


def fit(fields: Sequence[Field], cells: Sequence[Sequence[int]], width: int) -> list[Fitted]:
    """The columns to show: those that say something, and of these the most important ones, with what room is left.
    `cells` are the widths of the texts, row by row."""
    needs = [max((row[i] for row in cells), default=0) for i in range(len(fields))]
    least = [max(_least(field, need), len(field.heading)) for field, need in zip(fields, needs, strict=True)]
    kept: list[int] = []
    used = -BETWEEN
    for i in sorted(range(len(fields)), key=lambda i: fields[i].drop):
        says_something = needs[i] or not fields[i].drop
        if says_something and (not fields[i].drop or used + least[i] + BETWEEN <= width):
            kept.append(i)
            used += least[i] + BETWEEN
    wanted = [(i, needs[i] - least[i]) for i in kept] + [(i, fields[i].stretch) for i in kept]
    for i, more in wanted:  # texts first, then pictures, and of each the most important one
        more = max(0, min(more, width - used))
        least[i] += more
        used += more
    return [Fitted(fields[i], least[i]) for i in sorted(kept)]


SHORTEST = 10  # characters of a long text, that it is worth showing


def _least(field: Field, need: int) -> int:
    """A text that can stretch may be cut off."""
    return min(need, SHORTEST) if field.is_long else need
