"""Both networks against their plain forms: training, inference and the first step."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import mlbf_plain, mrm_plain
from benchmarks.timing import Ratio, Result, has_bfloat16, once, ratio, times
from data_prep.provenance import provenance
from data_prep.store import Store, StoreWriter
from ecg_keras.model.backend import keras
from ecg_keras.training.batches import StoreBatches
from mlbf_keras import layers as mlbf_layers
from mlbf_keras import model as mlbf
from mrm_keras import model as mrm

BATCH = 64
RANDOM_BATCHES = 6  # of MLBF-Net: their mean is that of an epoch within a few per cent
Batches = list[tuple[np.ndarray, dict[str, np.ndarray]]]


def made_with() -> dict[str, str | int]:
    """Return the provenance of a process that has imported TensorFlow."""
    return provenance()


def measure_mlbf(repeats: int, *, batch_size: int = BATCH, **sizes: Any) -> Result:
    """Measure MLBF-Net on random batches of records as long as those of CPSC 2018.

    Args:
        repeats: how often the forms are run in turn.
        batch_size: records a step.
        sizes: ``input_length`` and ``num_leads``, if they are not to be the paper's.
    """
    contract = mlbf.default_contract(**sizes)
    with cpsc_like(contract, RANDOM_BATCHES * batch_size, batch_size=batch_size) as source:
        batches = [source[i] for i in range(len(source))]
    return _measure(
        "MLBF-Net",
        plain=lambda: plain_mlbf(**sizes),
        ours=lambda: mlbf.compile_model(mlbf.build_model(**sizes)),
        batches={"training": batches, "inference": batches},
        repeats=repeats,
    )


def measure_slices(
    repeats: int, *, batch_size: int = BATCH, **sizes: Any
) -> dict[str, tuple[float, Ratio]]:
    """Measure what MLBF-Net's slices are worth: training in float32, by the batches' lengths.

    Args:
        repeats: how often all is run in turn.
        batch_size: records a step.
        sizes: ``input_length`` and ``num_leads``, if they are not to be the paper's.

    Returns:
        Records a second and how many times faster than the plain form, which takes as long for
        every batch, by what is run.
    """
    contract = mlbf.default_contract(**sizes)
    with cpsc_like(contract, RANDOM_BATCHES * batch_size, batch_size=batch_size) as source:
        random = [source[i] for i in range(len(source))]
        ordered = StoreBatches(
            source.store,
            np.argsort(source.lengths, kind="stable"),
            contract=contract,
            heads=source.heads,
            batch_size=batch_size,
        )
        by_length = [ordered[i] for i in range(len(ordered))]
    signal, labels = random[0]
    noise = np.random.default_rng(0).standard_normal(signal.shape, np.float32)
    plain = plain_mlbf(**sizes)
    sliced, whole = (mlbf.compile_model(mlbf.build_model(**sizes)) for _ in range(2))
    with patch.object(mlbf_layers, "SLICES", 1):
        whole.train_on_batch(signal, labels)  # traced with one slice, and so it stays
    work = {
        "plain form, any batch": (plain, random[:1]),
        "one slice, sorted batches": (whole, by_length),
        "one slice, random batches": (whole, random),
        f"{mlbf_layers.SLICES} slices, random batches": (sliced, random),
        f"{mlbf_layers.SLICES} slices, all records as long as the input": (
            sliced, [(noise, labels)]
        ),
    }  # fmt: skip
    taken = times({name: partial(_train, *run) for name, run in work.items()}, repeats=repeats)
    seconds = {name: taken[name] / len(batches) for name, (_, batches) in work.items()}
    plain_seconds = seconds["plain form, any batch"]
    return {
        name: (batch_size / float(np.median(values)), ratio(plain_seconds, values))
        for name, values in seconds.items()
    }


def measure_mrm(repeats: int, *, batch_size: int = BATCH, **sizes: Any) -> Result:
    """Measure MRM-Net, mutual terms included.

    Args:
        repeats: how often the forms are run in turn.
        batch_size: records a step.
        sizes: arguments of ``build_model``, if they are not to be the paper's.
    """
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((batch_size, sizes.get("input_length", 1000), 12), np.float32)
    labels = (rng.random((batch_size, 5)) < 0.3).astype(np.float32)
    heads = dict.fromkeys(("diagnosis", "low", "high"), labels)
    return _measure(
        "MRM-Net",
        plain=lambda: mrm.compile_model(mrm_plain.build_plain_model(num_classes=5, **sizes)),
        ours=lambda: mrm.compile_model(mrm.build_model(num_classes=5, **sizes)),
        batches=dict.fromkeys(("training", "inference"), [(signal, heads)]),
        repeats=repeats,
    )


def plain_mlbf(**sizes: Any) -> Any:
    """The plain MLBF-Net, compiled as ours is for one label a record."""
    model = mlbf_plain.build_plain_model(**sizes)
    losses = dict.fromkeys(model.output, "categorical_crossentropy")
    model.compile(keras.optimizers.Adam(1e-3), losses)
    return model


@contextmanager
def cpsc_like(contract: Any, records: int, *, batch_size: int) -> Iterator[StoreBatches]:
    """Give the batches of a store whose records are as long as those of CPSC 2018.

    Lengths are log-normal with a median of 12 s and a mean near 16 s, between 6 and 60 s;
    samples are noise, which costs what an ECG costs.

    Args:
        contract: of the network.
        records: number of records.
        batch_size: records a batch.
    """
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(12), 0.75, records), 6, 60)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.h5"
        with StoreWriter(
            path,
            dataset="cpsc2018",
            fs=contract.sampling_rate,
            class_names={"cpsc2018": contract.class_names},
        ) as writer:
            for i, duration in enumerate(seconds):
                length = int(duration * contract.sampling_rate)
                signal = rng.standard_normal((length, 12), np.float32)
                label = i % len(contract.class_names)
                writer.append(
                    f"N{i}", signal, labels={"cpsc2018": [label]}, first_label=label, fold=1
                )
        with Store(path) as store:
            heads = ["low", "high"]
            if contract.network == "MLBF-Net":
                heads = [f"lead_{lead}" for lead in contract.leads]
            yield StoreBatches(
                store,
                np.arange(records),
                contract=contract,
                heads=("diagnosis", *heads),
                batch_size=batch_size,
                shuffle=True,
            )


def _measure(
    network: str,
    *,
    plain: Callable[[], Any],
    ours: Callable[[], Any],
    batches: dict[str, Batches],
    repeats: int,
) -> Result:
    # TensorFlow's own start belongs to no form.
    warm = keras.Sequential([keras.Input((8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    warm.compile("adam", "mse")
    warm.train_on_batch(np.zeros((2, 8, 1)), np.zeros((2, 1)))

    models, first_step = {}, {}
    forms = {"plain": plain, "float32": ours}
    if has_bfloat16():  # without its instructions a step takes minutes
        forms["mixed_bfloat16"] = ours
    for form, build in forms.items():
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("float32" if form == "plain" else form)

        def start(form: str = form, build: Callable[[], Any] = build) -> None:
            models[form] = build()
            models[form].train_on_batch(*batches["training"][0])

        first_step[form] = once(start)
    keras.config.set_dtype_policy("float32")

    work: dict[str, dict[str, Callable[[], object]]] = {"training": {}, "inference": {}}
    for form, model in models.items():
        for what, run in (("training", _train), ("inference", _answer)):
            # The plain form takes the same time for every batch, so one of them is enough.
            chosen = batches[what][:1] if form == "plain" else batches[what]
            work[what][form] = partial(run, model, chosen)

    rates, ratios = {}, {}
    for what, runs in work.items():
        seconds = times(runs, repeats=repeats)
        per_batch = {
            form: values / (1 if form == "plain" else len(batches[what]))
            for form, values in seconds.items()
        }
        for form, values in per_batch.items():
            rates[what, form] = len(batches[what][0][0]) / float(np.median(values))
            if form != "plain":
                ratios[what, form] = ratio(per_batch["plain"], values)
    return Result(network, rates, ratios, first_step)


def _train(model: Any, batches: Batches) -> None:
    for signal, labels in batches:
        model.train_on_batch(signal, labels)


def _answer(model: Any, batches: Batches) -> None:
    for signal, _ in batches:
        model.predict_on_batch(signal)
