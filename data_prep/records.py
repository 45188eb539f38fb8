"""Reads any supported ECG file, in millivolts and with the leads in one order."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import is_file, opened
from data_prep.names import require_record_name, shown
from data_prep.readers.arrays import is_predictions, is_recording, read_array, tracing_of
from data_prep.readers.cpsc_struct import read_cpsc_struct
from data_prep.readers.dicom import read_dicom
from data_prep.readers.edf import read_edf
from data_prep.readers.record import Record, Tracing, file_bytes, record_of
from data_prep.readers.scp_ecg import read_scp
from data_prep.readers.tables import names_leads, read_table
from data_prep.readers.wfdb import files_named_by, read_wfdb
from data_prep.readers.xml import read_xml

__all__ = [
    "Record",
    "find_records",
    "list_records",
    "read_record",
    "read_tracing",
    "record_of_array",
    "scan_folder",
]

_READERS: dict[str, Callable[[Path], Tracing]] = {
    "WFDB": read_wfdb,
    "CPSC struct": read_cpsc_struct,
    "table": read_table,
    "array": read_array,
    "EDF": read_edf,
    "BDF": partial(read_edf, bdf=True),
    "DICOM": read_dicom,
    "SCP-ECG": read_scp,
    "XML": read_xml,
}

_TABLES = (".csv", ".tsv", ".txt")


def read_record(
    path: str | Path, *, fs: float | None = None, unit: str | None = None, fallback: bool = False
) -> Record:
    """Read a recording.

    Supported are WFDB records (a ``.hea`` header with its ``.mat`` or ``.dat`` file, as in PTB-XL
    and the PhysioNet challenges 2020 and 2021), the MATLAB structs in which CPSC 2018 was first
    published, CSV and TSV tables, NumPy arrays, EDF, DICOM, SCP-ECG, GE MUSE XML and HL7 aECG.
    If III, aVR, aVL or aVF are missing, they are computed from I and II.

    Args:
        path: of the file; for a WFDB record, the header, the signal file, or their path without
            the suffix.
        fs: sampling rate in hertz, needed if the file states none (arrays, and tables without
            a time column).
        unit: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``, for a file that states none; by default,
            values are taken to be millivolts if that is plausible.
        fallback: whether a file that states another rate or unit keeps its own, as is wanted for
            many files; otherwise it is refused.

    Returns:
        The recording, its leads ordered by name.

    Raises:
        RecordError: naming the file, if it is missing, cannot be read, is truncated, lacks a
            lead, does not hold a plausible ECG, or contradicts the given rate or unit; or if a
            library that it needs is not installed.
    """
    file = _record_file(Path(path))
    return record_of(read_tracing(file), file, fs=fs, unit=unit, fallback=fallback)


def read_tracing(file: Path) -> Tracing:
    """Read a recording as its file holds it, whether or not its rate, unit and leads suffice.

    Args:
        file: as found by :func:`scan_folder`.

    Raises:
        RecordError: as :func:`read_record`.
    """
    _require_name(file)
    return _READERS[format_of(_record_file(file)) or ""](file)


def record_of_array(signal: np.ndarray, *, fs: float, unit: str | None) -> Record:
    """Make a recording from an array.

    Args:
        signal: ``(time, 12)`` or ``(12, time)``, leads in the order of
            :data:`data_prep.labels.LEADS`, NaN if invalid.
        fs: its sampling rate, hertz.
        unit: as in :func:`read_record`.

    Raises:
        RecordError: if it has another shape or does not hold a plausible ECG.
    """
    try:
        tracing = tracing_of(np.asarray(signal))
    except ValueError as error:
        raise RecordError(f"array is not a recording: {error}.") from error
    return record_of(tracing, Path("array"), fs=fs, unit=unit)


def find_records(folder: str | Path) -> dict[str, Path]:
    """Find all recordings in a folder and the folders below it.

    Args:
        folder: where to look.

    Returns:
        The file of each recording, for :func:`read_record`, sorted by name.

    Raises:
        RecordError: if the folder is missing, or two recordings have the same name.
    """
    return scan_folder(folder).by_name(folder)


def list_records(folder: str | Path) -> list[tuple[str, Path]]:
    """List all recordings in a folder and the folders below it, including those that share a name.

    Args:
        folder: where to look.

    Returns:
        Name and file of each, sorted.

    Raises:
        RecordError: if the folder is missing.
    """
    return scan_folder(folder).records


@dataclass(frozen=True)
class FolderScan:
    """The contents of a folder and the folders below it.

    Attributes:
        records: name and file of each recording, sorted; names may repeat.
        refused: files with the suffix of a recording that are not recordings, folders that cannot
            be read, and links to folders, each with the reason, sorted.
    """

    records: list[tuple[str, Path]]
    refused: list[tuple[Path, str]]

    def by_name(self, folder: str | Path) -> dict[str, Path]:
        """Return the file of each recording, sorted by name.

        Args:
            folder: that was searched.

        Raises:
            RecordError: if two recordings have the same name.
        """
        records: dict[str, Path] = {}
        for name, path in self.records:
            if name in records:
                raise RecordError(
                    f"{folder} holds two recordings named {name}, {records[name]} and {path};"
                    " remove one or give the folder of the other."
                )
            records[name] = path
        return records

    def require_some(self, folder: Path) -> None:
        """Make sure that there is a recording.

        Args:
            folder: that was searched.

        Raises:
            RecordError: if there is none, with the reason of the first file refused.
        """
        if self.records:
            return
        if self.refused:
            raise RecordError(f"no usable recording in {folder}: {self.refused[0][1]}")
        raise RecordError(f"{folder} holds no recording; give a folder with some.")


def scan_folder(folder: str | Path) -> FolderScan:
    """Find the recordings in a folder and the folders below it, and files that only look like one.

    Files with other suffixes are ignored, and so are the segments and signal files that a WFDB
    header names, tables about recordings, such as ``REFERENCE.csv``, the answers of an earlier
    prediction, and hidden files.  A file without a suffix is a recording if it begins as DICOM,
    EDF, BDF or SCP-ECG does.  Links to folders are not followed.

    Args:
        folder: where to look.

    Raises:
        RecordError: if the folder is missing.
    """
    if not Path(folder).is_dir():
        raise RecordError(f"{folder} is not a folder; give the folder that holds the recordings.")
    refused: list[tuple[Path, str]] = []

    def unreadable(error: OSError) -> None:
        refused.append(
            (Path(error.filename), f"{error.filename} cannot be read ({error.strerror})")
        )

    files = list[Path]()
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        # Copying on macOS leaves files such as ._A0001.mat, which are not recordings.
        files += [Path(parent, name) for name in names if not name.startswith(".")]
        links = [Path(parent, name) for name in folders if not name.startswith(".")]
        refused += [
            (path, f"{path} is a link to a folder, which is not followed; give that folder itself.")
            for path in links
            if path.is_symlink()
        ]
    headers = {path for path in files if path.suffix == ".hea"}
    named = {path: {path.with_name(name) for name in files_named_by(path)} for path in headers}
    joining = {path for path in headers if any(part.suffix == ".hea" for part in named[path])}
    parts = set().union(*named.values()) - joining
    found = []
    for path in files:
        if path in parts:
            continue
        if path in headers or (path.suffix == ".mat" and path.with_suffix(".hea") not in headers):
            found.append(path)
        elif path.suffix.casefold() in _OTHER_ENDINGS:
            if is_file(path) and holds_recording(path):
                found.append(path)
            elif path.suffix and (reason := _why_refused(path)):
                refused.append((path, reason))
    return FolderScan(sorted((path.stem, path) for path in found), sorted(refused))


def _why_refused(path: Path) -> str:
    """Why a file is not a recording; empty for a table about recordings."""
    if path.suffix.casefold() == ".npz" and is_predictions(path):
        return ""
    with suppress(OSError), opened(path) as file:
        if path.suffix.casefold() in (".csv", ".tsv"):
            line = file.readline(10_000).decode("utf-8-sig", errors="replace")
            if _ABOUT_RECORDS & {name.strip(' "').casefold() for name in re.split("[,;\t]", line)}:
                return ""
    try:
        read_record(path)
    except RecordError as error:
        return str(error)
    return f"{path} is read only if it is named itself."


# Columns of the tables of labels and predictions that are found among recordings.
_ABOUT_RECORDS = {"recording", "record", "ecg_id", "diagnostic_class"}
_OTHER_ENDINGS = ("", ".csv", ".tsv", ".npy", ".npz", ".edf", ".bdf", ".dcm", ".scp", ".xml")


def _record_file(path: Path) -> Path:
    """The header, struct or other file meant by a path with or without its suffix."""
    if path.suffix == ".hea" and is_file(path):
        return path
    stem = path.with_suffix("") if path.suffix in (".mat", ".dat", ".hea") else path
    header, struct = (stem.with_name(stem.name + ending) for ending in (".hea", ".mat"))
    for file in (header, struct):
        if is_file(file):
            return file
    # Signal files without a header may begin like other formats.
    if is_file(path) and path.suffix != ".dat" and format_of(path):
        return path
    if is_file(path):
        raise RecordError(
            f"{path} is not a recording that this program reads; give a WFDB record with its header"
            f" ({header.name}), a .mat file of CPSC 2018, CSV, NumPy, EDF, DICOM, SCP-ECG, GE MUSE"
            " or HL7 aECG."
        )
    if os.path.lexists(path) and not os.path.isdir(path):
        raise RecordError(
            f"{path} is not a regular file (a pipe, device or broken link); remove it."
        )
    raise RecordError(f"{path} does not exist as a recording; look for {header} or {struct}.")


def _require_name(path: Path) -> None:
    """Reject a recording whose name a store or a table of predictions could not hold."""
    try:
        require_record_name(path.stem)
    except ValueError as error:
        raise RecordError(f"{shown(str(path))} cannot be read: {error}; rename it.") from None


def format_of(path: Path) -> str | None:
    """Identify a format by its first bytes, or WFDB, MATLAB and tables by their suffixes.

    Args:
        path: an existing file.

    Returns:
        The name of the format; None if it is not a supported one.

    Raises:
        RecordError: if the file cannot be read or is too large for a recording.
    """
    if path.suffix in (".hea", ".mat"):
        return "WFDB" if path.suffix == ".hea" else "CPSC struct"
    return _format_of(file_bytes(path, first=256), path.suffix.casefold())


def _format_of(start: bytes, ending: str) -> str | None:
    found = None
    if start.startswith(b"\x93NUMPY") or (start.startswith(b"PK") and ending == ".npz"):
        found = "array"
    elif start.startswith(b"0       "):
        found = "EDF"
    elif start.startswith(b"\xffBIOSEMI"):
        found = "BDF"
    elif start[128:132] == b"DICM":
        found = "DICOM"
    elif start[16:22] == b"SCPECG" or ending == ".scp":
        found = "SCP-ECG"
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" or start[:4] in _UTF16_TAGS:
        found = "XML"
    elif ending in _TABLES:
        found = "table"
    return found


_UTF16_TAGS = (b"\xff\xfe<\0", b"\xfe\xff\0<")


def holds_recording(path: Path) -> bool:
    """Tell whether a file found in a folder is a recording and not some other table.

    Args:
        path: an existing file.
    """
    ending = path.suffix.casefold()
    try:
        if ending in (".edf", ".bdf", ".scp"):
            return True
        if ending in (".csv", ".tsv"):
            with open(path, "rb") as opened:
                line = opened.readline(10_000)
            return names_leads(line.decode("utf-8-sig", errors="replace"))
        if ending in (".npy", ".npz"):
            return is_recording(path)
        with open(path, "rb") as file:
            start = file.read(4096)
        form = "DICOM" if ending == ".dcm" else _format_of(start, ending)
        if not ending and form in ("EDF", "BDF", "SCP-ECG"):
            return True
        if form == "DICOM":
            return any(storage in start for storage in _ECG_STORAGE)
        return ending == ".xml" and any(
            root in start or root.decode().encode("utf-16-le") in start for root in _ROOTS
        )
    except OSError:
        return False


# The prefix of the DICOM storage classes of 12-lead, general and ambulatory ECGs (PS3.4, B.5).
_ECG_STORAGE = (b"1.2.840.10008.5.1.4.1.1.9.1.",)
_ROOTS = (b"<RestingECG", b"AnnotatedECG")
