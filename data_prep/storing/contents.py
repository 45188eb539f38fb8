"""Reads a few recordings of each format, to say what a build from their folder needs."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import RecordError
from data_prep.label_tables import CPSC_MAP
from data_prep.labels import LEADS
from data_prep.readers.record import Tracing, record_of
from data_prep.records import format_of, read_tracing

_READ = 20  # recordings of each format
_FORMATS = {".hea": "WFDB", ".mat": "MATLAB struct", ".dcm": "DICOM", ".scp": "SCP-ECG"}


@dataclass(frozen=True)
class Contents:
    """What some recordings of a folder hold.

    Attributes:
        formats: a line on each format: rates, lengths, and what its files do not state.
        needs: the options that a build needs, each with the reason.
        unusable: why some of those read cannot be used.
    """

    formats: tuple[str, ...]
    needs: tuple[str, ...]
    unusable: tuple[str, ...]


def format_name(path: Path) -> str:
    """Name the format of a recording by its suffix, or by its first bytes if it has none.

    Args:
        path: as found in a folder.

    Raises:
        RecordError: if it has no suffix and cannot be read.
    """
    ending = path.suffix.casefold()
    return _FORMATS.get(ending) or ending[1:].upper() or format_of(path) or ""


def read_contents(paths: Sequence[Path], *, labelled: bool) -> Contents:
    """Read up to 20 recordings of each format.

    Args:
        paths: of all recordings.
        labelled: whether the folder has a table of their labels.
    """
    by_format: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_format[format_name(path)].append(path)
    formats, unusable, read = [], [], []
    for name, alike in sorted(by_format.items()):
        tracings, computed = [], set[str]()
        for path in alike[:: math.ceil(len(alike) / _READ)]:
            try:
                tracing = read_tracing(path)
                tracings.append(tracing)
                # Without a rate, any will do: one that makes the recording 10 s long.
                supposed = min(max(len(tracing.values) / 10, 50.0), 10_000.0)
                fs = supposed if math.isnan(tracing.fs) else None
                computed |= set(record_of(tracing, path, fs=fs, unit=None).derived)
            except RecordError as error:
                unusable.append(str(error))
        facts = [f"{name}: {len(tracings)} of {len(alike)} read", *_facts(tracings)]
        if computed:
            leads = [lead for lead in LEADS if lead in computed]
            facts.append(f"{', '.join(leads)} computed from I and II")
        formats.append("; ".join(facts))
        read += tracings
    return Contents(tuple(formats), tuple(_needs(read, labelled=labelled)), tuple(unusable))


def _facts(tracings: Sequence[Tracing]) -> list[str]:
    rates = [each.fs for each in tracings if not math.isnan(each.fs)]
    seconds = [len(each.values) / each.fs for each in tracings if not math.isnan(each.fs)]
    samples = [len(each.values) for each in tracings if math.isnan(each.fs)]
    return [
        f"{min(values):g}{f' to {max(values):g}' if max(values) > min(values) else ''} {what}"
        for values, what in (
            (rates, "Hz"),
            (seconds, "s"),
            (samples, "samples at no stated rate"),
        )
        if values
    ]


def _needs(read: Sequence[Tracing], *, labelled: bool) -> list[str]:
    without_rate = sum(math.isnan(each.fs) for each in read)
    without_unit = sum("" in each.units for each in read)
    codes = {code for each in read for code in each.codes}
    of = f"of the {len(read)} recordings read"
    needs = []
    if without_rate:
        needs.append(f"--fs: {without_rate} {of} do not state their sampling rate")
    if without_unit:
        needs.append(
            f"--unit: {without_unit} {of} do not state their unit (mV is assumed if plausible)"
        )
    if read and not labelled and not codes:
        needs.append("--labels: there is no REFERENCE.csv, and no header read names a diagnosis")
    elif read and not labelled and not CPSC_MAP.labels(codes):
        needs.append("--labels or --map: no header read names a diagnosis of CPSC 2018")
    return needs
