import importlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import (
    EIGHT,
    columns,
    write_aecg,
    write_dicom,
    write_edf,
    write_muse,
    write_scp,
    write_table,
)
from make_records import sine_leads, write_ptbxl, write_reference, write_wfdb
from toy import toy_contract, toy_model

from data_prep.errors import OptionError, RecordError, StoreError
from data_prep.files import MOST_BYTES
from data_prep.labels import LEADS
from data_prep.readers.leads import complete_leads, find_leads, lead_of, leads_of
from data_prep.records import Record, find_records, read_record, record_of_array, scan_folder
from data_prep.storing import build
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.model_files import load_model
from ecg_keras.prediction.predict import predict

FS = 250
Writer = Callable[[Path, np.ndarray], Path]

# Every format at its native resolution of a microvolt or finer, in leads of any order.
WRITERS: dict[str, tuple[str, Writer]] = {
    "table": ("A1.csv", lambda path, signal: write_table(path, signal, time=("time", 1 / FS))),
    "EDF": ("A1.edf", lambda path, signal: write_edf(path, signal, fs=FS)),
    "BDF": ("A1.bdf", lambda path, signal: write_edf(path, signal, fs=FS, bdf=True)),
    "DICOM": ("A1.dcm", lambda path, signal: write_dicom(path, signal, fs=FS)),
    "GE MUSE": ("A1.xml", lambda path, signal: write_muse(path, signal, fs=FS, leads=LEADS)),
    "HL7 aECG": ("A1.xml", lambda path, signal: write_aecg(path, signal, fs=FS)),
    "SCP-ECG": ("A1.scp", lambda path, signal: write_scp(path, signal, fs=FS)),
}


@pytest.fixture
def signal() -> np.ndarray:
    return sine_leads(4 * FS, fs=FS)


def expected_of_eight(signal: np.ndarray) -> np.ndarray:
    """Twelve leads of I, II and V1 to V6, after Einthoven and Goldberger, by hand."""
    right, left = -signal[:, 0], signal[:, 0] * 0  # potentials against the left arm
    foot = signal[:, 1] + right
    middle = (right + left + foot) / 3
    limbs = [left - right, foot - right, foot - left]
    augmented = [1.5 * (electrode - middle) for electrode in (right, left, foot)]
    return np.stack([*limbs, *augmented, *signal[:, 6:].T], axis=1)


def assert_holds(record: Record, signal: np.ndarray, *, atol: float = 1e-6) -> None:
    assert record.signal.dtype == np.float32 and record.signal.flags.c_contiguous
    np.testing.assert_allclose(record.signal, signal, atol=atol)


# --- Leads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("i", "I"),
        ("AVR", "aVR"),
        (" aVl ", "aVL"),
        ("LEAD_I", "I"),
        ("Lead II", "II"),
        ("ECG I", "I"),
        ("EKG V3", "V3"),
        ("ECG Lead aVF", "aVF"),
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("Lead I (Einthoven)", "I"),
        ("aVR, augmented voltage, right", "aVR"),
        ("DII", "II"),
        ("D3", "III"),
        ("C1", "V1"),
        ("ECG c6", "V6"),
        ("\N{ROMAN NUMERAL TWO}", "II"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER V}1", "V1"),
        ("MDC_ECG_LEAD_V1", "V1"),
        ("ekg: I", "I"),
        ("MLII", None),
        ("-aVR", None),
        ("I-AVB", None),
        ("V7", None),
        ("V\N{SUPERSCRIPT THREE}", None),
        ("V1R", None),
        ("MDC_ECG_LEAD_V4R", None),
        ("V4r", None),
        ("C7", None),
        ("C4R", None),
        ("EEG C3", None),
        ("CM5", None),
        ("VR", None),
        ("Lead 2", None),
        ("ECG 1", None),
        ("V-lead 1", None),
        ("Vlead1", None),
        ("2", None),
        ("lead", None),
        ("", None),
        ("time", None),
    ],
)
def test_names_of_leads(name: str, lead: str | None) -> None:
    assert lead_of(name) == lead


def test_leads_are_found_once_each() -> None:
    assert find_leads(["time", *EIGHT])["V6"] == 8
    with pytest.raises(ValueError, match=r"the leads II, V6 once each \(it has I, V1"):
        find_leads(["I", *EIGHT[2:7]])
    with pytest.raises(ValueError, match="the leads I once each"):
        find_leads([*LEADS, "LEAD I"])
    with pytest.raises(ValueError, match="the leads III once each"):
        find_leads([*LEADS, "DIII"])


def test_chest_leads_by_their_iec_codes(tmp_path: Path, signal: np.ndarray) -> None:
    names = [*LEADS[:6], *(f"C{n}" for n in range(1, 7))]
    assert list(find_leads(names).values()) == list(range(12))
    assert_holds(read_record(write_edf(tmp_path / "A1.edf", signal, fs=FS, labels=names)), signal)
    # Beside V3 and V4 they are electrodes on the scalp.
    assert leads_of(["C3", "C4", "V3", "V4"]) == [None, None, "V3", "V4"]
    assert find_leads(["C3", "C4", *LEADS])["V3"] == 10
    with pytest.raises(ValueError, match="the leads V5, V6 once each"):
        find_leads([*LEADS[:10], "C5", "C6"])


def test_missing_limb_leads_follow_from_electrode_potentials(signal: np.ndarray) -> None:
    complete, derived = complete_leads(EIGHT, columns(signal, EIGHT))
    np.testing.assert_allclose(complete, expected_of_eight(signal), atol=1e-12)
    assert derived == ("III", "aVR", "aVL", "aVF")
    # A lead that is there is kept, also where it contradicts the others.
    kept, derived = complete_leads([*LEADS[:5], *LEADS[6:]], np.delete(signal, 5, axis=1))
    np.testing.assert_array_equal(kept[:, :5], signal[:, :5])
    assert derived == ("aVF",)


# --- All formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_round_trip(tmp_path: Path, signal: np.ndarray, kind: str) -> None:
    name, write = WRITERS[kind]
    record = read_record(write(tmp_path / name, signal))
    assert (record.id, record.fs, record.path) == ("A1", FS, tmp_path / name)
    assert (record.codes, record.derived) == ((), ())
    assert_holds(record, signal)
    assert read_record(tmp_path / name, fs=FS, unit="mV" if kind == "table" else None).fs == FS


@pytest.mark.parametrize("kind", WRITERS)
def test_contents_tell_the_format_where_the_ending_does_not(
    tmp_path: Path, signal: np.ndarray, kind: str
) -> None:
    if kind == "table":
        pytest.skip("text files are recognised by their ending")
    name, write = WRITERS[kind]
    bare = write(tmp_path / name, signal).rename(tmp_path / "IMG00001")
    assert_holds(read_record(bare), signal)


@pytest.mark.parametrize("kind", WRITERS)
def test_real_record_in_every_format(tmp_path: Path, shared_data: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    for of in ("ptbxl/records100/00000/00001_lr", "cpsc2018/challenge2020/A0004"):
        original = read_record(shared_data / of).signal[: 4 * FS].astype(np.float64)
        whole = np.round(original, 3)  # it is stored in whole microvolts
        np.testing.assert_allclose(whole, original, atol=1e-6)
        assert_holds(read_record(write(tmp_path / name, whole)), original)


@pytest.mark.parametrize("kind", ["table", "DICOM", "GE MUSE", "HL7 aECG"])
def test_invalid_samples_are_nan(tmp_path: Path, signal: np.ndarray, kind: str) -> None:
    name, write = WRITERS[kind]
    signal[100:110, 3] = np.nan
    path = tmp_path / name
    if kind == "DICOM":
        write_dicom(path, signal, fs=FS, padding=-9999)
    else:
        write(path, signal)
    read = read_record(path).signal
    np.testing.assert_array_equal(np.isnan(read), np.isnan(signal))
    assert np.nanmin(read) > -3


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("bytes_changed", [1, 3])
def test_no_damage_raises_another_error(
    tmp_path: Path, signal: np.ndarray, kind: str, bytes_changed: int
) -> None:
    name, write = WRITERS[kind]
    path = write(tmp_path / name, signal[:FS])
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng, refused = np.random.default_rng(0), 0
    for turn in range(40):
        damaged = whole.copy()
        where = rng.integers(0, min(len(whole), 3000), bytes_changed)
        damaged[where] = rng.integers(0, 256, bytes_changed)
        if turn % 4 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        path.write_bytes(damaged.tobytes())
        try:
            assert read_record(path).signal.shape[1] == 12
        except RecordError as error:
            refused += 1
            assert "A1" in str(error) and "\n" not in str(error)
    assert refused >= 10


@pytest.mark.parametrize(
    ("kind", "library"),
    [("EDF", "edfio"), ("DICOM", "pydicom"), ("GE MUSE", "defusedxml"), ("SCP-ECG", "ecgdatakit")],
)
def test_a_missing_library_is_named(
    tmp_path: Path, signal: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    name, write = WRITERS[kind]
    path = write(tmp_path / name, signal)
    monkeypatch.setattr(importlib, "import_module", absent)
    sentence = rf"A1\.\w+ needs the library {library}, .* pip install 'ecg-keras\[formats\]'"
    with pytest.raises(RecordError, match=sentence):
        read_record(path)


def test_eight_leads_become_twelve(tmp_path: Path, signal: np.ndarray) -> None:
    eight = columns(signal, EIGHT)
    np.savez(tmp_path / "F.npz", signal=eight, fs=FS, leads=np.array(EIGHT))
    files = [
        write_muse(tmp_path / "A.xml", signal, fs=FS),
        write_aecg(tmp_path / "B.xml", signal, fs=FS, leads=EIGHT),
        write_edf(tmp_path / "C.edf", eight, fs=FS, labels=[f"ECG {lead}" for lead in EIGHT]),
        write_dicom(tmp_path / "D.dcm", eight, fs=FS, leads=EIGHT),
        write_scp(tmp_path / "E.scp", signal, fs=FS, leads=EIGHT),
        tmp_path / "F.npz",
        write_table(tmp_path / "G.csv", eight, names=EIGHT, time=("t", 1 / FS)),
        write_wfdb(tmp_path, "H", eight, fs=FS, leads=EIGHT),
    ]
    for file in files:
        record = read_record(file)
        assert record.derived == ("III", "aVR", "aVL", "aVF"), file
        assert_holds(record, expected_of_eight(signal))


def test_rate_and_unit_of_the_user_must_not_contradict_the_file(
    tmp_path: Path, signal: np.ndarray
) -> None:
    files = [write(tmp_path / name, signal) for name, write in WRITERS.values()]
    files.append(write_wfdb(tmp_path, "A9", signal, fs=FS))
    for file in files:
        with pytest.raises(RecordError, match="states a rate of 250 Hz and not the 500 Hz given"):
            read_record(file, fs=500)
    for file in files[1:]:
        with pytest.raises(RecordError, match=r"states the unit \w+ and not the V given"):
            read_record(file, unit="V")
    with pytest.raises(RecordError, match="'mmHg', which is not one of mV, uV, V, nV"):
        read_record(files[0], unit="mmHg")


# --- Tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "delimiter", "decimal", "per_mv"),
    [
        (LEADS, ",", ".", 1),
        (LEADS, "\t", ".", 1),
        (LEADS, ";", ",", 1),
        ([f"{lead} (uV)" for lead in LEADS], ",", ".", 1000),
        ([f"Lead {lead} [µV]" for lead in LEADS], ";", ".", 1000),
        ([f"{lead.lower()}_uV" for lead in LEADS], ",", ".", 1000),
        ([f"{lead}/mV" for lead in LEADS], ",", ".", 1),
        ([f'"{lead}"' for lead in LEADS], ",", ".", 1),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_tables(
    tmp_path: Path,
    signal: np.ndarray,
    names: list[str],
    delimiter: str,
    decimal: str,
    per_mv: float,
    encoding: str,
) -> None:
    form: dict[str, Any] = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding}
    path = write_table(tmp_path / "A1.tsv", signal * per_mv, names=names, **form)
    assert_holds(read_record(path, fs=FS), signal)


def test_lines_of_empty_cells_keep_their_time(tmp_path: Path, signal: np.ndarray) -> None:
    """As pandas writes lines of NaN; blank lines, and those of spreadsheets at the end, do not."""
    path = write_table(tmp_path / "A1.csv", signal)
    lines = path.read_text().splitlines()
    lines[101:151] = [11 * ","] * 50
    path.write_text("\n".join([lines[0], "", *lines[1:], "", 11 * ",", 11 * ","]) + "\n")
    read = read_record(path, fs=FS).signal
    assert len(read) == len(signal) and np.isnan(read[100:150]).all()
    np.testing.assert_allclose(read[150:], signal[150:], atol=1e-6)


def test_columns_in_any_order_among_others(tmp_path: Path, signal: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(12)
    wide = np.hstack([np.arange(len(signal))[:, None], signal[:, order], signal[:, :1] * 7])
    names = ["", *(LEADS[i].upper() for i in order), "RESP"]
    path = write_table(tmp_path / "A1.csv", wide, names=names)
    assert_holds(read_record(path, fs=FS), signal)


@pytest.mark.parametrize(
    ("column", "step", "fs"),
    [
        ("time", 1 / 500, 500),
        ("Time (s)", 1 / 500, 500),
        ("t", 1 / 360, 360),
        ("time_ms", 2.0, 500),
        ("Time [ms]", 1000 / 257, 257),
        ("ms", 2.5, 400),
        ("time", 1 / 333.25, 333.25),
    ],
)
def test_rate_of_a_column_of_times(
    tmp_path: Path, signal: np.ndarray, column: str, step: float, fs: float
) -> None:
    path = write_table(tmp_path / "A1.csv", signal, time=(column, step))
    assert read_record(path).fs == pytest.approx(fs, rel=1e-4)


def test_times_rounded_to_milliseconds(tmp_path: Path, signal: np.ndarray) -> None:
    times = np.round(np.arange(len(signal)) / 360, 3)[:, None]
    path = write_table(tmp_path / "A1.csv", np.hstack([times, signal]), names=["time", *LEADS])
    assert read_record(path).fs == 360


def test_unit_is_that_of_the_user_or_supposed_where_it_can_be(
    tmp_path: Path, signal: np.ndarray
) -> None:
    for per_mv, unit in ((1000, "uV"), (1e-3, "V"), (1, "mV"), (1e6, "nV")):
        path = write_table(tmp_path / "A1.csv", signal * per_mv)
        assert_holds(read_record(path, fs=FS, unit=unit), signal)
    path = write_table(tmp_path / "A1.csv", signal * 1000)
    with pytest.raises(RecordError, match=r"A1.csv does not state its unit.* uV, or raw counts"):
        read_record(path, fs=FS)
    path = write_table(tmp_path / "A1.csv", signal / 1000)
    with pytest.raises(RecordError, match=r"too little for mV: it may be in V; .*\(--unit\)"):
        read_record(path, fs=FS)
    path = write_table(tmp_path / "A1.csv", signal * 1000)
    with pytest.raises(RecordError, match="misnamed by a factor of 1000"):
        read_record(path, fs=FS, unit="mV")


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        (None, "", "does not name leads in its first line"),
        (None, "0.1,0.2\n0.3,0.4\n", "does not name leads in its first line"),
        (None, "I,II,V1\n1,2,3\n", "does not have the leads V2, V3, V4, V5, V6 once"),
        ("V6", "V5", "does not have the leads V5, V6 once each"),
        ("\n0.008", "\n0.008,7", "line 4: 14 cells, .* 13"),
        ("\n0.008", "\nnoon", "line 4: 'noon000' is not a number"),
        ("\n0.008", "\n0.9", "times that are not evenly spaced"),
        ("time", "sample", "does not state its sampling rate; give it in Hz with fs"),
        ("time", "time_ms", "states a rate of 250000 Hz, which no ECG has"),
        ("V6", "V6 (mmHg)", "has a lead in 'mmHg', which is not one of mV"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, signal: np.ndarray, old: str | None, new: str, trouble: str
) -> None:
    path = write_table(tmp_path / "A1.csv", signal, time=("time", 1 / FS))
    text = path.read_text()
    assert old is None or old in text
    path.write_text(text.replace(old, new, 1) if old else new)
    with pytest.raises(RecordError, match=trouble) as caught:
        read_record(path)
    assert "A1.csv" in str(caught.value) and "\n" not in str(caught.value)


# --- Arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i2"])
@pytest.mark.parametrize("lead_first", [False, True])
def test_arrays(tmp_path: Path, signal: np.ndarray, dtype: str, lead_first: bool) -> None:
    stored = (signal * (1000 if dtype == "i2" else 1)).round(3).astype(dtype)
    unit = "uV" if dtype == "i2" else None
    np.save(tmp_path / "A1.npy", stored.T if lead_first else stored)
    assert_holds(read_record(tmp_path / "A1.npy", fs=FS, unit=unit), signal)
    assert_holds(record_of_array(stored, fs=FS, unit=unit), signal)
    np.savez(tmp_path / "A1.npz", signal=stored, fs=FS, unit=unit or "mV")
    record = read_record(tmp_path / "A1.npz")
    assert record.fs == FS
    assert_holds(record, signal)


def test_arrays_that_cannot_be_used(tmp_path: Path, signal: np.ndarray) -> None:
    path = tmp_path / "A1.npy"
    for array, trouble in [
        (signal[:, :9], r"shape \(1000, 9\) and type float64 is not \(time, 12\)"),
        (signal[None], r"shape \(1, 1000, 12\)"),
        (signal.astype(str), "is not"),
        (signal[:20], "0.08 s long"),
        (signal * 0, "does not state its unit"),
        (signal * np.nan, "holds invalid samples only"),
        (np.array([{}]), "is not a NumPy recording"),
    ]:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(RecordError, match=trouble):
            read_record(path, fs=FS)
    np.save(path, signal)
    with pytest.raises(RecordError, match="does not state its sampling rate"):
        read_record(path)
    np.savez(tmp_path / "A1.npz", other=signal)
    with pytest.raises(RecordError, match="it has no array signal but other"):
        read_record(tmp_path / "A1.npz", fs=FS)
    with pytest.raises(RecordError, match=r"array is not a recording: .* \(5, 5\)"):
        record_of_array(np.ones((5, 5)), fs=FS, unit=None)


# --- EDF -----------------------------------------------------------------------------------------


def test_edf_that_edfio_wrote(tmp_path: Path, signal: np.ndarray) -> None:
    from edfio import Edf, EdfSignal

    leads = [
        EdfSignal(column, FS, label=f"ECG {lead}", physical_dimension="mV")
        for column, lead in zip(signal.T, LEADS, strict=True)
    ]
    Edf([*leads, EdfSignal(np.arange(4.0), 1, label="SpO2")]).write(tmp_path / "A1.edf")
    record = read_record(tmp_path / "A1.edf")
    assert record.fs == FS and math.isnan(record.age) and record.sex == ""
    assert_holds(record, signal, atol=1e-4)  # 16 bits over the range of each lead


@pytest.mark.parametrize("unit", ["uV", "mV"])
def test_edf_header(tmp_path: Path, signal: np.ndarray, unit: str) -> None:
    record = read_record(write_edf(tmp_path / "A1.edf", signal, fs=FS, unit=unit))
    assert (record.age, record.sex) == (60.0, "female")
    assert_holds(record, signal, atol=1e-5)  # eight characters hold the physical range
    old: dict[str, Any] = {"patient": "Jane Doe", "recording": "of no date", "reserved": ""}
    record = read_record(write_edf(tmp_path / "A2.edf", signal, fs=FS, unit=unit, **old))
    assert math.isnan(record.age) and record.sex == ""


def test_edf_that_cannot_be_used(tmp_path: Path, signal: np.ndarray) -> None:
    path = tmp_path / "A1.edf"
    write_edf(path, signal, fs=FS, reserved="EDF+D")
    with pytest.raises(RecordError, match=r"A1.edf cannot be read as EDF \(it has gaps"):
        read_record(path)
    write_edf(path, signal, fs=FS, labels=[*LEADS[:11], "EEG C3"])
    with pytest.raises(RecordError, match="does not have the leads V6 once each"):
        read_record(path)
    write_edf(path, signal, fs=FS, unit="")
    with pytest.raises(RecordError, match="does not state its unit"):
        read_record(path)
    assert_holds(read_record(path, unit="uV"), signal)
    write_edf(path, signal, fs=FS, unit="mmHg")
    with pytest.raises(RecordError, match="lead in 'mmHg', which is not one of mV"):
        read_record(path)


# --- DICOM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["SCPECG", "MDC", "99LOCAL"])
@pytest.mark.parametrize(("unit", "baseline"), [("uV", 0.0), ("uV", 120.0), ("mV", 0.25)])
def test_dicom(tmp_path: Path, signal: np.ndarray, scheme: str, unit: str, baseline: float) -> None:
    path = tmp_path / "A1.dcm"
    write_dicom(path, signal, fs=FS, scheme=scheme, unit=unit, baseline=baseline)
    record = read_record(path)
    assert (record.fs, record.age, record.sex) == (FS, 63.0, "female")
    assert_holds(record, signal)


def test_real_dicom() -> None:
    """A 12-lead ECG of an electrocardiograph, which pydicom ships; its samples decoded by hand."""
    data_manager = pytest.importorskip("pydicom.data")
    path = Path(data_manager.get_testdata_file("waveform_ecg.dcm", download=False))
    record = read_record(path)
    assert record.signal.shape == (10000, 12) and record.fs == 1000
    assert (record.age, record.sex, record.derived) == (42.0, "female", ())
    raw = path.read_bytes()
    start = raw.index(b"\x00\x54\x10\x10OW") + 12  # (5400,1010) Waveform Data of the first group
    samples = np.frombuffer(raw[start : start + 240_000], "<i2").reshape(10000, 12)
    np.testing.assert_allclose(record.signal, samples * 1.25e-3, atol=1e-6)
    i, ii, iii = record.signal.T[:3]
    assert np.abs(i + iii - ii).max() < 0.01


def test_dicom_that_cannot_be_used(tmp_path: Path, signal: np.ndarray) -> None:
    import pydicom

    path = write_dicom(tmp_path / "A1.dcm", signal, fs=FS, calibrated=False)
    with pytest.raises(RecordError, match="no sensitivity, so it is not calibrated"):
        read_record(path)
    dataset = pydicom.dcmread(write_dicom(path, signal, fs=FS))
    dataset.WaveformSequence[1].WaveformSampleInterpretation = "MB"
    dataset.save_as(path)
    with pytest.raises(RecordError, match="its samples are of kind MB"):
        read_record(path)
    del dataset.WaveformSequence
    dataset.save_as(path)
    with pytest.raises(RecordError, match="A1.dcm cannot be read as DICOM .it holds no waveform"):
        read_record(path)


# --- XML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-8", "UTF-16"])
def test_muse(tmp_path: Path, signal: np.ndarray, encoding: str) -> None:
    record = read_record(write_muse(tmp_path / "A1.xml", signal, fs=FS, encoding=encoding))
    assert (record.fs, record.age, record.sex) == (FS, 1.5, "female")
    assert_holds(record, expected_of_eight(signal))


@pytest.mark.parametrize(
    ("age", "unit", "years"),
    [("90+", "YEARS", 90.0), ("730", "DAYS", 2.0), ("unknown", "YEARS", math.nan)],
)
def test_muse_age(tmp_path: Path, signal: np.ndarray, age: str, unit: str, years: float) -> None:
    path = write_muse(tmp_path / "A1.xml", signal, fs=FS, encoding="UTF-8")
    text = path.read_text(encoding="UTF-8").replace("MONTHS", unit)
    path.write_text(text.replace("PatientAge>18<", f"PatientAge>{age}<"), encoding="UTF-8")
    assert read_record(path).age == pytest.approx(years, abs=0.01, nan_ok=True)


def test_muse_scale(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_muse(tmp_path / "A1.xml", signal, fs=FS, per_bit="4.88", leads=LEADS)
    assert_holds(read_record(path), signal * 4.88, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        (">Rhythm<", ">Median<", "holds no Waveform of WaveformType Rhythm"),
        (">MICROVOLTS<", ">FURLONGS<", "lead in 'FURLONGS'"),
        (">1.00<", "><", "it states no LeadAmplitudeUnitsPerBit"),
        (">250<", "><", "it states no SampleBase"),
        (">2</LeadSampleSize>", ">4</LeadSampleSize>", "samples of other than two bytes"),
        ("LeadSampleCountTotal>1000<", "LeadSampleCountTotal>999<", "1000 samples and not 999"),
        ("<LeadID>V6<", "<LeadID>V7<", "does not have the leads V6"),
        ("</RestingECG>", "", "cannot be read as XML"),
        ("RestingECG>", "Invoice>", "XML of another kind"),
    ],
)
def test_muse_that_cannot_be_used(
    tmp_path: Path, signal: np.ndarray, old: str, new: str, trouble: str
) -> None:
    require_refused(write_muse(tmp_path / "A1.xml", signal, fs=FS), old, new, trouble)


def require_refused(path: Path, old: str, new: str, trouble: str, *, times: int = -1) -> None:
    """Replace something in a file of text, and read it."""
    text = path.read_text(encoding="latin-1")
    assert old in text
    path.write_text(text.replace(old, new, times), encoding="latin-1")
    with pytest.raises(RecordError, match=trouble) as caught:
        read_record(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("tag", ["LeadTimeOffset", "LeadOffsetFirstSample"])
def test_muse_leads_that_begin_at_other_times(tmp_path: Path, signal: np.ndarray, tag: str) -> None:
    path = write_muse(tmp_path / "A1.xml", signal, fs=FS)
    text = path.read_text(encoding="latin-1")
    offset = f"<{tag}>{{}}</{tag}><LeadID>V2"
    path.write_text(text.replace("<LeadID>V2", offset.format(0)), encoding="latin-1")
    assert_holds(read_record(path), expected_of_eight(signal))
    path.write_text(text.replace("<LeadID>V2", offset.format(40)), encoding="latin-1")
    with pytest.raises(RecordError, match=r"A1\.xml .*LeadTimeOffset"):
        read_record(path)


def test_xml_of_many_elements(tmp_path: Path) -> None:
    (tmp_path / "A1.xml").write_text(f"<RestingECG>{'<a/>' * 200_000}</RestingECG>")
    with pytest.raises(RecordError, match=r"A1\.xml .*more than 100000 elements"):
        read_record(tmp_path / "A1.xml")


def test_xml_must_not_define_entities(tmp_path: Path, signal: np.ndarray) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("18")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    for subset in (
        f'<!ENTITY l0 "ha">{laughs}',
        f'<!ENTITY l11 SYSTEM "{secret.as_uri()}">',
        '<!ENTITY % l11 "x">',
    ):
        doctype = f"<!DOCTYPE RestingECG [{subset}]>"
        path = write_muse(tmp_path / "A1.xml", signal, fs=FS, doctype=doctype)
        path.write_bytes(path.read_bytes().replace("Åström".encode("latin-1"), b"&l11;"))
        with pytest.raises(RecordError, match="A1.xml cannot be read as XML .it defines entities"):
            read_record(path)


@pytest.mark.parametrize(
    ("unit", "origin", "time_unit"), [("uV", 0.0, "s"), ("mV", 0.5, "s"), ("uV", -20.0, "ms")]
)
def test_aecg(tmp_path: Path, signal: np.ndarray, unit: str, origin: float, time_unit: str) -> None:
    path = tmp_path / "A1.xml"
    write_aecg(path, signal, fs=FS, unit=unit, origin=origin, time_unit=time_unit)
    record = read_record(path)
    assert (record.fs, record.age, record.sex) == (FS, 70.0, "male")
    assert_holds(record, signal)


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        ('<increment value="0.004" unit="s"/>', "", "no increment in seconds"),
        ('unit="s"', 'unit="h"', "no increment in seconds"),
        ('unit="uV"', "", "MDC_ECG_LEAD_I has no unit"),
        ('<scale value="1.0"', "<scale", "MDC_ECG_LEAD_I has no scale"),
        ("<digits>", "<digits>7 ", "differ in length"),
        ("<digits>", "<digits>x ", "cannot be read as HL7 aECG"),
        ("sequenceSet", "sequences", "no sequence set with times and leads"),
        ("MDC_ECG_LEAD_V6", "MDC_ECG_LEAD_V9", "does not have the leads V6"),
        ("urn:hl7-org:v3", "urn:other", "XML of another kind"),
    ],
)
def test_aecg_that_cannot_be_used(
    tmp_path: Path, signal: np.ndarray, old: str, new: str, trouble: str
) -> None:
    path = write_aecg(tmp_path / "A1.xml", signal, fs=FS)
    require_refused(path, old, new, trouble, times=1 if "digits" in old else -1)


def test_aecg_with_a_lead_twice(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_aecg(tmp_path / "A1.xml", signal, fs=FS, leads=[*LEADS, "V1"])
    with pytest.raises(RecordError, match=r"A1\.xml .*MDC_ECG_LEAD_V1 twice"):
        read_record(path)


# --- SCP-ECG -------------------------------------------------------------------------------------


@pytest.mark.parametrize("differences", [0, 1, 2])
@pytest.mark.parametrize("marked", [True, False])
def test_scp(tmp_path: Path, signal: np.ndarray, differences: int, marked: bool) -> None:
    path = tmp_path / "A1.scp"
    record = read_record(write_scp(path, signal, fs=FS, differences=differences, marked=marked))
    assert (record.fs, record.age, record.sex) == (FS, 71.0, "female")
    assert_holds(record, signal)


def test_scp_with_another_checksum(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_scp(tmp_path / "A1.scp", signal, fs=FS)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        RecordError, match=r"A1.scp cannot be read as SCP-ECG \(its checksums are not"
    ):
        read_record(path)


# --- In folders and through a network -----------------------------------------------------------


def test_recordings_are_found_among_other_files(tmp_path: Path, signal: np.ndarray) -> None:
    expected = {"W": write_wfdb(tmp_path / "w", "W", signal, fs=FS)}
    for number, (name, write) in enumerate(WRITERS.values()):
        file = f"R{number}{Path(name).suffix}"
        expected[f"R{number}"] = write(tmp_path / file, signal)
    np.save(tmp_path / "N.npy", signal)
    np.savez(tmp_path / "Z.npz", signal=signal, fs=FS)
    expected |= {"N": tmp_path / "N.npy", "Z": tmp_path / "Z.npz"}

    write_ptbxl(tmp_path / "ptb", [{"NORM": 100.0}], hr=False)
    expected["00001_lr"] = tmp_path / "ptb" / "records100" / "00000" / "00001_lr.hea"
    write_reference(tmp_path / "REFERENCE.csv", {"W": [1]})
    classes = "Recording,Normal,AF,I-AVB,LBBB,RBBB,PAC,PVC,STD,STE\nW,1,0,0,0,0,0,0,0,0\n"
    (tmp_path / "probabilities.csv").write_text(classes)
    np.savez(tmp_path / "predictions.npz", probabilities=np.ones((2, 12)))
    np.save(tmp_path / "features.npy", np.ones((5, 7)))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "notes.xml").write_text("<notes/>")
    for number, kind in enumerate(("DICOM", "EDF", "SCP-ECG")):
        name, write = WRITERS[kind]
        expected[f"IM{number}"] = write(tmp_path / name, signal).rename(tmp_path / f"IM{number}")
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"1.2.840.10008.1.3.10")
    (tmp_path / "ct.dcm").write_bytes(bytes(128) + b"DICM" + b"1.2.840.10008.5.1.4.1.1.2")
    (tmp_path / "folder.csv").mkdir()
    assert find_records(tmp_path) == expected


def test_what_is_no_recording_is_listed_with_the_reason(tmp_path: Path, signal: np.ndarray) -> None:
    write_wfdb(tmp_path, "W", signal, fs=FS)
    write_reference(tmp_path / "REFERENCE.csv", {"W": [1]})
    write_table(tmp_path / "headless.csv", signal, names=["0"] * 12)
    write_table(tmp_path / "six.csv", signal[:, :6], names=LEADS[:6])
    write_table(tmp_path / "utf16.csv", signal, encoding="utf-16")
    np.savez(tmp_path / "broken.npz", signal=signal)
    os.truncate(tmp_path / "broken.npz", 500)
    (tmp_path / "notes.xml").write_text("<notes/>")
    (tmp_path / "notes.pdf").write_text("%PDF")
    os.mkfifo(tmp_path / "pipe.edf")
    (tmp_path / "zero.scp").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "locked").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        scandir = os.scandir

        def refusing(path: str) -> Any:
            if Path(path).name == "locked":  # root may read all
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        patch.setattr(os, "scandir", refusing)
        found = scan_folder(tmp_path)
    assert found.records == [("W", tmp_path / "W.hea")]
    reasons = {path.name: reason for path, reason in found.refused}
    assert all(name in reason for name, reason in reasons.items())
    expected = {
        "broken.npz": "is not a NumPy recording",
        "headless.csv": "does not name leads",
        "link": "is a link to a folder",
        "locked": "Permission denied",
        "notes.xml": "XML of another kind",
        "pipe.edf": "not a regular file",
        "six.csv": "does not have the leads V1",
        "utf16.csv": "does not name leads",
        "zero.scp": "not a regular file",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]


@pytest.mark.parametrize("name", [b"C\xe4", b"C\x1b[2J", b"C\n", b"C" * 201])
def test_file_names_that_no_record_can_have(
    tmp_path: Path, signal: np.ndarray, name: bytes
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/folder\xe4"))
    write_wfdb(folder, "A1", signal, fs=FS)
    write_wfdb(folder, "B1", signal, fs=FS)
    table = write_table(Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".csv")), signal)
    write_reference(folder / "REFERENCE.csv", {"A1": [1], "B1": [2]})
    for row, record in enumerate(found := find_records(folder)):
        if row < 2:
            assert_holds(read_record(found[record]), signal)
    with pytest.raises(RecordError, match=r"\.csv cannot be read: the record name .*UTF-8; rename"):
        read_record(table, fs=FS)
    with pytest.raises(StoreError, match="2 usable records"):  # and not three
        build.main(source=(folder,), out=tmp_path / "s.h5", workers=1, fs=FS)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.keras"
    toy_model(toy_contract(), seed=1).save(path)
    return path


def test_every_format_gets_the_same_answer(
    tmp_path: Path, signal: np.ndarray, model_file: Path
) -> None:
    records = tmp_path / "records"
    records.mkdir()
    write_wfdb(records, "W", signal, fs=FS)
    for number, (name, write) in enumerate(WRITERS.values()):
        write(records / f"R{number}{Path(name).suffix}", signal)
    np.save(records / "N.npy", (signal.T * 1000).round())

    form: dict[str, Any] = {"models": (str(model_file),), "csv_file": None, "batch_size": 4}
    with pytest.raises(RecordError, match=r"1 of 9 recordings .*/N\.npy does not state"):
        predict(records=records, out=tmp_path / "out", **form)
    found = load_predictions(tmp_path / "out" / "predictions.npz")
    assert found.ids.tolist() == [*(f"R{n}" for n in range(7)), "W"]
    of_wfdb = found.probabilities[-1]
    np.testing.assert_allclose(found.probabilities, [of_wfdb] * 8, atol=1e-5)

    predict(records=records / "N.npy", out=tmp_path / "alone", fs=FS, unit="uV", **form)
    alone = load_predictions(tmp_path / "alone" / "predictions.npz")
    np.testing.assert_allclose(alone.probabilities[0], of_wfdb, atol=1e-5)

    model = load_model(model_file)
    answer = model.predict_record(signal, fs=FS)
    by_file = model.predict_record(records / "N.npy", fs=FS, unit="uV")
    assert answer.record == "array" and by_file.record == "N"
    for probabilities in (answer.probabilities, by_file.probabilities):
        values = list(probabilities.values())
        np.testing.assert_allclose(values, of_wfdb, atol=1e-5)
    with pytest.raises(OptionError, match="does not state its sampling rate"):
        model.predict_record(signal)


@pytest.mark.parametrize(
    ("field", "width", "value"), [(104, 8, "-32767"), (112, 8, "5"), (120, 8, "32767")]
)
def test_edf_without_calibration(
    tmp_path: Path, signal: np.ndarray, field: int, width: int, value: str
) -> None:
    path = write_edf(tmp_path / "A1.edf", signal, fs=FS)
    data = bytearray(path.read_bytes())
    # Fields stand lead after lead: physical minimum and maximum, digital minimum and maximum.
    for at in {104: (104, 112), 112: (104, 112), 120: (120, 128)}[field]:
        start = 256 + 12 * at + 4 * width
        data[start : start + width] = value.ljust(width).encode()
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"A1\.edf .*aVL is not calibrated"):
        read_record(path)


@pytest.mark.parametrize("second", [1, 5])
def test_edf_with_a_gap_in_its_annotations(tmp_path: Path, signal: np.ndarray, second: int) -> None:
    path = write_edf(tmp_path / "A1.edf", signal, fs=FS)
    data, num = path.read_bytes(), len(LEADS)
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    added = ("EDF Annotations", "", "", "-1", "1", "-32768", "32767", "", "10", "")
    head, at = bytearray(data[:256]), 256
    head[184:192], head[252:256] = f"{256 * (num + 2):<8}".encode(), f"{num + 1:<4}".encode()
    for width, value in zip(widths, added, strict=True):
        head += data[at : at + num * width] + value.ljust(width).encode()
        at += num * width
    size = 2 * num * FS
    for number, start in enumerate((0, second, second + 1, second + 2)):
        stamp = f"+{start}\x14\x14".encode().ljust(20, b"\0")
        head += data[at + number * size : at + (number + 1) * size] + stamp
    path.write_bytes(head)
    if second == 1:
        assert_holds(read_record(path), signal)
        return
    with pytest.raises(RecordError, match=r"A1\.edf .*gaps"):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ("names", "does not have the leads V1"),
        ("median", "a median beat only"),
        ("ChannelSampleSkew", "shifted by 3 samples"),
        ("ChannelTimeSkew", "shifted by 2.5 samples"),
        ("ChannelSensitivity", "sensitivity of -2"),
        ("samples", "24000 bytes of samples and not 12000"),
        ("ChannelBaseline", "V1 at 1e\\+06 mV from zero"),
    ],
)
def test_dicom_that_would_be_read_wrongly(
    tmp_path: Path, signal: np.ndarray, change: str, trouble: str
) -> None:
    import pydicom

    path = write_dicom(tmp_path / "A1.dcm", signal, fs=FS, leads=LEADS)
    dataset = pydicom.dcmread(path)
    beat, rhythm = dataset.WaveformSequence
    channel = rhythm.ChannelDefinitionSequence[6]
    if change == "names":
        channel.ChannelSourceSequence[0].CodeValue = "5.6.3-9-99"
        beat.WaveformData, beat.NumberOfWaveformSamples = rhythm.WaveformData[: 24 * 300], 300
    elif change == "samples":
        rhythm.NumberOfWaveformSamples //= 2
    elif change == "median":
        del dataset.WaveformSequence[1]
    else:
        value = {"ChannelSampleSkew": 3, "ChannelTimeSkew": 0.01, "ChannelSensitivity": -1}
        setattr(channel, change, str(value.get(change, 1e9)))
    dataset.save_as(path)
    with pytest.raises(RecordError, match=trouble) as caught:
        read_record(path)
    assert "A1.dcm" in str(caught.value)


def test_tables_of_huge_cells(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_table(tmp_path / "A1.csv", signal)
    lines = path.read_text().splitlines()
    for number, cell, trouble in (
        (3, "1" * 200_000, "field larger"),
        (0, "I" * 200_000, "does not name leads"),
        (0, "I" + "( " * 20_000, "does not have the leads I"),
        (3, "," * 2_000_000, "line 4: .* characters"),
    ):
        changed = [*lines]
        changed[number] = cell + changed[number][changed[number].index(",") :]
        path.write_text("\n".join(changed))
        with pytest.raises(RecordError, match=trouble) as caught:
            read_record(path, fs=FS)
        assert "A1.csv" in str(caught.value) and len(str(caught.value)) < 900


def test_files_too_large_or_unreadable(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_table(tmp_path / "A1.csv", signal)
    shutil.copy(path, tmp_path / "A1.pdf")
    with pytest.raises(RecordError, match="A1.pdf is not a recording that this program reads"):
        read_record(tmp_path / "A1.pdf")
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(RecordError, match="A1.csv .*too large"):
        read_record(path, fs=FS)
