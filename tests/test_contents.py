"""What ``ecg-build --check`` says of recordings in any format before a build reads them all."""

from pathlib import Path

import numpy as np
from format_files import EIGHT, columns, write_dicom, write_edf, write_muse, write_scp, write_table
from make_records import sine_leads, write_wfdb

from data_prep.labels import LEADS
from data_prep.storing.folders import inspect_folder


def test_check_says_what_a_build_needs(tmp_path: Path) -> None:
    signal = sine_leads(300, fs=200)
    for i in range(30):
        write_table(tmp_path / f"a{i:02d}.csv", signal)
    (tmp_path / "labels.csv").write_text("Recording,labels\na00,paced\n")
    report = inspect_folder(tmp_path)
    assert "without labels" in report.layout
    assert report.formats == ("CSV: 15 of 30 read; 300 samples at no stated rate",)
    assert report.needs == (
        "--fs: 15 of the 15 recordings read do not state their sampling rate",
        "--unit: 15 of the 15 recordings read do not state their unit (mV is assumed if plausible)",
        "--labels: there is no REFERENCE.csv, and no header read names a diagnosis",
    )
    assert report.unusable == ()
    lines = report.lines(tmp_path)
    assert lines[1] == report.formats[0] and lines[-4] == "options needed to build: 3"

    (tmp_path / "REFERENCE.csv").write_text("Recording,First_label\na00,1\n")
    assert len(inspect_folder(tmp_path).needs) == 2


def test_check_reads_all_formats(tmp_path: Path) -> None:
    signal = sine_leads(800, fs=200)
    eight = columns(signal, EIGHT)
    write_table(tmp_path / "t.csv", eight, names=[f"{n} (mV)" for n in EIGHT], time=("time", 5e-3))
    write_edf(tmp_path / "e1.edf", signal, fs=200)
    write_edf(tmp_path / "e2.edf", sine_leads(400, fs=100), fs=100)
    write_dicom(tmp_path / "IM0001", signal, fs=200)
    write_scp(tmp_path / "s.scp", signal, fs=200)
    write_muse(tmp_path / "m.xml", signal, fs=200)
    np.savez(tmp_path / "n.npz", signal=signal, fs=200, unit="mV")
    write_wfdb(tmp_path, "w", signal, fs=200, comments=["Dx: 426783006"])
    report = inspect_folder(tmp_path)
    assert report.formats == (
        "CSV: 1 of 1 read; 200 Hz; 4 s; III, aVR, aVL, aVF computed from I and II",
        "DICOM: 1 of 1 read; 200 Hz; 4 s",
        "EDF: 2 of 2 read; 100 to 200 Hz; 4 s",
        "NPZ: 1 of 1 read; 200 Hz; 4 s",
        "SCP-ECG: 1 of 1 read; 200 Hz; 4 s",
        "WFDB: 1 of 1 read; 200 Hz; 4 s",
        "XML: 1 of 1 read; 200 Hz; 4 s; III, aVR, aVL, aVF computed from I and II",
    )
    assert (report.needs, report.unusable) == ((), ())

    # A diagnosis that is none of CPSC 2018's; a missing lead; no mV; no recording at all.
    write_wfdb(tmp_path, "w", signal, fs=200, comments=["Dx: 10370003"])
    write_table(tmp_path / "x.csv", signal[:, :11], names=LEADS[:11], time=("time", 5e-3))
    write_table(tmp_path / "y.csv", 1000 * signal, time=("time", 5e-3))
    (tmp_path / "z.csv").write_text("a,b\n1,2\n")
    (tmp_path / "z.edf").write_text("")
    report = inspect_folder(tmp_path)
    assert report.needs[-1] == "--labels or --map: no header read names a diagnosis of CPSC 2018"
    no_lead, no_unit, no_names, no_edf = sorted(report.unusable)
    assert "z.edf is not a recording that this program reads" in no_edf
    assert "z.csv does not name leads" in no_names
    assert "x.csv does not have the leads V6" in no_lead
    assert "y.csv does not state its unit" in no_unit and "(--unit)" in no_unit
