"""Full disks, two writers, changed records, strange files: nothing is lost or silently spoiled."""

import errno
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from format_files import write_edf, write_muse
from make_records import sine_leads, write_cpsc, write_struct, write_wfdb
from test_commands import ROOT, exit_of
from toy import compiled_toy, toy_contract, toy_network, write_toy_store

from data_prep import synthetic
from data_prep.errors import ModelFileError, OptionError, PredictionsError, RecordError, StoreError
from data_prep.files import locked
from data_prep.labels import CPSC_CLASSES
from data_prep.records import read_record
from data_prep.store import Store
from data_prep.storing import build
from data_prep.storing.entries import Entry
from data_prep.storing.journal import Journal
from ecg_keras.evaluation import command as evaluate
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import SignalContract
from ecg_keras.model.model_files import load_model
from ecg_keras.prediction import predict as prediction
from ecg_keras.training import checkpoint
from ecg_keras.training.checkpoint import CHECKPOINT, Checkpoint, state_of
from ecg_keras.training.fit import train_folds
from ecg_keras.training.settings import Run, Settings, Validation

SETTINGS = Settings(epochs=4, batch_size=16)

# --- Checksums -----------------------------------------------------------------------------------


def test_a_changed_record_is_named(tmp_path: Path) -> None:
    """One bit of one sample, as a failing disk turns it."""
    path = write_toy_store(tmp_path / "toy.h5")
    with h5py.File(path, "r+") as file:
        samples = file["signals"][707:708].view(np.uint32)
        samples[0, 3] ^= 1
        file["signals"][707:708] = samples.view(np.float32)
    with Store(path) as store:
        for index in (6, 8):
            store.signal(index)
        with pytest.raises(StoreError, match=r"the record R007 in .*toy\.h5 has changed since"):
            store.signal(7)


@pytest.mark.parametrize("table", ["labels/cpsc2018", "ids", "folds", "offsets", "checksums"])
def test_a_changed_table_is_named(tmp_path: Path, table: str) -> None:
    path = write_toy_store(tmp_path / "toy.h5")
    with h5py.File(path, "r+") as file:
        values = file[table][:]
        values.view(np.uint8).reshape(-1)[5] ^= 1
        file[table][...] = values
    with pytest.raises(StoreError, match=rf"toy\.h5 is broken \(its table /{table} has changed"):
        Store(path)


def test_stores_without_checksums_open(tmp_path: Path) -> None:
    """Those of the first releases."""
    path = write_toy_store(tmp_path / "toy.h5")
    with Store(path) as store:
        expected, checksums = store.signal(7), store.checksums
    assert checksums is not None and len(set(checksums.tolist())) == 60
    with h5py.File(path, "r+") as file:
        del file["checksums"]
        for table in (file[name] for name in ("ids", "ages", "labels/cpsc2018", "offsets")):
            del table.attrs["crc32"]
    with Store(path) as store:
        assert store.checksums is None
        np.testing.assert_array_equal(store.signal(7), expected)


def test_samples_of_another_header_are_refused(tmp_path: Path) -> None:
    """WFDB headers carry a 16-bit sum of each lead, which wfdb writes and does not read."""
    import wfdb

    signal = sine_leads(1000)
    digits = {"fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [5] * 12}
    names = [f"lead {lead}" for lead in ("I", "II", "III", "aVR", "aVL", "aVF")]
    names += [f"V{n}" for n in range(1, 7)]
    wfdb.wrsamp("A1", 500, ["mV"] * 12, names, signal, write_dir=str(tmp_path), **digits)
    np.testing.assert_allclose(read_record(tmp_path / "A1.hea").signal, signal, atol=1e-6)
    samples = bytearray((tmp_path / "A1.dat").read_bytes())
    samples[4321] ^= 4
    (tmp_path / "A1.dat").write_bytes(samples)
    with pytest.raises(RecordError, match=r"does not belong to the samples of lead .* in A1"):
        read_record(tmp_path / "A1.hea")


def test_one_lead_in_another_unit_is_refused(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path, "A1", sine_leads(1000))
    header.write_text(header.read_text().replace("1000/mV 16 0 0 0 0 V3", "1000/V 16 0 0 0 0 V3"))
    with pytest.raises(RecordError, match="holds no ECG in the unit it states"):
        read_record(header)


# --- One writer at a time ------------------------------------------------------------------------


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """Even if that process is killed: the file it leaves locks nothing."""
    holding = (
        "import sys, time, pathlib; from data_prep.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), doing='trained'):\n"
        "    print('has it', flush=True); time.sleep(100)"
    )
    path = tmp_path / "run" / "fold_1"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"has it\n"
        sentence = rf"fold_1 is being trained by process {other.pid} on .*; wait until that ends"
        with pytest.raises(OptionError, match=sentence), locked(path, doing="trained"):
            pass
        other.kill()
    assert (tmp_path / "run" / ".fold_1.lock").exists()
    with locked(path, doing="trained"):
        with pytest.raises(OptionError), locked(path, doing="trained"):
            pass
    assert os.listdir(tmp_path / "run") == []


def test_two_builds_of_one_store_are_refused(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 1)
    with locked(tmp_path / "s.h5", doing="built"):
        with pytest.raises(OptionError, match=r"s\.h5 is being built by process"):
            build.main(source=(source,), out=tmp_path / "s.h5", workers=1)
    assert not (tmp_path / "s.journal").exists()


# --- Builds that are killed ----------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill, where a real one would take too long."""


def entries_of(path: Path, belongs_to: str = "these") -> list[Any]:
    with Journal(path, belongs_to=belongs_to) as journal:
        entries = list(journal.entries())
        assert len(entries) == journal.count
    return entries


def test_a_journal_keeps_what_is_complete(tmp_path: Path) -> None:
    """Cut at any byte, it holds the entries before the cut, and more can be added."""
    path, rng = tmp_path / "a.journal", np.random.default_rng(0)
    signals = [rng.normal(size=(n, 12)).astype(np.float32) for n in (3, 0, 2)]
    ends = []
    with Journal(path, belongs_to="these") as journal:
        for n, signal in enumerate(signals):
            journal.append({"n": n, "é": float("nan")}, signal if n != 1 else None)
            journal.flush()
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        entries = entries_of(path)
        assert len(entries) == sum(end <= size for end in ends)
        for n, (fields, signal) in enumerate(entries):
            assert fields["n"] == n
            assert (signal is None) == (n == 1)
            assert signal is None or np.array_equal(signal, signals[n])
    path.write_bytes(whole[: ends[1] + 20])
    with Journal(path, belongs_to="these") as journal:
        journal.append({"n": 7}, None)
    assert [fields["n"] for fields, _ in entries_of(path)] == [0, 1, 7]
    damaged = bytearray(whole)
    damaged[ends[0] - 1] ^= 1
    path.write_bytes(damaged)
    assert entries_of(path) == []
    path.write_bytes(whole)
    assert entries_of(path, "others") == [] and entries_of(path) == []


def test_a_file_of_the_user_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "notes.journal"
    path.write_text("dear diary")
    with pytest.raises(
        StoreError, match=r"notes\.journal exists and is not a journal of ecg-build"
    ):
        build.main(source=(write_cpsc(tmp_path / "cpsc", 1),), out=tmp_path / "notes.h5", workers=1)
    assert path.read_text() == "dear diary"


def test_a_build_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cpsc(tmp_path / "cpsc", 90, seconds=1)
    (source / "A0003.mat").unlink()
    build.main(source=(source,), out=tmp_path / "whole" / "s.h5", workers=1)
    out, load, loaded = tmp_path / "s.h5", build._load, []

    def counted(path: Path, form: Any) -> Any:
        loaded.append(path.name)
        if len(loaded) == 70 and not out.exists():
            raise Killed
        return load(path, form)

    monkeypatch.setattr(build, "_load", counted)
    with pytest.raises(Killed):
        build.main(source=(source,), out=out, workers=1)
    assert not out.exists()
    shutil.copy(tmp_path / "whole" / "s.h5", out)  # an older store
    loaded.clear()
    capsys.readouterr()
    build.main(source=(source,), out=out, workers=1)
    assert "64 of 90 records were already read by an unfinished build" in capsys.readouterr().out
    assert len(loaded) == 27  # two chunks of 32 were complete, and one of them had a refusal
    for name in ("s.h5", "s.rejected.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "s.journal").exists()


def test_a_corrected_header_is_read_again(tmp_path: Path) -> None:
    """Also if the record is named without a suffix, as in PTB-XL."""
    header = write_wfdb(tmp_path, "00001_lr", sine_leads(500), ending=".dat")
    entries = [Entry("00001_lr", tmp_path / "00001_lr", "")]
    for corrected, count in ((False, 0), (False, 1), (True, 0)):
        if corrected:
            header.write_text(header.read_text() + "# Age: 70\n")
        with (
            pytest.raises(Killed),
            build._journal(tmp_path / "s.h5", entries, build._Form(100)) as journal,
        ):
            assert journal.count == count
            journal.append({}, None)
            raise Killed


@pytest.mark.parametrize("change", ["nothing", "a record", "the rate", "a record more"])
def test_what_was_read_counts_for_the_same_records_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = write_cpsc(tmp_path / "cpsc", 40, seconds=1)
    load, loaded = build._load, []

    def stopping(path: Path, form: Any) -> Any:
        loaded.append(path.name)
        if len(loaded) == 35:
            raise Killed
        return load(path, form)

    monkeypatch.setattr(build, "_load", stopping)
    with pytest.raises(Killed):
        build.main(source=(source,), out=tmp_path / "s.h5", workers=1)
    if change == "a record":
        write_wfdb(source, "A0001", sine_leads(500, seed=99))
    if change == "a record more":
        write_wfdb(source, "A0000", sine_leads(500, seed=99))
    build.main(
        source=(source,), out=tmp_path / "s.h5", workers=1, rate=100 if "rate" in change else None
    )
    expected = {"nothing": 8, "a record": 40, "the rate": 40, "a record more": 41}
    assert len(loaded) - 35 == expected[change]
    with Store(tmp_path / "s.h5") as store:
        assert len(store) == 40


@pytest.mark.slow
def test_memory_of_a_build_does_not_grow_with_the_signals(tmp_path: Path) -> None:
    """2,000 records of 4 MB in sum are 96 MB in the store."""
    source = tmp_path / "cpsc"
    write_cpsc(source, 2, seconds=2)
    samples, header = (source / "A0001.mat").read_bytes(), (source / "A0001.hea").read_text()
    for i in range(2, 2000):
        (source / f"B{i:04d}.mat").write_bytes(samples)
        (source / f"B{i:04d}.hea").write_text(header.replace("A0001", f"B{i:04d}"))
    rows = [f"B{i:04d},{i % 9 + 1},,\n" for i in range(2, 2000)]
    with open(source / "REFERENCE.csv", "a") as file:
        file.writelines(rows)
    measuring = (
        "import resource, sys, pathlib; from data_prep.storing.build import main\n"
        "main(source=(pathlib.Path(sys.argv[1]),), out=pathlib.Path(sys.argv[2]), workers=1,"
        " rate=500, leave_out=pathlib.Path(sys.argv[3]) if sys.argv[3:] else None)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    (tmp_path / "most.csv").write_text("Recording\n" + "".join(r[:5] + "\n" for r in rows[100:]))
    peaks = []
    for more in ([str(tmp_path / "most.csv")], []):
        run = subprocess.run(
            [sys.executable, "-c", measuring, str(source), str(tmp_path / "s.h5"), *more],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout.splitlines()[-1]) / 1e3)
    assert (tmp_path / "s.h5").stat().st_size > 90e6
    assert peaks[1] - peaks[0] < 25, peaks


# --- Files that are whole or not there -----------------------------------------------------------

_written: set[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is not None and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            _written.add(os.path.abspath(arguments[0]))


sys.addaudithook(_watch)


def test_no_file_is_written_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From records to a report: each is written elsewhere first, but what needs no such care.

    (HDF5 opens its files by itself; that stores are written beside is another file's test.)
    """
    global _written
    work = tmp_path / "work"
    monkeypatch.setattr(sys.modules[__name__], "_written", set())
    synthetic.main(out=work / "records", records=30, test_records=3, max_seconds=6.5, workers=1)
    source = work / "records" / "train"
    build.main(source=(source,), out=work / "s.h5", workers=1)
    contract = toy_contract(class_names=CPSC_CLASSES, sampling_rate=250.0)
    train_folds(
        Run(store=work / "s.h5", out=work / "run"),
        Validation(folds=("1",), test_fold=None),
        toy_network(contract=contract),
        replace(SETTINGS, epochs=2),
    )
    prediction.predict(
        models=(str(work / "run" / "fold_1" / "best.keras"),),
        csv_file=None,
        records=work / "records" / "test",
        out=work / "answers",
        batch_size=3,
    )
    evaluate.main(
        predictions=(work / "answers" / "predictions.npz",),
        reference=work / "records" / "test" / "REFERENCE.csv",
        out=work / "report",
        bootstrap=2,
    )
    written, _written = _written, None
    there = {str(path) for path in work.rglob("*") if path.is_file()}
    made_elsewhere = {name for name in written or () if name.startswith(str(work))}
    for name in ("best.part.keras", "checkpoint.part.npz", "index.part.html", "answers.part.csv"):
        assert any(path.endswith(name) for path in made_elsewhere), name
    assert len(there) > 70
    assert sorted(there & made_elsewhere) == []


# --- Full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here: only root may")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, *, but: int) -> Path:
    """Leave so many bytes of a disk."""
    free = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - but))
    return filler


def toy_command(store: Path, out: Path) -> Callable[..., None]:
    """A training of the toy network, as a command."""

    def main(*, resume: bool = False) -> None:
        """Train."""
        train_folds(
            Run(store=store, out=out, resume=resume),
            Validation(folds=("1",), test_fold=10),
            toy_network(lambda c: compiled_toy(c, learning_rate=0.005, dropout=0.2)),
            SETTINGS,
        )

    return main


@pytest.mark.parametrize("free", [30_000, 110_000])
def test_a_training_that_fills_its_disk(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], free: int
) -> None:
    """In the first epoch or in a later one: one sentence, whose cure works."""
    store = write_toy_store(tmp_path / "toy.h5")
    filler = fill(small_disk, but=free)
    main = toy_command(store, small_disk / "run")
    assert exit_of(main) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"ecg-toy: the disk is full while writing \S+/run/fold_1/\S+; free some space and run the"
        r" same command again with --resume\.",
        last,
    ), last
    folder = small_disk / "run" / "fold_1"
    assert (folder / CHECKPOINT).exists() == (folder / "best.keras").exists() == (free > 100_000)
    if free > 100_000:
        load_model(folder / "best.keras", networks=("Toy",))
        load_predictions(folder / "validation.npz")
    filler.unlink()
    assert exit_of(main) == 2
    assert "run the same command with --resume" in capsys.readouterr().err
    assert exit_of(main, "--resume") is None
    undisturbed = tmp_path / "undisturbed"
    assert exit_of(toy_command(store, undisturbed)) is None
    for name in ("history.csv", "learning_curves.png"):
        other = undisturbed / "fold_1" / name
        assert (folder / name).read_bytes() == other.read_bytes()
    assert state_of(folder) == "finished"


def test_a_full_disk_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint before stays whole; also where no small disk can be mounted."""
    main = toy_command(write_toy_store(tmp_path / "toy.h5"), tmp_path / "run")
    save, folder = np.savez, tmp_path / "run" / "fold_1"
    kept: dict[str, bytes] = {}

    def full(file: Any, **arrays: Any) -> None:
        if (folder / CHECKPOINT).exists():
            kept.update({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, **arrays)

    monkeypatch.setattr(checkpoint.np, "savez", full)
    assert exit_of(main) == 2
    assert f"the disk is full while writing {folder / CHECKPOINT}; " in capsys.readouterr().err
    kept.pop("checkpoint.part.npz", None)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == kept
    monkeypatch.setattr(checkpoint.np, "savez", save)
    assert exit_of(main, "--resume") is None


def test_a_build_that_fills_its_disk(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cpsc(tmp_path / "cpsc", 30, seconds=1)
    arguments = ["--source", str(source), "--out", str(small_disk / "s.h5"), "--workers", "1"]
    filler = fill(small_disk, but=300_000)
    assert exit_of(build.main, *arguments) == 2
    assert re.search(
        r"ecg-toy: the disk is full while writing .*; free some space and run the same command"
        r" again\.\n$",
        capsys.readouterr().err,
    )
    assert sorted(os.listdir(small_disk)) == ["filler", "s.journal"]
    filler.unlink()
    assert exit_of(build.main, *arguments) is None
    assert re.search(
        r"\d+ of 30 records were already read by an unfinished build", capsys.readouterr().out
    )
    build.main(source=(source,), out=tmp_path / "s.h5", workers=1)
    assert (small_disk / "s.h5").read_bytes() == (tmp_path / "s.h5").read_bytes()


# --- Strange files -------------------------------------------------------------------------------


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    evil, harm = np.array([Malicious(tmp_path / "harm")], object), tmp_path / "harm"
    np.savez(tmp_path / "a.npz", ids=evil, signal=evil, told=evil)
    np.save(tmp_path / "a.npy", evil)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(evil))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(evil))
    for name in ("a.npz", "b.npz", "a.npy", "b.npy"):
        with pytest.raises(PredictionsError):
            load_predictions(tmp_path / name)
        with pytest.raises(RecordError):
            read_record(tmp_path / name)
        shutil.copy(tmp_path / name, tmp_path / CHECKPOINT)
        with pytest.raises(ModelFileError):
            Checkpoint(tmp_path, counters={}, epochs=3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["signals"] = np.void(pickle.dumps(evil))
    with pytest.raises(StoreError):
        Store(tmp_path / "a.h5")
    assert not harm.exists()
    pickle.loads(pickle.dumps(evil))
    assert harm.exists()  # the bait is one


@pytest.mark.parametrize("nested", [False, True])
def test_models_from_elsewhere_run_no_code(tmp_path: Path, nested: bool) -> None:
    """A Lambda layer in a .keras file is code; it is refused at any depth."""
    harm, path = tmp_path / "harm", tmp_path / "a.keras"
    code = f"lambda x: (x, __import__('pathlib').Path({str(harm)!r}).touch())[0]"
    signal = keras.Input((100, 12), name="signal")
    x = SignalContract(toy_contract(), name="contract")(signal)
    inner = keras.Input((100, 12))
    layer = keras.layers.Lambda(eval(code), output_shape=(100, 12))
    x = keras.Model(inner, layer(inner))(x) if nested else layer(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    keras.Model(signal, {"diagnosis": keras.layers.Dense(3)(x)}).save(path)
    harm.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="is broken" if nested else "holds a Lambda layer"):
        load_model(path, networks=("Toy",))
    assert not harm.exists()
    keras.saving.load_model(path, safe_mode=False)(np.zeros((1, 100, 12), np.float32))
    assert harm.exists()  # the bait is one


FORKED = """
import os, signal, sys
import scipy.signal, wfdb
from data_prep.storing import build
for place in sys.argv[2:]:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(60)
    said = os.open(f"{place}.said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1), os.dup2(said, 2)
    exec(sys.argv[1])
    sys.exit()
"""


def forked(code: str, places: Sequence[Path]) -> Iterator[tuple[int, str]]:
    """Run code in a process for each place, forked from one that has read the slow libraries.

    Yields their statuses and what they printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", FORKED, code, *map(str, places)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    for place, status in zip(places, run.stdout.split(), strict=True):
        yield int(status), Path(f"{place}.said").read_text()


PIPES = {
    "cpsc/A0002.mat": (0, "1 of 12 records could not be used"),
    "cpsc/A0002.hea": (0, "1 of 12 records could not be used"),
    "cpsc/notes.edf": (0, "1 other files, folders or lines are not records"),
    "cpsc/REFERENCE.csv": (2, "REFERENCE.csv cannot be read (it is not a regular file)"),
    "s.journal": (2, "s.journal cannot be used (it is not a regular file)"),
    "s.part.h5": (2, "s.part.h5 cannot be used (it is not a regular file)"),
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_behind_any_name(tmp_path: Path, kind: str) -> None:
    """Reading the one waits for ever, and the other never ends."""
    os.mkfifo(tmp_path / "pipe")
    places = [tmp_path / f"{number}" for number in range(len(PIPES))]
    for place, name in zip(places, PIPES, strict=True):
        write_cpsc(place / "cpsc", 12, seconds=1)
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(tmp_path / "pipe" if kind == "pipe" else "/dev/zero")
    building = (
        "sys.argv = ['ecg-build', '--workers', '1', '--source', f'{place}/cpsc']\n"
        "sys.argv += ['--out', f'{place}/s.h5']\n"
        "build.command()"
    )
    found = forked(building, places)
    for place, (status, said), (name, expected) in zip(places, found, PIPES.items(), strict=True):
        assert status == expected[0], f"{name}: {said}"
        assert expected[1] in said and "Traceback" not in said, name
        assert sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) < 3e6


# --- Headers that claim too much -----------------------------------------------------------------


def claiming(kind: str, folder: Path) -> Path:
    """A recording of a few kilobytes whose header claims 10⁹ samples."""
    signal, path = sine_leads(1000), folder / "A1"
    if kind.startswith("WFDB"):
        header = write_wfdb(folder, "A1", signal, num_samples=10**9, ending=".dat")
        if kind == "WFDB, FLAC":
            header.write_text(header.read_text().replace(" 16 1000", " 516 1000"))
        if kind == "WFDB, rate":
            header.write_text(header.read_text().replace(" 12 500 ", " 12 1000000 "))
        return header
    if kind == "struct":
        path = write_struct(folder, "A1", np.zeros((2, 12)))
        data = path.read_bytes()
        place = data.index(np.array([12, 2], "<i4").tobytes())
        path.write_bytes(data[:place] + np.array([12, 10**9], "<i4").tobytes() + data[place + 8 :])
        return path
    if kind == "npy":
        np.save(path.with_suffix(".npy"), signal)
        data = path.with_suffix(".npy").read_bytes()
        claimed = data.replace(b"(1000, 12), }      ", b"(1000000000, 12), }")
        path.with_suffix(".npy").write_bytes(claimed)
        return path.with_suffix(".npy")
    if kind == "npz":
        array = claiming("npy", folder).read_bytes()
        with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
            archive.writestr("signal.npy", array)
        return path.with_suffix(".npz")
    if kind == "npz that unpacks":
        np.savez_compressed(path.with_suffix(".npz"), signal=np.zeros((6_000_000, 12), np.uint8))
        return path.with_suffix(".npz")
    if kind.startswith("struct of"):
        write_struct(folder, "A1", signal)
        start = path.with_suffix(".mat").read_bytes()[:128]
        empty = np.array([1, 0], "<i4").tobytes() * 120_000  # elements of no content
        if kind == "struct of many zips":
            packed = zlib.compress(bytes(2**26))
            empty = (np.array([15, len(packed)], "<i4").tobytes() + packed) * 50
        path.with_suffix(".mat").write_bytes(start + empty)
        return path.with_suffix(".mat")
    if kind == "table":
        path.with_suffix(".csv").write_text("I,II" + "( " * 3000 + "\n")
        return path.with_suffix(".csv")
    if kind == "EDF":
        write_edf(path.with_suffix(".edf"), signal, fs=500)
        data = path.with_suffix(".edf").read_bytes()
        path.with_suffix(".edf").write_bytes(data[:236] + b"2000000 " + data[244:])
        return path.with_suffix(".edf")
    write_muse(path.with_suffix(".xml"), signal, fs=500)
    text = path.with_suffix(".xml").read_text(encoding="latin-1")
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    text = text.replace(
        '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">',
        f'<!DOCTYPE RestingECG [<!ENTITY a0 "0123456789">{entities}]>',
    )
    text = re.sub("<LeadID>I</LeadID>", "<LeadID>&a9;</LeadID>", text)
    path.with_suffix(".xml").write_text(text, encoding="latin-1")
    return path.with_suffix(".xml")


CLAIMS = (
    *("WFDB", "WFDB, FLAC", "WFDB, rate", "struct", "npy", "npz", "EDF", "XML that swells"),
    *("struct of many parts", "struct of many zips", "npz that unpacks", "table"),
)


def test_claims_of_a_file_take_no_memory_and_no_time(tmp_path: Path) -> None:
    paths = []
    for kind in CLAIMS:
        (tmp_path / kind).mkdir()
        paths.append(claiming(kind, tmp_path / kind))
        assert paths[-1].stat().st_size < 4e6
    reading = (
        "import resource\n"
        "from data_prep.errors import RecordError\n"
        "from data_prep.records import read_record\n"
        "before = resource.getrusage(resource.RUSAGE_SELF)\n"
        "try:\n    read_record(place)\n"
        "except RecordError as error:\n    print(error)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(after.ru_maxrss - before.ru_maxrss, after.ru_utime - before.ru_utime)"
    )
    for kind, (status, said) in zip(CLAIMS, forked(reading, paths), strict=True):
        assert status == 0, f"{kind}: {said}"
        sentence, used = said.splitlines()
        kilobytes, seconds = map(float, used.split())
        assert "A1" in sentence, kind
        assert kilobytes < (400_000 if "zips" in kind else 100_000), kind
        assert seconds < 5, kind
