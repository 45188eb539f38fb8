"""Schedulers that do not answer, and workers that are not like this machine."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep import cluster
from data_prep.errors import OptionError, RecordError
from data_prep.storing.build import _received

pytest.importorskip("distributed")


@pytest.mark.parametrize("scheme", ["tcp", "tls", "tcp://[", "ucx", "nonsense"])
def test_schedulers_that_do_not_answer(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that stay silent, encryption without certificates, addresses of no meaning."""
    monkeypatch.setattr(cluster, "_ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(OptionError, match="no Dask scheduler answers at") as caught:
            cluster.connect(address)
        assert time.monotonic() - start < 10
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
    for answer in (lambda: "Python 3.9 with ecg-keras 0.0", lambda: ModuleNotFoundError("ecg")):
        with pytest.raises(OptionError, match=r"worker tcp://w:1 cannot be used: .*(3\.9|ecg)"):
            cluster.require_workers(Workers(answer))
    monkeypatch.setattr(cluster, "_ANSWER", 0.2)
    with pytest.raises(OptionError, match="tcp://s:1 cannot be used: .*TimeoutError"):
        cluster.require_workers(Workers(lambda: time.sleep(1)))


def test_what_a_worker_trips_over() -> None:
    def result() -> None:
        raise ModuleNotFoundError("No module named 'data_prep'")

    with pytest.raises(RecordError, match="could not read A1.hea .*No module named"):
        _received([Path("A1.hea")], SimpleNamespace(result=result))
