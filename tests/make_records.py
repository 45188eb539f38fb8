"""Small recordings and tables, written byte by byte, for the tests of several modules."""

import csv
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.labels import LEADS


def sine_leads(num_samples: int, *, fs: float = 500.0, seed: int = 0) -> np.ndarray:
    """Twelve different sums of sines in mV, ``(time, 12)``, whole microvolts."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples)[:, None] / fs
    waves = [
        rng.uniform(0.1, 0.5, 12) * np.sin(2 * np.pi * (f * time + rng.uniform(size=12)))
        for f in rng.uniform(0.8, 12.0, 4)
    ]
    return np.round(np.sum(waves, axis=0), 3)


def write_wfdb(
    folder: Path,
    name: str,
    signal: np.ndarray,
    *,
    fs: float | str = 500,
    leads: Sequence[str] = LEADS,
    gain: float | str = 1000,
    unit: str = "mV",
    ending: str = ".mat",
    record_name: str | None = None,
    num_samples: int | str | None = None,
    comments: Sequence[str] = (),
    encoding: str = "utf-8",
) -> Path:
    """Write a record in format 16, a ``.mat`` (MATLAB 4) or ``.dat``; NaN becomes -32768.

    ``signal`` is ``(time, lead)`` in units of ``unit``; header fields can be falsified.

    Returns:
        The header's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digital = np.nan_to_num(np.round(signal * float(gain)), nan=-32768).astype("<i2")
    offset = 24 if ending == ".mat" else 0
    head = struct.pack("<5i4s", 30, digital.shape[1], len(digital), 0, 4, b"val\0")
    (folder / f"{name}{ending}").write_bytes(head[:offset] + digital.tobytes())
    length = len(digital) if num_samples is None else num_samples
    lines = [f"{record_name or name} {digital.shape[1]} {fs} {length}"]
    form = "16+24" if offset else "16"
    lines += [f"{name}{ending} {form} {gain}/{unit} 16 0 0 0 0 {lead}" for lead in leads]
    lines += [f"#{comment}" for comment in comments]
    header = folder / f"{name}.hea"
    header.write_text("\n".join(lines) + "\n", encoding=encoding)
    return header


def write_struct(
    folder: Path, name: str, signal: np.ndarray, *, sex: str = "Female", age: float = 60
) -> Path:
    """Write a record as CPSC 2018 was first published: a MATLAB struct ECG."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.mat"
    savemat(path, {"ECG": {"sex": sex, "age": age, "data": signal.T}})
    return path


def write_reference(path: Path, labels: Mapping[str, Sequence[int | str]]) -> Path:
    """Write a ``REFERENCE.csv``: for each recording up to three labels, 1 to 9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Recording", "First_label", "Second_label", "Third_label"])
        rows.writerows([name, *(list(of) + ["", ""])[:3]] for name, of in labels.items())
    return path


def write_cpsc(folder: Path, num_records: int, *, seconds: float = 2.0) -> Path:
    """Write a folder of CPSC records at 500 Hz, record i with the label ``i % 9 + 1``."""
    for i in range(num_records):
        write_wfdb(folder, f"A{i + 1:04d}", sine_leads(int(seconds * 500), seed=i))
    labels = {f"A{i + 1:04d}": [i % 9 + 1] for i in range(num_records)}
    write_reference(folder / "REFERENCE.csv", labels)
    return folder


STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NDT,non-diagnostic T,1.0,1.0,,STTC,STTC
NORM,normal,1.0,,,NORM,NORM
IMI,inferior infarction,1.0,,,MI,IMI
ILMI,inferolateral infarction,1.0,,,MI,IMI
LVH,left hypertrophy,1.0,,,HYP,LVH
CLBBB,left block,1.0,,,CD,CLBBB
PVC,extrasystole,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,atrial fibrillation,,,1.0,,
"""


def write_ptbxl_tables(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a small ``scp_statements.csv``, and ``ptbxl_database.csv`` with the given rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    with open(folder / "ptbxl_database.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def write_ptbxl(folder: Path, statements: Sequence[Mapping[str, float]], *, hr: bool) -> Path:
    """Write a PTB-XL folder with one record of 10 s for each set of statements.

    Record i (from 1) belongs to patient ``100 + i``, fold ``(i - 1) % 10 + 1``; the 500 Hz files
    are there only with ``hr``.
    """
    rows: list[dict[str, object]] = []
    for i, codes in enumerate(statements, start=1):
        names = {rate: f"records{rate}/00000/{i:05d}_{x}" for rate, x in ((100, "lr"), (500, "hr"))}
        for rate in (100, 500) if hr else (100,):
            signal = sine_leads(10 * rate, fs=rate, seed=i)
            path = folder / names[rate]
            leads = [lead.upper() for lead in LEADS]
            write_wfdb(path.parent, path.name, signal, fs=rate, leads=leads, ending=".dat")
        rows.append(
            {
                "ecg_id": i,
                "patient_id": f"{100 + i}.0",
                "age": 300.0 if i == 1 else 40.0 + i,
                "sex": i % 2,
                "scp_codes": str(dict(codes)),
                "strat_fold": (i - 1) % 10 + 1,
                "filename_lr": names[100],
                "filename_hr": names[500],
            }
        )
    return write_ptbxl_tables(folder, rows)
