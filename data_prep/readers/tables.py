"""CSV and TSV tables whose columns are leads."""

import csv
import math
import re
from pathlib import Path

import numpy as np

from data_prep.errors import RecordError
from data_prep.readers.leads import has_leads, lead_of
from data_prep.readers.record import Tracing


def read_table(path: Path) -> Tracing:
    """Read a CSV or TSV file: a line of names, then a line for each sample.

    Columns named as leads count, in any order; a unit may follow a name, as in ``V1 (uV)`` or
    ``V1_uV``.  The rate is that of a column ``time`` (in seconds, or ``time_ms``), if there is
    one.  Commas, semicolons or tabs separate the columns; with semicolons, numbers may have
    decimal commas.  Empty cells are invalid samples.

    Args:
        path: of the file.

    Raises:
        RecordError: naming the file and line, if it cannot be understood.
    """
    lines = _text(path).splitlines()
    first = next((n for n, line in enumerate(lines) if line.strip()), None)
    names = _split(lines[first]) if first is not None else []
    if first is None or not any(lead_of(_name_and_unit(name)[0]) for name in names):
        raise RecordError(
            f"{path} does not name leads in its first line; write I,II,III,aVR,… there, one name"
            " a column."
        )
    delimiter = _delimiter(lines[first])
    wanted = [n for n, name in enumerate(names) if lead_of(_name_and_unit(name)[0])]
    time = next((n for n, name in enumerate(names) if _time_unit(name)), None)
    columns = wanted if time is None else [*wanted, time]
    samples = []
    for number, cells in enumerate(csv.reader(lines[first + 1 :], delimiter=delimiter), first + 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise RecordError(
                f"{path}, line {number}: {len(cells)} cells where the first line names"
                f" {len(names)}; mend that line."
            )
        samples.append(_numbers([cells[n] for n in columns], delimiter, f"{path}, line {number}"))
    values = np.array(samples, np.float64).reshape(len(samples), len(columns))
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


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _delimiter(line: str) -> str:
    return max("\t;,", key=line.count)


def _split(line: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]


def _numbers(cells: list[str], delimiter: str, where: str) -> list[float]:
    numbers = []
    for cell in cells:
        text = cell.strip()
        text = text.replace(",", ".") if delimiter == ";" else text
        try:
            numbers.append(float(text) if text.casefold() not in ("", "na", "null") else math.nan)
        except ValueError:
            raise RecordError(f"{where}: {text[:40]!r} is not a number; mend that line.") from None
    return numbers


def _name_and_unit(name: str) -> tuple[str, str]:
    """Split ``V1 (uV)``, ``V1 [uV]``, ``V1_uV`` or ``V1/uV``."""
    found = re.fullmatch(r"(.+?)(?:\s*[(\[]\s*([^)\]]+?)\s*[)\]]|[\s_/]+([munµμ]?v))", name, re.I)
    return (found[1], found[2] or found[3]) if found else (name, "")


_TIME = r"(time|t|seconds|sec|s|ms)(?:[\s_(\[]+(s|sec|seconds|ms)[)\]]?)?"


def _time_unit(name: str) -> float | None:
    """Seconds in one unit of a column of times; None if it is no such column."""
    found = re.fullmatch(_TIME, name, re.I)
    if not found:
        return None
    return 1e-3 if "ms" in (found[1].casefold(), (found[2] or "").casefold()) else 1.0


def _rate_of(seconds: np.ndarray, path: Path) -> float:
    """The rate of evenly spaced times, to which their rounding does nothing."""
    if len(seconds) < 2:
        return math.nan
    step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    even = seconds[0] + step * np.arange(len(seconds))
    if not (step > 0 and np.abs(seconds - even).max() < step):
        raise RecordError(
            f"{path} has a column of times that are not evenly spaced; mend it, or remove it and"
            " give the rate with fs (--fs)."
        )
    rate = 1 / step
    return round(rate) if abs(rate - round(rate)) < 2.5e-4 * rate else rate
