"""A large computation split into jobs, each run once, on one machine or on several.

A job is one fold, seed or setting.  It runs in ``NAME.part``, which is renamed to ``NAME`` when the
job is complete, so a folder without that suffix is always complete and an interrupted command
resumes where it stopped.  On several machines Dask (https://dask.org) distributes the jobs: store
and results are sent through its scheduler, so no shared disk is needed.

The file names date from when a job was called a unit: ``OUT/units/NAME/unit.json``.
"""

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
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data_prep.cluster import WITHOUT_WORKERS, connect, has_dask, workers_of
from data_prep.errors import JobError, OptionError, StoreError
from data_prep.files import locked, sha256_of, written_whole
from ecg_keras.training.settings import BEFORE_OPTIONS

# How often a job may fail, and how often it may lose its worker.
ATTEMPTS = 2
LOSSES = 3

_CHUNK = 8 << 20  # bytes of a store sent at a time

# TensorFlow's seed and Keras' precision belong to a process, so a process runs one job at a time.
_one_job_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One unit of work, such as one training.

    Attributes:
        name: name of its folder; letters, digits and any of ``._=-``.
        work: ``"module:function"``, called as ``function(store, folder, **options)`` with the
            store's path and the folder to write to.  The folder is empty, or holds the files of a
            failed attempt at this job (on this machine also of an interrupted one), from which to
            resume.
        options: JSON values, including the seed.
    """

    name: str
    work: str
    options: dict[str, Any]


def run_jobs(
    jobs: Sequence[Job], *, store: Path, out: Path, scheduler: str | None = None
) -> list[Path]:
    """Run all jobs that are not done yet, and return the folders of all.

    First prints how many are already done and how many remain.  A job that fails is retried once
    from its checkpoint, while the others continue; after a second failure on this machine the
    checkpoint remains for the next command.  Each finished job's folder holds ``unit.json``: the
    job's function and options, the store's checksum, the time of completion, the duration in
    seconds, the software versions and the machine.

    Args:
        jobs: any number, with distinct names.
        store: path of the store that all jobs use.
        out: output folder; the jobs' folders are ``OUT/units/NAME``.
        scheduler: address of a Dask scheduler, such as ``tcp://host:8786``; each of its workers
            (only those that announce a resource ``GPU``, if any does) runs one job at a time.
            None for this machine: one process per GPU, or the current process if there are
            fewer than two GPUs.

    Returns:
        The jobs' folders, in the order of ``jobs``.

    Raises:
        OptionError: if two jobs share a name, a folder holds a job with other options or from
            another store, another command is using the folder, or Dask is missing.
        StoreError: if the store does not exist.
        JobError: if any job failed, after all others are done.
    """
    names = Counter(job.name for job in jobs)
    for name, times in names.items():
        if times > 1 or not name or not all(c.isalnum() or c in "._=-" for c in name):
            raise OptionError(
                f"{name!r} cannot name a job; use letters, digits, '.', '_', '=' and '-', and"
                " each name only once."
            )
    if not Path(store).is_file():
        raise StoreError(f"{store} does not exist; make it with ecg-build.")
    checksum = sha256_of(Path(store))
    folders = [out / "units" / job.name for job in jobs]
    with locked(out / "units", doing="filled"):
        (out / "units").mkdir(exist_ok=True)
        todo = [
            job
            for job, folder in zip(jobs, folders, strict=True)
            if not _is_done(job, folder, checksum)
        ]
        done = len(jobs) - len(todo)
        trainings = "training" if len(jobs) == 1 else "trainings"
        print(f"{len(jobs)} {trainings}: {done} already done, {len(todo)} to do.", flush=True)
        run = _Run(out / "units", Path(store), checksum, len(todo))
        if todo:
            _run_missing(todo, run, scheduler)
    if run.failures:
        name, reason = next(iter(run.failures.items()))
        rest = f"the other {len(jobs) - len(run.failures)} are done and kept"
        raise JobError(
            f"{len(run.failures)} of {len(jobs)} jobs failed ({', '.join(run.failures)});"
            f" {name}: {reason}; {rest}, so see {run.log(name)} and run the same command again."
        )
    return folders


def _run_missing(todo: list[Job], run: "_Run", scheduler: str | None) -> None:
    for job in list(todo):
        part = _part(run.folder / job.name)
        if "finished" in _made(part):  # killed before the folder got its name
            run.finished(job, part)
            todo.remove(job)
    if not todo:
        return
    gpus = local_gpus()
    if scheduler is None and len(gpus) < 2:
        _run_on_this_machine(todo, run)
        return
    if scheduler is None and not has_dask():
        print(
            f"The {len(gpus)} GPUs of this machine share each job; to give each GPU its own job,"
            " pip install 'ecg-keras[cluster]'.",
            file=sys.stderr,
        )
        _run_on_this_machine(todo, run)
        return
    with ExitStack() as stack:
        if scheduler is None:
            scheduler = stack.enter_context(_local_cluster(gpus)).scheduler_address
            run.shares_disk = True
        client = stack.enter_context(connect(scheduler))
        _run_on_cluster(todo, run, client)


def local_gpus() -> list[str]:
    """Return this machine's NVIDIA GPUs, named as in ``CUDA_VISIBLE_DEVICES``."""
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


# --- Progress and failures -------------------------------------------------------------------


class _Run:
    """The progress of one command.

    Args:
        folder: parent of the jobs' folders.
        store: path of the store.
        checksum: checksum of the store.
        count: number of jobs to run.
    """

    def __init__(self, folder: Path, store: Path, checksum: str, count: int) -> None:
        self.folder = folder
        self.store = store
        self.checksum = checksum
        self.count = count
        self.done = 0
        self.attempts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.begun: dict[str, bytes] = {}  # tar files of jobs that failed on a worker
        self.shares_disk = False  # with its workers, which then work in the jobs' own folders

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def finished(self, job: Job, part: Path) -> None:
        """Rename a finished job's folder to the job's name."""
        os.replace(part, self.folder / job.name)
        self.log(job.name).unlink(missing_ok=True)
        self.done += 1
        print(f"[{self.done + len(self.failures)}/{self.count}] {job.name} is done.")

    def failed(self, job: Job, account: str) -> bool:
        """Log a failure; return whether to retry the job."""
        self.attempts[job.name] += 1
        again = self.attempts[job.name] < ATTEMPTS
        with self.log(job.name).open("a", encoding="utf-8") as log:
            log.write(f"attempt {self.attempts[job.name]}\n{account.rstrip()}\n\n")
        reason = account.rstrip().splitlines()[-1].rstrip(".")
        reason = reason.partition("data_prep.errors.")[2].partition(": ")[2] or reason
        what = "will be retried" if again else "is given up"
        print(
            f"{job.name} failed and {what}: {reason}; see {self.log(job.name)}.",
            file=sys.stderr,
        )
        if not again:
            self.failures[job.name] = reason
        return again


def _is_done(job: Job, folder: Path, checksum: str) -> bool:
    """Tell whether a job is done; refuse a folder, also an unfinished one, of another job."""
    if folder.exists():
        made = _made(folder)
        if not made:
            raise OptionError(
                f"{folder} is not the folder of a finished job; choose another --out, or delete"
                " that folder."
            )
        _require_same(job, made, folder, checksum)
        return True
    part = _part(folder)
    if made := _made(part):
        _require_same(job, made, part, checksum)
    return False


def _part(folder: Path) -> Path:
    """The folder of a job that is not complete."""
    return folder.with_name(f"{folder.name}.part")


def _made(folder: Path) -> dict[str, Any]:
    """Return ``unit.json`` of a job's folder; empty if there is none."""
    try:
        made = dict(json.loads((folder / "unit.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    fits = {"work", "options", "store"} <= set(made) and isinstance(made["options"], dict)
    return made if fits else {}


def _require_same(job: Job, made: dict[str, Any], folder: Path, checksum: str) -> None:
    remedy = "choose another --out, or delete that folder"
    before, now = made["options"], json.loads(json.dumps(job.options))
    differing = sorted(
        name
        for name in {*before, *now}
        if before.get(name, BEFORE_OPTIONS.get(name)) != now.get(name)
    )
    if made["work"] != job.work or differing:
        raise OptionError(
            f"{folder} was made with other options ({', '.join(differing) or 'another function'});"
            f" {remedy}."
        )
    if made["store"] != checksum:
        raise OptionError(f"{folder} was made from another store; {remedy}.")


# --- Running a job --------------------------------------------------------------------------


def _compute(job: Job, store: Path, checksum: str, folder: Path) -> str:
    """Run a job in a folder; return the traceback if it failed, else an empty string."""
    from data_prep.provenance import provenance

    start = time.perf_counter()
    made: dict[str, Any] = {"work": job.work, "options": job.options, "store": checksum}
    _write_json(folder / "unit.json", made)
    try:
        module, _, function = job.work.partition(":")
        work = getattr(importlib.import_module(module), function)
        work(store, folder, **job.options)
    except Exception:
        return traceback.format_exc()
    made |= {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
        "made with": provenance(),
    }
    _write_json(folder / "unit.json", made)
    return ""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _run_on_this_machine(todo: list[Job], run: _Run) -> None:
    for job in todo:
        part = _part(run.folder / job.name)
        _begin(part)
        again = True
        while again:
            with _one_job_at_a_time:
                account = _compute(job, run.store, run.checksum, part)
            if not account:
                run.finished(job, part)
                break
            again = run.failed(job, account)


def _begin(part: Path) -> None:
    """Make the folder of a job, or keep what an earlier attempt left there."""
    if not _made(part):
        _empty(part)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- On a cluster ----------------------------------------------------------------------------


def _local_cluster(gpus: list[str]) -> Any:
    """Start one worker process per GPU; each sees only its own GPU."""
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


def _run_on_cluster(todo: list[Job], run: _Run, client: Any) -> None:
    """Distribute the jobs, one per worker, and collect their folders.

    Dask's own mechanisms were tried (2026.8) and do not suffice: ``retries=`` passes no checkpoint
    to the second attempt; if Dask reassigns the jobs of a dead worker, it counts a loss for each
    job that was waiting there; it never starts jobs that wait for a resource, such as the store,
    that a running worker announces later; and ``scatter`` and ``upload_file`` hold the whole store
    in memory.
    """
    waiting = deque(todo)
    running: dict[Any, tuple[Job, str]] = {}
    losses: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    last_seen, warned = time.monotonic(), False
    while waiting or running:
        workers = workers_of(client)
        for future, (job, worker) in list(running.items()):
            outcome = None
            if future.done():
                try:
                    outcome = _outcome(future)
                except TimeoutError:
                    if worker in workers:
                        continue
            elif worker in workers:
                continue
            del running[future]
            if outcome is None:
                future.cancel()
                losses[job.name] += 1
                print(f"{worker} is gone; {job.name} will restart elsewhere.", file=sys.stderr)
                if losses[job.name] < LOSSES or run.failed(
                    job, f"its worker was lost {LOSSES} times; does it run out of memory?"
                ):
                    waiting.appendleft(job)
            elif _unpack_or_retry(job, outcome, run):
                waiting.append(job)
        busy = {worker for _, worker in running.values()}
        for worker, resources in workers.items():
            if not waiting or worker in busy or worker in refusals:
                continue
            refusal = _send_store(client, worker, run)
            if refusal:
                refusals[worker] = refusal
                print(f"{worker} cannot be used: {refusal}", file=sys.stderr)
                continue
            job = waiting.popleft()
            part = _part(run.folder / job.name)
            begun = run.begun.pop(job.name, None)
            if run.shares_disk:
                _begin(part)
            elif begun is None and _made(part):  # by an earlier command
                begun = _packed(part)
            future = client.submit(
                _compute_packed,
                job,
                run.checksum,
                begun and client.scatter(begun, workers=[worker], hash=False),
                str(part.absolute()) if run.shares_disk else None,
                workers=[worker],
                resources=resources,
                pure=False,
            )
            running[future] = job, worker
        if running or any(worker not in refusals for worker in workers):
            last_seen, warned = time.monotonic(), False
        elif not warned:
            warned = True
            print("No worker is available; start some with dask worker.", file=sys.stderr)
        elif time.monotonic() - last_seen > (0 if refusals and workers else WITHOUT_WORKERS):
            reason = next(iter(refusals.values()), "it has no worker; start some with dask worker")
            raise JobError(
                f"the cluster at {client.scheduler.address} cannot continue: {reason}; finished"
                " jobs are kept, so run the same command again."
            )
        for _ in range(10):
            if any(future.done() for future in running):
                break
            time.sleep(0.05)


def _outcome(future: Any) -> tuple[str, bytes] | None:
    """Fetch a job's traceback and packed folder; None if both were lost with the worker.

    Raises:
        TimeoutError: if they take more than a minute to arrive.
    """
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result(timeout=60)
    except (KilledWorker, CancelledError):
        return None
    except TimeoutError:
        raise
    except Exception as error:  # of the task, for example if the package is missing there
        return f"{type(error).__name__}: {error}", b""


def _unpack_or_retry(job: Job, outcome: tuple[str, bytes], run: _Run) -> bool:
    """Unpack the folder of a job that succeeded; return whether to retry one that failed."""
    account, packed = outcome
    part = _part(run.folder / job.name)
    again = bool(account) and run.failed(job, account)
    if again and packed:
        run.begun[job.name] = packed
    elif packed:  # also of a job that is given up: the next command goes on from there
        _unpack(packed, _empty(part))
    if not account:
        run.finished(job, part)
    return again


def _send_store(client: Any, worker: str, run: _Run) -> str:
    """Send the store to a worker that lacks it; return why that failed, or an empty string."""
    try:
        if client.run(_has_store, run.checksum, workers=[worker])[worker]:
            return ""
        with run.store.open("rb") as file:
            while data := file.read(_CHUNK):
                offset = file.tell() - len(data)
                client.run(_receive, run.checksum, offset, data, workers=[worker])
        client.run(_complete, run.checksum, workers=[worker])
    except Exception as error:
        return f"it could not receive the store ({type(error).__name__}: {error})"
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
    if sha256_of(part) != checksum:
        raise StoreError("the store was damaged in transfer; run the same command again.")
    os.replace(part, path)


def _compute_packed(
    job: Job, checksum: str, begun: bytes | None, place: str | None
) -> tuple[str, bytes]:
    """Run a job on a worker; return its traceback (empty if it succeeded) and its folder as tar.

    Args:
        job: the job.
        checksum: checksum of the store.
        begun: tar file with the folder of an earlier attempt, or None.
        place: the job's own folder, if the worker shares a disk with the command; the tar file is
            then empty.
    """
    from distributed import get_worker

    worker = get_worker()
    store = _store_of(worker, checksum)
    if place is not None:
        with _one_job_at_a_time:
            return _compute(job, store, checksum, Path(place)), b""
    with TemporaryDirectory(dir=worker.local_directory) as folder, _one_job_at_a_time:
        if begun:
            _unpack(begun, Path(folder))
        return _compute(job, store, checksum, Path(folder)), _packed(Path(folder))


def _packed(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, arcname=".")
    return packed.getvalue()


def _unpack(packed: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
