"""Commands that are killed at drawn moments, and what they leave on the disk."""

import os
import re
import shutil
import signal
import sys
import time
import zipfile
import zlib
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_cpsc, write_wfdb
from test_commands import ROOT, SCRIPTS
from toy import CLASSES, toy_contract, toy_model, write_toy_store

from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.model.backend import tf

KILLS = 20
IMPORTED = (
    *("data_prep.options", "data_prep.storing.entries", "ecg_keras.evaluation.report"),
    *("ecg_keras.export.export", "ecg_keras.training.fit", "mrm_keras.baselines"),
    *("mrm_keras.results", "test_kills"),
)


@dataclass(frozen=True)
class Case:
    """A command that writes ``out``.

    Attributes:
        options: of the command; INPUT is ``../first`` for what it replaces, or ``../second``.
        as_one: its files are replaced all at once, and others in the folder are kept.
        reach: of a whole run, after which part of its changes of files it is killed at the latest.
    """

    options: str
    as_one: bool = False
    reach: float = 1.0


TRAINING = "--store ../s.h5 --out out --input-length 64 --batch-size 30"
CASES = {
    "ecg-build": Case("--source INPUT --out out/s.h5 --rate 100 --workers 1"),
    "mrm-train": Case(
        f"{TRAINING} --fusion low --low-channels 2 --high-channels 4 --epochs 4 --folds 1"
        " --test-fold none --deterministic --resume",
        reach=0.4,
    ),
    "ecg-predict": Case("--models INPUT.keras --records INPUT --out out", as_one=True),
    "ecg-evaluate": Case("--predictions INPUT.npz --out out --bootstrap 2", as_one=True),
    "ecg-export": Case("--models INPUT.keras --formats saved_model --out out", as_one=True),
    "mrm-reproduce": Case(
        f"table4 {TRAINING} --smoke --networks fcn_wang fcn_wang_benchmark --epochs 2"
        " --paper-protocol both",
        reach=0.4,
    ),
}

# --- In the process that is killed -----------------------------------------------------------


def run(command: str, options: list[str], home: Path, changes: Any, versions: Path | None) -> None:
    """Run a command in a process group of its own, and report each change of a file in ``home``.

    Copies each file that gets its name to ``versions``.
    """
    assert len(os.listdir(f"/proc/{os.getppid()}/task")) == 1  # threads are not forked
    os.setpgid(0, 0)
    os.chdir(home)
    said = os.open(home.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    if command.startswith("mrm"):  # to trace the networks would take most of the time
        tf.config.run_functions_eagerly(True)
        tf.config.experimental.enable_op_determinism()

    def watch(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in ("os.mkdir", "os.remove", "os.rename", "os.rmdir"):
            return
        if isinstance(given[0], int) or not os.path.abspath(given[0]).startswith(f"{home}/"):
            return
        if versions and event == "os.rename" and os.path.isfile(given[0]):
            number = len(os.listdir(versions))
            shutil.copy(given[0], versions / f"{number} {os.path.basename(given[1])}")
        os.write(changes.fileno(), b".")

    os.write(changes.fileno(), b".")
    sys.addaudithook(watch)
    sys.argv = [f"/usr/bin/{command}", *options]
    import_module(SCRIPTS[command]).command()


# --- In the process that kills ---------------------------------------------------------------

MACHINE = get_context("forkserver")  # starts processes that have imported all, and done nothing


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        MACHINE.set_forkserver_preload(list(IMPORTED))
        yield


def start(
    command: str,
    options: str,
    home: Path,
    *,
    kill: tuple[int, float] | None = None,
    versions: Path | None = None,
) -> tuple[int | None, list[float]]:
    """Run a command; with ``kill`` kill it so many changes and then so many seconds later.

    Returns:
        The status, and the seconds at which it began (0), changed files and ended.
    """
    heard, changes = MACHINE.Pipe(duplex=False)
    process = MACHINE.Process(target=run, args=(command, options.split(), home, changes, versions))
    process.start()
    changes.close()
    times: list[float] = []
    while os.read(heard.fileno(), 1):
        times.append(time.perf_counter())
        if kill and len(times) > kill[0]:
            time.sleep(kill[1])
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            break
    process.join()
    heard.close()
    times.append(time.perf_counter())
    return process.exitcode, [moment - times[0] for moment in times]


def drawn(times: list[float], reach: float, rng: np.random.Generator) -> tuple[int, float]:
    """Draw a change and a time before the next: mostly any change, else any time while writing."""
    last = int(reach * (len(times) - 2))
    change = int(rng.integers(last + 1))
    if rng.random() < 0.25:
        change = bisect(times, rng.uniform(times[1], times[last])) - 1
    return change, rng.uniform(0, times[change + 1] - times[change])


# Days, durations, addresses in memory, and digests of these.
VARYING = (
    rb"\d{4}-\d\d-\d\d[T@][\d:]{8}(\+00:00)?|; \d+ s;"
    rb'|"(seconds|shared_object_id)": [^,}\n]+|"digest": "\w+"'
)
UNFINISHED = r"\.(part|old|lock|journal)\b|of_this_epoch/epoch_\d+$"
# The user's own file may be elsewhere for a moment, and a line of the log is lost if the kill
# falls between an epoch's checkpoint and its line.
APART = r"notes\.txt$|training\.log$"


def content(path: Path) -> bytes:
    """What is to be equal in a file, byte for byte; raises if it is half of a file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            parts = [
                name.encode() + (repr(a.tolist()).encode() if a.dtype.kind == "U" else a.tobytes())
                for name, a in arrays.items()
            ]
    elif path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist()) - {"digest.txt"}  # of the day, too
            parts = [name.encode() + archive.read(name) for name in sorted(names)]
    elif path.suffix == ".pb":  # TensorFlow draws a number for one, and names for the other
        parts = [] if path.name == "fingerprint.pb" else [str(path.stat().st_size).encode()]
    else:
        parts = [path.read_bytes()]
    return re.sub(VARYING, b"", b"\n".join(parts))


def files_of(home: Path) -> dict[str, bytes]:
    """The contents of all files that have their final names."""
    names = {path.relative_to(home).as_posix(): path for path in home.rglob("*") if path.is_file()}
    apart = f"{UNFINISHED}|{APART}"
    return {name: content(path) for name, path in names.items() if not re.search(apart, name)}


def lines_of(home: Path) -> set[bytes]:
    return {of for path in home.rglob("training.log") for of in content(path).splitlines()}


def names_of(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in home.rglob("*")}


def write_inputs(folder: Path) -> None:
    """Write what the commands read, in two versions."""
    write_toy_store(folder / "s.h5", lengths=(64,) * 30, fs=100.0)
    for number, name in enumerate(("first", "second")):
        write_cpsc(folder / name, 60 + number * 10, seconds=1)
        write_wfdb(folder / name, f"B{number}", sine_leads(500))  # without a label
        toy_model(toy_contract(), seed=number).save(folder / f"{name}.keras")
        labels = np.eye(3)[np.arange(30) % 3]
        noise = np.random.default_rng(number).uniform(size=labels.shape)
        answers = (labels + noise) / (labels + noise).sum(axis=1, keepdims=True)
        predictions = Predictions(
            ids=np.array([f"R{i}" for i in range(30)]),
            class_names=CLASSES,
            probabilities=answers,
            members=answers[None],
            thresholds=np.full(3, 0.5),
            single_label=True,
            network="Toy",
            task="cpsc2018",
            labels=labels,
            first_labels=labels.argmax(axis=1),
        )
        save_predictions(folder / f"{name}.npz", predictions)


@pytest.mark.slow
@pytest.mark.parametrize("command", CASES)
def test_a_kill_leaves_the_old_or_the_new(command: str, tmp_path: Path) -> None:
    """And the same command then ends as one that nobody disturbed."""
    case, versions = CASES[command], tmp_path / "versions"
    write_inputs(tmp_path)
    old, new, work = (tmp_path / name for name in ("old", "new", "work"))
    for folder in (old, versions):
        folder.mkdir()
    replacing = "INPUT" in case.options
    if replacing:
        assert start(command, case.options.replace("INPUT", "../first"), old)[0] == 0
        (old / "out" / "notes.txt").write_text("of the user")
    shutil.copytree(old, new)
    options = case.options.replace("INPUT", "../second")
    status, times = start(command, options, new, versions=versions)
    assert status == 0, (tmp_path / "new.txt").read_text()
    before, after = files_of(old), files_of(new)
    assert before != after
    known = Counter[tuple[str, bytes]]()
    for files in (before, after):
        known.update((Path(name).name, of) for name, of in files.items())
    known.update((path.name.split(" ", 1)[1], content(path)) for path in versions.iterdir())

    shutil.copytree(old, work)
    rng, kills, ends = np.random.default_rng(zlib.crc32(command.encode())), Counter[str](), 0
    begin = time.monotonic()
    while kills.total() < KILLS:
        kill = drawn(times, case.reach, rng)
        if kills.total() < 2:  # before anything changed, and after all has
            kill = (0 if not kills else len(times) - 2), 0.0
        status, seen = start(command, options, work, kill=kill)
        said = f"killed after {kill}: {(tmp_path / 'work.txt').read_text()}"
        files = files_of(work)
        if status == 0:
            ends += 1
            assert files == after and names_of(work) == names_of(new), said
            shutil.rmtree(work)
            shutil.copytree(old, work)
            continue
        assert status == -signal.SIGKILL, said
        if case.as_one:
            assert files in (before, after), said
            assert list(work.rglob("notes.txt")), said
        assert lines_of(work) <= lines_of(new), said
        for name, of in files.items():
            assert known[Path(name).name, of], (name, said)
        phase = "before" if len(seen) < 3 else "after" if files == after else "during"
        kills[phase] += 1
        if replacing and files == after:
            shutil.copytree(old, work, dirs_exist_ok=True)
    status, _ = start(command, options, work)
    assert status == 0, (tmp_path / "work.txt").read_text()
    assert files_of(work) == after and names_of(work) == names_of(new)
    print(
        f"{command}: {kills.total()} kills, {kills['before']} before, {kills['during']} during and"
        f" {kills['after']} after its changes of {len(times) - 2} files; {len(after)} files equal;"
        f" {ends} runs ended before their kill; {time.monotonic() - begin:.0f} s"
    )
