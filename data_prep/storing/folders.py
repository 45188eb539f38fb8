"""Checks whether a folder of records is complete before a store is built from it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files import is_file, opened
from data_prep.readers.wfdb import files_named_by
from data_prep.storing.download import SUMS

if TYPE_CHECKING:
    from data_prep.labels import PTBXLTables

_SHOWN = 5


@dataclass(frozen=True)
class FolderReport:
    """The contents of a folder.

    Attributes:
        layout: a description of the data set.
        num_records: number of recordings found.
        missing: files that its own lists name but it lacks, each with the list.
        extra: recordings, or signal files without a header, that its lists do not name.
        unusable: why files are not recordings, or cannot be used.
        needs: the options that a build needs, each with the reason.
        formats: a line on the recordings of each format.
    """

    layout: str
    num_records: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    unusable: tuple[str, ...]
    needs: tuple[str, ...]
    formats: tuple[str, ...]

    def lines(self, folder: Path) -> list[str]:
        """The report as text.

        Args:
            folder: its name in the first line.
        """
        lines = [f"{folder}: {self.layout}; {self.num_records} recordings.", *self.formats]
        for what, names in (
            ("missing", self.missing),
            ("extra", self.extra),
            ("unusable", self.unusable),
            ("options needed to build", self.needs),
        ):
            lines.append(f"{what}: {len(names) or 'nothing'}")
            lines += [f"  {name}" for name in names[:_SHOWN]]
            lines += [f"  and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        return lines


def inspect_folder(folder: Path) -> FolderReport:
    """Compare a folder with the lists in it, and read a few recordings of each format.

    These are ``SHA256SUMS.txt`` as written by ``ecg-download``, ``ptbxl_database.csv``, the
    ``REFERENCE.csv`` of CPSC 2018, and every WFDB header, which names its signal file.
    Checksums are not computed again.

    Args:
        folder: as downloaded, or copied from elsewhere.

    Raises:
        RecordError: if the folder is missing or empty.
        LabelError: if a table in it cannot be read.
    """
    from data_prep.labels import read_ptbxl_tables
    from data_prep.records import scan_folder
    from data_prep.storing.contents import read_contents

    scan = scan_folder(folder)
    records = scan.records
    missing = _absent_files(folder, _listed_files(folder), SUMS)
    named = {path: files_named_by(path) for _, path in records if path.suffix == ".hea"}
    for path, names in list(named.items()):
        segments = [path.with_name(name) for name in names if name.endswith(".hea")]
        named |= {segment: files_named_by(segment) for segment in segments}
    missing += [
        f"{path.parent / name} (named by {path.name})"
        for path, names in named.items()
        for name in names
        if not is_file(path.parent / name)
    ]
    signals = {path.parent / name for path, names in named.items() for name in names}
    orphans = [
        path
        for path in sorted(folder.rglob("*.dat"))
        if path not in signals and not is_file(path.with_suffix(".hea"))
    ]
    extra = [f"{path} (samples without a header)" for path in orphans]
    published = is_file(folder / "ptbxl_database.csv")
    damaged: tuple[tuple[str, str], ...] = ()  # lines of the table
    if published:
        tables = read_ptbxl_tables(folder)
        layout, more, strange = _against_ptbxl(folder, records, tables)
        damaged = tables.refused
    else:
        layout, more, strange = _against_references(folder, records)
    missing = list(dict.fromkeys(missing + more))
    if not records and not missing:
        scan.require_some(folder)
    labelled = published or any(folder.rglob("REFERENCE.csv"))
    contents = read_contents([path for _, path in records], labelled=labelled)
    return FolderReport(
        layout,
        len(records),
        missing=tuple(missing),
        extra=tuple(extra + strange),
        unusable=tuple(reason for _, reason in (*scan.refused, *damaged)) + contents.unusable,
        needs=contents.needs,
        formats=contents.formats,
    )


def _listed_files(folder: Path) -> list[str]:
    """The files in ``SHA256SUMS.txt``, if there is one."""
    try:
        with opened(folder / SUMS) as file:
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = [re.fullmatch(r"[0-9a-fA-F]{64} [ *](?:\./)?(.+)", line.strip()) for line in lines]
    return [line[1] for line in found if line]


def _absent_files(folder: Path, names: list[str], by: str) -> list[str]:
    return [f"{folder / name} (named by {by})" for name in names if not is_file(folder / name)]


def _against_ptbxl(
    folder: Path, records: list[tuple[str, Path]], tables: "PTBXLTables"
) -> tuple[str, list[str], list[str]]:
    rows = tables.records
    rates = [rate for rate in (100, 500) if (folder / f"records{rate}").is_dir()]
    names = {100: [row.filename_lr for row in rows], 500: [row.filename_hr for row in rows]}
    layout = f"PTB-XL as published, {' and '.join(f'{r} Hz' for r in rates) or 'without records'}"
    listed = [f"{name}.hea" for rate in rates or (100,) for name in names[rate] if name]
    missing = _absent_files(folder, listed, "ptbxl_database.csv")
    known = {folder / name for name in listed}
    damaged = {_number(Path(name)) for name, _ in tables.refused}
    extra = [
        f"{path} (not in ptbxl_database.csv)"
        for _, path in records
        if path not in known and _number(path) not in damaged
    ]
    return layout, missing, extra


def _number(record: Path) -> str:
    """The number of a record of PTB-XL at either rate, such as 09000 of 09000_lr."""
    return record.stem.partition("_")[0]


def _against_references(
    folder: Path, records: list[tuple[str, Path]]
) -> tuple[str, list[str], list[str]]:
    from data_prep.labels import read_reference

    headers = sum(path.suffix == ".hea" for _, path in records)
    structs = sum(path.suffix == ".mat" for _, path in records)
    kinds = [
        f"{number} {what}"
        for number, what in (
            (headers, "WFDB records, as in the PhysioNet challenges"),
            (structs, "MATLAB structs, as CPSC 2018 was first published"),
            (len(records) - headers - structs, "recordings in other formats"),
        )
        if number
    ]
    references = sorted(folder.rglob("REFERENCE.csv"))
    in_headers = "labels in the headers" if headers else "without labels"
    labels = "with REFERENCE.csv" if references else in_headers
    layout = f"{' and '.join(kinds) or 'no records'}, {labels}"
    if not references:
        return layout, [], []
    names = {name: path for path in references for name in read_reference(path)}
    present = {name for name, _ in records}
    missing = [f"{name} (named by {path})" for name, path in names.items() if name not in present]
    extra = [f"{path} (not in REFERENCE.csv)" for name, path in records if name not in names]
    return layout, missing, extra
