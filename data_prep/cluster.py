"""A Dask cluster (https://dask.org), for commands with ``--scheduler``."""

import asyncio
import importlib.util
from typing import Any

from data_prep.errors import JobError, OptionError

_ANSWER = 20.0  # seconds to wait for a scheduler's answer
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
        return Client(scheduler, timeout=_ANSWER, set_as_default=False)
    except (OSError, ValueError, asyncio.TimeoutError):
        raise OptionError(
            f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler`, and give"
            " the address it prints, such as tcp://host:8786."
        ) from None


def require_workers(client: Any) -> None:
    """Wait some minutes for a cluster's first worker.

    Args:
        client: from :func:`connect`.

    Raises:
        OptionError: if none comes.
    """
    try:
        client.wait_for_workers(1, timeout=WITHOUT_WORKERS)
    except asyncio.TimeoutError:
        raise OptionError(
            f"the scheduler at {client.scheduler.address} has no worker; start some with"
            f" `dask worker {client.scheduler.address}`."
        ) from None


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Return the addresses of a cluster's workers, those with a GPU alone if any announces one.

    Args:
        client: from :func:`connect`.

    Returns:
        The resources that a job reserves on each, by its address.

    Raises:
        JobError: if the scheduler is gone.
    """
    try:
        # What the client knows itself is seconds old; here a worker that died is missing at once.
        alive = client.nthreads()
        known = client.scheduler_info(n_workers=-1)["workers"]
    except Exception:  # many kinds, by the moment at which the connection broke
        raise JobError(
            f"the Dask scheduler at {client.scheduler.address} is gone; what was done is kept, so"
            " start one and run the same command again."
        ) from None
    resources = {
        worker: known.get(worker, {}).get("resources") or {} for worker in alive if worker in known
    }
    with_gpu = {worker: {"GPU": 1} for worker, has in resources.items() if has.get("GPU", 0) >= 1}
    return with_gpu or {worker: {} for worker in resources}
