"""How cost grows with signal length, batch size, number of leads and number of records."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_path import Growth
from benchmarks.memory import in_child
from benchmarks.timing import once

LENGTH, BATCH, LEADS = "signal length", "batch size", "leads"
UNITS = {LENGTH: "s", BATCH: "records", LEADS: "leads", "records": "records"}
RATES = {"MLBF-Net": 250, "MRM-Net": 100}


@dataclass(frozen=True)
class Point:
    """What a training step costs at one size.

    Attributes:
        network: its name.
        what: grows: one of ``LENGTH``, ``BATCH`` and ``LEADS``.
        size: of it, in its unit.
        seconds: of a step: median over repeats.
        least: of the repeats.
        most: of the repeats.
        peak: memory of the process, megabytes.
    """

    network: str
    what: str
    size: float
    seconds: float
    least: float
    most: float
    peak: float


@dataclass(frozen=True)
class Axis:
    """Sizes to measure a network at.

    Attributes:
        network: its name.
        sizes: by what grows; the last of each is the one that the others are measured at.
        options: of ``build_model`` besides.
    """

    network: str
    sizes: dict[str, Sequence[int]]
    options: dict[str, int]


FULL = (
    Axis("MLBF-Net", {LENGTH: (15, 30, 60), BATCH: (8, 16, 32), LEADS: (3, 6, 12)}, {}),
    Axis("MRM-Net", {LENGTH: (5, 10, 20), BATCH: (8, 16, 32)}, {}),
)
QUICK = (
    Axis("MLBF-Net", {LENGTH: (1,), BATCH: (2,), LEADS: (2,)}, {"filters": 2}),
    Axis("MRM-Net", {LENGTH: (2,), BATCH: (2,)}, {"low_channels": 4, "high_channels": 8}),
)


def measure_steps(axes: Iterable[Axis], repeats: int) -> list[Point]:
    """Measure training steps in float32 on signals that fill the input, each in a fresh process.

    Args:
        axes: networks and sizes.
        repeats: steps that are measured.
    """
    points = []
    for axis in axes:
        base = {what: sizes[-1] for what, sizes in axis.sizes.items()}
        known: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}
        for what, sizes in axis.sizes.items():
            for size in sizes:
                at = {**base, what: size}
                key = tuple(at.values())
                if key not in known:
                    seconds, peak = in_child(
                        "benchmarks.scaling:training_steps",
                        axis.network,
                        repeats,
                        length=at[LENGTH] * RATES[axis.network],
                        batch_size=at[BATCH],
                        leads=at.get(LEADS, 12),
                        **axis.options,
                    )
                    known[key] = seconds, peak.own
                taken, megabytes = known[key]
                points.append(
                    Point(
                        axis.network,
                        what,
                        size,
                        float(np.median(taken)),
                        float(taken.min()),
                        float(taken.max()),
                        megabytes,
                    )
                )
    return points


def training_steps(
    network: str, repeats: int, *, length: int, batch_size: int, leads: int, **options: int
) -> np.ndarray:
    """Train on one batch of noise several times.

    Args:
        network: its name.
        repeats: steps that are measured, after two that are not.
        length: of the signal, samples.
        batch_size: records.
        leads: number of leads.
        options: of ``build_model`` besides.

    Returns:
        Seconds ``(repeats,)`` of each step.
    """
    from mlbf_keras import model as mlbf
    from mrm_keras import model as mrm

    package: Any = {"MLBF-Net": mlbf, "MRM-Net": mrm}[network]
    model = package.build_model(input_length=length, num_leads=leads, **options)
    package.compile_model(model)
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((batch_size, length, leads), np.float32)
    labels = np.eye(9, dtype=np.float32)[rng.integers(0, 9, batch_size)]
    heads = dict.fromkeys(model.output, labels)
    seconds = [once(lambda: model.train_on_batch(signal, heads)) for _ in range(2 + repeats)]
    return np.array(seconds[2:])


@dataclass(frozen=True)
class Epoch:
    """What it costs to get all batches of an epoch, without a network.

    Attributes:
        records: how many, of 10 s at 100 Hz.
        seconds: median over repeats.
        least: of the repeats.
        most: of the repeats.
        peak: memory of the process, megabytes.
    """

    records: int
    seconds: float
    least: float
    most: float
    peak: float


def measure_epochs(records: Sequence[int], repeats: int) -> list[Epoch]:
    """Measure epochs of batches of MRM-Net's input, each in a fresh process.

    Args:
        records: numbers of records.
        repeats: how often each epoch is run.
    """
    epochs = []
    for count in records:
        with tempfile.TemporaryDirectory() as place:
            store = Path(place) / "store.h5"
            in_child("benchmarks.scaling:write_store", store, count)
            taken, peak = in_child("benchmarks.scaling:batches_of_an_epoch", store, repeats)
        epochs.append(
            Epoch(
                count,
                float(np.median(taken)),
                float(taken.min()),
                float(taken.max()),
                peak.own,
            )
        )
    return epochs


def write_store(path: Path, records: int) -> None:
    """Write a store of noise, 10 s at 100 Hz.

    Args:
        path: of the store.
        records: how many.
    """
    from data_prep.labels import CPSC_CLASSES
    from data_prep.store import StoreWriter

    classes = {"cpsc2018": CPSC_CLASSES}
    signal = np.random.default_rng(0).standard_normal((1000, 12), np.float32)
    with StoreWriter(path, dataset="cpsc2018", fs=100, class_names=classes) as writer:
        for i in range(records):
            labels = {"cpsc2018": [i % len(CPSC_CLASSES)]}
            writer.append(f"N{i}", signal, labels=labels, fold=1)


def batches_of_an_epoch(path: Path, repeats: int) -> np.ndarray:
    """Get all batches of a store several times.

    Args:
        path: of the store.
        repeats: how often.

    Returns:
        Seconds ``(repeats,)``.
    """
    from data_prep.store import Store
    from ecg_keras.model.contract import Contract
    from ecg_keras.training.batches import StoreBatches

    with Store(path) as store:
        contract = Contract(
            network="MRM-Net",
            task="cpsc2018",
            class_names=store.class_names(),
            sampling_rate=100,
            input_length=1000,
            fit="stretch",
            single_label=False,
        )
        batches = StoreBatches(
            store, np.arange(len(store)), contract=contract, heads=("diagnosis",), shuffle=True
        )
        return np.array(
            [once(lambda: [batches[i] for i in range(len(batches))]) for _ in range(repeats)]
        )


def draw(
    points: Sequence[Point], epochs: Sequence[Epoch], growth: Sequence[Growth], path: Path
) -> None:
    """Draw time (above) and memory (below) against everything that grows.

    Args:
        points: from :func:`measure_steps`.
        epochs: from :func:`measure_epochs`.
        growth: from ``data_path.measure_build_growth``.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, 4, sharex="col")
    colours = {"MLBF-Net": "tab:blue", "MRM-Net": "tab:orange"}
    lines: list[tuple[int, str, str, list[tuple[float, float, float]]]] = []
    for column, what in enumerate((LENGTH, BATCH, LEADS)):
        for network, colour in colours.items():
            chosen = [p for p in points if (p.network, p.what) == (network, what)]
            lines.append((column, network, colour, [(p.size, p.seconds, p.peak) for p in chosen]))
    lines += [
        (3, "building", "tab:green", [(g.records, g.seconds, g.peak.own) for g in growth]),
        (3, "batches of an epoch", "tab:red", [(e.records, e.seconds, e.peak) for e in epochs]),
    ]
    for column, name, colour, values in lines:
        for row in (0, 1) if values else ():
            sizes, costs = [v[0] for v in values], [v[row + 1] for v in values]
            axes[row, column].plot(sizes, costs, "o-", color=colour, label=name)
    for column, (what, unit) in enumerate(UNITS.items()):
        axes[0, column].set(xscale="log", yscale="log", title=what)
        axes[1, column].set(xscale="log", ylim=(0, None), xlabel=unit)
        sizes = sorted({size for at, *_, values in lines if at == column for size, *_ in values})
        for axis in axes[:, column]:
            axis.xaxis.set_major_locator(FixedLocator(sizes))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_locator(NullLocator())
            axis.tick_params(axis="x", labelrotation=45 if column == 3 else 0)
            axis.grid(alpha=0.3)
        axes[0, column].legend()
    axes[0, 0].set_ylabel("seconds a step")
    axes[0, 3].set_ylabel("seconds in all")
    axes[1, 0].set_ylabel("peak memory (MB)")
    figure.savefig(path, dpi=130)
