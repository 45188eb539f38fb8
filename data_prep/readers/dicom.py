"""DICOM waveforms."""

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import MOST_BYTES, opened
from data_prep.readers.record import Tracing, library, require_values, unreadable

# Lead numbers of SCP-ECG (EN 1064), which DICOM's code schemes share:
# 5.6.3-9-N in SCPECG, 2:N in MDC (PS3.16, CID 3001).
_LEAD_NUMBERS = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
_LEAD_NUMBERS |= {number: f"V{number - 2}" for number in range(3, 9)}
_MOST_DEFLATED = MOST_BYTES // 1032  # the maximum compression ratio of deflate is 1032


def read_dicom(path: Path) -> Tracing:
    """Read a DICOM 12-lead, general or ambulatory ECG with pydicom (PS3.3, C.10.9).

    Of several multiplex groups the longest is read: the rhythm, not a median beat.

    Args:
        path: of the file.

    Raises:
        RecordError: if it is damaged, has no ECG waveform, is not calibrated, or its channels
            were not sampled at the same times.
    """
    pydicom = library("pydicom", path)
    try:
        _require_bounded_size(path)
        dataset = pydicom.dcmread(path)
        groups = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise ValueError("it holds no waveform")
        chosen = max(range(len(groups)), key=lambda n: _seconds(groups[n]))
        channels = list(groups[chosen].ChannelDefinitionSequence)
        if "MEDIAN" in str(groups[chosen].get("MultiplexGroupLabel") or "").upper():
            raise ValueError("it holds a median beat only, and no rhythm")
        require_values(groups[chosen].NumberOfWaveformSamples * len(channels), path)
        _require_same_times(channels, float(groups[chosen].SamplingFrequency))
        age = str(dataset.get("PatientAge") or "")
        return Tracing(
            names=tuple(_dicom_lead(channel) for channel in channels),
            values=_dicom_values(dataset, chosen),
            units=tuple(_dicom_unit(channel) for channel in channels),
            fs=float(groups[chosen].SamplingFrequency),
            age=int(age[:3]) * _AGE_UNITS[age[3]] if _AGE.fullmatch(age) else math.nan,
            sex=str(dataset.get("PatientSex") or ""),
        )
    except Exception as error:  # whatever the error, this file is not readable
        raise unreadable(path, "DICOM", error) from error


_AGE = re.compile(r"\d{3}[DWMY]")
_AGE_UNITS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def _seconds(group: Any) -> float:
    return float(group.NumberOfWaveformSamples) / float(group.SamplingFrequency)


def _require_same_times(channels: list[Any], fs: float) -> None:
    """Reject channels sampled at different times: the leads would be shifted."""
    skews = [
        float(channel.get("ChannelSampleSkew") or 0)
        + float(channel.get("ChannelTimeSkew") or 0) * fs
        for channel in channels
    ]
    if not max(skews) - min(skews) < 1:
        raise ValueError(f"its channels are shifted by {max(skews) - min(skews):g} samples")


def _require_bounded_size(path: Path) -> None:
    """Reject a deflated file that could exhaust memory: pydicom decompresses it whole."""
    with opened(path) as file:
        deflated = b"1.2.840.10008.1.2.1.99" in file.read(4096)
        if deflated and file.seek(0, os.SEEK_END) > _MOST_DEFLATED:
            raise ValueError("it is deflated and too large to be unpacked")


def _dicom_lead(channel: Any) -> str:
    source = (channel.get("ChannelSourceSequence") or [None])[0]
    code = re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", source.get("CodeValue", "") if source else "")
    if code:
        return _LEAD_NUMBERS.get(int(code[1]), code[0])
    return str((source.get("CodeMeaning") if source else "") or channel.get("ChannelLabel") or "")


def _dicom_unit(channel: Any) -> str:
    unit = channel.get("ChannelSensitivityUnitsSequence")
    if not unit or channel.get("ChannelSensitivity") is None:
        raise ValueError("a lead has no sensitivity, so it is not calibrated")
    scale = float(channel.ChannelSensitivity) * float(
        channel.get("ChannelSensitivityCorrectionFactor") or 1
    )
    if scale <= 0 or not math.isfinite(scale):
        raise ValueError(f"a lead has a sensitivity of {scale:g}, so it is not calibrated")
    return str(unit[0].CodeValue)


def _dicom_values(dataset: Any, chosen: int) -> np.ndarray:
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES, multiplex_array

    group = dataset.WaveformSequence[chosen]
    stored = (group.WaveformBitsAllocated, group.WaveformSampleInterpretation)
    if stored[1] not in ("SB", "UB", "SS", "US", "SL", "UL"):
        raise ValueError(f"its samples are of kind {stored[1]}")
    needed = group.NumberOfWaveformSamples * group.NumberOfWaveformChannels * stored[0] // 8
    if not 0 <= len(group.WaveformData) - needed <= 1:  # padded to an even number of bytes
        raise ValueError(f"it holds {len(group.WaveformData)} bytes of samples and not {needed}")
    raw = multiplex_array(dataset, chosen, as_raw=True)
    values = multiplex_array(dataset, chosen, as_raw=False).astype(np.float64)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        if isinstance(padding, bytes):
            padding = np.frombuffer(padding, WAVEFORM_DTYPES[stored])[0]
        values[raw == padding] = np.nan
    return values
