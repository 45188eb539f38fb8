"""CSV and TSV tables whose columns are leads."""

import csv
import math
import re
from array import array
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np

from data_prep.errors import RecordError
from data_prep.readers.leads import MOST_LETTERS, has_leads, lead_of
from data_prep.readers.record import Tracing, file_bytes, require_values, unreadable

_MOST_IN_LINE = 1_000_000  # characters
_MOST_BYTES = 2**28  # an hour at 500 Hz with 12 characters per sample


def read_table(path: Path) -> Tracing:
    """Read a CSV or TSV file: a line of names, then one line per sample.

    Columns named as leads are read, in any order; a unit may follow a name, as in ``V1 (uV)`` or
    ``V1_uV``.  The rate is computed from a column ``time`` (in seconds, or ``time_ms``), if there
    is one.  Columns are separated by commas, semicolons or tabs; with semicolons, numbers may have
    decimal commas.  Empty cells are invalid samples, even if those of a whole line are empty; such
    lines are skipped only at the end, or if there is a column of times.  Blank lines are skipped.

    Args:
        path: of the file.

    Raises:
        RecordError: naming the file and line, if it is not a valid table of leads.
    """
    lines = _lines(path)
    before, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    names = _split(first)
    if not any(lead_of(_name_and_unit(name)[0]) for name in names):
        raise RecordError(
            f"{path} does not name leads in its first line; write I,II,III,aVR,… there, one name"
            " a column."
        )
    delimiter = _delimiter(first)
    wanted = [n for n, name in enumerate(names) if lead_of(_name_and_unit(name)[0])]
    time = next((n for n, name in enumerate(names) if _time_unit(name)), None)
    columns = wanted if time is None else [*wanted, time]
    samples = array("d")
    end = 0  # of the last line with a value
    try:
        for number, cells in enumerate(csv.reader(lines, delimiter=delimiter), before + 1):
            if not any(cell.strip() for cell in cells):
                if len(cells) > 1 and time is None:
                    samples.extend([math.nan] * len(columns))
                    require_values(len(samples), path)
                continue
            if len(cells) != len(names):
                raise RecordError(
                    f"{path}, line {number}: {len(cells)} cells, but the first line names"
                    f" {len(names)}; correct that line."
                )
            where = f"{path}, line {number}"
            samples.extend(_numbers([cells[n] for n in columns], delimiter, where))
            end = len(samples)
            require_values(end, path)
    except csv.Error as error:
        raise unreadable(path, "a table", error) from error
    del samples[end:]  # of the lines that spreadsheet programs add
    values = np.frombuffer(samples, np.float64).reshape(-1, len(columns))
    fs = math.nan
    if time is not None:
        fs = _rate_of(values[:, -1] * (_time_unit(names[time]) or 1), path)
        values = values[:, :-1]
    pairs = [_name_and_unit(names[n]) for n in wanted]
    return Tracing(tuple(p[0] for p in pairs), values, tuple(p[1] for p in pairs), fs)


def names_leads(line: str) -> bool:
    """Tell whether the first line of a table names the leads that a record needs.

    Args:
        line: the first line of the file.
    """
    return has_leads([_name_and_unit(name)[0] for name in _split(line)])


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 or Latin-1 text, decoded one by one."""
    data = file_bytes(path, most=_MOST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    for number, line in enumerate(StringIO(text, newline=None), start=1):
        if len(line) > _MOST_IN_LINE:
            raise RecordError(
                f"{path}, line {number}: {len(line)} characters are more than a table of leads has"
                " in a line; correct it or leave this recording out."
            )
        yield line


def _delimiter(line: str) -> str:
    return max("\t;,", key=line.count)


def _split(line: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except csv.Error:  # a cell of more than 128 KiB
        return []


def _numbers(cells: list[str], delimiter: str, where: str) -> list[float]:
    numbers = []
    for cell in cells:
        text = cell.strip()
        text = text.replace(",", ".") if delimiter == ";" else text
        try:
            numbers.append(float(text) if text.casefold() not in ("", "na", "null") else math.nan)
        except ValueError:
            raise RecordError(
                f"{where}: {text[:40]!r} is not a number; correct that line."
            ) from None
    return numbers


def _name_and_unit(name: str) -> tuple[str, str]:
    """Split ``V1 (uV)``, ``V1 [uV]``, ``V1_uV`` or ``V1/uV``."""
    if len(name) > MOST_LETTERS:  # the run time of the expression is cubic
        return name, ""
    found = re.fullmatch(r"(.+?)(?:\s*[(\[]\s*([^)\]]+?)\s*[)\]]|[\s_/]+([munµμ]?v))", name, re.I)
    return (found[1], found[2] or found[3]) if found else (name, "")


_TIME = r"(time|t|seconds|sec|s|ms)(?:[\s_(\[]+(s|sec|seconds|ms)[)\]]?)?"


def _time_unit(name: str) -> float | None:
    """The unit of a time column in seconds; None if it is not a time column."""
    found = re.fullmatch(_TIME, name, re.I)
    if not found:
        return None
    return 1e-3 if "ms" in (found[1].casefold(), (found[2] or "").casefold()) else 1.0


def _rate_of(seconds: np.ndarray, path: Path) -> float:
    """The rate of evenly spaced times; not affected by their rounding."""
    if len(seconds) < 2:
        return math.nan
    step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    even = seconds[0] + step * np.arange(len(seconds))
    if not (step > 0 and np.abs(seconds - even).max() < step):
        raise RecordError(
            f"{path} has a column of times that are not evenly spaced; correct it, or remove it and"
            " give the rate with fs (--fs)."
        )
    rate = 1 / step
    return round(rate) if abs(rate - round(rate)) < 2.5e-4 * rate else rate
