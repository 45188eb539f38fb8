"""A large computation as units: each done once, kept on disk, on this machine or on many.

A unit is one fold, seed or setting.  It is computed in a folder beside its own and takes its name
when it is complete, so that whatever has a name is whole, and an interrupted command goes on
where it stopped.  Over several machines the units are handed out by Dask (https://dask.org):
store and results travel through its scheduler, and no shared disk is needed.
"""

import asyncio
import hashlib
import importlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data_prep.cluster import WITHOUT_WORKERS, connect, has_dask, workers_of
from data_prep.errors import OptionError, StoreError, UnitError
from data_prep.files import locked, written_whole

# How often a unit may fail, and how often it may lose the worker that computes it.
ATTEMPTS = 2
LOSSES = 3

_CHUNK = 8 << 20  # bytes of a store that are sent at a time

# TensorFlow's seed and Keras' precision belong to a process, so it computes one unit at a time.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        name: of its folder; letters, digits and any of ``._=-``.
        work: ``"module:function"``, called as ``function(store, folder, **options)`` with the
            store's path and the folder to write into: empty, or with what a failed call for this
            very unit left there, on this machine also an interrupted one, to go on from.
        options: values that JSON can hold; the seed is one of them.
    """

    name: str
    work: str
    options: dict[str, Any]


def run_units(
    units: Sequence[Unit], *, store: Path, out: Path, scheduler: str | None = None
) -> list[Path]:
    """Do all units that are not done yet, and find the folders of all.

    Prints first how many are done already and how many are to be done.  A unit that fails is
    tried once more with the checkpoint it left, and the others go on; a second failure removes
    the checkpoint too.  Each finished unit's folder gets ``unit.json``: its work
    and options, the store's checksum, when and in how many seconds it was done, the versions and
    the machine.

    Args:
        units: in any number, each with a name of its own.
        store: the store they all work on.
        out: folder of the command; the units' folders are ``OUT/units/NAME``.
        scheduler: address of a Dask scheduler, such as ``tcp://host:8786``; each of its workers
            (those that announce a resource ``GPU``, where any does) has one unit at a time.
            None for this machine: one process for each of its GPUs, or this very process where
            it has fewer than two.

    Returns:
        The units' folders, in the units' order.

    Raises:
        OptionError: where two units share a name, a folder holds a unit of other options or of
            another store, another command is at work there, or Dask is missing.
        StoreError: where there is no store.
        UnitError: after all else was done, where units failed.
    """
    names = Counter(unit.name for unit in units)
    for name, times in names.items():
        if times > 1 or not name or not all(c.isalnum() or c in "._=-" for c in name):
            raise OptionError(
                f"{name!r} cannot name a unit; use letters, digits, '.', '_', '=' and '-', and"
                " each name once."
            )
    if not Path(store).is_file():
        raise StoreError(f"{store} does not exist; make it with ecg-build.")
    checksum = _checksum(Path(store))
    folders = [out / "units" / unit.name for unit in units]
    with locked(out / "units", doing="filled"):
        (out / "units").mkdir(exist_ok=True)
        todo = [
            unit
            for unit, folder in zip(units, folders, strict=True)
            if not _is_done(unit, folder, checksum)
        ]
        done = len(units) - len(todo)
        trainings = "training" if len(units) == 1 else "trainings"
        print(f"{len(units)} {trainings}: {done} done already, {len(todo)} to be done.", flush=True)
        run = _Run(out / "units", Path(store), checksum, len(todo))
        if todo:
            _do(todo, run, scheduler)
    if run.failures:
        name, reason = next(iter(run.failures.items()))
        rest = f"{len(units) - len(run.failures)} others are done and kept"
        raise UnitError(
            f"{len(run.failures)} of {len(units)} units failed ({', '.join(run.failures)}), {name}"
            f" because: {reason}; {rest}, so see {run.log(name)} and run the same command again."
        )
    return folders


def _do(todo: list[Unit], run: "_Run", scheduler: str | None) -> None:
    gpus = local_gpus()
    if scheduler is None and len(gpus) < 2:
        _do_here(todo, run)
        return
    if scheduler is None and not has_dask():
        print(
            f"This machine's {len(gpus)} GPUs share one unit at a time; for one unit each,"
            " pip install 'ecg-keras[cluster]'.",
            file=sys.stderr,
        )
        _do_here(todo, run)
        return
    with ExitStack() as stack:
        if scheduler is None:
            scheduler = stack.enter_context(_local_cluster(gpus)).scheduler_address
        client = stack.enter_context(connect(scheduler))
        _do_there(todo, run, client)


def local_gpus() -> list[str]:
    """Return the numbers of this machine's NVIDIA GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


# --- What is done, and what failed -----------------------------------------------------------


class _Run:
    """Keeps account of the units of one command.

    Args:
        folder: of all units.
        store: they work on.
        checksum: of the store.
        count: of the units that are to be done.
    """

    def __init__(self, folder: Path, store: Path, checksum: str, count: int) -> None:
        self.folder = folder
        self.store = store
        self.checksum = checksum
        self.count = count
        self.done = 0
        self.attempts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.begun: dict[str, bytes] = {}  # packed folders of units that failed on a worker

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def finished(self, unit: Unit, part: Path) -> None:
        """Give a unit's folder its name."""
        os.replace(part, self.folder / unit.name)
        self.log(unit.name).unlink(missing_ok=True)
        self.done += 1
        print(f"[{self.done + len(self.failures)}/{self.count}] {unit.name} is done.")

    def failed(self, unit: Unit, account: str) -> bool:
        """Note a failure and say whether the unit is to be tried again."""
        self.attempts[unit.name] += 1
        again = self.attempts[unit.name] < ATTEMPTS
        with self.log(unit.name).open("a", encoding="utf-8") as log:
            log.write(f"attempt {self.attempts[unit.name]}\n{account.rstrip()}\n\n")
        reason = account.rstrip().splitlines()[-1].rstrip(".")
        reason = reason.partition("data_prep.errors.")[2].partition(": ")[2] or reason
        what = "is tried once more" if again else "is given up"
        print(
            f"{unit.name} failed and {what}: {reason}; see {self.log(unit.name)}.",
            file=sys.stderr,
        )
        if not again:
            self.failures[unit.name] = reason
        return again


def _is_done(unit: Unit, folder: Path, checksum: str) -> bool:
    if not folder.exists():
        return False
    cure = "give another --out, or remove that folder"
    try:
        made = json.loads((folder / "unit.json").read_text(encoding="utf-8"))
        theirs = made["work"], made["options"], made["store"]
    except (OSError, ValueError, TypeError, KeyError):
        raise OptionError(f"{folder} holds something else than a finished unit; {cure}.") from None
    if theirs[:2] != (unit.work, json.loads(json.dumps(unit.options))):
        differing = sorted(
            name
            for name in {*theirs[1], *unit.options}
            if theirs[1].get(name) != json.loads(json.dumps(unit.options.get(name)))
        )
        raise OptionError(
            f"{folder} was made with other options ({', '.join(differing) or 'another function'});"
            f" {cure}."
        )
    if theirs[2] != checksum:
        raise OptionError(f"{folder} was made from another store; {cure}.")
    return True


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


# --- Doing a unit ----------------------------------------------------------------------------


def _compute(unit: Unit, store: Path, checksum: str, folder: Path) -> str:
    """Do a unit in a folder; return why it failed, nothing if it did not."""
    from data_prep.provenance import provenance

    start = time.perf_counter()
    made: dict[str, Any] = {"work": unit.work, "options": unit.options, "store": checksum}
    _write_json(folder / "unit.json", made)
    try:
        module, _, function = unit.work.partition(":")
        work = getattr(importlib.import_module(module), function)
        work(store, folder, **unit.options)
    except Exception:
        return traceback.format_exc()
    made |= {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
        "made with": provenance(),
    }
    _write_json(folder / "unit.json", made)
    return ""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _do_here(todo: list[Unit], run: _Run) -> None:
    for unit in todo:
        part = run.folder / f"{unit.name}.part"
        if not _is_begun(unit, part, run.checksum):
            _empty(part)
        again = True
        while again:
            with _one_at_a_time:
                account = _compute(unit, run.store, run.checksum, part)
            if not account:
                run.finished(unit, part)
                break
            again = run.failed(unit, account)
        else:
            shutil.rmtree(part)


def _is_begun(unit: Unit, part: Path, checksum: str) -> bool:
    """Whether an interrupted command left the beginning of this very unit."""
    try:
        return json.loads((part / "unit.json").read_text(encoding="utf-8")) == {
            "work": unit.work,
            "options": json.loads(json.dumps(unit.options)),
            "store": checksum,
        }
    except (OSError, ValueError):
        return False


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- Over a cluster --------------------------------------------------------------------------


def _local_cluster(gpus: list[str]) -> Any:
    """One worker process for each GPU, which sees no other."""
    from distributed import Nanny, Scheduler, SpecCluster

    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": ":0"}},
        workers={
            gpu: {
                "cls": Nanny,
                "options": {
                    "host": "127.0.0.1",
                    "nthreads": 1,
                    "memory_limit": 0,
                    "resources": {"GPU": 1},
                    "env": {"CUDA_VISIBLE_DEVICES": gpu},
                },
            }
            for gpu in gpus
        },
    )


def _do_there(todo: list[Unit], run: _Run, client: Any) -> None:
    """Hand the units out, one to each worker, and take their folders back."""
    waiting = deque(todo)
    running: dict[Any, tuple[Unit, str]] = {}
    losses: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    last_seen, told = time.monotonic(), False
    while waiting or running:
        workers = workers_of(client)
        for future, (unit, worker) in list(running.items()):
            outcome = None
            if future.done():
                try:
                    outcome = _outcome(future)
                except asyncio.TimeoutError:
                    if worker in workers:
                        continue
            elif worker in workers:
                continue
            del running[future]
            if outcome is None:
                future.cancel()
                losses[unit.name] += 1
                print(f"{worker} is gone; {unit.name} starts anew elsewhere.", file=sys.stderr)
                if losses[unit.name] < LOSSES or run.failed(
                    unit, f"the workers that computed it were lost {LOSSES} times; is it too large?"
                ):
                    waiting.appendleft(unit)
            elif _take(unit, outcome, run):
                waiting.append(unit)
        busy = {worker for _, worker in running.values()}
        for worker, resources in workers.items():
            if not waiting or worker in busy or worker in refusals:
                continue
            refusal = _send_store(client, worker, run)
            if refusal:
                refusals[worker] = refusal
                print(f"{worker} cannot be used: {refusal}", file=sys.stderr)
                continue
            unit = waiting.popleft()
            begun = run.begun.pop(unit.name, None)
            future = client.submit(
                _compute_packed,
                unit,
                run.checksum,
                begun and client.scatter(begun, workers=[worker], hash=False),
                workers=[worker],
                resources=resources,
                pure=False,
            )
            running[future] = unit, worker
        if running or any(worker not in refusals for worker in workers):
            last_seen, told = time.monotonic(), False
        elif not told:
            told = True
            print("No worker is at hand; start some with dask worker.", file=sys.stderr)
        elif time.monotonic() - last_seen > (0 if refusals and workers else WITHOUT_WORKERS):
            reason = next(iter(refusals.values()), "it has no worker; start some with dask worker")
            raise UnitError(
                f"the cluster at {client.scheduler.address} cannot go on: {reason}; what is done is"
                " kept, so run the same command again."
            )
        for _ in range(10):
            if any(future.done() for future in running):
                break
            time.sleep(0.05)


def _outcome(future: Any) -> tuple[str, bytes] | None:
    """Fetch why a unit failed and its packed folder; None where both are lost with the worker.

    Raises:
        asyncio.TimeoutError: where they take long to come.
    """
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result(timeout=60)
    except (KilledWorker, CancelledError):
        return None
    except asyncio.TimeoutError:
        raise
    except Exception as error:  # the task itself, as where the package is missing there
        return f"{type(error).__name__}: {error}", b""


def _take(unit: Unit, outcome: tuple[str, bytes], run: _Run) -> bool:
    """Unpack a unit's folder, or say whether it is to be tried again."""
    account, packed = outcome
    if account:
        again = run.failed(unit, account)
        if again and packed:
            run.begun[unit.name] = packed
        return again
    part = _empty(run.folder / f"{unit.name}.part")
    _unpack(packed, part)
    run.finished(unit, part)
    return False


def _send_store(client: Any, worker: str, run: _Run) -> str:
    """Bring the store to a worker that has it not yet; return why that is impossible."""
    try:
        if client.run(_has_store, run.checksum, workers=[worker])[worker]:
            return ""
        with run.store.open("rb") as file:
            while data := file.read(_CHUNK):
                offset = file.tell() - len(data)
                client.run(_receive, run.checksum, offset, data, workers=[worker])
        client.run(_complete, run.checksum, workers=[worker])
    except Exception as error:
        return f"it did not take the store ({type(error).__name__}: {error})"
    return ""


# --- On a worker -----------------------------------------------------------------------------


def _has_store(checksum: str, dask_worker: Any) -> bool:
    return _store_of(dask_worker, checksum).exists()


def _store_of(worker: Any, checksum: str) -> Path:
    return Path(worker.local_directory) / f"{checksum}.h5"


def _receive(checksum: str, offset: int, data: bytes, dask_worker: Any) -> None:
    part = _store_of(dask_worker, checksum).with_suffix(".part")
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)


def _complete(checksum: str, dask_worker: Any) -> None:
    path = _store_of(dask_worker, checksum)
    part = path.with_suffix(".part")
    if _checksum(part) != checksum:
        raise StoreError("the store arrived damaged; run the same command again.")
    os.replace(part, path)


def _compute_packed(unit: Unit, checksum: str, begun: bytes | None) -> tuple[str, bytes]:
    """Do a unit on a worker; return why it failed, and its folder as a tar file.

    Args:
        unit: to be done.
        checksum: of the store.
        begun: the folder of an attempt that failed, packed likewise.
    """
    from distributed import get_worker

    worker = get_worker()
    with TemporaryDirectory(dir=worker.local_directory) as folder, _one_at_a_time:
        if begun:
            _unpack(begun, Path(folder))
        account = _compute(unit, _store_of(worker, checksum), checksum, Path(folder))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, arcname=".")
    return account, packed.getvalue()


def _unpack(packed: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
