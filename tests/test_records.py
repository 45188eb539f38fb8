import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from make_records import sine_leads, write_struct, write_wfdb
from scipy.io import savemat

from data_prep.errors import RecordError
from data_prep.labels import LEADS
from data_prep.records import find_records, list_records, read_record
from data_prep.storing.folders import inspect_folder


@pytest.fixture
def signal() -> np.ndarray:
    return sine_leads(1500)


@pytest.mark.parametrize("ending", [".mat", ".dat"])
def test_wfdb_record(tmp_path: Path, signal: np.ndarray, ending: str) -> None:
    comments = ["Age: 74", "Sex: Male", "Dx: RBBB, AF", "Rx: Unknown"]
    header = write_wfdb(tmp_path, "A1", signal, ending=ending, comments=comments)
    record = read_record(header)
    assert (record.id, record.fs, record.path) == ("A1", 500.0, header)
    assert (record.age, record.sex, record.codes) == (74.0, "male", ("RBBB", "AF"))
    assert record.signal.dtype == np.float32
    np.testing.assert_allclose(record.signal, signal, atol=1e-6)


@pytest.mark.parametrize("given", ["A1", "A1.hea", "A1.dat"])
def test_path_with_or_without_ending(tmp_path: Path, signal: np.ndarray, given: str) -> None:
    write_wfdb(tmp_path, "A1", signal, ending=".dat")
    assert read_record(tmp_path / given).id == "A1"
    assert read_record(str(tmp_path / given)).signal.shape == signal.shape


def test_leads_by_name_in_any_case(tmp_path: Path, signal: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(12)
    leads = [LEADS[i].upper() if i % 2 else LEADS[i].lower() for i in order]
    write_wfdb(tmp_path, "A1", signal[:, order], leads=leads)
    np.testing.assert_allclose(read_record(tmp_path / "A1").signal, signal, atol=1e-6)


def test_further_signals_are_passed_over(tmp_path: Path, signal: np.ndarray) -> None:
    """As the Frank leads of the PTB diagnostic database."""
    more = np.hstack([signal[:, :3] * 2, signal, signal[:, 3:5] * 3])
    leads = ["vx", "vy", "vz", *LEADS, "RESP", "ABP"]
    write_wfdb(tmp_path, "A1", more, leads=leads)
    np.testing.assert_allclose(read_record(tmp_path / "A1").signal, signal, atol=1e-6)


class TestSegments:
    """Recordings in several WFDB segments, against wfdb's own joining of them."""

    def joined(self, folder: Path, *lines: str) -> Path:
        (folder / "A1.hea").write_text("\n".join(lines) + "\n#Age: 74\n")
        return folder / "A1.hea"

    def parts(self, folder: Path, signal: np.ndarray) -> None:
        """A1_1, and A1_2 with its leads in the opposite order."""
        write_wfdb(folder, "A1_1", signal[:600], ending=".dat")
        write_wfdb(folder, "A1_2", signal[600:, ::-1], ending=".dat", leads=LEADS[::-1])

    def test_one_behind_the_other(self, tmp_path: Path, signal: np.ndarray) -> None:
        write_wfdb(tmp_path, "A1_1", signal[:600], ending=".dat")
        write_wfdb(tmp_path, "A1_2", signal[600:], ending=".dat")
        path = self.joined(tmp_path, "A1/2 12 500 1500", "A1_1 600", "A1_2 900")
        record = read_record(path)
        assert (record.id, record.fs, record.age) == ("A1", 500, 74)
        theirs = wfdb.rdrecord(str(tmp_path / "A1"))
        np.testing.assert_allclose(record.signal, theirs.p_signal, atol=1e-6)
        np.testing.assert_allclose(record.signal, signal, atol=1e-6)

    def test_a_gap_and_another_order(self, tmp_path: Path, signal: np.ndarray) -> None:
        self.parts(tmp_path, signal)
        names = [f"~ 0 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (tmp_path / "A1_layout.hea").write_text("\n".join(["A1_layout 12 500 0", *names]))
        path = self.joined(
            tmp_path, "A1/4 12 500 1700", "A1_layout 0", "A1_1 600", "~ 200", "A1_2 900"
        )
        ours = read_record(path).signal
        assert np.isnan(ours[600:800]).all()
        np.testing.assert_allclose(ours[:600], signal[:600], atol=1e-6)
        np.testing.assert_allclose(ours[800:], signal[600:], atol=1e-6)
        theirs = wfdb.rdrecord(str(tmp_path / "A1"), m2s=True)
        np.testing.assert_allclose(ours, theirs.p_signal, atol=1e-6)

    def test_are_found_as_the_record_they_make_up(self, tmp_path: Path, signal: np.ndarray) -> None:
        self.parts(tmp_path, signal)
        path = self.joined(tmp_path, "A1/3 12 500 1700", "A1_1 600", "~ 200", "A1_2 900")
        alone = write_wfdb(tmp_path / "b", "A1_1", signal)
        assert find_records(tmp_path) == {"A1": path, "A1_1": alone}
        assert len(read_record(tmp_path / "A1_1.hea").signal) == 600
        report = inspect_folder(tmp_path)
        assert (report.missing, report.extra) == ((), ())
        (tmp_path / "A1_1.dat").unlink()
        (tmp_path / "A1_2.hea").unlink()
        of_segment, segment = sorted(inspect_folder(tmp_path).missing)
        assert (
            "A1_1.dat (named by A1_1.hea)" in of_segment and "A1_2.hea (named by A1.hea)" in segment
        )
        self.joined(tmp_path, "A1/2 12 500 1200", "A1_1 600", "A1 600")
        assert find_records(tmp_path)["A1"] == path  # to say what is wrong with it

    @pytest.mark.parametrize(
        ("lines", "trouble"),
        [
            (["A1/2 12 500 1500", "A1_1 600"], "1 segments, but 2 are announced"),
            (["A1/2 12 500 1500", "A1_1 600", "A1_2 -900"], "negative number of samples"),
            (["A1/2 12 500 1500", "A1_1 600", "A1_2 800"], "its segments have 1400"),
            (["A1/2 12 500 1400", "A1_1 600", "A1_2 800"], "not the segment of 800 samples"),
            (["A1/2 12 500 1500", "A1_1 600", "../A1_2 900"], "no header beside it"),
            (["A1/2 12 500 1500", "A1_1 600", "A1_9 900"], "no header beside it"),
            (["A1/2 12 500 1500", "A1_1 600", "A1 900"], "no header beside it"),
            (["A1/2 12 250 1500", "A1_1 600", "A1_2 900"], "other leads or rates"),
            (["A1/1 12 500 900", "~ 900"], "joins only segments without samples"),
            (["A1/2 12 500 9000000000", "A1_1 600", "~ 8999999400"], "s long"),
            (["A1/1 12 0 600", "A1_1 600"], "a rate of 0 Hz"),
        ],
    )
    def test_what_does_not_fit(
        self, tmp_path: Path, signal: np.ndarray, lines: list[str], trouble: str
    ) -> None:
        self.parts(tmp_path / "r", signal)
        self.parts(tmp_path, signal)
        with pytest.raises(RecordError, match=trouble) as caught:
            read_record(self.joined(tmp_path / "r", *lines))
        assert "A1.hea" in str(caught.value) and "\n" not in str(caught.value)


def test_several_samples_a_frame(tmp_path: Path, signal: np.ndarray) -> None:
    header = write_wfdb(tmp_path, "A1", signal, ending=".dat", fs=250, num_samples=750)
    header.write_text(header.read_text().replace("A1.dat 16", "A1.dat 16x2"))
    frames = np.round(signal * 1000).astype("<i2").reshape(750, 2, 12).transpose(0, 2, 1)
    (tmp_path / "A1.dat").write_bytes(frames.tobytes())
    record = read_record(header)
    assert record.fs == 500
    np.testing.assert_allclose(record.signal, signal, atol=1e-6)
    theirs = wfdb.rdrecord(str(tmp_path / "A1"), smooth_frames=False)
    np.testing.assert_allclose(record.signal, np.stack(theirs.e_p_signal, 1), atol=1e-6)


def test_a_signal_of_many_samples_a_frame(tmp_path: Path, signal: np.ndarray) -> None:
    header = write_wfdb(tmp_path, "A1", signal, ending=".dat", num_samples=10**9)
    lines = header.read_text().replace("A1 12 ", "A1 13 ").replace("A1.dat 16", "A1.dat 516")
    header.write_text(lines + "A1.dat 516x5000 1000/mV 16 0 0 0 0 RESP\n")
    with pytest.raises(RecordError, match=r"A1\.hea .* has 5000 in a frame"):
        read_record(header)


@pytest.mark.parametrize(
    ("unit", "encoding", "per_mv"),
    [
        ("mV", "utf-8", 1.0),
        ("uV", "utf-8", 1e3),
        ("µV", "utf-8", 1e3),  # the micro sign, U+00B5
        ("μV", "utf-8", 1e3),  # the Greek letter, U+03BC
        ("µV", "latin-1", 1e3),
        ("V", "utf-8", 1e-3),
    ],
)
def test_units(tmp_path: Path, signal: np.ndarray, unit: str, encoding: str, per_mv: float) -> None:
    gain = 1000 / per_mv
    write_wfdb(tmp_path, "A1", signal * per_mv, gain=gain, unit=unit, encoding=encoding)
    np.testing.assert_allclose(read_record(tmp_path / "A1").signal, signal, atol=1e-6)


def test_gain_baseline_and_unit_are_those_of_each_lead(tmp_path: Path, signal: np.ndarray) -> None:
    header = write_wfdb(tmp_path, "A1", signal)
    text = header.read_text().replace("1000/mV 16 0 0 0 0 V1", "4000(-500)/uV 16 0 0 0 0 V1")
    # Without a baseline, the ADC's zero is the baseline.
    header.write_text(text.replace("1000/mV 16 0 0 0 0 V2", "1e3/mV 16 250 0 0 0 V2"))
    read = read_record(header).signal
    np.testing.assert_allclose(read[:, 6], (signal[:, 6] * 1000 + 500) / 4e6, atol=1e-6)
    np.testing.assert_allclose(read[:, 7], signal[:, 7] - 0.25, atol=1e-6)
    np.testing.assert_allclose(read[:, 8], signal[:, 8], atol=1e-6)


def test_invalid_samples_are_nan(tmp_path: Path, signal: np.ndarray) -> None:
    signal[100:110, 3] = np.nan  # written as -32768
    read = read_record(write_wfdb(tmp_path, "A1", signal)).signal
    np.testing.assert_array_equal(np.isnan(read), np.isnan(signal))
    assert np.nanmin(read) > -3


@pytest.mark.parametrize("form", ["16", "24", "32", "61", "80", "160", "212", "310", "311", "516"])
def test_formats_that_wfdb_writes_or_reads(tmp_path: Path, signal: np.ndarray, form: str) -> None:
    gain = 30.0 if form == "80" else 100.0
    header = tmp_path / "A1.hea"
    if form in ("61", "160", "310", "311"):  # wfdb does not write these
        digital = np.round(signal * gain).astype(np.int64)
        encoded = {
            "61": lambda: digital.astype(">i2").tobytes(),
            "160": lambda: (digital + 32768).astype("<u2").tobytes(),
            "310": lambda: _pack_310(digital.ravel()),
            "311": lambda: _pack_311(digital.ravel()),
        }[form]()
        (tmp_path / "A1.dat").write_bytes(encoded)
        lines = [f"A1.dat {form} {gain}/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        header.write_text("\n".join(["A1 12 500 1500", *lines]))
    else:
        wfdb.wrsamp(
            "A1",
            fs=500,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=signal,
            fmt=[form] * 12,
            adc_gain=[gain] * 12,
            baseline=[0] * 12,
            write_dir=str(tmp_path),
        )
    read = read_record(header).signal
    np.testing.assert_allclose(read, signal, atol=0.51 / gain)


def _pack_310(samples: np.ndarray) -> bytes:
    """WFDB manual, signal(5): three 10-bit samples in two little-endian pairs of bytes."""
    a, b, c = (samples.reshape(-1, 3) & 0x3FF).T
    low = (a << 1) | ((c & 0x1F) << 11)
    high = (b << 1) | ((c >> 5) << 11)
    return np.stack([low, high], axis=1).astype("<u2").tobytes()


def _pack_311(samples: np.ndarray) -> bytes:
    """WFDB manual, signal(5): three 10-bit samples in the low 30 bits of four bytes."""
    a, b, c = (samples.reshape(-1, 3) & 0x3FF).T
    return (a | (b << 10) | (c << 20)).astype("<u4").tobytes()


def test_record_name_with_an_ending(tmp_path: Path, signal: np.ndarray) -> None:
    """wfdb refuses such headers; the challenge of 2021 has them."""
    header = write_wfdb(tmp_path, "E00009", signal, record_name="E00009.mat")
    with pytest.raises(ValueError):
        wfdb.rdheader(str(header.with_suffix("")))
    np.testing.assert_allclose(read_record(header).signal, signal, atol=1e-6)


def test_header_with_counter_time_date_and_comments(tmp_path: Path, signal: np.ndarray) -> None:
    header = write_wfdb(tmp_path, "A1", signal, fs="500.5/1000(3)")
    text = header.read_text().replace(" 1500\n", " 1500 12:30:00 05-Feb-2020\n", 1)
    text = text.replace("16+24", "16x1:0+24").replace("1000/mV", "1000.0(0)/mV")
    header.write_text("# made by hand\n\n" + text + "# Age: 32\n# Dx: 164889003,59118001\n")
    record = read_record(header)
    assert (record.fs, record.age, record.codes) == (500.5, 32.0, ("164889003", "59118001"))
    np.testing.assert_allclose(record.signal, signal, atol=1e-6)


@pytest.mark.parametrize("stated", ["", 0])
def test_length_is_that_of_the_file_where_the_header_states_none(
    tmp_path: Path, signal: np.ndarray, stated: int | str
) -> None:
    header = write_wfdb(tmp_path, "A1", signal, num_samples=stated)
    assert read_record(header).signal.shape == signal.shape


def test_rate_in_scientific_notation(tmp_path: Path, signal: np.ndarray) -> None:
    assert read_record(write_wfdb(tmp_path, "A1", signal, fs="5e2")).fs == 500.0


@pytest.mark.parametrize(
    ("text", "age", "sex"),
    [
        ("Age: NaN\n#Sex: Unknown\n#Dx: Unknown", math.nan, ""),
        ("Age: 300\n#Sex: F", math.nan, "female"),
        ("Age:  89+\n#Sex: MALE ", 89.0, "male"),
        ("no colon", math.nan, ""),
    ],
)
def test_unknown_age_and_sex(
    tmp_path: Path, signal: np.ndarray, text: str, age: float, sex: str
) -> None:
    record = read_record(write_wfdb(tmp_path, "A1", signal, comments=[text]))
    assert record.age == pytest.approx(age, nan_ok=True)
    assert (record.sex, record.codes) == (sex, ())


def test_cpsc_struct(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_struct(tmp_path, "A0151", signal, sex="Female", age=60)
    for given in (path, tmp_path / "A0151"):
        record = read_record(given)
        assert (record.id, record.fs, record.age, record.sex) == ("A0151", 500.0, 60.0, "female")
        np.testing.assert_array_equal(record.signal, signal.astype(np.float32))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2"])
@pytest.mark.parametrize("compressed", [False, True])
def test_struct_in_every_way_scipy_writes_it(
    tmp_path: Path, signal: np.ndarray, dtype: str, compressed: bool
) -> None:
    data = (signal.T * (10 if dtype == "i2" else 1)).astype(dtype)
    struct = {"age": np.nan, "data": data, "sex": "Male", "a_rather_long_field_name": [[1, 2]]}
    content = {"before": np.arange(5), "ECG": struct, "after": "text"}
    savemat(tmp_path / "A1.mat", content, do_compression=compressed, long_field_names=True)
    record = read_record(tmp_path / "A1.mat")
    np.testing.assert_array_equal(record.signal, data.T.astype(np.float32))
    assert math.isnan(record.age) and record.sex == "male"


@pytest.mark.parametrize("ending", [".hea", ".mat"])
def test_no_damage_raises_another_error(tmp_path: Path, signal: np.ndarray, ending: str) -> None:
    """Bytes overwritten at random, also where scipy.io.loadmat would end the process."""
    if ending == ".hea":
        path = write_wfdb(tmp_path, "A1", signal, ending=".dat", comments=["Age: 4", "Dx: AF"])
    else:
        path = write_struct(tmp_path, "A1", signal)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(0, min(len(whole), 400), 2)] = rng.integers(0, 256, 2)
        path.write_bytes(damaged.tobytes())
        try:
            assert read_record(path).signal.shape[1] == 12
        except RecordError as error:
            refused += 1
            assert "A1" in str(error)
    assert refused > 100


def test_find_records(tmp_path: Path, signal: np.ndarray) -> None:
    header = write_wfdb(tmp_path / "b", "A2", signal)
    struct = write_struct(tmp_path / "a", "A3", signal)
    first = write_wfdb(tmp_path / "b" / "c", "A1", signal, ending=".dat")
    (tmp_path / "b" / "._A2.mat").write_bytes(b"left by macOS")
    (tmp_path / "b" / "notes.txt").write_text("no record")
    assert list(find_records(tmp_path).items()) == [("A1", first), ("A2", header), ("A3", struct)]

    again = write_wfdb(tmp_path / "z", "A1", signal)
    assert [path for name, path in list_records(tmp_path) if name == "A1"] == [first, again]
    with pytest.raises(RecordError, match="two recordings named A1"):
        find_records(tmp_path)
    with pytest.raises(RecordError, match="is not a folder"):
        find_records(tmp_path / "absent")


@pytest.mark.parametrize("ending", [".mat", ".dat"])
def test_signal_files_of_another_name_are_no_recordings(
    tmp_path: Path, signal: np.ndarray, ending: str
) -> None:
    header = write_wfdb(tmp_path, "A1", signal, ending=ending)
    header.write_text(header.read_text().replace(f"A1{ending}", f"of_A1{ending}"))
    (tmp_path / f"A1{ending}").rename(tmp_path / f"of_A1{ending}")
    assert find_records(tmp_path) == {"A1": header}
    report = inspect_folder(tmp_path)
    assert (report.num_records, report.missing, report.extra) == (1, (), ())


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 10, 24, 24 + 24 * 1499, 24 + 24 * 1500 - 1])
def test_truncated_samples(tmp_path: Path, signal: np.ndarray, size: int) -> None:
    header = write_wfdb(tmp_path, "A1", signal)
    _truncate(tmp_path / "A1.mat", size)
    with pytest.raises(RecordError, match=r"A1\.mat is cut short: .* of the 1500"):
        read_record(header)


def test_absurd_length_is_refused_before_memory_is_asked_for(
    tmp_path: Path, signal: np.ndarray
) -> None:
    header = write_wfdb(tmp_path, "A1", signal, num_samples=10**14)
    with pytest.raises(RecordError, match="is cut short"):
        read_record(header)


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        ("A1 12 500 1500", "A1 12 0 1500", "a rate of 0 Hz"),
        ("A1 12 500 1500", "A1 12 5e9 1500", r"a rate of 5e\+09 Hz"),
        ("A1 12 500 1500", "A1 12 nan 1500", "a rate of nan Hz"),
        ("A1 12 500 1500", "A1 12", "not a WFDB header"),
        ("A1 12 500 1500", "A1 12 fast 1500", "not a WFDB header"),
        ("A1 12 500 1500", "A1 11 500 1500", "12 signal lines, but 11 are announced"),
        ("A1 12 500 1500", "A1 12 500 100", "is 0.2 s long"),
        ("A1 12 500 1500", "A1 12 500 -4", "s long"),
        ("A1 12 500 1500", "A1/2 12 500 1500", "not a WFDB header"),
        (" V6", " X6", r"does not have the leads V6 once each \(it has I, II"),
        (" V6", " V5", "does not have the leads V5, V6 once"),
        ("1000/mV 16 0 0 0 0 aVL", "1000/mmHg 16 0 0 0 0 aVL", "lead aVL is in 'mmHg'"),
        ("1000/mV 16 0 0 0 0 aVL", "0/mV 16 0 0 0 0 aVL", "lead aVL has a gain of 0"),
        ("1000/mV 16 0 0 0 0 aVL", "few/mV 16 0 0 0 0 aVL", "no format and gain"),
        ("1000/mV 16 0 0 0 0 aVL", "1000/mV 16 x 0 0 0 aVL", "not a WFDB header"),
        ("16+24", "17+24", "stored in format 17"),
        ("16+24", "16x0+24", "no sample a frame"),
        ("16+24 1000/mV 16 0 0 0 0 V6", "16x2+24 1000/mV 16 0 0 0 0 V6", "different rates"),
        ("A1.mat 16", "../A1.mat 16", "not a file beside the header"),
        ("A1.mat 16", "/etc/passwd 16", "not a file beside the header"),
        ("A1.mat 16", "A1\0.mat 16", "not a file beside the header"),
        ("A1.mat 16", ".. 16", "not a file beside the header"),
        ("A1.mat 16", "A9.mat 16", r"A9\.mat, which A1\.hea names, cannot be read"),
        ("/mV", "/uV", "holds no ECG in the unit it states"),
        ("1000/mV", "0.001/mV", "holds no ECG in the unit it states"),
    ],
)
def test_false_header(tmp_path: Path, signal: np.ndarray, old: str, new: str, trouble: str) -> None:
    header = write_wfdb(tmp_path / "r", "A1", signal)
    shutil.copy(tmp_path / "r" / "A1.mat", tmp_path / "A1.mat")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))
    with pytest.raises(RecordError, match=trouble) as caught:
        read_record(header)
    assert "A1.hea" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\x00\xff" * 500, b"GIF89a not an ECG", b"#Dx: AF"]
)
def test_file_that_is_no_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "A1.hea").write_bytes(content)
    with pytest.raises(RecordError, match=r"A1\.hea is not a WFDB header"):
        read_record(tmp_path / "A1.hea")


def test_huge_header(tmp_path: Path) -> None:
    (tmp_path / "A1.hea").write_bytes(b"#" * 2_000_000)
    with pytest.raises(RecordError, match="too large"):
        read_record(tmp_path / "A1.hea")


def test_broken_flac(tmp_path: Path) -> None:
    (tmp_path / "A1.dat").write_bytes(b"fLaC" + bytes(50))
    lines = [f"A1.dat 516 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    (tmp_path / "A1.hea").write_text("\n".join(["A1 12 500 1500", *lines]))
    with pytest.raises(RecordError, match=r"A1\.hea cannot be read"):
        read_record(tmp_path / "A1")


@pytest.mark.parametrize("value", [np.nan, 0.0, 1.5])
def test_recording_of_nothing(tmp_path: Path, value: float) -> None:
    header = write_wfdb(tmp_path, "A1", np.full((1500, 12), value))
    with pytest.raises(RecordError, match=r"A1\.hea holds (invalid samples only|no ECG)"):
        read_record(header)


def test_header_beside_a_struct(tmp_path: Path, signal: np.ndarray) -> None:
    """Both layouts of CPSC 2018 in one folder: the struct is not 16-bit samples."""
    header = write_wfdb(tmp_path, "A1", signal)
    write_struct(tmp_path, "A1", signal)
    with pytest.raises(RecordError, match=r"A1\.mat is a MATLAB struct"):
        read_record(header)


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        ("16+24 1000/mV 16 0 0 0 0 I\n", "16+24 1000(-2147483648)/mV 16 0 0 0 0 I\n", "lead I at"),
        ("16+24 1000/mV 16 0 0 0 0 V1", "16 1000/mV 16 0 0 0 0 V1", "several .*byte offsets"),
        ("16+24 1000/mV 16 0 0 0 0 V1", "212+24 1000/mV 16 0 0 0 0 V1", "several formats"),
        ("A1.mat 16+24 1000/mV 16 0 0 0 0 I\n", "A1.mat 16 1/mV 16 0 0 0 0 EEG\n{}", "offsets"),
        (
            "A1.mat 16+24 1000/mV 16 0 0 0 0 I\n",
            "A1.mat 16+24 1/mV 16 0 0 0 0 EEG\n{}",
            "cut short",
        ),
        ("A1.mat", "A" * 300, "cannot be read"),
    ],
)
def test_headers_that_would_be_read_wrongly(
    tmp_path: Path, signal: np.ndarray, old: str, new: str, trouble: str
) -> None:
    header = write_wfdb(tmp_path, "A1", signal)
    text = header.read_text()
    assert old in text
    text = text.replace(old, new.format(old), 1)
    header.write_text(text.replace("A1 12 ", "A1 13 ") if "EEG" in text else text)
    with pytest.raises(RecordError, match=trouble) as caught:
        read_record(header)
    assert "A1." in str(caught.value)


def test_a_segment_whose_name_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "A1.hea").write_text(f"A1/1 12 500 1500\n{'A' * 300} 1500\n")
    with pytest.raises(RecordError, match=r"A1\.hea joins a segment"):
        read_record(tmp_path / "A1.hea")


def test_no_more_of_a_file_is_copied_than_is_read(
    tmp_path: Path, signal: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = write_wfdb(tmp_path, "A1", signal, ending=".dat")
    header.write_text(header.read_text().replace(" 16 1000", " 16x1:0 1000", 11))
    header.write_text(header.read_text().replace(" 16 1000", " 16x1:2 1000"))
    os.truncate(tmp_path / "A1.dat", 2**27)
    sizes, read = [], wfdb.rdrecord

    def watched(path: str, **options: Any) -> Any:
        sizes.append(os.path.getsize(Path(path).with_name("0.dat")))
        return read(path, **options)

    monkeypatch.setattr(wfdb, "rdrecord", watched)
    np.testing.assert_allclose(read_record(header).signal[:, :11], signal[:, :11], atol=1e-6)
    assert sizes[0] <= 2 * 12 * (len(signal) + 2) + 4


def test_segments_that_are_too_large_together(tmp_path: Path, signal: np.ndarray) -> None:
    """A gap of an hour at 10 kHz takes some bytes of the header and gigabytes of memory."""
    write_wfdb(tmp_path, "A1_1", signal, fs=10_000)
    (tmp_path / "A1.hea").write_text("A1/2 12 10000 35001500\nA1_1 1500\n~ 35000000\n")
    with pytest.raises(RecordError, match=r"A1\.hea has 420018000 samples in all its signals"):
        read_record(tmp_path / "A1.hea")


def test_segments_without_end(tmp_path: Path, signal: np.ndarray) -> None:
    write_wfdb(tmp_path, "A1_1", signal)
    lines = "A1_1 1\n" * 5000
    (tmp_path / "A1.hea").write_text(f"A1/5000 12 500 5000\n{lines}")
    with pytest.raises(RecordError, match=r"A1\.hea joins 5000 segments"):
        read_record(tmp_path / "A1.hea")


@pytest.mark.parametrize(("age", "read"), [("-5", math.nan), ("1e16", math.nan), ("1.2e1", 12.0)])
def test_ages_beyond_a_life(tmp_path: Path, signal: np.ndarray, age: str, read: float) -> None:
    record = read_record(write_wfdb(tmp_path, "A1", signal, comments=[f"Age: {age}"]))
    np.testing.assert_equal(record.age, read)


@pytest.mark.parametrize("size", [0, 5, 130, 5000])
def test_truncated_struct(tmp_path: Path, signal: np.ndarray, size: int) -> None:
    path = write_struct(tmp_path, "A1", signal)
    _truncate(path, size)
    with pytest.raises(RecordError, match=r"A1\.mat"):
        read_record(path)


def test_struct_of_other_content(tmp_path: Path, signal: np.ndarray) -> None:
    path = tmp_path / "A1.mat"
    for content, trouble in [
        ({"val": signal}, "holds no struct ECG"),
        ({"ECG": {"sex": "Male", "data": signal.T}}, "holds no struct ECG"),
        ({"ECG": {"sex": "Male", "age": 3, "data": "text"}}, "holds no struct ECG"),
        ({"ECG": {"sex": "Male", "age": 3, "data": signal}}, r"shape \(1500, 12\)"),
        ({"ECG": {"sex": "Male", "age": 3, "data": signal.T[:, :9]}}, "0.018 s long"),
    ]:
        savemat(path, content)
        with pytest.raises(RecordError, match=trouble):
            read_record(path)
    path.write_bytes(b"\x1e\0\0\0" + bytes(5000))  # samples of a record that lost its header
    with pytest.raises(RecordError, match=r"A1\.mat has no header beside it"):
        read_record(path)


def test_struct_with_a_damaged_text(tmp_path: Path, signal: np.ndarray) -> None:
    path = write_struct(tmp_path, "A1", signal, sex="Male    ")
    text, numbers = (bytes([kind, *bytes(3), 8, *bytes(3)]) for kind in (16, 12))  # UTF-8, int64
    assert text + b"Male    " in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(text + b"Male    ", numbers + b"\1" * 8))
    with pytest.raises(RecordError, match="is cut short or holds no struct ECG"):
        read_record(path)


def test_no_recording_at_all(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="does not exist as a recording"):
        read_record(tmp_path / "A1")
    with pytest.raises(RecordError, match="not a recording that this program reads"):
        (tmp_path / "photo.png").write_bytes(b"\x89PNG")
        read_record(tmp_path / "photo.png")
    with pytest.raises(RecordError):
        read_record(tmp_path)
    with pytest.raises(RecordError):
        read_record("s3://bucket/A1")


def _read_all(folder: Path, step: int = 1) -> int:
    records = list(find_records(folder).values())[::step]
    for path in records:
        record = read_record(path)
        assert record.signal.shape[1] == 12 and record.signal.dtype == np.float32
        assert 9.9 < len(record.signal) / record.fs < 145
        # Einthoven's and Goldberger's relations, to the rounding of 16-bit samples.
        i, ii, iii, avr, avl, avf = record.signal.T[:6]
        if folder.name != "ptbxl_subset":  # there each lead was scaled by itself
            assert np.median(np.abs(i + iii - ii)) < 0.01
            assert np.median(np.abs(avr + avl + avf)) < 0.01
    return len(records)


@pytest.mark.parametrize(
    ("folder", "step", "count"),
    [
        ("challenge2021", 1, 98),
        ("cpsc2018/challenge2020", 3, 50),
        ("cpsc2018/original", 1, 60),
        ("ptbxl", 4, 100),
        ("ptbxl_subset", 20, 103),
    ],
)
def test_real_records(shared_data: Path, folder: str, step: int, count: int) -> None:
    assert _read_all(shared_data / folder, step) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "count"), [("cpsc2018/challenge2020", 150), ("ptbxl", 400), ("ptbxl_subset", 2044)]
)
def test_all_real_records(shared_data: Path, folder: str, count: int) -> None:
    assert _read_all(shared_data / folder) == count


def test_real_samples_are_those_wfdb_reads(shared_data: Path) -> None:
    for name in ["ptbxl/records100/00000/00007_lr", "challenge2021/chapman_ningbo/JS00001"]:
        samples, fields = wfdb.rdsamp(str(shared_data / name))
        names = [lead.casefold() for lead in fields["sig_name"]]
        assert fields["units"] == ["mV"] * 12
        order = [names.index(lead.casefold()) for lead in LEADS]
        read = read_record(shared_data / name)
        np.testing.assert_array_equal(read.signal, samples[:, order].astype(np.float32))
        assert read.fs == fields["fs"]
