"""Recordings in formats other than WFDB, written from their standards, for the tests."""

import base64
import binascii
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.labels import LEADS

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def columns(signal: np.ndarray, leads: Sequence[str]) -> np.ndarray:
    """Those columns of ``(time, 12)`` that hold the given leads."""
    return signal[:, [LEADS.index(lead) for lead in leads]]


def microvolts(signal: np.ndarray) -> np.ndarray:
    """Whole microvolts as int16, NaN as -32768."""
    return np.nan_to_num(np.round(signal * 1000), nan=-32768).astype("<i2")


def write_table(
    path: Path,
    signal: np.ndarray,
    *,
    names: Sequence[str] = LEADS,
    delimiter: str = ",",
    decimal: str = ".",
    time: tuple[str, float] | None = None,
    encoding: str = "utf-8",
) -> Path:
    """Write ``(time, lead)`` with a line of names; ``time`` names a column and its step."""
    header = [*([time[0]] if time else []), *names]
    lines = [delimiter.join(header)]
    for n, row in enumerate(signal):
        cells = [f"{n * time[1]:.6f}"] if time else []
        cells += ["" if np.isnan(value) else f"{value:.9g}" for value in row]
        lines.append(delimiter.join(cell.replace(".", decimal) for cell in cells))
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def write_edf(
    path: Path,
    signal: np.ndarray,
    *,
    fs: int,
    labels: Sequence[str] = LEADS,
    unit: str = "uV",
    patient: str = "X F 01-JAN-1960 X",
    recording: str = "Startdate 05-MAR-2020 X X X",
    reserved: str = "EDF+C",
    bdf: bool = False,
) -> Path:
    """Write EDF or BDF as https://www.edfplus.info/specs/edf.html lays it out, byte by byte.

    ``signal`` is ``(time, lead)`` in mV, of whole seconds; digits are microvolts.
    """
    seconds, num = len(signal) // fs, len(labels)
    most = 8388607 if bdf else 32767
    per_unit = {"uV": 1.0, "mV": 1e3, "": 1.0}.get(unit, 1.0)
    head = (b"\xffBIOSEMI" if bdf else b"0       ") + f"{patient:80}{recording:80}".encode()
    head += f"05.03.2010.00.00{256 * (num + 1):<8}{reserved:44}{seconds:<8}{1:<8}{num:<4}".encode()
    physical = [f"{-most / per_unit:.8g}"[:8], f"{most / per_unit:.8g}"[:8]]
    for texts, width in (
        (labels, 16),
        (["electrode"] * num, 80),
        ([unit] * num, 8),
        ([physical[0]] * num, 8),
        ([physical[1]] * num, 8),
        ([str(-most)] * num, 8),
        ([str(most)] * num, 8),
        ([""] * num, 80),
        ([str(fs)] * num, 8),
        ([""] * num, 32),
    ):
        head += b"".join(text.ljust(width).encode() for text in texts)
    digits = np.round(signal * 1000).astype("<i4").reshape(seconds, fs, num).swapaxes(1, 2)
    octets = digits.copy().view(np.uint8).reshape(*digits.shape, 4)
    path.write_bytes(head + octets[..., : 3 if bdf else 2].tobytes())
    return path


SCP_LEADS = {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64}
SCP_LEADS |= {f"V{n}": n + 2 for n in range(1, 7)}
"""Lead numbers of SCP-ECG (EN 1064), which DICOM's SCPECG codes take over."""


def write_dicom(
    path: Path,
    signal: np.ndarray,
    *,
    fs: float,
    leads: Sequence[str] = LEADS,
    scheme: str = "SCPECG",
    unit: str = "uV",
    baseline: float = 0.0,
    padding: int | None = None,
    calibrated: bool = True,
) -> Path:
    """Write a 12-lead ECG with pydicom: a rhythm, after a median beat that is to be passed over.

    ``signal`` is ``(time, lead)`` in mV; digits are microvolts above ``baseline``.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.9.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "ECG"
    dataset.PatientAge = "063Y"
    dataset.PatientSex = "F"

    def code(value: str, designator: str, meaning: str) -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, designator, meaning
        return [item]

    def group(samples: np.ndarray, originality: str, label: str) -> Dataset:
        item = Dataset()
        item.MultiplexGroupLabel, item.WaveformOriginality = label, originality
        item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = len(leads), len(samples)
        item.SamplingFrequency = fs
        item.ChannelDefinitionSequence = []
        for lead in leads:
            channel = Dataset()
            number = SCP_LEADS[lead]
            value = {"SCPECG": f"5.6.3-9-{number}", "MDC": f"2:{number}"}.get(scheme, "X")
            channel.ChannelSourceSequence = code(value, scheme, f"Lead {lead} (Einthoven)")
            if calibrated:
                channel.ChannelSensitivity = "0.5" if unit == "uV" else "0.0005"
                channel.ChannelSensitivityUnitsSequence = code(unit, "UCUM", unit)
                channel.ChannelSensitivityCorrectionFactor = "2"
                channel.ChannelBaseline = str(baseline)
            channel.WaveformBitsStored = 16
            item.ChannelDefinitionSequence.append(channel)
        item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 16, "SS"
        step = 1.0 if unit == "uV" else 1e-3
        digits = np.nan_to_num(np.round((samples * 1000 * step - baseline) / step), nan=-9999)
        item.WaveformData = digits.astype("<i2").tobytes()
        if padding is not None:
            item.WaveformPaddingValue = struct.pack("<h", padding)
        return item

    beat = group(signal[:100] * 3, "DERIVED", "MEDIAN BEAT")
    dataset.WaveformSequence = [beat, group(signal, "ORIGINAL", "RHYTHM")]
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_muse(
    path: Path,
    signal: np.ndarray,
    *,
    fs: int,
    leads: Sequence[str] = EIGHT,
    unit: str = "MICROVOLTS",
    per_bit: str = "1.00",
    doctype: str = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">',
    encoding: str = "ISO-8859-1",
) -> Path:
    """Write a GE MUSE export: a median beat, then the rhythm of the leads that are stored."""

    def lead_data(name: str, samples: np.ndarray) -> str:
        lines = base64.encodebytes(samples.tobytes()).decode()
        return (
            f"<LeadData><LeadByteCountTotal>{2 * len(samples)}</LeadByteCountTotal>"
            f"<LeadSampleCountTotal>{len(samples)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit>"
            f"<LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits><LeadID>{name}</LeadID>"
            f"<LeadSampleSize>2</LeadSampleSize><WaveFormData>\n{lines}</WaveFormData></LeadData>"
        )

    def waveform(kind: str, samples: np.ndarray) -> str:
        data = "".join(lead_data(n, s) for n, s in zip(leads, samples.T, strict=True))
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>{len(leads)}"
            f"</NumberofLeads><SampleBase>{fs}</SampleBase><SampleExponent>0</SampleExponent>"
            f"{data}</Waveform>"
        )

    digits = microvolts(columns(signal, leads))
    path.write_text(
        f'<?xml version="1.0" encoding="{encoding}"?>\n{doctype}\n<RestingECG>'
        "<PatientDemographics><PatientLastName>Åström</PatientLastName><PatientAge>18</PatientAge>"
        "<AgeUnits>MONTHS</AgeUnits><Gender>FEMALE</Gender></PatientDemographics>"
        f"{waveform('Median', digits[:50] * 2)}{waveform('Rhythm', digits)}</RestingECG>",
        encoding=encoding,
    )
    return path


def write_aecg(
    path: Path,
    signal: np.ndarray,
    *,
    fs: float,
    leads: Sequence[str] = LEADS,
    unit: str = "uV",
    origin: float = 0.0,
    time_unit: str = "s",
) -> Path:
    """Write an HL7 aECG (Implementation Guide, 2005): a rhythm, then a derived averaged beat."""
    step = (1 if time_unit == "s" else 1000) / fs

    def sequences(samples: np.ndarray) -> str:
        parts = [
            '<component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/>'
            '<value xsi:type="GLIST_TS"><head value="20200305101500.000"/>'
            f'<increment value="{step:.9g}" unit="{time_unit}"/></value></sequence></component>'
        ]
        per_mv = {"uV": 1000, "mV": 1}[unit]
        for lead, column in zip(leads, samples.T, strict=True):
            digits = np.nan_to_num(np.round(column * 1000 - origin * 1000 / per_mv), nan=-32768)
            parts.append(
                f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}"'
                ' codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ">'
                f'<origin value="{origin}" unit="{unit}"/><scale value="{per_mv / 1000}"'
                f' unit="{unit}"/><digits>{" ".join(str(int(d)) for d in digits)}</digits>'
                "</value></sequence></component>"
            )
        return f"<component><sequenceSet>{''.join(parts)}</sequenceSet></component>"

    rhythm, beat = sequences(columns(signal, leads)), sequences(columns(signal, leads)[:50] * 2)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><id root="1.2.3"/>'
        '<effectiveTime><low value="20200305101500"/><high value="20200305101510"/>'
        "</effectiveTime><componentOf><timepointEvent><componentOf><subjectAssignment><subject>"
        '<trialSubject><subjectDemographicPerson><administrativeGenderCode code="M"/>'
        '<birthTime value="19500101"/></subjectDemographicPerson></trialSubject></subject>'
        "</subjectAssignment></componentOf></timepointEvent></componentOf><component><series>"
        f'<code code="RHYTHM"/>{rhythm}<derivation><derivedSeries><code'
        f' code="REPRESENTATIVE_BEAT"/>{beat}</derivedSeries></derivation></series></component>'
        "</AnnotatedECG>"
    )
    return path


def write_scp(
    path: Path,
    signal: np.ndarray,
    *,
    fs: int,
    leads: Sequence[str] = LEADS,
    differences: int = 2,
    marked: bool = True,
) -> Path:
    """Write SCP-ECG (EN 1064:2005): sections 0, 1, 3 and 6, without Huffman coding."""

    def section(number: int, body: bytes) -> bytes:
        body += bytes(len(body) % 2)
        reserved = b"SCPECG" if number == 0 and marked else bytes(6)
        rest = struct.pack("<HIBB", number, 16 + len(body), 20, 20) + reserved + body
        return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest

    digits = microvolts(columns(signal, leads)).T.astype(np.int64)
    # The first value, or two, stay as they are (EN 1064 on differences).
    digits[:, differences:] = np.diff(digits, n=differences, axis=1)
    coded = [row.astype("<i2").tobytes() for row in digits]
    patient = struct.pack("<BHHB", 4, 3, 71, 1) + struct.pack("<BHB", 8, 1, 2) + b"\xff\0\0"
    definition = struct.pack("<BB", len(leads), 4 | len(leads) << 3 & 0xFF)
    for lead in leads:
        definition += struct.pack("<IIB", 1, len(signal), SCP_LEADS[lead])
    rhythm = struct.pack("<HHBB", 1000, 1_000_000 // fs, differences, 0)
    rhythm += b"".join(struct.pack("<H", len(row)) for row in coded) + b"".join(coded)
    built = {1: section(1, patient), 3: section(3, definition), 6: section(6, rhythm)}
    start = 7 + 16 + 10 * 12
    pointers = struct.pack("<HII", 0, 16 + 10 * 12, 7)
    for number in range(1, 12):
        length = len(built.get(number, b""))
        pointers += struct.pack("<HII", number, length, start if length else 0)
        start += length
    content = section(0, pointers) + b"".join(built.values())
    rest = struct.pack("<I", 6 + len(content)) + content
    path.write_bytes(struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest)
    return path
