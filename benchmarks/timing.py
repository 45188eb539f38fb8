"""Times of things that are run in turn, so that a ratio holds when the machine's speed drifts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """How many times faster one thing is than another: median, least and most over repeats."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        """Write it as a cell of a table."""
        return f"{self.median:.2f}× ({self.least:.2f}–{self.most:.2f})"


@dataclass(frozen=True)
class Result:
    """What was measured of one network.

    Attributes:
        network: its name.
        rates: records a second, by (``"training"`` or ``"inference"``, ``"plain"``,
            ``"float32"`` or ``"mixed_bfloat16"``): median over repeats.
        ratios: against plain float32, by the same names without plain.
        first_step: seconds of building, compiling and the first step, by form.
    """

    network: str
    rates: dict[tuple[str, str], float]
    ratios: dict[tuple[str, str], Ratio]
    first_step: dict[str, float]


def times(things: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, np.ndarray]:
    """Run each thing once unmeasured, then all in turn, several times.

    Args:
        things: what to run, by name.
        repeats: how often.

    Returns:
        Seconds ``(repeats,)`` of each.
    """
    for run in things.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, run in things.items():
            seconds[name].append(once(run))
    return {name: np.array(values) for name, values in seconds.items()}


def once(run: Callable[[], object]) -> float:
    """Return the seconds one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(slow: np.ndarray, fast: np.ndarray) -> Ratio:
    """Compare repeat by repeat.

    Args:
        slow: seconds of the baseline.
        fast: seconds of what is compared with it, for the same work.

    Returns:
        How many times faster it is.
    """
    ratios = slow / fast
    return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as Linux says."""
    return "bf16" in Path("/proc/cpuinfo").read_text()
