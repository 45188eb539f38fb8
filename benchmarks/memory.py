"""Peak memory of a piece of work, measured in a process of its own."""

import importlib
import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peak:
    """The most memory processes held at any time.

    Attributes:
        own: of the process itself, megabytes.
        child: of the largest process it started, megabytes; 0 if there was none.
    """

    own: float
    child: float


def in_child(work: str, *arguments: Any, **options: Any) -> tuple[Any, Peak]:
    """Call a function in a fresh process.

    Args:
        work: the function, as ``module:name``; only the fresh process imports it.
        arguments: of the function.
        options: of the function.

    Returns:
        What it returned, and the peak of its process.
    """
    # Forked, it would begin with all that this process holds.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments, options).result()


def _measured(work: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Peak]:
    module, name = work.split(":")
    result = getattr(importlib.import_module(module), name)(*arguments, **options)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000  # kilobytes on Linux
    return result, Peak(_own_peak(), child)


def _own_peak() -> float:
    """Return this process's peak in megabytes, from Linux's own account.

    What getrusage says of the process itself begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000
