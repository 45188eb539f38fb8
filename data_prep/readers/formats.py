"""Recordings in formats other than WFDB: tables, arrays, EDF, DICOM and SCP-ECG.

Each reader takes a file to a :class:`Tracing`; :mod:`data_prep.records` makes a record of it.
"""

import csv
import importlib
import math
import re
import warnings
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import require_text
from data_prep.labels import LEADS
from data_prep.readers.leads import find_leads, lead_of, leads_of

Format = Literal["table", "array", "EDF", "BDF", "DICOM", "SCP-ECG", "XML"]

_TABLES = (".csv", ".tsv", ".txt")
_MOST_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Tracing:
    """What a file holds, before leads are chosen and units made equal.

    Attributes:
        names: of the signals, as the file gives them.
        values: float64 ``(time, signal)``, each in its unit, NaN where invalid.
        units: of each signal, such as ``"uV"``; ``""`` where the file states none.
        fs: sampling rate, hertz; NaN where the file states none.
        age: in years, NaN where unknown.
        sex: in any words; ``""`` where unknown.
    """

    names: tuple[str, ...]
    values: np.ndarray
    units: tuple[str, ...]
    fs: float
    age: float = math.nan
    sex: str = ""


def format_of(path: Path) -> Format | None:
    """Tell a file's format by its first bytes, and a table by its ending.

    Args:
        path: an existing file.

    Returns:
        The format's name, or None where it is another.

    Raises:
        RecordError: where the file cannot be read or is too large for a recording.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(256)
        size = path.stat().st_size
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    ending = path.suffix.casefold()
    found: Format | None = None
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
    if found and size > _MOST_BYTES:
        raise RecordError(f"{path} is too large for a recording; leave it out.")
    return found


_UTF16_TAGS = (b"\xff\xfe<\0", b"\xfe\xff\0<")


def holds_recording(path: Path) -> bool:
    """Tell whether a file found in a folder is a recording, and no table of something else.

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
            return _names_leads(_split(line.decode("utf-8-sig", errors="replace")))
        if ending in (".npy", ".npz"):
            return _array_is_recording(path)
        with open(path, "rb") as file:
            start = file.read(4096)
        if ending == ".dcm":
            return any(storage in start for storage in _ECG_STORAGE)
        return ending == ".xml" and any(
            root in start or root.decode().encode("utf-16-le") in start for root in _ROOTS
        )
    except OSError:
        return False


# The prefix of the DICOM storage classes of 12-lead, general and ambulatory ECGs (PS3.4, B.5).
_ECG_STORAGE = (b"1.2.840.10008.5.1.4.1.1.9.1.",)
_ROOTS = (b"<RestingECG", b"AnnotatedECG")


def _names_leads(names: list[str]) -> bool:
    try:
        return bool(find_leads([_name_and_unit(name)[0] for name in names]))
    except ValueError:
        return False


def _array_is_recording(path: Path) -> bool:
    try:
        if path.suffix.casefold() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return "signal" in arrays.files
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except Exception:  # whatever NumPy trips over, this is no recording
        return False
    return len(shape) == 2 and len(LEADS) in shape


# --- Tables ------------------------------------------------------------------------------------


def read_table(path: Path) -> Tracing:
    """Read a CSV or TSV file: a line of names, then a line for each sample.

    Columns named as leads count, in any order; a unit may follow a name, as in ``V1 (uV)`` or
    ``V1_uV``.  The rate is that of a column ``time`` (in seconds, or ``time_ms``), if there is
    one.  Commas, semicolons or tabs separate the columns; with semicolons, numbers may have
    decimal commas.  Empty cells are invalid samples.

    Args:
        path: of the file.

    Raises:
        RecordError: naming the file and line, where it cannot be understood.
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


# --- NumPy -------------------------------------------------------------------------------------


def read_array(path: Path) -> Tracing:
    """Read a NumPy file: ``.npy``, or ``.npz`` with the array ``signal``.

    The array is ``(time, 12)`` or ``(12, time)``, leads in the order of
    :data:`data_prep.labels.LEADS`.  An ``.npz`` file may also hold ``fs``, ``unit`` and
    ``leads`` (the names, where they are others or in another order).

    Args:
        path: of the file.

    Raises:
        RecordError: where it holds no such array.
    """
    try:
        arrays = _arrays(path)
        for array in arrays.values():
            require_text(array)
        if "signal" not in arrays:
            raise ValueError(f"it has no array signal but {', '.join(arrays)[:200] or 'none'}")
        leads = tuple(str(name) for name in arrays.get("leads", LEADS))
        fs = float(arrays.get("fs", math.nan))
        return tracing_of(arrays["signal"], fs=fs, unit=str(arrays.get("unit", "")), leads=leads)
    except Exception as error:  # a damaged file shows itself in many ways
        raise RecordError(
            f"{path} is no NumPy recording ({_reason(error)}); save a (time, 12) array of numbers."
        ) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, that of an ``.npy`` file as ``signal``; none may be pickled.

    Raises:
        ValueError: also where there is more than an array: with bytes doubled in its midst, the
            samples behind them would count for other leads.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return {"signal": _array(file)}
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
                raise ValueError("it unpacks to more than any recording holds")
            for name in archive.namelist():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = _array(member)
    return arrays


def _array(file: IO[bytes]) -> np.ndarray:
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("it holds more than the array it states")
    return array


def tracing_of(
    signal: np.ndarray, *, fs: float = math.nan, unit: str = "", leads: tuple[str, ...] = LEADS
) -> Tracing:
    """Make a tracing of an array.

    Args:
        signal: ``(time, lead)`` or ``(lead, time)``.
        fs: its rate, hertz; NaN where unknown.
        unit: of all leads; ``""`` where unknown.
        leads: their names.

    Raises:
        ValueError: where it is no array of numbers of that shape.
    """
    if signal.ndim != 2 or len(leads) not in signal.shape or signal.dtype.kind not in "iuf":
        raise ValueError(
            f"an array of shape {signal.shape} and type {signal.dtype} is not (time,"
            f" {len(leads)}) numbers"
        )
    values = signal if signal.shape[1] == len(leads) else signal.T
    return Tracing(leads, values.astype(np.float64), (unit,) * len(leads), fs)


# --- EDF ---------------------------------------------------------------------------------------


def read_edf(path: Path, *, bdf: bool = False) -> Tracing:
    """Read a European Data Format file (EDF, EDF+C), or its 24-bit form BDF, with edfio.

    Args:
        path: of the file.
        bdf: whether it is a BDF file.

    Raises:
        RecordError: where it is damaged, has gaps (EDF+D), or its leads differ in rate.
    """
    edfio = library("edfio", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of headers that change no sample
            edf = (edfio.read_bdf if bdf else edfio.read_edf)(path, header_encoding="latin-1")
        if edf.reserved.startswith(("EDF+D", "BDF+D")):
            raise ValueError("it has gaps: it is discontinuous, EDF+D")
        _require_edf_size(path, sample_bytes=3 if bdf else 2)
        leads = leads_of([signal.label for signal in edf.signals])
        signals = [signal for signal, lead in zip(edf.signals, leads, strict=True) if lead]
        rates = {signal.sampling_frequency for signal in signals}
        if len(rates) > 1:
            raise ValueError(f"its leads have different rates, {min(rates):g} to {max(rates):g} Hz")
        values = np.stack([s.data for s in signals], axis=1) if signals else np.empty((0, 0))
        return Tracing(
            names=tuple(signal.label for signal in signals),
            values=values.astype(np.float64),
            units=tuple(signal.physical_dimension for signal in signals),
            fs=float(rates.pop()) if rates else math.nan,
            age=_edf_age(edf),
            sex=_edf_field(edf.patient, "sex") or "",
        )
    except Exception as error:  # whatever edfio trips over, this file is not readable
        raise unreadable(path, "EDF", error) from error


def _require_edf_size(path: Path, *, sample_bytes: int) -> None:
    """Where bytes were lost or doubled, all samples behind them would count for other leads."""
    with open(path, "rb") as file:
        head = file.read(256)
        num_records, num_signals = int(head[236:244]), int(head[252:256])
        file.seek(256 + num_signals * 216)
        samples = sum(int(file.read(8)) for _ in range(num_signals))
    stated = 256 * (num_signals + 1) + num_records * samples * sample_bytes
    if path.stat().st_size != stated:
        raise ValueError(f"it has {path.stat().st_size} bytes where its header states {stated}")


def _edf_field(of: Any, name: str) -> Any:
    # A header of plain EDF has free text where EDF+ has fields.
    try:
        return getattr(of, name)
    except Exception:
        return None


def _edf_age(edf: Any) -> float:
    return years_between(
        _edf_field(edf.patient, "birthdate"), _edf_field(edf.recording, "startdate")
    )


def years_between(birth: date | None, day: date | None) -> float:
    """Compute an age in whole years; NaN where a date is unknown.

    Args:
        birth: day of birth.
        day: of the recording.
    """
    return float((day - birth).days // 365.25) if birth and day and day > birth else math.nan


# --- DICOM -------------------------------------------------------------------------------------

# The leads of SCP-ECG (EN 1064), whose numbers DICOM's code schemes share:
# 5.6.3-9-N in SCPECG, 2:N in MDC (PS3.16, CID 3001).
_LEAD_NUMBERS = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
_LEAD_NUMBERS |= {number: f"V{number - 2}" for number in range(3, 9)}


def read_dicom(path: Path) -> Tracing:
    """Read a DICOM 12-lead, general or ambulatory ECG with pydicom (PS3.3, C.10.9).

    Of several multiplex groups the longest counts that has the leads: the rhythm, not a median
    beat.

    Args:
        path: of the file.

    Raises:
        RecordError: where it is damaged, holds no ECG waveform, or is not calibrated.
    """
    pydicom = library("pydicom", path)
    try:
        dataset = pydicom.dcmread(path)
        groups = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise ValueError("it holds no waveform")
        names = [[_dicom_lead(c) for c in group.ChannelDefinitionSequence] for group in groups]
        with_leads = [n for n in range(len(groups)) if _names_leads(names[n])]
        chosen = max(with_leads or range(len(groups)), key=lambda n: _seconds(groups[n]))
        age = str(dataset.get("PatientAge") or "")
        return Tracing(
            names=tuple(names[chosen]),
            values=_dicom_values(dataset, chosen),
            units=tuple(_dicom_unit(c) for c in groups[chosen].ChannelDefinitionSequence),
            fs=float(groups[chosen].SamplingFrequency),
            age=int(age[:3]) * _AGE_UNITS[age[3]] if _AGE.fullmatch(age) else math.nan,
            sex=str(dataset.get("PatientSex") or ""),
        )
    except Exception as error:  # whatever pydicom trips over, this file is not readable
        raise unreadable(path, "DICOM", error) from error


_AGE = re.compile(r"\d{3}[DWMY]")
_AGE_UNITS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def _seconds(group: Any) -> float:
    return float(group.NumberOfWaveformSamples) / float(group.SamplingFrequency)


def _dicom_lead(channel: Any) -> str:
    source = (channel.get("ChannelSourceSequence") or [None])[0]
    code = re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", source.get("CodeValue", "") if source else "")
    if code:
        return _LEAD_NUMBERS.get(int(code[1]), code[0])
    return str((source.get("CodeMeaning") if source else "") or channel.get("ChannelLabel") or "")


def _dicom_unit(channel: Any) -> str:
    unit = channel.get("ChannelSensitivityUnitsSequence")
    if not unit or channel.get("ChannelSensitivity") is None:
        raise ValueError("a lead has no sensitivity, so that it is not calibrated")
    return str(unit[0].CodeValue)


def _dicom_values(dataset: Any, chosen: int) -> np.ndarray:
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES, multiplex_array

    group = dataset.WaveformSequence[chosen]
    stored = (group.WaveformBitsAllocated, group.WaveformSampleInterpretation)
    if stored[1] not in ("SB", "UB", "SS", "US", "SL", "UL"):
        raise ValueError(f"its samples are of kind {stored[1]}")
    raw = multiplex_array(dataset, chosen, as_raw=True)
    values = multiplex_array(dataset, chosen, as_raw=False).astype(np.float64)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        if isinstance(padding, bytes):
            padding = np.frombuffer(padding, WAVEFORM_DTYPES[stored])[0]
        values[raw == padding] = np.nan
    return values


# --- SCP-ECG -----------------------------------------------------------------------------------


def read_scp(path: Path) -> Tracing:
    """Read an SCP-ECG file (EN 1064, ISO 11073-91064) with ecgdatakit.

    Args:
        path: of the file.

    Raises:
        RecordError: where it is damaged, or in a form that ecgdatakit does not decode.
    """
    scp = library("ecgdatakit.parsing.parsers.scp_ecg", path)
    try:
        record = scp.SCPECGParser().parse(path)
        if record.raw_metadata.get("checksum_valid") is False:
            raise ValueError("its checksums are not those of its content")
        leads = [lead.to_physical() for lead in record.leads]
        if len({lead.annotations.get("start_sample", "1") for lead in leads}) > 1:
            raise ValueError("its leads were recorded one after another")
        return Tracing(
            names=tuple(lead.label for lead in leads),
            values=np.stack([lead.samples for lead in leads], axis=1).astype(np.float64),
            units=tuple(lead.units for lead in leads),
            # The parser rounds the rate, which the file gives as an interval.
            fs=1e6 / record.raw_metadata["rhythm_sample_interval_us"],
            age=math.nan if record.patient.age is None else float(record.patient.age),
            sex=record.patient.sex,
        )
    except Exception as error:  # whatever the parser trips over, this file is not readable
        raise unreadable(path, "SCP-ECG", error) from error


# --- What readers share --------------------------------------------------------------------------


def library(name: str, path: Path) -> Any:
    """Import a library of the extra ``formats``.

    Args:
        name: of the module.
        path: of the recording that needs it.

    Raises:
        RecordError: where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RecordError(
            f"{path} needs the library {name.partition('.')[0]}, which is not installed; run: pip"
            " install 'ecg-keras[formats]'."
        ) from error


def unreadable(path: Path, kind: str, error: Exception) -> RecordError:
    """Make one sentence of whatever a reader tripped over.

    Args:
        path: of the recording.
        kind: its format's name.
        error: what was raised.
    """
    return RecordError(
        f"{path} cannot be read as {kind} ({_reason(error)}); fetch it again or leave this"
        " recording out."
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
