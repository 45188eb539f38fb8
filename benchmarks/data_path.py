"""The data path: how fast a store is built, in how much memory, and whether training waits."""

import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import Peak, in_child
from benchmarks.timing import Ratio, once, ratio, times
from data_prep.labels import LEADS

FS = 500


def write_recordings(folder: Path, lengths: np.ndarray) -> Path:
    """Write noise as the Challenge of 2020 laid out CPSC 2018.

    Args:
        folder: for the recordings and their REFERENCE.csv.
        lengths: ``(recordings,)`` in samples at 500 Hz.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["Recording,First_label,Second_label,Third_label"]
    for i, length in enumerate(lengths):
        name = f"N{i:05d}"
        digital = rng.integers(-1000, 1000, (length, 12)).astype("<i2")
        head = struct.pack("<5i4s", 30, 12, length, 0, 4, b"val\0")  # MATLAB 4
        (folder / f"{name}.mat").write_bytes(head + digital.tobytes())
        lines = [f"{name} 12 {FS} {length}"]
        lines += [f"{name}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
        rows.append(f"{name},{i % 9 + 1},,")
    (folder / "REFERENCE.csv").write_text("\n".join(rows) + "\n")
    return folder


def build(source: Path, out: Path, workers: int) -> float:
    """Build a store in silence.

    Args:
        source: folder of recordings.
        out: the store.
        workers: processes that read.

    Returns:
        Seconds it took.
    """
    from data_prep.storing.build import main

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return once(lambda: main(source=(source,), out=out, workers=workers))


def plain_build(source: Path, out: Path) -> None:
    """Put the signals of recordings into a file as one would plainly write it, in one process.

    Args:
        source: folder of recordings at 500 Hz.
        out: HDF5 file for their samples at 250 Hz, ``(time, 12)`` one after the other.
    """
    import h5py
    import wfdb
    from scipy.signal import resample_poly

    out.parent.mkdir(exist_ok=True)
    with h5py.File(out, "w") as file:
        samples = file.create_dataset("samples", (0, 12), "f4", maxshape=(None, 12), chunks=True)
        for header in sorted(source.glob("*.hea")):
            record = wfdb.rdrecord(str(header.with_suffix("")))
            signal = resample_poly(record.p_signal, 1, 2, axis=0, padtype="line")
            samples.resize(len(samples) + len(signal), axis=0)
            samples[-len(signal) :] = signal


@dataclass(frozen=True)
class BuildRate:
    """How fast a store is built.

    Attributes:
        rates: records a second of the plain form, with one worker, with two, and of two builds of
            one worker each that run at once, which is what the machine has to give: median over
            repeats.
        faster: all but one worker, over one worker.
        over_plain: two workers over the plain form.
        records: how many were built.
    """

    rates: dict[str, float]
    faster: dict[str, Ratio]
    over_plain: Ratio
    records: int


PLAIN, ONE, TWO = "plain form, one process", "one worker", "two workers"
AT_ONCE = "two builds at once"


def measure_build_rate(repeats: int, *, records: int) -> BuildRate:
    """Measure the rate at which records as long as those of CPSC 2018 go into a store.

    The start of the processes is taken out: it is the time of many records less that of a few.

    Args:
        repeats: how often each is built.
        records: how many.
    """
    rng = np.random.default_rng(0)
    durations = np.clip(rng.lognormal(np.log(12), 0.75, records), 6, 60)
    lengths, few = (durations * FS).astype(int), max(10, records // 20)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sources = {
            "all": write_recordings(folder / "all", lengths),
            "few": write_recordings(folder / "few", lengths[:few]),
        }
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            runs: dict[str, Callable[[], object]] = {}
            for part, source in sources.items():
                for workers, name in ((1, ONE), (2, TWO)):
                    runs[f"{part} {name}"] = partial(build, source, folder / "store.h5", workers)
                runs[f"{part} {PLAIN}"] = partial(plain_build, source, folder / "plain.h5")
                outs = [folder / "a" / "store.h5", folder / "b" / "store.h5"]
                at_once = partial(pool.map, build, [source] * 2, outs, [1] * 2)
                runs[f"{part} {AT_ONCE}"] = partial(_exhaust, at_once)
            taken = times(runs, repeats=repeats)
    # Two builds at once build everything twice.
    seconds = {
        name: (taken[f"all {name}"] - taken[f"few {name}"]) / (2 if name == AT_ONCE else 1)
        for name in (PLAIN, ONE, TWO, AT_ONCE)
    }
    return BuildRate(
        {name: float(np.median((records - few) / values)) for name, values in seconds.items()},
        {name: ratio(seconds[ONE], seconds[name]) for name in (PLAIN, TWO, AT_ONCE)},
        ratio(seconds[PLAIN], seconds[TWO]),
        records,
    )


def _exhaust(work: Callable[[], Iterator[object]]) -> None:
    """Wait for all that was begun."""
    for _ in work():
        pass


@dataclass(frozen=True)
class Growth:
    """What building takes as the number of records grows.

    Attributes:
        records: how many.
        store: size of the store, megabytes.
        seconds: that building took, with two workers.
        peak: memory of the command and of its largest worker.
    """

    records: int
    store: float
    seconds: float
    peak: Peak


def measure_build_growth(*, records: int) -> list[Growth]:
    """Build 1, 4 and 16 times a number of recordings of 6 s, each in a fresh process.

    Args:
        records: the number.
    """
    growth = []
    for factor in (1, 4, 16):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            lengths = np.full(factor * records, 6 * FS)
            source, store = write_recordings(folder / "records", lengths), folder / "store.h5"
            seconds, peak = in_child("benchmarks.data_path:build", source, store, 2)
            size = store.stat().st_size / 1e6
        growth.append(Growth(factor * records, size, seconds, peak))
    return growth


@dataclass(frozen=True)
class Waiting:
    """What the batches cost the training.

    Attributes:
        network: its name.
        steps: seconds of a step, by where its batch comes from: median over repeats.
        first: seconds to the end of an epoch's first step, by the same.
        longer: how many times longer a step is than with batches that are ready, by the same.
    """

    network: str
    steps: dict[str, float]
    first: dict[str, float]
    longer: dict[str, Ratio]


READY, HELD, DISK = "ready in memory", "store held in memory", "store on disk"


def measure_waiting(
    network: str, repeats: int, *, steps: int, batch_size: int = 64, **sizes: Any
) -> Waiting:
    """Compare epochs on batches that are ready with epochs on those of the real pipeline.

    Args:
        network: ``"MLBF-Net"`` or ``"MRM-Net"``.
        repeats: how often each epoch is run.
        steps: an epoch.
        batch_size: records a step.
        sizes: arguments of ``build_model``, if they are not to be the paper's.
    """
    from benchmarks.networks import cpsc_like
    from ecg_keras.model.backend import keras, tf
    from mlbf_keras import model as mlbf
    from mrm_keras import model as mrm

    class StepClock(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.seen = [time.perf_counter()]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append(time.perf_counter())

    package: Any = {"MLBF-Net": mlbf, "MRM-Net": mrm}[network]
    model = package.compile_model(package.build_model(**sizes))
    contract = model.get_layer("contract").contract
    with cpsc_like(contract, steps * batch_size, batch_size=batch_size) as source:
        held = source.in_memory
        source.shuffle = False  # the same batches in every epoch
        source.start_epoch(0)
        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), source[0]
        )
        ready = tf.data.Dataset.from_generator(
            lambda: (source[i] for i in range(len(source))), output_signature=signature
        ).cache()
        # A generator does not say how many batches it gives.
        ready = ready.apply(tf.data.experimental.assert_cardinality(len(source)))
        for _ in ready:  # to the end, or the cache stays empty
            pass
        clock = StepClock()

        def epoch(data: Any, in_memory: bool) -> tuple[float, float]:
            source.in_memory = in_memory
            model.fit(data, shuffle=False, verbose=0, callbacks=[clock])
            start, first, *_, last = clock.seen
            return first - start, (last - first) / (steps - 1)

        epochs = {
            READY: partial(epoch, ready, held),
            HELD: partial(epoch, source, held),
            DISK: partial(epoch, source, False),
        }
        for run in epochs.values():
            run()
        taken = np.array([[run() for run in epochs.values()] for _ in range(repeats)])
    first, step = (
        dict(zip(epochs, seconds.T, strict=True)) for seconds in np.moveaxis(taken, 2, 0)
    )
    return Waiting(
        network,
        {name: float(np.median(seconds)) for name, seconds in step.items()},
        {name: float(np.median(seconds)) for name, seconds in first.items()},
        {name: ratio(step[name], step[READY]) for name in (HELD, DISK)},
    )
