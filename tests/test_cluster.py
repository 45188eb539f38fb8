"""Schedulers that do not answer, and workers that are not like this machine."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import cluster as real_cluster
from make_records import write_cpsc

from data_prep import cluster
from data_prep.errors import JobError, OptionError, RecordError
from data_prep.storing import build
from data_prep.storing.build import _received

pytest.importorskip("distributed")


@pytest.mark.parametrize("scheme", ["tcp", "tls", "tcp://[", "ucx", "nonsense"])
def test_schedulers_that_do_not_answer(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that stay silent, encryption without certificates, addresses of no meaning."""
    monkeypatch.setattr(cluster, "_ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OptionError, match="no Dask scheduler answers at") as caught:
            cluster.connect(address)
    assert ("without certificates" in str(caught.value)) == (scheme == "tls")


class Workers:
    """A client of one worker, which answers what it is to."""

    scheduler = SimpleNamespace(address="tcp://s:1")

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def wait_for_workers(self, number: int, timeout: float) -> None:
        """There is one."""

    def run(self, function: Callable[[], str], on_error: str) -> dict[str, Any]:
        return {"tcp://w:1": self.answer()}


def test_workers_of_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.require_workers(Workers(cluster.versions))
    for answer, there in (
        ("Python 3.9 with ecg-keras 0.0", r"Python 3\.9 with ecg-keras 0\.0"),
        (ModuleNotFoundError("No module named 'ecg'"), "No module named 'ecg'"),
        (ModuleNotFoundError(), "ModuleNotFoundError"),
    ):
        sentence = f"worker tcp://w:1 cannot be used: here is Python .*, and there {there}; install"
        with pytest.raises(OptionError, match=sentence):
            cluster.require_workers(Workers(partial(lambda found: found, answer)))
    monkeypatch.setattr(cluster, "_ANSWER", 0.2)
    with pytest.raises(OptionError, match="tcp://s:1 cannot be used: .*TimeoutError"):
        cluster.require_workers(Workers(lambda: time.sleep(1)))


class Pending:
    """A future whose result is late, or raises what it is to."""

    def __init__(self, error: Exception, status: str = "pending") -> None:
        self.error, self.status = error, status

    def result(self, timeout: float) -> None:
        raise self.error


def client_of(threads: int | None) -> Any:
    """A client of so many threads; None if its scheduler is gone."""

    def nthreads() -> dict[str, int]:
        if threads is None:
            raise OSError("Timed out trying to connect")
        return {"tcp://w:1": threads}

    return SimpleNamespace(nthreads=nthreads, scheduler=SimpleNamespace(address="tcp://s:1"))


def test_what_a_worker_trips_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    monkeypatch.setattr(cluster, "WITHOUT_WORKERS", 0.0)
    missing = ModuleNotFoundError("No module named 'data_prep'")
    killed = KilledWorker("read", None, 3)  # type: ignore[arg-type]
    of_task = Pending(TimeoutError("a slow disk"), "error")
    for future, threads, kind, sentence in (
        (Pending(missing), 1, RecordError, r"could not read A1\.hea .*No module named"),
        (of_task, 1, RecordError, r"could not read A1\.hea .*a slow disk"),
        (Pending(killed), 1, RecordError, r"that read A1\.hea .* died; give them more memory"),
        (Pending(MemoryError()), 1, RecordError, "give them more memory"),
        (Pending(CancelledError()), 1, JobError, r"cancel the reading of A1\.hea"),
        (Pending(TimeoutError()), 0, JobError, "tcp://s:1 has no worker left"),
    ):
        with pytest.raises(kind, match=sentence):
            _received(client_of(threads), [Path("A1.hea")], future)
    for error in (CancelledError(), TimeoutError(), OSError("closed")):
        with pytest.raises(JobError, match="scheduler at tcp://s:1 is gone; .* is kept"):
            _received(client_of(None), [Path("A1.hea")], Pending(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dying", "sentence"), [("worker", "has no worker left"), ("scheduler", "is gone")]
)
def test_a_build_whose_cluster_disappears(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dying: str,
    sentence: str,
) -> None:
    """It ends with a sentence, and the next goes on from there."""
    source, out = write_cpsc(tmp_path / "cpsc", 160, seconds=1), tmp_path / "s.h5"
    received = build._received

    def then_dies(client: Any, chunk: list[Path], future: Any) -> Any:
        if chunk[0].stem == "A0033":
            monkeypatch.setattr(cluster, "WITHOUT_WORKERS", 0.0)
            monkeypatch.setattr(build, "_PATIENCE", 0.5)
            if dying == "scheduler":
                with suppress(Exception):
                    client.run_on_scheduler(os._exit, 1)
            for process in workers:
                process.kill()
            future.cancel()
            future = client.submit(time.sleep, 100)
        return received(client, chunk, future)

    monkeypatch.setattr(build, "_received", then_dies)
    with real_cluster(tmp_path, workers=1) as (scheduler, workers):
        with pytest.raises(JobError, match=sentence):
            build.main(source=(source,), out=out, scheduler=scheduler)
    monkeypatch.undo()
    build.main(source=(source,), out=out, workers=1)
    assert "32 of 160 records were already read" in capsys.readouterr().out
