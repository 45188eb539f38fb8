"""Recordings in XML: GE MUSE and HL7 annotated ECG.

They are parsed with defusedxml: a file must not define entities, which can expand until memory is
exhausted, or make us fetch other files.
"""

import base64
import math
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import opened
from data_prep.readers.leads import has_leads
from data_prep.readers.record import Tracing, age_of, library, unreadable, years_between

_INVALID = -32768
_HL7 = "{urn:hl7-org:v3}"
_MOST_BYTES = 2**26  # an hour of 12 leads at 250 Hz
_MOST_ELEMENTS = 100_000


class _Builder(TreeBuilder):
    """Builds a tree, with a limit on elements so that memory is not exhausted."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = _MOST_ELEMENTS

    def start(self, *element: Any) -> Element:
        self._rest -= 1
        if self._rest < 0:
            raise ValueError(f"it has more than {_MOST_ELEMENTS} elements")
        return super().start(*element)


def read_xml(path: Path) -> Tracing:
    """Read a GE MUSE or an HL7 aECG file, whichever it is.

    Args:
        path: of the file.

    Raises:
        RecordError: if it is neither of these, is damaged, or defines entities.
    """
    defused = library("defusedxml.ElementTree", path)
    try:
        with opened(path, most=_MOST_BYTES) as file:
            parser = defused.DefusedXMLParser(target=_Builder())
            root: Element = defused.parse(file, parser).getroot()
    except Exception as error:  # syntax, encoding, and what defusedxml forbids
        reason = "it defines entities" if "Entit" in type(error).__name__ else error
        raise unreadable(path, "XML", ValueError(reason)) from error
    try:
        if root.tag == "RestingECG":
            return _muse(root)
        if root.tag == f"{_HL7}AnnotatedECG":
            return _aecg(root)
    except (ValueError, ArithmeticError) as error:
        kind = "GE MUSE" if root.tag == "RestingECG" else "HL7 aECG"
        raise unreadable(path, kind, error) from error
    raise RecordError(
        f"{path} is XML of another kind ({root.tag[:80]}); GE MUSE (RestingECG) and HL7"
        " (AnnotatedECG) are read, so convert it to one of them or to CSV."
    )


# --- GE MUSE -------------------------------------------------------------------------------------


def _muse(root: Element) -> Tracing:
    """Read the rhythm of a MUSE file, which usually stores eight leads.

    A file has two waveforms: Median is one averaged beat, Rhythm the recording.
    """
    rhythms = [w for w in root.findall("Waveform") if _text(w, "WaveformType") == "Rhythm"]
    if not rhythms:
        raise ValueError("it holds no Waveform of WaveformType Rhythm")
    leads = rhythms[0].findall("LeadData")
    signals = [_muse_lead(lead) for lead in leads]
    if len({len(signal) for signal in signals}) > 1:
        raise ValueError("its leads differ in length")
    offsets = {
        tuple(_number(lead, tag, "0") for tag in ("LeadTimeOffset", "LeadOffsetFirstSample"))
        for lead in leads
    }
    if len(offsets) > 1:
        raise ValueError("its leads do not begin at one time (LeadTimeOffset)")
    units = tuple(_text(lead, "LeadAmplitudeUnits") for lead in leads)
    age, unit = root.findtext(".//PatientAge", ""), root.findtext(".//AgeUnits", "YEARS")
    return Tracing(
        names=tuple(_text(lead, "LeadID") for lead in leads),
        values=np.stack(signals, axis=1) if signals else np.empty((0, 0)),
        units=units,
        fs=_number(rhythms[0], "SampleBase") * 10.0 ** _number(rhythms[0], "SampleExponent", "0"),
        age=age_of(age, unit=_YEARS.get(unit.strip().upper(), math.nan)),
        sex=root.findtext(".//Gender", ""),
    )


_YEARS = {"YEARS": 1.0, "MONTHS": 1 / 12, "WEEKS": 7 / 365.25, "DAYS": 1 / 365.25, "HOURS": 0.0}


def _muse_lead(lead: Element) -> np.ndarray:
    name = _text(lead, "LeadID")
    if _text(lead, "LeadSampleSize") not in ("2", ""):
        raise ValueError(f"lead {name} has samples of other than two bytes")
    data = base64.b64decode("".join(_text(lead, "WaveFormData").split()), validate=True)
    samples = np.frombuffer(data, "<i2")
    stated = _text(lead, "LeadSampleCountTotal")
    if stated and int(stated) != len(samples):
        raise ValueError(f"lead {name} holds {len(samples)} samples and not {stated}")
    scale = _number(lead, "LeadAmplitudeUnitsPerBit")
    if scale == 0:
        raise ValueError(f"lead {name} has a scale of 0, so it is not calibrated")
    return np.where(samples == _INVALID, np.nan, samples * scale)


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _number(element: Element, tag: str, default: str = "") -> float:
    text = _text(element, tag) or default
    number = float(text) if text else math.nan
    if not math.isfinite(number):
        raise ValueError(f"it states no {tag}")
    return number


# --- HL7 annotated ECG ---------------------------------------------------------------------------


def _aecg(root: Element) -> Tracing:
    """Read the rhythm of an aECG (HL7 aECG Implementation Guide, 2005).

    A series has sets of sequences, one of times and one per lead.  Averaged beats are in derived
    series and are ignored; of several sets the first that has the leads is read.
    """
    found = []
    for series in root.findall(f"{_HL7}component/{_HL7}series"):
        for sequences in series.findall(f"{_HL7}component/{_HL7}sequenceSet"):
            by_code: dict[str, Element] = {}
            for sequence in sequences.findall(f"{_HL7}component/{_HL7}sequence"):
                code, value = _attribute(sequence, "code", "code"), sequence.find(f"{_HL7}value")
                if code in by_code:
                    raise ValueError(f"it holds {code or 'a sequence without a code'} twice")
                if value is not None:
                    by_code[code] = value
            found.append(by_code)
    chosen = next((codes for codes in found if has_leads(list(codes))), found[0] if found else {})
    leads = {code: value for code, value in chosen.items() if not code.startswith("TIME_")}
    times = next((value for code, value in chosen.items() if code.startswith("TIME_")), None)
    if not leads or times is None:
        raise ValueError("it holds no sequence set with times and leads")
    signals = {code: _aecg_lead(code, value) for code, value in leads.items()}
    lengths = {len(signal) for signal, _ in signals.values()}
    if len(lengths) > 1:
        raise ValueError("its leads differ in length")
    person = root.find(f".//{_HL7}subjectDemographicPerson")
    birth = _attribute(person, "birthTime", "value")
    day = _attribute(root, "effectiveTime/low", "value") or _attribute(
        root, "effectiveTime/center", "value"
    )
    return Tracing(
        names=tuple(signals),
        values=np.stack([signal for signal, _ in signals.values()], axis=1),
        units=tuple(unit for _, unit in signals.values()),
        fs=1 / _seconds(times),
        age=years_between(_day(birth), _day(day)),
        sex=_attribute(person, "administrativeGenderCode", "code"),
    )


def _attribute(element: Element | None, path: str, name: str) -> str:
    inner = None if element is None else element.find(_HL7 + path.replace("/", f"/{_HL7}"))
    return "" if inner is None else inner.get(name, "").strip()


def _seconds(times: Element) -> float:
    """Seconds from one sample to the next."""
    step = float(_attribute(times, "increment", "value") or math.nan)
    unit = {"s": 1.0, "ms": 1e-3, "us": 1e-6}.get(_attribute(times, "increment", "unit"), math.nan)
    if not step * unit > 0:
        raise ValueError("its times have no increment in seconds")
    return step * unit


def _aecg_lead(code: str, value: Element) -> tuple[np.ndarray, str]:
    """Scale the digits of a lead: origin + digit · scale, both in one unit."""
    digits = np.array((value.findtext(f"{_HL7}digits") or "").split(), np.float64)
    units = {_attribute(value, part, "unit") for part in ("origin", "scale")} - {""}
    if len(units) != 1:
        raise ValueError(f"{code} has no unit, or two")
    scale = float(_attribute(value, "scale", "value") or math.nan)
    origin = float(_attribute(value, "origin", "value") or 0)
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"{code} has no scale, so it is not calibrated")
    digits[digits == _INVALID] = np.nan
    return origin + digits * scale, units.pop()


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:8]}")
    except ValueError:
        return None
