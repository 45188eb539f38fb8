"""A Dask cluster (https://dask.org), for commands with ``--scheduler``."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from data_prep import __version__
from data_prep.errors import JobError, OptionError

_ANSWER = 20.0  # seconds to wait for the scheduler to answer
WITHOUT_WORKERS = 300.0  # seconds to wait for a worker before giving up


def has_dask() -> bool:
    """Whether Dask is installed."""
    return importlib.util.find_spec("distributed") is not None


def connect(scheduler: str) -> Any:
    """Connect to a Dask scheduler.

    Args:
        scheduler: its address, such as ``tcp://host:8786``.

    Returns:
        A ``distributed.Client``, to be closed.

    Raises:
        OptionError: if Dask is not installed or the scheduler does not answer.
    """
    if not has_dask():
        raise OptionError(
            "--scheduler needs Dask, which is not installed; pip install 'ecg-keras[cluster]'."
        )
    from distributed import Client

    try:
        return _in_time(lambda: Client(scheduler, timeout=_ANSWER, set_as_default=False))
    except Exception as error:  # its type depends on the address and on what answers there
        without = " without certificates (see Dask's configuration of TLS)"
        raise OptionError(
            f"no Dask scheduler answers at {scheduler}"
            f"{without if isinstance(error, TypeError) and scheduler.startswith('tls:') else ''};"
            " start one with `dask scheduler`, and give the address it prints, such as"
            " tcp://host:8786."
        ) from None


def _in_time(ask: Callable[[], Any]) -> Any:
    """Call a function with a timeout: Dask waits forever on silent sockets."""
    answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=1.25 * _ANSWER)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def require_workers(client: Any) -> None:
    """Wait a few minutes for the first worker of a cluster.

    Args:
        client: from :func:`connect`.

    Raises:
        OptionError: if none appears, or one has a different version of Python or of this package.
    """
    try:
        client.wait_for_workers(1, timeout=WITHOUT_WORKERS)
    except TimeoutError:
        raise OptionError(
            f"the scheduler at {client.scheduler.address} has no worker; start some with"
            f" `dask worker {client.scheduler.address}`."
        ) from None
    try:
        found = _in_time(lambda: client.run(versions, on_error="return"))
    except Exception as error:
        found = {client.scheduler.address: error}
    for worker, theirs in found.items():
        if theirs != versions():
            raise OptionError(
                f"the worker {worker} cannot be used: here is {versions()}, and there"
                f" {str(theirs).strip() or type(theirs).__name__}; install the same there."
            )


def versions() -> str:
    """Return, as text, the versions that a worker must share with the command."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"Python {python} with ecg-keras {__version__}"


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Return the workers of a cluster, or only those with a GPU if any announces one.

    Args:
        client: from :func:`connect`.

    Returns:
        By the address of each worker, the resources that a job reserves on it.

    Raises:
        JobError: if the scheduler is gone.
    """
    with _gone_as_job_error(client):
        # The client's own list is seconds old; here a dead worker is missing at once.
        alive = client.nthreads()
        known = client.scheduler_info(n_workers=-1)["workers"]
    resources = {
        worker: known.get(worker, {}).get("resources") or {} for worker in alive if worker in known
    }
    with_gpu = {worker: {"GPU": 1} for worker, has in resources.items() if has.get("GPU", 0) >= 1}
    return with_gpu or {worker: {} for worker in resources}


def threads_of(client: Any) -> int:
    """Count the tasks that the workers of a cluster run at a time; 0 if there is no worker.

    Args:
        client: from :func:`connect`.

    Raises:
        JobError: if the scheduler is gone.
    """
    with _gone_as_job_error(client):
        return sum(client.nthreads().values())


@contextmanager
def _gone_as_job_error(client: Any) -> Iterator[None]:
    try:
        yield
    except Exception:  # its type depends on when the connection broke
        raise JobError(
            f"the Dask scheduler at {client.scheduler.address} is gone; what was finished is kept,"
            " so start one and run the same command again."
        ) from None
