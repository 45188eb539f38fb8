"""DICOM waveforms."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.readers.leads import has_leads
from data_prep.readers.record import Tracing, library, unreadable

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
        RecordError: if it is damaged, holds no ECG waveform, or is not calibrated.
    """
    pydicom = library("pydicom", path)
    try:
        dataset = pydicom.dcmread(path)
        groups = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise ValueError("it holds no waveform")
        names = [[_dicom_lead(c) for c in group.ChannelDefinitionSequence] for group in groups]
        with_leads = [n for n in range(len(groups)) if has_leads(names[n])]
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
