"""Tables of results as data, written as Markdown and CSV.

The caption says on which records the scores were computed and whether the models were selected on
test; published scores that were obtained on other data are marked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_prep.files import csv_text, written_whole
from ecg_keras.evaluation.document import Estimate
from ecg_keras.evaluation.scores import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A name, a count, a score, a mean with its SD, a score with its interval; None is empty.
Cell = str | int | float | Spread | Estimate | None


@dataclass(frozen=True)
class ResultTable:
    """A table of scores, ours and published ones.

    Attributes:
        title: such as "Table IV. BranchNet against MLBF-Net".
        columns: headings; the first column names the row.
        rows: each with one cell per column.
        scored: how the scores were computed, such as "out-of-fold on 210 records".
        selected_on_test: True if epochs were selected on the scored records.
        notes: notes below the table.
        digits: decimal places of scores.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    scored: str = ""
    selected_on_test: bool = False
    notes: tuple[str, ...] = ()
    digits: int = 3

    def __post_init__(self) -> None:
        """Check that each row has one cell per column."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells do not fit {len(self.columns)} columns")

    def with_columns(self, cells: Mapping[str, Mapping[str, Cell]], note: str) -> "ResultTable":
        """Add columns, each given by the names of the rows, and a note on them."""
        added = [[of.get(str(row[0])) for of in cells.values()] for row in self.rows]
        return replace(
            self,
            columns=(*self.columns, *cells),
            rows=tuple((*row, *more) for row, more in zip(self.rows, added, strict=True)),
            notes=(*self.notes, note),
        )

    @property
    def caption(self) -> str:
        """Title, how the scores were computed, and whether models were selected on test."""
        parts = [self.title.rstrip(".")]
        if self.scored:
            parts.append(f"Scored {self.scored}")
        if self.selected_on_test:
            parts.append("Selected on test")
        return ". ".join(parts) + "."


def as_markdown(table: ResultTable) -> str:
    """Format a table as Markdown: caption, rows, notes."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{table.caption}**", "", line(table.columns)]
    lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += [line([as_text(cell, digits=table.digits) for cell in row]) for row in table.rows]
    lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def as_text(cell: Cell, *, digits: int = 3) -> str:
    """Format a cell: ``0.852 ± 0.021``, ``0.852 [0.840, 0.861]``, ``+0.024 [...]``, ``1,098``.

    Args:
        cell: a cell; NaN becomes a dash, None an empty string.
        digits: decimal places of scores.
    """
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, Spread):
        return cell.text(digits)
    if isinstance(cell, Estimate):
        sign = "+" if cell.signed else ""
        value = _figure(cell.value, digits, sign)
        if math.isnan(cell.low):
            return value
        return f"{value} [{cell.low:{sign}.{digits}f}, {cell.high:{sign}.{digits}f}]"
    return _figure(cell, digits)


def _figure(value: float, digits: int, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def as_csv(table: ResultTable) -> str:
    """Format a table as CSV with full precision.

    A column of means and SDs becomes two columns (the second with "SD" in its name), a column of
    intervals three ("low" and "high").  Caption and notes are in the Markdown only.
    """
    parts = [_parts([row[column] for row in table.rows]) for column in range(len(table.columns))]
    return csv_text(
        [
            f"{name} {part}".strip()
            for name, of in zip(table.columns, parts, strict=True)
            for part in of
        ],
        [
            [_part(cell, part) for cell, of in zip(row, parts, strict=True) for part in of]
            for row in table.rows
        ],
    )


_Part = Literal["", "SD", "low", "high"]


def _parts(cells: Sequence[Cell]) -> list[_Part]:
    parts: list[_Part] = [""]
    if any(isinstance(cell, Spread) for cell in cells):
        parts.append("SD")
    if any(isinstance(cell, Estimate) for cell in cells):
        parts += ["low", "high"]
    return parts


def _part(cell: Cell, part: _Part) -> str:
    value: float | str | None
    if isinstance(cell, Spread):
        value = {"": cell.mean, "SD": cell.sd}.get(part)
    elif isinstance(cell, Estimate):
        value = {"": cell.value, "low": cell.low, "high": cell.high}.get(part)
    else:
        value = cell if part == "" else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def write_table(out: Path, name: str, table: ResultTable) -> Path:
    """Write ``OUT/NAME.md`` and ``OUT/NAME.csv``.

    Args:
        out: the folder; created if needed.  Existing files are overwritten.
        name: such as "table4".
        table: the table.

    Returns:
        The path of the Markdown file.
    """
    for ending, text in ((".csv", as_csv(table)), (".md", as_markdown(table))):
        with written_whole(out / f"{name}{ending}") as part:
            part.write_text(text, encoding="utf-8")
    return out / f"{name}.md"


def write_figure(path: Path, figure: "Figure") -> Path:
    """Write a figure as PNG, atomically.

    Args:
        path: path of the file.
        figure: a Matplotlib figure.

    Returns:
        ``path``.
    """
    with written_whole(path) as part:
        figure.savefig(part, dpi=160)
    return path
