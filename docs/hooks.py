"""What the pages need while they are built: code from its file, and modules' docstrings."""

import ast
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
# {{ code FILE NAME }} or, for a part of it, {{ code FILE NAME | first line | last line }};
# NAME is a function, a class, or Class.method, and lines are told by how they begin.
PLACE = re.compile(r"^\{\{ code (\S+)(?: (\S+))?(?: \| (.+?) \| (.+?))? \}\}$", re.M)
MODULES = re.compile(r"^\{\{ modules (\w+) \}\}$", re.M)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put code, and the reference of a package, where a page names it."""

    def show(match: re.Match[str]) -> str:
        file, name, first, last = match.groups()
        try:
            code = code_of((ROOT / file).read_text(encoding="utf-8"), name, first, last)
        except ValueError as error:
            raise PluginError(f"{page.file.src_path}: {file} {error}") from None
        return f'```python title="{file}"\n{code}\n```'

    markdown = MODULES.sub(lambda match: reference_of(match[1]), markdown)
    return PLACE.sub(show, markdown)


def reference_of(package: str) -> str:
    """An entry of mkdocstrings for each module of a package, by name."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return "\n\n".join(f"::: {name}" for name in names if not name.endswith("__init__"))


def code_of(
    text: str, name: str | None = None, first: str | None = None, last: str | None = None
) -> str:
    """Take a part of a module.

    Args:
        text: the module.
        name: a function, a class or Class.method of it; None for all of it.
        first: how the first line to show begins; None for all.
        last: how the last one begins.

    Raises:
        ValueError: if there is no such name or line, or several lines begin with ``first``.
    """
    node: Any = ast.parse(text)
    start, end = 0, len(text.splitlines())
    for part in name.split(".") if name else ():
        inside = [child for child in node.body if getattr(child, "name", None) == part]
        if not inside:
            raise ValueError(f"has no {name}")
        node = inside[0]
        start, end = node.lineno - 1, node.end_lineno
    lines = text.splitlines()[start:end]
    if first is not None and last is not None:
        begins = [i for i, line in enumerate(lines) if line.strip().startswith(first)]
        if len(begins) != 1:
            raise ValueError(f"has {len(begins)} lines that begin with {first!r}, not one")
        rest = range(begins[0], len(lines))
        ends = [i for i in rest if lines[i].strip().startswith(last)]
        if not ends:
            raise ValueError(f"has no line behind {first!r} that begins with {last!r}")
        lines = lines[begins[0] : ends[0] + 1]
    return dedent("\n".join(lines))
