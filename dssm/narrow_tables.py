"""Tables that fit the terminal without a number being wrapped or cut: rich alone would do both."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table

LEAST_TEXT = 20  # characters of a column of long texts, which alone may fold
GAPS = (2, 1)  # between columns without borders: the first, or the other where all columns then fit


@dataclass(frozen=True)
class _Column:
    head: str
    cells: tuple[str, ...]
    is_text: bool

    @property
    def folds(self) -> bool:
        return self.is_text and self.widest > LEAST_TEXT

    @property
    def widest(self) -> int:
        lines = (line for cell in (self.head, *self.cells) for line in cell.splitlines())
        return max(map(cell_len, lines), default=0)

    @property
    def least(self) -> int:
        """Characters that it can do with."""
        return LEAST_TEXT if self.folds else self.widest

    def with_narrow_head(self) -> _Column:
        """Returns it with a head of several lines, no wider than the cells or a word of its own."""
        width = max(max(map(cell_len, self.cells), default=1), *map(cell_len, self.head.split()), 1)
        return _Column("\n".join(textwrap.wrap(self.head, width, break_long_words=False)), self.cells, self.is_text)


def drawn_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, texts: Sequence[int] = (0,)
) -> RenderableType:
    """Returns a table with borders where it fits, else without, else in blocks of columns below one another.

    Each block begins with the first column. What still does not fit is wider than the terminal, and is to be printed
    with crop=False.

    Args:
      width: of the terminal, in characters.
      texts: places of the columns of text; the others are numbers.
    """
    made = [_Column(column, tuple(row[place] for row in rows), place in texts) for place, column in enumerate(columns)]
    if sum(column.least + 3 for column in made) + 1 <= width:
        return _filled(Table(title=title, title_justify="left"), made)
    drawn: list[RenderableType] = []
    narrow = [column.with_narrow_head() for column in made]
    gap = next((gap for gap in GAPS if _least(narrow, gap) <= width), GAPS[0])
    for block in _blocks(narrow, width, gap):
        plain = Table(title=None if drawn else title, title_justify="left", box=None, pad_edge=False)
        plain.padding = (0, gap, 0, 0)
        plain.width = least if (least := _least(block, gap)) > width else None
        drawn += [_filled(plain, block), ""]
    return Group(*drawn)


def _blocks(columns: Sequence[_Column], width: int, gap: int) -> Iterator[list[_Column]]:
    """Yields as many columns at once as fit beside the first, and at least one."""
    first, *others = columns
    block = [first]
    for column in others:
        if len(block) > 1 and _least([*block, column], gap) > width:
            yield block
            block = [first]
        block.append(column)
    yield block


def _least(block: Sequence[_Column], gap: int) -> int:
    """Returns the characters that columns without borders can do with."""
    return sum(column.least + gap for column in block) - gap


def _filled(drawn: Table, columns: Sequence[_Column]) -> Table:
    for column in columns:
        justify = "left" if column.is_text else "right"
        drawn.add_column(column.head, justify=justify, overflow="fold", no_wrap=not column.folds)  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in columns), strict=True):
        drawn.add_row(*row)
    return drawn
