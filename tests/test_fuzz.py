"""Damaged recordings of every layout: each is refused in one sentence, or read as it says.

``python tests/test_fuzz.py FOLDER MUTANTS`` does the same at length to the real records in FOLDER.
"""

import re
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import pytest
from format_files import write_aecg, write_dicom, write_edf, write_muse, write_scp, write_table
from make_records import sine_leads, write_struct, write_wfdb

from data_prep.errors import ECGError
from data_prep.labels import LEADS
from data_prep.records import Record, list_records, read_record

FS = 200
HARM = "HARM"
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3}


@dataclass(frozen=True)
class Original:
    """A sound recording: its files by name, the one to read first, and what is in it."""

    files: dict[str, bytes]
    record: Record

    @property
    def main(self) -> str:
        return next(iter(self.files))


def original_of(path: Path) -> Original:
    """A recording, with the signal files beside a header."""
    files = [path]
    if path.suffix == ".hea":
        files += [file for file in sorted(path.parent.iterdir()) if file.name in path.read_text()]
    return Original({file.name: file.read_bytes() for file in files}, read_record(path))


# --- Mutants -------------------------------------------------------------------------------------

WORDS = (
    *("0", "-1", "1", "2", "1e9", "1000000000", "2147483648", "-9223372036854775809", "9" * 400),
    *("nan", "inf", "1e308", "1e-308", "0x10", "1_0", "", "\0", "é", "\u2028", "١٢", "16x4", "212"),
    *("mV", "uV", "V", "µV", "I", "V1", "AVR", "#", "16:1000000000", "16+1000000000", "508"),
    *("../secret.mat", "/etc/passwd", "..", ".", "~", "a/../../secret.mat", "x" * 300),
    *("16x1000000000", "1e400/uV", "1000(0)/uV", "1000/", "/", "(", "%s%n", "</x>", "&lol;"),
)


def changed_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace, double, drop or swap words or lines."""
    text = data.decode("latin-1")
    what = rng.integers(6)
    if what == 0:
        lines = text.splitlines(keepends=True) or [""]
        at = int(rng.integers(len(lines)))
        change: list[list[str]] = [[], [lines[at]] * 2, [lines[at][: len(lines[at]) // 2]]]
        lines[at : at + 1] = change[rng.integers(3)]
        return "".join(lines).encode("latin-1")
    words = list(re.finditer(r"[^\s<>\"/=,]+", text[:20_000]))
    if not words:
        return data + b"0"
    one, other = (words[i] for i in sorted(rng.integers(len(words), size=2)))
    if what == 1:  # a digit
        digit = chr(rng.integers(33, 127))
        return (text[: one.start()] + digit + text[one.start() + 1 :]).encode("latin-1")
    if what == 2 and one.end() <= other.start():
        parts = text[: one.start()], other[0], text[one.end() : other.start()], one[0]
        return ("".join(parts) + text[other.end() :]).encode("latin-1")
    word = WORDS[rng.integers(len(WORDS))].encode("utf-8").decode("latin-1")
    return (text[: one.start()] + word + text[one.end() :]).encode("latin-1")


def changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite, cut, insert, double or truncate, more often near the start."""
    size = max(1, len(data) if rng.random() < 0.5 else min(len(data), 2000))
    start = int(rng.integers(size))
    length = min(int(rng.integers(1, 9 if rng.random() < 0.7 else 3000)), size)
    middle = bytearray(data[start : start + length])
    what = rng.integers(7)
    if what == 0 and middle:
        middle[rng.integers(len(middle))] ^= 1 << int(rng.integers(8))
    elif what == 1:
        middle[:] = rng.integers(0, 256, len(middle), np.uint8).tobytes()
    elif what == 2:
        middle[:] = bytes([int(rng.choice([0, 255, 127, 128]))]) * len(middle)
    elif what == 3:
        middle.clear()
    elif what == 4:
        middle += rng.integers(0, 256, length, np.uint8).tobytes()
    elif what == 5:
        middle *= 2
    else:
        return data[:start]
    return data[:start] + bytes(middle) + data[start + length :]


def changed_inside(data: bytes, rng: np.random.Generator) -> bytes:
    """Change what is compressed, or under a checksum, and pack it anew."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(BytesIO(data)) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = str(rng.choice(sorted(members)))
            members[name] = changed_bytes(members[name], rng)
            packed = BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            return packed.getvalue()
        if data[128:132] == b"\x0f\0\0\0":  # a compressed element of a MATLAB 5 file
            inner = zlib.compress(changed_bytes(zlib.decompress(data[136:]), rng))
            return data[:132] + len(inner).to_bytes(4, "little") + inner
    except (zlib.error, zipfile.BadZipFile, ValueError):
        pass  # an earlier change has hit it
    return changed_bytes(data, rng)


def mutants(original: Original, number: int, *, seed: int) -> Iterator[dict[str, bytes]]:
    """Files of the recording with one to three changes."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        files = dict(original.files)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            name = str(rng.choice(list(files)))
            readable = sum(32 <= byte < 127 for byte in files[name][:200]) > 150
            ways = [changed_text, changed_text, changed_bytes] if readable else [changed_bytes]
            way: Callable[..., bytes] = rng.choice(np.array([*ways, changed_inside], object))
            files[name] = way(files[name], rng)
        yield files


# --- What a mutant may do ------------------------------------------------------------------------

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(str(arguments[0]))
    if _opened is not None and event == "pickle.find_class":
        _opened.append("a pickle")


sys.addaudithook(_watch)


def assert_opened_nothing_else(folder: Path, paths: list[str]) -> None:
    """Files of the recording, copies of it, and code that is imported; and no pickle at all."""
    ours = (str(folder), tempfile.gettempdir() + "/ecg-keras-", sys.prefix, sys.base_prefix)
    strange = [path for path in paths if not path.startswith(ours) or ".." in path]
    assert not strange, strange


def by_the_header(files: dict[str, bytes], main: str) -> tuple[float, np.ndarray] | None:
    """Rate and millivolts ``(time, 12)`` of a WFDB record in format 16, taken literally.

    None if a header is beyond these few lines.
    """
    try:
        header = files[main].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        header = files[main].decode("latin-1").splitlines()
    lines = [line.split() for line in header if line.strip() and line.lstrip()[0] != "#"]
    columns = {}
    for number, (name, form, gain, *more) in enumerate(lines[1:]):
        kind, _, offset = form.partition("+")
        per_unit, _, unit = gain.partition("/")
        per_unit, bracket, baseline = per_unit.partition("(")
        zero = baseline.rstrip(")") if bracket else (more[1] if len(more) > 1 else "0")
        if kind != "16" or name not in files or (unit or "mV") not in MILLIVOLTS:
            return None
        lead = " ".join(more[5:]).casefold()
        scale = MILLIVOLTS[unit or "mV"] / float(per_unit)
        columns[lead] = (number, int(zero), scale, (name, int(offset or 0)))
    places = {place for *_, place in columns.values()}
    if len(places) != 1:
        return None
    ((name, start),) = places
    stored = files[name][start:]
    samples = np.frombuffer(stored[: len(stored) // 2 * 2], "<i2")
    rows = len(samples) // len(lines[1:])
    stated = int(lines[0][3]) if len(lines[0]) > 3 else 0
    digits = samples[: rows * len(lines[1:])].reshape(rows, -1)[: stated or rows].astype(float)
    digits[digits == -32768] = np.nan
    of_lead = {
        lead: (digits[:, number] - zero) * scale
        for lead, (number, zero, scale, _) in columns.items()
    }
    if not {"i", "ii"} <= of_lead.keys():
        return None
    i, ii = of_lead["i"], of_lead["ii"]
    follow = {"iii": ii - i, "avr": -(i + ii) / 2, "avl": i - ii / 2, "avf": ii - i / 2}
    signal = [of_lead.get(lead.casefold(), follow.get(lead.casefold())) for lead in LEADS]
    return float(re.split("[/(]", lines[0][2])[0]), np.stack(
        [x for x in signal if x is not None], 1
    )


def looks_swapped_or_scaled(record: Record, truth: Record) -> str:
    """Whether a lead is another's, or all are a thousand times too large or small."""
    length = min(len(record.signal), len(truth.signal))
    ours, theirs = (np.nan_to_num(r.signal[:length].astype(float)) for r in (record, truth))
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    sizes = np.linalg.norm(ours, axis=0), np.linalg.norm(theirs, axis=0)
    ratio = sizes[0] / np.maximum(sizes[1], 1e-12)
    thousands = np.round(np.log10(np.maximum(ratio, 1e-12)) / 3)
    if (np.abs(ratio / 1000.0**thousands - 1) < 1e-3).all() and (thousands == thousands[0]).all():
        if thousands[0]:
            return "scaled"
    alike = ours.T @ theirs / np.maximum(np.outer(*sizes), 1e-12)
    own = alike.diagonal()
    stored = [k for k, lead in enumerate(LEADS) if lead not in record.derived]
    others = np.where(np.eye(len(LEADS)), 0, alike)
    return "swapped" if any(others[k].max() > 0.9999 > 0.99 > own[k] for k in stored) else ""


def kind_of(error: ECGError) -> str:
    """The trouble in an error's sentence, without names and numbers."""
    text = re.sub(r"/\S+|'.*'|\".*\"|\(.*\)|(?<![a-zA-Z])[-+.\de]*\d\S*", "…", str(error))
    text = re.sub(r"\b(I|II|III|aV[RLF]|V\d)\b(, )?", "", re.sub(r"[;:](?! lead).*", "", text))
    return " ".join(text.split()[:9])


def judged(original: Original, files: dict[str, bytes], folder: Path) -> str:
    """Read a mutant and say what became of it; a mutant that does harm fails an assertion."""
    global _opened
    for name, data in files.items():
        (folder / name).write_bytes(data)
    paths: list[str] = []
    _opened = paths
    started = time.monotonic()
    try:
        record = read_record(folder / original.main)
    except ECGError as error:
        assert "\n" not in str(error) and len(str(error)) < 900, str(error)
        return kind_of(error)
    finally:
        _opened = None
        assert_opened_nothing_else(folder, paths)
        assert time.monotonic() - started < 10
    assert record.signal.dtype == np.float32 and record.signal.shape[1:] == (12,)
    assert not np.isinf(record.signal).any() and 50 <= record.fs <= 10_000
    if original.main.endswith(".hea"):
        said = by_the_header(files, original.main)
        if said is None:
            return "READ, in a form that is not judged"
        assert record.fs == said[0]
        said_so = np.where(np.abs(said[1]) < np.finfo(np.float32).max, said[1], np.nan)
        np.testing.assert_allclose(record.signal, said_so, rtol=1e-5, atol=1e-5)
        return "READ, as its header says"
    assert (trouble := looks_swapped_or_scaled(record, original.record)) == "", trouble
    return "READ, its leads and unit as before"


def fuzzed(originals: list[Original], number: int, *, seed: int, keep: Path) -> Counter[str]:
    """Judge that many mutants of some recordings, count what became of them, keep the harmful."""
    counts: Counter[str] = Counter()
    each = -(-number // len(originals))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        folder = Path(home) / "records"
        folder.mkdir()
        # What the header of a mutant must not lead to.
        for name, data in originals[0].files.items():
            (Path(home) / f"secret{Path(name).suffix}").write_bytes(data)
        for n, original in enumerate(originals):
            for files in mutants(original, min(each, number - sum(counts.values())), seed=seed + n):
                try:
                    counts[judged(original, files, folder)] += 1
                except Exception as harm:  # whatever it is, it ought not to be
                    counts[f"{HARM}: {type(harm).__name__} {str(harm)[:200]!r}"] += 1
                    kept = keep / str(sum(counts.values()))
                    kept.mkdir(parents=True, exist_ok=True)
                    for name, data in files.items():
                        (kept / name).write_bytes(data)
            for file in folder.iterdir():
                file.unlink()
    return counts


# --- Generated recordings ------------------------------------------------------------------------


def _flac(folder: Path, signal: np.ndarray) -> Path:
    import wfdb

    digits = dict(fmt=["516"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12)
    wfdb.wrsamp("A1", FS, ["mV"] * 12, list(LEADS), signal, write_dir=str(folder), **digits)
    return folder / "A1.hea"


def _npz(folder: Path, signal: np.ndarray) -> Path:
    path = folder / "A1.npz"
    np.savez(path, signal=signal, fs=FS, unit="mV", leads=LEADS)
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "WFDB, MATLAB 4": lambda folder, x: write_wfdb(folder, "A1", x, fs=FS, comments=["Age: 5"]),
    "WFDB, microvolts": lambda folder, x: write_wfdb(
        folder, "A1", x * 1000, fs=FS, gain=1, unit="uV", ending=".dat", leads=LEADS[::-1]
    ),
    "WFDB, FLAC": _flac,
    "CPSC struct": lambda folder, x: write_struct(folder, "A1", x),
    "table": lambda folder, x: write_table(folder / "A1.csv", x, time=("time", 1 / FS)),
    "npz": _npz,
    "EDF": lambda folder, x: write_edf(folder / "A1.edf", x, fs=FS),
    "BDF": lambda folder, x: write_edf(folder / "A1.bdf", x, fs=FS, bdf=True),
    "DICOM": lambda folder, x: write_dicom(folder / "A1.dcm", x, fs=FS),
    "GE MUSE": lambda folder, x: write_muse(folder / "A1.xml", x, fs=FS, leads=LEADS),
    "HL7 aECG": lambda folder, x: write_aecg(folder / "A1.xml", x, fs=FS),
    "SCP-ECG": lambda folder, x: write_scp(folder / "A1.scp", x, fs=FS),
}


def generated(kind: str, folder: Path) -> Original:
    """A recording of 1000 samples whose leads differ, by one of the writers."""
    folder.mkdir(parents=True, exist_ok=True)
    return original_of(WRITERS[kind](folder, sine_leads(1000, fs=FS)))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that read them
@pytest.mark.parametrize("kind", WRITERS)
def test_mutants_of_generated_recordings(kind: str, tmp_path: Path) -> None:
    original = generated(kind, tmp_path / "a")
    before = getrusage(RUSAGE_SELF).ru_maxrss
    counts = fuzzed([original], 100, seed=0, keep=tmp_path / "harmful")
    read = sum(number for kind, number in counts.items() if kind.startswith("READ"))
    assert not [kind for kind in counts if kind.startswith(HARM)]
    assert sum(counts.values()) == 100 and 0 < read < 100
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def main(data: Path, number: int, only: str = "") -> None:
    """Fuzz every layout of real and generated recordings."""
    layouts: dict[str, list[Original]] = {}
    for folder in (
        *("cpsc2018/challenge2020", "cpsc2018/original", "ptbxl", "ptbxl_subset"),
        *("challenge2021/georgia", "challenge2021/chapman_ningbo", "challenge2021/cpsc_extra"),
    ):
        paths = [path for _, path in list_records(data / folder) if path.suffix in (".hea", ".mat")]
        layouts[folder] = [original_of(path) for path in paths[:: max(1, len(paths) // 20)][:20]]
    with tempfile.TemporaryDirectory() as home:
        for kind in WRITERS:
            layouts[kind] = [generated(kind, Path(home) / str(len(layouts)))]
    for name, originals in layouts.items():
        if only not in name:
            continue
        started = time.monotonic()
        counts = fuzzed(originals, number, seed=1, keep=Path("harmful") / name.replace("/", "_"))
        print(
            f"{name}: {sum(counts.values())} mutants of {len(originals)} recordings in"
            f" {time.monotonic() - started:.0f} s, largest memory so far"
            f" {getrusage(RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
        )
        for kind, times in counts.most_common():
            print(f"    {times:6d} {kind}")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
