"""Any supported ECG file, read as millivolts with the leads in one order.

WFDB records and the structs of CPSC 2018 are read here, other formats in
:mod:`data_prep.readers.formats` and :mod:`data_prep.readers.xml`.
"""

import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import RecordError
from data_prep.labels import LEADS
from data_prep.readers.cpsc_struct import read_struct
from data_prep.readers.formats import (
    Format,
    Tracing,
    format_of,
    holds_recording,
    read_array,
    read_dicom,
    read_edf,
    read_scp,
    read_table,
    tracing_of,
)
from data_prep.readers.leads import MILLIVOLTS, complete_leads, find_leads

CPSC_RATE = 500.0
"""Hertz; the original files of CPSC 2018 do not carry their rate."""

# Bytes a sample of each WFDB format; the FLAC formats have no fixed size.
_SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 3 / 2}
_SAMPLE_BYTES |= {"310": 4 / 3, "311": 4 / 3}
_FLAC_FORMATS = ("508", "516", "524")
_RATES = (50.0, 10_000.0)
_SECONDS = (1.0, 3600.0)
# Standard deviation of a lead in mV.  Surface ECGs lie near 0.2; a unit misnamed by a factor of
# a thousand falls out at either end, and so does a recording of nothing.
_SPREADS = (0.001, 50.0)
# Where the unit is only supposed, what lies further off is not taken for millivolts.
_SUPPOSED_SPREADS = (0.01, 5.0)
_HEADER_BYTES = 1_000_000
_MOST_SKEW = 1000


@dataclass(frozen=True, eq=False)
class Record:
    """A 12-lead recording.

    Attributes:
        id: the file's name without its ending.
        signal: float32 ``(time, 12)``, millivolts, NaN where invalid; leads as in
            :data:`data_prep.labels.LEADS`.
        fs: sampling rate, hertz.
        age: in years, NaN where unknown.
        sex: ``"male"``, ``"female"``, or ``""`` where unknown.
        codes: diagnoses as the header gives them: names of classes, or SNOMED CT codes.
        path: the file read; of a WFDB record, its header.
        derived: leads that the file lacks, computed from I and II.
    """

    id: str
    signal: np.ndarray
    fs: float
    age: float
    sex: str
    codes: tuple[str, ...]
    path: Path
    derived: tuple[str, ...] = ()


def read_record(path: str | Path, *, fs: float | None = None, unit: str | None = None) -> Record:
    """Read a recording.

    Supported are WFDB records (a ``.hea`` header with its ``.mat`` or ``.dat`` file, such as
    PTB-XL and the PhysioNet challenges 2020 and 2021 have), the MATLAB structs in which CPSC
    2018 was first published, CSV and TSV tables, NumPy arrays, EDF, DICOM, SCP-ECG, GE MUSE XML
    and HL7 aECG.  Where III, aVR, aVL or aVF are missing, they are computed from I and II.

    Args:
        path: of the file; of a WFDB record, the header, the signal file, or the two without
            their ending.
        fs: sampling rate in hertz, needed where the file states none (arrays, and tables without
            a column of times).
        unit: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``, for a file that states none; without it,
            values are taken for millivolts if they can be.

    Returns:
        The recording, its leads put in order by their names.

    Raises:
        RecordError: naming the file, where it is missing, cannot be understood, is cut short,
            lacks a lead, holds no plausible ECG, or states another rate or unit than is given;
            or where a library that it needs is not installed.
    """
    file = _record_file(Path(path))
    kind = None if file.suffix in (".hea", ".mat") else format_of(file)
    if kind:
        return _record_of(_read_tracing(file, kind), file, fs=fs, unit=unit)
    record = _read_wfdb(file, unit) if file.suffix == ".hea" else _read_cpsc_struct(file, unit)
    _agreed(record.fs, fs, file)
    _require_ecg(record)
    return record


def record_of_array(
    signal: np.ndarray, *, fs: float, unit: str | None = None, name: str = "array"
) -> Record:
    """Make a recording of an array.

    Args:
        signal: ``(time, 12)`` or ``(12, time)``, leads in the order of
            :data:`data_prep.labels.LEADS`, NaN where invalid.
        fs: its sampling rate, hertz.
        unit: as in :func:`read_record`.
        name: what the recording is called in answers and errors.

    Raises:
        RecordError: where the shape is another, or it holds no plausible ECG.
    """
    try:
        tracing = tracing_of(np.asarray(signal))
    except ValueError as error:
        raise RecordError(f"{name} is no recording: {error}.") from error
    return _record_of(tracing, Path(name), fs=fs, unit=unit)


def find_records(folder: str | Path) -> dict[str, Path]:
    """Find all recordings in a folder and the folders below it.

    Args:
        folder: where to look.

    Returns:
        The file to give to :func:`read_record` of each recording, by its name, sorted.

    Raises:
        RecordError: where the folder is missing, or two recordings have one name.
    """
    records: dict[str, Path] = {}
    for name, path in list_records(folder):
        if name in records:
            raise RecordError(
                f"{folder} holds two recordings named {name}, {records[name]} and {path}; remove"
                " one or give the folder of the other."
            )
        records[name] = path
    return records


def list_records(folder: str | Path) -> list[tuple[str, Path]]:
    """List all recordings in a folder and the folders below it, also those of one name.

    Args:
        folder: where to look.

    Returns:
        Name and file of each, sorted.

    Raises:
        RecordError: where the folder is missing.
    """
    if not Path(folder).is_dir():
        raise RecordError(f"{folder} is not a folder; give the folder that holds the recordings.")
    # Copies made by macOS leave files such as ._A0001.mat that are none.
    files = [path for path in Path(folder).rglob("*") if not path.name.startswith(".")]
    headers = {path for path in files if path.suffix == ".hea"}
    found = [
        path
        for path in files
        if path in headers
        or (path.suffix == ".mat" and path.with_suffix(".hea") not in headers)
        or (path.suffix.casefold() in _OTHER_ENDINGS and path.is_file() and holds_recording(path))
    ]
    return sorted((path.stem, path) for path in found)


_OTHER_ENDINGS = (".csv", ".tsv", ".npy", ".npz", ".edf", ".bdf", ".dcm", ".scp", ".xml")


def _record_file(path: Path) -> Path:
    """The header, struct or other file that a path with or without its ending means."""
    if path.suffix == ".hea" and path.is_file():
        return path
    stem = path.with_suffix("") if path.suffix in (".mat", ".dat", ".hea") else path
    header, struct = (stem.with_name(stem.name + ending) for ending in (".hea", ".mat"))
    for file in (header, struct):
        if file.is_file():
            return file
    # Samples that lost their header may begin as other files do.
    if path.is_file() and path.suffix != ".dat" and format_of(path):
        return path
    if path.is_file():
        raise RecordError(
            f"{path} is no recording this program reads; give a WFDB record with its header"
            f" ({header.name}), a .mat file of CPSC 2018, CSV, NumPy, EDF, DICOM, SCP-ECG, GE MUSE"
            " or HL7 aECG."
        )
    raise RecordError(f"{path} does not exist as a recording; look for {header} or {struct}.")


def _read_tracing(path: Path, kind: Format) -> Tracing:
    if kind == "XML":
        from data_prep.readers.xml import read_xml

        return read_xml(path)
    if kind in ("EDF", "BDF"):
        return read_edf(path, bdf=kind == "BDF")
    readers = {
        "table": read_table,
        "array": read_array,
        "DICOM": read_dicom,
        "SCP-ECG": read_scp,
    }
    return readers[kind](path)


def _record_of(tracing: Tracing, path: Path, *, fs: float | None, unit: str | None) -> Record:
    """Choose the leads, bring them to millivolts, and complete them."""
    chosen = _choose_leads(tracing.names, path)
    stated = [tracing.units[i] for i in chosen.values()]
    scale = [MILLIVOLTS[_unit_of(each, unit, path).casefold()] for each in stated]
    rate = _require_rate(_agreed(tracing.fs, fs, path), path)
    _require_duration(len(tracing.values), rate, path)
    signal, derived = complete_leads(list(chosen), tracing.values[:, list(chosen.values())] * scale)
    record = Record(
        id=path.stem,
        signal=_millivolts(signal),
        fs=rate,
        age=tracing.age if 0 <= tracing.age <= 120 else math.nan,
        sex=_sex(tracing.sex),
        codes=(),
        path=path,
        derived=derived,
    )
    if unit is None and "" in stated:
        _require_millivolts(record)
    _require_ecg(record)
    return record


def _choose_leads(names: Sequence[str], path: Path) -> dict[str, int]:
    try:
        return find_leads(names)
    except ValueError as error:
        raise RecordError(
            f"{path} {error}; I, II and V1 to V6 are needed at least, so leave it out."
        ) from error


def _agreed(stated: float, given: float | None, path: Path) -> float:
    """The rate, from what the file states (NaN: nothing) and what the user gives."""
    if given is None and math.isnan(stated):
        raise RecordError(
            f"{path} does not state its sampling rate; give it in Hz with fs (--fs), or add a"
            " column time in seconds to a table."
        )
    if given is None or math.isnan(stated):
        return stated if given is None else given
    if abs(stated - given) > 0.005 * given:
        raise RecordError(
            f"{path} states a rate of {stated:g} Hz and not the {given:g} Hz given with fs (--fs);"
            " leave that out or mend the file."
        )
    return stated


def _unit_of(stated: str, given: str | None, path: Path) -> str:
    """The unit, from what the file states and what the user gives; mV where both are silent."""
    for unit in (stated, given or ""):
        if unit and unit.casefold() not in MILLIVOLTS:
            raise RecordError(
                f"{path} has a lead in {unit!r}, which is none of mV, uV, V, nV; convert it or"
                " leave this recording out."
            )
    if stated and given and MILLIVOLTS[stated.casefold()] != MILLIVOLTS[given.casefold()]:
        raise RecordError(
            f"{path} states the unit {stated} and not the {given} given with unit (--unit); leave"
            " that out or mend the file."
        )
    return stated or given or "mV"


def _require_millivolts(record: Record) -> None:
    """Refuse values that would be taken for millivolts, where they hardly can be."""
    spread = _spread(record)
    if not _SUPPOSED_SPREADS[0] <= spread <= _SUPPOSED_SPREADS[1]:
        likely = "uV, or raw counts" if spread > 1 else "V"
        raise RecordError(
            f"{record.path} does not state its unit, and its leads vary by {spread:.3g} (standard"
            f" deviation), too {'much' if spread > 1 else 'little'} for mV: it may be in {likely};"
            " give the unit with unit (--unit)."
        )


@dataclass(frozen=True)
class _Lead:
    """A signal line of a WFDB header; see the manual page ``header(5)``."""

    file: str
    format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    initial: int
    checksum: int
    name: str


@dataclass(frozen=True)
class _Header:
    """A WFDB header; ``fs`` and ``num_samples`` count frames.

    One that joins segments has their names and lengths, and no leads of its own.
    """

    fs: float
    num_samples: int | None
    leads: list[_Lead]
    info: dict[str, str]
    segments: list[tuple[str, int]]


_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([-+.\deE]+)(?:\((-?\d+)\))?(?:/(\S+))?")


def _parse_header(path: Path) -> _Header:
    # wfdb.rdheader refuses record names with an ending, drops the µ of "µV" (so that microvolts
    # become volts) and takes 1e3 for 1; hence a parser of our own.
    lines = [line.strip() for line in _header_text(path).splitlines()]
    fields = [line.split() for line in lines if line and not line.startswith("#")]
    comments = [line.lstrip("# \t") for line in lines if line.startswith("#")]
    pairs = [comment.partition(":") for comment in comments]
    info = {key.strip().casefold(): value.strip() for key, _, value in pairs}
    try:
        name, num_leads, rate, *rest = fields[0]
        name, joins, num_segments = name.partition("/")
        segments, leads = [], []
        if joins:
            segments = [(segment, _whole(length)) for segment, length in fields[1:]]
            if min((length for _, length in segments), default=0) < 0:
                raise ValueError("a segment has less than no samples")
        else:
            leads = [_parse_lead(line) for line in fields[1:]]
        announced, found = int(num_segments or num_leads), len(segments or leads)
        if found != announced:
            what = "segments" if joins else "signal lines"
            raise ValueError(f"{found} {what}, but {announced} are announced")
        fs = float(re.split("[/(]", rate)[0])
        # A length of 0 means that it is not known.
        return _Header(fs, _whole(rest[0]) or None if rest else None, leads, info, segments)
    except (IndexError, ValueError) as error:
        raise RecordError(
            f"{path} is not a WFDB header ({error}); mend it or leave this recording out."
        ) from error


def _header_text(path: Path) -> str:
    try:
        if path.stat().st_size > _HEADER_BYTES:
            raise RecordError(f"{path} is too large for a header; leave this recording out.")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _parse_lead(fields: list[str]) -> _Lead:
    form = _FORMAT.fullmatch(fields[1])
    gain = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else None
    if form is None or gain is None:
        raise ValueError(f"no format and gain in {' '.join(fields)[:80]!r}")
    zero = _whole(fields[4]) if len(fields) > 4 else 0
    return _Lead(
        file=fields[0],
        format=form[1],
        samples_per_frame=_whole(form[2] or "1"),
        skew=_whole(form[3] or "0"),
        byte_offset=_whole(form[4] or "0"),
        gain=float(gain[1]),
        baseline=_whole(gain[2]) if gain[2] else zero,
        unit=gain[3] or "mV",
        initial=_whole(fields[5]) if len(fields) > 5 else 0,
        checksum=_whole(fields[6]) if len(fields) > 6 else 0,
        name=" ".join(fields[8:]),
    )


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) >= 2**48:
        raise ValueError(f"{text[:20]}… is too large a number")
    return number


def _read_wfdb(path: Path, unit: str | None) -> Record:
    header = _parse_header(path)
    read = _read_segments if header.segments else _read_signals
    fs, leads, samples = read(header, path, unit)
    signal, derived = complete_leads(leads, samples)
    return Record(
        id=path.stem,
        signal=_millivolts(signal),
        fs=fs,
        age=_age(header.info.get("age", "")),
        sex=_sex(header.info.get("sex", "")),
        codes=_codes(header.info.get("dx", "")),
        path=path,
        derived=derived,
    )


def _read_signals(
    header: _Header, path: Path, unit: str | None, *, whole: bool = True
) -> tuple[float, list[str], np.ndarray]:
    """Read what one header describes: rate in hertz, leads, millivolts ``(time, lead)``.

    A part of a recording, not the whole, may be of any length.
    """
    found = _choose_leads([lead.name for lead in header.leads], path)
    chosen = [header.leads[i] for i in found.values()]
    for lead in chosen:
        _require_readable(lead, path)
        _unit_of(lead.unit, unit, path)
    per_frame = {lead.samples_per_frame for lead in chosen}
    if len(per_frame) > 1:
        raise RecordError(
            f"{path} has leads of different rates ({min(per_frame)} and {max(per_frame)} samples a"
            " frame); bring them to one rate or leave this recording out."
        )
    fs = _require_rate(header.fs * max(per_frame), path)
    num_samples = _num_samples(header, chosen, path)
    if whole:
        _require_duration(num_samples, header.fs, path)
    samples = _read_samples(header, chosen, num_samples, path)
    scale = [MILLIVOLTS[lead.unit.casefold()] for lead in chosen]
    return fs, list(found), samples * scale


def _read_segments(
    header: _Header, path: Path, unit: str | None
) -> tuple[float, list[str], np.ndarray]:
    """Read the segments that a header joins, one after the other; a gap between them is NaN.

    A segment of no length only names the signals of the others.
    """
    length = sum(length for _, length in header.segments)
    # Its frames may come less often than the samples of an ECG do.
    _require_duration(length, header.fs if header.fs > 0 else _require_rate(header.fs, path), path)
    if length != (header.num_samples or length):
        raise RecordError(
            f"{path} states {header.num_samples} samples, but its segments have {length}; fetch it"
            " again or leave this recording out."
        )
    rates, leads, parts = set[float](), list[str](), list[np.ndarray | int]()
    for name, length in header.segments:
        if name == "~":
            parts.append(length)
        elif length:
            plain = Path(name).name == name and name.isprintable()
            file = path.with_name(f"{name}.hea") if plain else path
            if file == path or not file.is_file():
                raise RecordError(
                    f"{path} joins a segment {name!r}, of which there is no header beside it; put"
                    " it there or leave this recording out."
                )
            segment = _parse_header(file)
            if segment.segments or segment.num_samples not in (None, length):
                raise RecordError(
                    f"{file} is not the segment of {length} samples that {path} joins; fetch both"
                    " again or leave this recording out."
                )
            segment = replace(segment, num_samples=length)
            fs, found, samples = _read_signals(segment, file, unit, whole=False)
            rates.add(fs)
            leads = leads or found
            if segment.fs != header.fs or len(rates) > 1 or set(found) != set(leads):
                raise RecordError(
                    f"{path} joins segments of other leads or rates than those of {file}; read"
                    " them one by one."
                )
            parts.append(samples[:, [found.index(lead) for lead in leads]])
    if not rates:
        raise RecordError(f"{path} joins no segment that holds samples; leave this recording out.")
    per_frame = round(fs / header.fs)
    whole = [
        np.full((part * per_frame, len(leads)), np.nan) if isinstance(part, int) else part
        for part in parts
    ]
    return fs, leads, np.concatenate(whole)


def _require_rate(fs: float, path: Path) -> float:
    if not _RATES[0] <= fs <= _RATES[1]:
        raise RecordError(
            f"{path} states a rate of {fs:g} Hz, which no ECG has (from {_RATES[0]:g} to"
            f" {_RATES[1]:g}); mend it or leave this recording out."
        )
    return fs


def _require_readable(lead: _Lead, path: Path) -> None:
    if lead.format not in (*_SAMPLE_BYTES, *_FLAC_FORMATS):
        trouble = f"is stored in format {lead.format}, which is unknown"
    elif lead.samples_per_frame < 1:
        trouble = "has no sample a frame"
    elif lead.gain <= 0 or not math.isfinite(lead.gain):
        trouble = f"has a gain of {lead.gain:g}, so that it is not calibrated"
    elif lead.unit.casefold() not in MILLIVOLTS:
        trouble = f"is in {lead.unit!r}, which is none of mV, uV, V, nV"
    # A header must not make us read what lies elsewhere.
    elif Path(lead.file).name != lead.file or lead.file == ".." or not lead.file.isprintable():
        trouble = f"is in {lead.file!r}, which is not a file beside the header"
    else:
        return
    raise RecordError(
        f"{path}: lead {lead.name} {trouble}; mend the header or leave this recording out."
    )


def _num_samples(header: _Header, chosen: list[_Lead], path: Path) -> int:
    """The frames of each lead, after a look at whether the files can hold so many."""
    num_samples = header.num_samples
    for name in dict.fromkeys(lead.file for lead in chosen):
        file, lead = path.with_name(name), next(x for x in chosen if x.file == name)
        try:
            size = file.stat().st_size
            with open(file, "rb") as opened:
                start = opened.read(6)
        except OSError as error:
            raise RecordError(
                f"{file}, which {path.name} names, cannot be read ({error.strerror}); put it"
                " beside the header or leave this recording out."
            ) from error
        if start == b"MATLAB":
            raise RecordError(
                f"{file} is a MATLAB struct and not the samples that {path.name} describes;"
                " remove the header or bring its own file back."
            )
        # All that is in the file is decoded, and shifted, before leads are chosen.
        here = [x for x in header.leads if x.file == name]
        skew, most = max(x.skew for x in here), max(x.samples_per_frame for x in here)
        if max(skew, most) > _MOST_SKEW:
            raise RecordError(
                f"{path} shifts a lead by {skew} samples or has {most} in a frame, which is more"
                " than any recorder does; mend the header or leave this recording out."
            )
        if lead.format in _FLAC_FORMATS:
            continue
        frame = sum(x.samples_per_frame for x in here)
        present = int((size - lead.byte_offset) / (frame * _SAMPLE_BYTES[lead.format]) + 1e-9)
        if num_samples is None:
            num_samples = present
        if present < num_samples:
            raise RecordError(
                f"{file} is cut short: it holds {max(present, 0)} samples of the {num_samples}"
                " that its header states; fetch it again or leave this recording out."
            )
    return num_samples or 0


def _require_duration(num_samples: int, fs: float, path: Path) -> int:
    if not _SECONDS[0] <= num_samples / fs <= _SECONDS[1]:
        raise RecordError(
            f"{path} is {num_samples / fs:g} s long; recordings from {_SECONDS[0]:g} s to"
            f" {_SECONDS[1] / 3600:g} h are read, so cut it or leave it out."
        )
    return num_samples


def _read_samples(header: _Header, chosen: list[_Lead], num_samples: int, path: Path) -> np.ndarray:
    """Decode the leads.

    Returns:
        float64 ``(time, lead)`` of those chosen, in each lead's unit, NaN where the format's
        invalid value stands.
    """
    if len({lead.file for lead in chosen}) == 1:
        leads = [lead for lead in header.leads if lead.file == chosen[0].file]
        if all((x.format, x.samples_per_frame, x.skew) == ("16", 1, 0) for x in leads):
            return _read_format_16(leads, chosen, num_samples, path)
    return _read_with_wfdb(header, chosen, num_samples, path)


def _read_format_16(
    leads: list[_Lead], chosen: list[_Lead], num_samples: int, path: Path
) -> np.ndarray:
    """Decode little-endian 16-bit samples, lead by lead in turn.

    CPSC 2018 and PTB-XL are stored so, and wfdb takes more time for their headers than all else
    in building a store takes.
    """
    file, start = path.with_name(leads[0].file), leads[0].byte_offset
    count = num_samples * len(leads)
    digits = np.fromfile(file, "<i2", count=count, offset=start).reshape(num_samples, len(leads))
    digits = digits[:, [leads.index(lead) for lead in chosen]]
    _require_checksums(digits, chosen, path)
    baseline = np.array([float(lead.baseline) for lead in chosen])
    signal = (digits - baseline) / np.array([lead.gain for lead in chosen])
    signal[digits == np.iinfo(np.int16).min] = np.nan
    return signal


def _read_with_wfdb(
    header: _Header, chosen: list[_Lead], num_samples: int, path: Path
) -> np.ndarray:
    """Decode the leads with wfdb, from a copy of the record under a header it understands."""
    import wfdb

    files = list(dict.fromkeys(lead.file for lead in chosen))
    leads = [lead for lead in header.leads if lead.file in files]
    lines = [f"record {len(leads)} {header.fs!r} {num_samples}"] + [
        f"{files.index(x.file)}.dat {x.format}x{x.samples_per_frame}:{x.skew}+{x.byte_offset}"
        f" {x.gain!r}({x.baseline})/mV 0 0 {x.initial} 0 0 lead"
        for x in leads
    ]
    with tempfile.TemporaryDirectory(prefix="ecg-keras-") as folder:
        Path(folder, "record.hea").write_text("\n".join(lines) + "\n")
        for number, name in enumerate(files):
            shutil.copyfile(path.with_name(name), Path(folder, f"{number}.dat"))
        try:
            places = [leads.index(lead) for lead in chosen]
            form: dict[str, Any] = {"channels": places, "physical": False}
            if chosen[0].samples_per_frame == 1:
                read = wfdb.rdrecord(f"{folder}/record", **form)
                digits, signal = read.d_signal, read.dac()
            else:
                read = wfdb.rdrecord(f"{folder}/record", smooth_frames=False, **form)
                digits, signal = np.stack(read.e_d_signal, 1), np.stack(read.dac(expanded=True), 1)
        except Exception as error:  # whatever wfdb trips over, this file is not readable
            raise RecordError(
                f"{path} cannot be read ({error}); fetch it again or leave this recording out."
            ) from error
    _require_checksums(digits, chosen, path)
    return signal


def _require_checksums(digits: np.ndarray, chosen: list[_Lead], path: Path) -> None:
    """Hold each lead to the 16-bit sum in the header; many who make headers leave it at zero."""
    sums = digits.sum(axis=0, dtype=np.int64)
    for lead, found in zip(chosen, sums.tolist(), strict=True):
        if lead.checksum and not lead.skew and (found - lead.checksum) % 2**16:
            raise RecordError(
                f"{path} was written for other samples than those of lead {lead.name} in"
                f" {lead.file} (their checksum differs); fetch both again or leave this recording"
                " out."
            )


def _read_cpsc_struct(path: Path, unit: str | None) -> Record:
    """Read a file of CPSC 2018 as first published: a struct ECG with sex, age and data."""
    try:
        with open(path, "rb") as file:
            start = file.read(10)
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    if start != b"MATLAB 5.0":
        raise RecordError(
            f"{path} has no header beside it and is not a MATLAB 5 file of CPSC 2018; put its"
            f" {path.stem}.hea beside it or leave this recording out."
        )
    try:
        fields = read_struct(path, "ECG")
        sex, age = (str(fields[name].item()) for name in ("sex", "age"))
        data = fields["data"].astype(np.float64)
    except (ValueError, KeyError, IndexError, StopIteration, TypeError) as error:
        raise RecordError(
            f"{path} is cut short or holds no struct ECG with sex, age and data ({error}); fetch"
            " it again or leave this recording out."
        ) from error
    if data.ndim != 2 or data.shape[0] != len(LEADS):
        raise RecordError(
            f"{path} holds data of shape {data.shape} and not (12, time); leave this recording out."
        )
    _unit_of("mV", unit, path)
    _require_duration(data.shape[1], CPSC_RATE, path)
    return Record(
        id=path.stem,
        signal=_millivolts(data.T),
        fs=CPSC_RATE,
        age=_age(age),
        sex=_sex(sex),
        codes=(),
        path=path,
    )


def _millivolts(values: np.ndarray) -> np.ndarray:
    """As float32 in one piece; what is not a number, or too large for one, becomes NaN."""
    with np.errstate(over="ignore"):
        signal = np.ascontiguousarray(values, np.float32)
    return np.where(np.isfinite(signal), signal, np.float32(np.nan))


def _require_ecg(record: Record) -> None:
    spread = _spread(record)
    if not _SPREADS[0] <= spread <= _SPREADS[1]:
        raise RecordError(
            f"{record.path} holds no ECG in the unit it states: its leads vary by {spread:.3g} mV"
            " (standard deviation), as if a unit were misnamed by a factor of 1000; mend the unit"
            " or gain, or leave this recording out."
        )


def _spread(record: Record) -> float:
    """The median of the leads' standard deviations, or the largest where no lead varies so, mV.

    A single lead may hold next to nothing, where an electrode was lost; one that varies by more
    than any ECG is in another unit than it states.
    """
    valid = [lead[~np.isnan(lead)].astype(np.float64) for lead in record.signal.T]
    spreads = [lead.std() for lead in valid if lead.size]
    if not spreads:
        raise RecordError(f"{record.path} holds invalid samples only; leave this recording out.")
    return float(max(spreads) if max(spreads) > _SPREADS[1] else np.median(spreads))


def _age(text: str) -> float:
    number = re.search(r"\d+(\.\d+)?", text)
    age = float(number[0]) if number else math.nan
    return age if age <= 120 else math.nan


def _sex(text: str) -> str:
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get(
        text.strip().casefold(), ""
    )


def _codes(text: str) -> tuple[str, ...]:
    codes = (code.strip() for code in text.split(","))
    return tuple(code for code in codes if code and code.casefold() != "unknown")
