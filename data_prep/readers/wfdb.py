"""WFDB records: a header with its signal files, or a header that joins segments."""

import math
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import is_file, opened
from data_prep.readers.leads import MILLIVOLTS
from data_prep.readers.record import (
    Tracing,
    age_of,
    choose_leads,
    file_bytes,
    require_duration,
    require_rate,
    require_values,
)

# Bytes per sample of each WFDB format; the FLAC formats have no fixed size.
_SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 3 / 2}
_SAMPLE_BYTES |= {"310": 4 / 3, "311": 4 / 3}
_FLAC_FORMATS = ("508", "516", "524")
_HEADER_BYTES = 1_000_000
_MOST_SKEW = 1000
_MOST_SEGMENTS = 1000


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

    A multi-segment header has the names and lengths of its segments, and no leads of its own.
    """

    fs: float
    num_samples: int | None
    leads: list[_Lead]
    info: dict[str, str]
    segments: list[tuple[str, int]]


_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([-+.\deE]+)(?:\((-?\d+)\))?(?:/(\S+))?")


def _parse_header(path: Path) -> _Header:
    # wfdb.rdheader rejects record names with a suffix, drops the µ of "µV" (so that microvolts
    # become volts) and reads 1e3 as 1; hence our own parser.
    text = _header_text(path)
    fields = _fields(text)
    lines = [line.strip() for line in text.splitlines()]
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
                raise ValueError("a segment has a negative number of samples")
        else:
            leads = [_parse_lead(line) for line in fields[1:]]
        announced, found = int(num_segments or num_leads), len(segments or leads)
        if found != announced:
            what = "segments" if joins else "signal lines"
            raise ValueError(f"{found} {what}, but {announced} are announced")
        fs = float(re.split("[/(]", rate)[0])
        # A length of 0 means unknown.
        return _Header(fs, _whole(rest[0]) or None if rest else None, leads, info, segments)
    except (IndexError, ValueError) as error:
        raise RecordError(
            f"{path} is not a WFDB header ({error!s:.200}); correct it or leave this recording out."
        ) from error


def files_named_by(header: Path) -> tuple[str, ...]:
    """Name the files that a WFDB header needs beside it.

    Args:
        header: of one record, or of several segments.

    Returns:
        The signal files, or the headers of the segments, once each; none if the header cannot be
        read.
    """
    try:
        fields = _fields(_header_text(header))
    except RecordError:
        return ()
    ending = ".hea" if fields and "/" in fields[0][0] else ""
    names = dict.fromkeys(line[0] for line in fields[1:])
    return tuple(name + ending for name in names if name != "~" and Path(name).name == name)


def _fields(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines()]
    return [line.split() for line in lines if line and not line.startswith("#")]


def _header_text(path: Path) -> str:
    data = file_bytes(path, most=_HEADER_BYTES)
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


def read_wfdb(path: Path) -> Tracing:
    """Read a WFDB record, possibly multi-segment; only its leads are decoded.

    Args:
        path: of the header.

    Raises:
        RecordError: if the header or a signal file is damaged or missing, they contradict each
            other, or a lead is missing.
    """
    header = _parse_header(path)
    tracing = (_read_segments if header.segments else _read_signals)(header, path)
    return replace(
        tracing,
        age=age_of(header.info.get("age", "")),
        sex=header.info.get("sex", ""),
        codes=_codes(header.info.get("dx", "")),
    )


def _read_signals(header: _Header, path: Path, *, whole: bool = True) -> Tracing:
    """Read the leads that one header describes.

    A segment (``whole=False``) may have any length.
    """
    found = choose_leads([lead.name for lead in header.leads], path)
    chosen = [header.leads[i] for i in found.values()]
    for lead in chosen:
        _require_readable(lead, path)
    per_frame = {lead.samples_per_frame for lead in chosen}
    if len(per_frame) > 1:
        raise RecordError(
            f"{path} has leads of different rates ({min(per_frame)} and {max(per_frame)} samples a"
            " frame); bring them to one rate or leave this recording out."
        )
    fs = require_rate(header.fs * max(per_frame), path)
    num_samples = _num_samples(header, chosen, path)
    if whole:
        require_duration(num_samples, header.fs, path)
    samples = _read_samples(header, chosen, num_samples, path)
    return Tracing(tuple(found), samples, tuple(lead.unit for lead in chosen), fs)


def _read_segments(header: _Header, path: Path) -> Tracing:
    """Read and join the segments of a multi-segment record; gaps between them are NaN.

    A segment of length 0 (the layout) only names the signals of the others.
    """
    if len(header.segments) > _MOST_SEGMENTS:
        raise RecordError(
            f"{path} joins {len(header.segments)} segments, and at most {_MOST_SEGMENTS} are read;"
            " leave this recording out."
        )
    total = sum(length for _, length in header.segments)
    # The frame rate may be lower than the sampling rate of the ECG.
    require_duration(total, header.fs if header.fs > 0 else require_rate(header.fs, path), path)
    if total != (header.num_samples or total):
        raise RecordError(
            f"{path} states {header.num_samples} samples, but its segments have {total}; fetch it"
            " again or leave this recording out."
        )
    headers: dict[str, _Header] = {}
    first: Tracing | None = None
    parts = list[np.ndarray | int]()
    for name, length in header.segments:
        if name == "~":
            parts.append(length)
        elif length:
            plain = Path(name).name == name and name.isprintable()
            file = path.with_name(f"{name}.hea") if plain else path
            if file == path or not is_file(file):
                raise RecordError(
                    f"{path} joins a segment {name!r}, of which there is no header beside it; put"
                    " it there or leave this recording out."
                )
            if name not in headers:
                headers[name] = _parse_header(file)
            segment = headers[name]
            if segment.segments or segment.num_samples not in (None, length):
                raise RecordError(
                    f"{file} is not the segment of {length} samples that {path} joins; fetch both"
                    " again or leave this recording out."
                )
            part = _read_signals(replace(segment, num_samples=length), file, whole=False)
            first = first or part
            per_frame = round(first.fs / header.fs)
            require_values(total * per_frame * len(first.names), path)
            if (segment.fs, part.fs, set(part.names)) != (header.fs, first.fs, set(first.names)):
                raise RecordError(
                    f"{path} joins segments of other leads or rates than those of {file}; read"
                    " them one by one."
                )
            # Converted to the units of the first segment.
            places = [part.names.index(name) for name in first.names]
            scale = [
                MILLIVOLTS[part.units[place].casefold()] / MILLIVOLTS[unit.casefold()]
                for place, unit in zip(places, first.units, strict=True)
            ]
            parts.append(part.values[:, places] * scale)
    if first is None:
        raise RecordError(f"{path} joins only segments without samples; leave this recording out.")
    whole = [
        np.full((part * per_frame, len(first.names)), np.nan) if isinstance(part, int) else part
        for part in parts
    ]
    return replace(first, values=np.concatenate(whole))


def _require_readable(lead: _Lead, path: Path) -> None:
    if lead.format not in (*_SAMPLE_BYTES, *_FLAC_FORMATS):
        trouble = f"is stored in format {lead.format}, which is unknown"
    elif lead.samples_per_frame < 1:
        trouble = "has no sample a frame"
    elif lead.gain <= 0 or not math.isfinite(lead.gain):
        trouble = f"has a gain of {lead.gain:g}, so it is not calibrated"
    elif lead.unit.casefold() not in MILLIVOLTS:
        trouble = f"is in {lead.unit!r}, which is not one of mV, uV, V, nV"
    # A header must not make us read files in other folders.
    elif Path(lead.file).name != lead.file or lead.file == ".." or not lead.file.isprintable():
        trouble = f"is in {lead.file!r}, which is not a file beside the header"
    else:
        return
    raise RecordError(
        f"{path}: lead {lead.name} {trouble}; correct the header or leave this recording out."
    )


def _num_samples(header: _Header, chosen: list[_Lead], path: Path) -> int:
    """The number of frames, after a check that the files can hold that many."""
    num_samples = header.num_samples
    for name in dict.fromkeys(lead.file for lead in chosen):
        file, lead = path.with_name(name), next(x for x in chosen if x.file == name)
        try:
            with opened(file) as samples:
                size, start = samples.seek(0, os.SEEK_END), samples.seek(0) or samples.read(6)
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
        # The whole file is decoded and de-skewed before leads are selected.
        here = [x for x in header.leads if x.file == name]
        if len({(x.format, x.byte_offset) for x in here}) > 1:
            raise RecordError(
                f"{path} gives the signals in {name} several formats or byte offsets, and one file"
                " has one of each; correct the header or leave this recording out."
            )
        skew, most = max(x.skew for x in here), max(x.samples_per_frame for x in here)
        if max(skew, most) > _MOST_SKEW:
            raise RecordError(
                f"{path} shifts a lead by {skew} samples or has {most} in a frame, which is more"
                " than any recorder does; correct the header or leave this recording out."
            )
        frame = sum(x.samples_per_frame for x in here)
        if lead.format in _FLAC_FORMATS:
            require_values((num_samples or 0) * frame, path)
            continue
        present = int((size - lead.byte_offset) / (frame * _SAMPLE_BYTES[lead.format]) + 1e-9)
        if num_samples is None:
            num_samples = present
        if present < num_samples:
            raise RecordError(
                f"{file} is cut short: it holds {max(present, 0)} samples of the {num_samples}"
                " that its header states; download it again or leave this recording out."
            )
        require_values(num_samples * frame, path)
    return num_samples or 0


def _read_samples(header: _Header, chosen: list[_Lead], num_samples: int, path: Path) -> np.ndarray:
    """Decode the leads.

    Returns:
        float64 ``(time, lead)`` of those chosen, in each lead's unit; the format's invalid value
        becomes NaN.
    """
    if len({lead.file for lead in chosen}) == 1:
        leads = [lead for lead in header.leads if lead.file == chosen[0].file]
        if all((x.format, x.samples_per_frame, x.skew) == ("16", 1, 0) for x in leads):
            return _read_format_16(leads, chosen, num_samples, path)
    return _read_with_wfdb(header, chosen, num_samples, path)


def _read_format_16(
    leads: list[_Lead], chosen: list[_Lead], num_samples: int, path: Path
) -> np.ndarray:
    """Decode interleaved little-endian 16-bit samples.

    CPSC 2018 and PTB-XL use this format, and wfdb would spend more time on their headers than all
    the rest of building a store takes.
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
    """Decode the leads with wfdb, from a copy of the record with a header that it can read."""
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
            _copy_samples(path.with_name(name), Path(folder, f"{number}.dat"), leads, num_samples)
        try:
            places = [leads.index(lead) for lead in chosen]
            form: dict[str, Any] = {"channels": places, "physical": False}
            if chosen[0].samples_per_frame == 1:
                read = wfdb.rdrecord(f"{folder}/record", **form)
                digits, signal = read.d_signal, read.dac()
            else:
                read = wfdb.rdrecord(f"{folder}/record", smooth_frames=False, **form)
                digits, signal = np.stack(read.e_d_signal, 1), np.stack(read.dac(expanded=True), 1)
        except Exception as error:  # whatever the error, this file is not readable
            raise RecordError(
                f"{path} cannot be read ({error}); download it again or leave this recording out."
            ) from error
    _require_checksums(digits, chosen, path)
    return signal


def _copy_samples(source: Path, target: Path, leads: list[_Lead], num_samples: int) -> None:
    """Copy the part of a file that the header refers to; the file may be far larger."""
    here = [lead for lead in leads if lead.file == source.name]
    form, offset = here[0].format, here[0].byte_offset
    frames = num_samples + max(lead.skew for lead in here)
    samples = frames * sum(lead.samples_per_frame for lead in here)
    if form in _FLAC_FORMATS:  # the offset counts samples, each of at most 8 bytes
        most = 8 * (samples + offset * len(here)) + 2**16
    else:  # packed in whole blocks of up to four bytes
        most = offset + math.ceil(samples * _SAMPLE_BYTES[form]) + 4
    with opened(source) as file:
        target.write_bytes(file.read(most))


def _require_checksums(digits: np.ndarray, chosen: list[_Lead], path: Path) -> None:
    """Reject leads that contradict their 16-bit checksum; in many headers it is 0, for unknown."""
    sums = digits.sum(axis=0, dtype=np.int64)
    for lead, found in zip(chosen, sums.tolist(), strict=True):
        if lead.checksum and not lead.skew and (found - lead.checksum) % 2**16:
            raise RecordError(
                f"{path} does not belong to the samples of lead {lead.name} in"
                f" {lead.file} (their checksum differs); download both again or leave this"
                " recording out."
            )


def _codes(text: str) -> tuple[str, ...]:
    codes = (code.strip() for code in text.split(","))
    return tuple(code for code in codes if code and code.casefold() != "unknown")
