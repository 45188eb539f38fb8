"""Documents made of a few kinds of blocks, as Markdown and as one page of HTML.

Both are renderings of the same blocks, so that they say the same.  The page carries its figures
and its style inside it: it needs no network and no file beside it.
"""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Template

import numpy as np
from matplotlib.figure import Figure


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
    """A list of remarks."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names and what they hold, in a few words each."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Definitions:
    """Terms and the sentences that explain them."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Estimate:
    """A score and its interval, NaN where it does not exist; signed if it is a difference."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    signed: bool = False


Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows; ``half`` if two may stand side by side.

    On a narrow page a figure is shrunk to ``pixels_per_inch`` of its own size, so that its letters
    can be read, and scrolls from there on.
    """

    file: str
    figure: Figure
    title: str
    caption: str
    half: bool = False
    pixels_per_inch: float = 46.0

    @cached_property
    def png(self) -> bytes:
        """The figure as the bytes of a PNG file."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


Block = Heading | Paragraph | Notes | Facts | Definitions | Table | Picture


# --- Markdown --------------------------------------------------------------------------------


def markdown(title: str, blocks: Sequence[Block], *, notices: Sequence[str] = ()) -> str:
    """Lay out a document as Markdown; its figures are the files its pictures name.

    Args:
        title: of the document.
        blocks: what it says.
        notices: sentences that stand before all else.
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
            case Facts() | Definitions():
                lines += [f"- **{text(term)}**: {text(words)}" for term, words in block.items]
            case Table():
                lines += [f"{text(block.caption)}:", "", row(map(text, block.header))]
                lines += [row(["---"] + ["---:"] * (len(block.header) - 1))]
                lines += [row(text(plain(cell)) for cell in cells) for cells in block.rows]
            case Picture():
                lines += [f"![{text(block.title)}]({block.file})", "", f"*{text(block.caption)}*"]
        lines += [""]
    return "\n".join(lines)


# --- HTML ------------------------------------------------------------------------------------


def figure_to_data_uri(png: bytes) -> str:
    """Turn a PNG file into a ``data:`` address, so that a page carries the figure itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def page(
    title: str,
    blocks: Sequence[Block],
    *,
    author: str = "ecg-evaluate",
    notices: Sequence[str] = (),
) -> str:
    """Lay out a document as one HTML page; a heading opens a section, so begin with one.

    Args:
        title: of the page.
        blocks: what it says.
        author: what the page names as its writer.
        notices: sentences that stand before all else.
    """
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    links = "".join(
        f'<a href="#part-{number}">{html.escape(text)}</a>' for number, text in enumerate(headings)
    )
    parts, number = [], 0
    for block in blocks:
        if isinstance(block, Heading):
            closing = "</section>\n" if number else ""
            parts.append(
                f'{closing}<section id="part-{number}">\n<h2>{html.escape(block.text)}</h2>'
            )
            number += 1
        else:
            parts.append(_element(block))
    return Template(_PAGE).substitute(
        title=html.escape(title),
        notices="".join(f'<p class="notice">{html.escape(notice)}</p>\n' for notice in notices),
        style=_STYLE,
        links=links,
        parts="\n".join(parts),
        author=html.escape(author),
    )


def _element(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{html.escape(block.text)}</p>"
        case Notes():
            items = "".join(f"<li>{html.escape(item)}</li>" for item in block.items)
            return f'<ul class="notes">{items}</ul>'
        case Facts() | Definitions():
            items = "".join(
                f"<div><dt>{html.escape(term)}</dt><dd>{html.escape(words)}</dd></div>"
                for term, words in block.items
            )
            kind = "facts" if isinstance(block, Facts) else "definitions"
            return f'<dl class="{kind}">{items}</dl>'
        case Table():
            return _table(block)
        case Picture():
            inches = block.figure.get_figwidth()
            return (
                f'<figure class="{"half" if block.half else "full"}">'
                f'<div class="scroll" style="max-width:{90 * inches:.0f}px">'
                f'<img src="{figure_to_data_uri(block.png)}" alt="{html.escape(block.title)}"'
                f' style="min-width:{block.pixels_per_inch * inches:.0f}px"></div>'
                f"<figcaption><strong>{html.escape(block.title)}.</strong>"
                f" {html.escape(block.caption)}</figcaption></figure>"
            )
        case _:
            raise TypeError(block)


def _table(table: Table) -> str:
    # A bar under a number begins where the column does.
    with_bars = {
        column
        for row in table.rows
        for column, cell in enumerate(row)
        if isinstance(cell, Estimate) and np.isfinite(cell.low)
    }
    header = "".join(
        f'<th scope="col"{" class=bars" if column in with_bars else ""}>{html.escape(name)}</th>'
        for column, name in enumerate(table.header)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(plain(first))}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in table.rows
    )
    kind = "score" if table.header[0] == "Score" else "class"
    caption = html.escape(table.caption)
    return (
        f'<div class="table"><p class="caption">{caption}.</p><div class="scroll" tabindex="0">'
        f'<table class="{kind}" aria-label="{caption}"><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    words = f"<b>{_number(cell.value, signed=cell.signed)}</b>"
    if not np.isfinite(cell.low):
        return words
    words += f" <small>{_range(cell)}</small>"
    if not cell.signed:
        words += (
            f'<span class="bar" aria-hidden="true"><i style="left:{100 * cell.low:.1f}%;'
            f'width:{100 * (cell.high - cell.low):.1f}%"></i>'
            f'<b style="left:{100 * cell.value:.1f}%"></b></span>'
        )
    return f'<span class="estimate">{words}</span>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$notices<header>
<p class="eyebrow">ECG-Keras</p>
<h1>$title</h1>
<nav>$links</nav>
</header>
<main>
$parts
</section>
</main>
<footer>Written by $author. Research software, no medical device.</footer>
</body>
</html>
"""

_STYLE = """:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1c2027; --soft: #5b6472; --line: #dfe3e8;
  --accent: #0072b2; --range: #9cc9e6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --card: #1d2128; --ink: #e7eaee; --soft: #a0a9b6; --line: #343a44;
    --accent: #56b4e9; --range: #2d5f80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
header, main, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; }
.eyebrow { margin: 0; color: var(--accent); font-weight: 600; letter-spacing: 0.04em; }
h1 { margin: 2px 0 12px; font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; }
h2 { margin: 0 0 16px; font-size: 1.3rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--accent); text-underline-offset: 3px; }
section {
  display: grid; grid-template-columns: minmax(0, 1fr); gap: 22px;
  margin: 22px 0; padding: 24px; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card);
}
section > * { margin: 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; }
dl div { min-width: 0; }
dt { color: var(--soft); font-size: 0.85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
dl.definitions { display: grid; gap: 12px; }
dl.definitions dt { color: var(--ink); font-size: 1rem; font-weight: 600; }
dl.definitions dd { color: var(--soft); max-width: 75ch; }
.notes { padding-left: 20px; color: var(--soft); max-width: 80ch; }
p { max-width: 80ch; }
.scroll { overflow-x: auto; }
.table { min-width: 0; }
.caption { margin: 0 0 8px; color: var(--soft); font-size: 0.9rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.score { max-width: 860px; }
th, td { padding: 7px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { text-align: left; font-weight: 500; }
thead th { color: var(--soft); font-size: 0.85rem; white-space: nowrap; }
.class td, .class thead th + th { text-align: right; }
.class tbody th { position: sticky; left: 0; background: var(--card); }
td > b { font-weight: 400; }
.estimate { display: block; min-width: 134px; white-space: nowrap; text-align: left; }
.class thead th.bars { text-align: left; }
.estimate > b { font-weight: 600; }
small { color: var(--soft); font-size: 0.8rem; }
.bar {
  display: block; position: relative; height: 5px; margin-top: 4px; border-radius: 3px;
  background: var(--line);
}
.bar i { position: absolute; top: 0; bottom: 0; background: var(--range); border-radius: 3px; }
.bar b {
  position: absolute; top: -2px; width: 3px; height: 9px; margin-left: -1px;
  background: var(--accent); border-radius: 1px;
}
.notice {
  margin: 0; padding: 10px 24px; background: #8a1c1c; color: #ffffff; font-weight: 600;
}
figure { margin: 0; }
figure .scroll {
  border: 1px solid var(--line); border-radius: 8px; background: #ffffff;
}
figure img { display: block; width: 100%; height: auto; padding: 8px; }
figcaption { padding-top: 8px; color: var(--soft); font-size: 0.9rem; }
figcaption strong { color: var(--ink); }
footer { padding-bottom: 36px; color: var(--soft); font-size: 0.85rem; }
@media (min-width: 900px) {
  section { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  section > :not(figure.half) { grid-column: 1 / -1; }
}
@media (max-width: 560px) {
  header, main, footer { padding-left: 10px; padding-right: 10px; }
  section { padding: 16px 12px; }
  dl.facts { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  th, td { padding: 7px 6px; }
  .score tbody th { font-size: 0.9rem; }
  .score .estimate { min-width: 88px; white-space: normal; }
  .score .estimate small { display: block; white-space: nowrap; font-size: 0.72rem; }
}
"""


# --- Numbers ---------------------------------------------------------------------------------


def plain(cell: Cell) -> str:
    """Write a cell as text."""
    if isinstance(cell, str):
        return cell
    number = _number(cell.value, signed=cell.signed)
    return f"{number} ({_range(cell)})" if np.isfinite(cell.low) else number


def _range(cell: Estimate) -> str:
    return f"{_number(cell.low, signed=cell.signed)} to {_number(cell.high, signed=cell.signed)}"


def _number(value: float, *, signed: bool = False) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}"
