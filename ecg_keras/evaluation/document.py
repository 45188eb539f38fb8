"""Documents made of a few kinds of blocks, written as Markdown and as one HTML page.

Both are made from the same blocks, so they have the same content.  The page is self-contained: it
includes its figures and its style sheet.
"""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

# Every value is escaped, so that names from files cannot inject HTML.
_ENVIRONMENT = Environment(
    loader=PackageLoader("ecg_keras.evaluation"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Notes:
    """A bulleted list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a short value."""

    items: tuple[tuple[str, str], ...]


class Definitions(Facts):
    """Terms and the sentences that explain them."""


@dataclass(frozen=True)
class Estimate:
    """A score with its interval and a threshold, NaN if undefined; differences are signed."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    signed: bool = False
    threshold: float = float("nan")

    @classmethod
    def of(cls, value: float, interval: Iterable[float], *, signed: bool = False) -> "Estimate":
        """Make an estimate of NumPy's numbers, as JSON can hold it."""
        low, high = map(float, interval)
        return cls(float(value), low, high, signed)

    @property
    def bar(self) -> bool:
        """Whether it is also drawn, as a bar from 0 to 1."""
        return not self.signed and bool(np.isfinite([self.low, self.threshold]).any())

    @property
    def number(self) -> str:
        """The value to three decimals; a dash if undefined."""
        return self._text(self.value)

    @property
    def interval(self) -> str:
        """The interval to three decimals; empty if undefined."""
        if not np.isfinite(self.low):
            return ""
        return f"{self._text(self.low)} to {self._text(self.high)}"

    def __str__(self) -> str:
        """The value, and its interval in brackets."""
        return f"{self.number} ({self.interval})" if self.interval else self.number

    def _text(self, value: float) -> str:
        if not np.isfinite(value):
            return "–"
        return f"{value:+.3f}".replace("-", "−") if self.signed else f"{value:.3f}"


Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def wide(self) -> set[int]:
        """Indices of the columns in which any number has an interval or a bar."""
        cells = ((column, cell) for row in self.rows for column, cell in enumerate(row))
        return {
            column
            for column, cell in cells
            if isinstance(cell, Estimate) and (cell.interval or cell.bar)
        }


@dataclass(frozen=True)
class Picture:
    """A figure and its caption; ``half`` if two fit side by side.

    On a narrow screen the figure shrinks down to ``pixels_per_inch``, at which its text is still
    legible; if the screen is narrower, it scrolls.
    """

    file: str
    figure: Figure
    title: str
    caption: str
    half: bool = False
    pixels_per_inch: float = 46.0

    @cached_property
    def png(self) -> bytes:
        """The figure as the bytes of a PNG file of 256 colours, a quarter of the size of all."""
        full, file = io.BytesIO(), io.BytesIO()
        self.figure.savefig(full, format="png", dpi=160, pil_kwargs={"compress_level": 0})
        # Maximum coverage keeps the strong colours, which few pixels have.
        colours = Image.Quantize.MAXCOVERAGE
        Image.open(full).convert("RGB").quantize(256, method=colours).save(file, "PNG")
        return file.getvalue()

    @property
    def data_uri(self) -> str:
        """The PNG file as a ``data:`` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


Block = Heading | Paragraph | Notes | Facts | Definitions | Table | Picture


def markdown(title: str, blocks: Sequence[Block], *, notices: Sequence[str] = ()) -> str:
    """Write a document as Markdown that refers to its figures by file name.

    Args:
        title: title of the document.
        blocks: content of the document.
        notices: sentences shown above the title.
    """

    def text(words: str) -> str:
        return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", words)

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [line for notice in notices for line in (f"**{text(notice)}**", "")]
    lines += [f"# {text(title)}", ""]
    for block in blocks:
        match block:
            case Heading():
                lines += [f"## {text(block.text)}"]
            case Paragraph():
                lines += [text(block.text)]
            case Notes():
                lines += [f"- {text(item)}" for item in block.items]
            case Facts():
                lines += [f"- **{text(term)}**: {text(words)}" for term, words in block.items]
            case Table():
                lines += [f"{text(block.caption)}:", "", row(map(text, block.header))]
                lines += [row(["---"] + ["---:"] * (len(block.header) - 1))]
                lines += [row(text(str(cell)) for cell in cells) for cells in block.rows]
            case Picture():
                lines += [f"![{text(block.title)}]({block.file})", "", f"*{text(block.caption)}*"]
        lines += [""]
    return "\n".join(lines)


def page(
    title: str,
    blocks: Sequence[Block],
    *,
    author: str = "ecg-evaluate",
    notices: Sequence[str] = (),
) -> str:
    """Write a document as one HTML page; each heading opens a section.

    Args:
        title: title of the page.
        blocks: content of the page; the first must be a heading.
        author: the command or package named in the footer.
        notices: sentences shown above the title.
    """
    sections: list[tuple[str, list[tuple[str, Block]]]] = []
    for block in blocks:
        if isinstance(block, Heading):
            sections.append((block.text, []))
        else:
            sections[-1][1].append((type(block).__name__, block))
    template = _ENVIRONMENT.get_template("page.html.jinja")
    return template.render(title=title, sections=sections, author=author, notices=notices)
