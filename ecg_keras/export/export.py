"""Exports trained networks to files that run without Keras: ONNX, LiteRT and SavedModel.

Each file maps ``signal``, float32 ``(batch, time, lead)`` in millivolts, to ``diagnosis``, float32
``(batch, class)``; it includes the standardisation, but not the auxiliary heads, which only serve
training.  Everything needed to use a file is stored in it as JSON: see :func:`facts_of`.
"""

import json
import statistics
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from data_prep.errors import ModelFileError, OptionError
from data_prep.files import written_as_one
from data_prep.records import Record
from data_prep.synthetic import MIN_SECONDS, synthetic_record
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract, SignalContract, joint_contract
from ecg_keras.model.model_files import ECGModel, prepare_record
from ecg_keras.model.networks import part
from ecg_keras.model.recordings import as_record
from ecg_keras.prediction.ensemble import choose_records, open_models

TOLERANCE = 1e-5  # largest difference in probability between Keras and an exported file
COMPARED = 8  # recordings to compare on, at most
FILES = {"onnx": "model.onnx", "litert": "model.tflite", "saved_model": "saved_model"}

Plain = Callable[..., Any]
Run = Callable[[np.ndarray], np.ndarray]


# --- One network -------------------------------------------------------------------------------


def float32_copy(layer: Any, kind: Any = None, *, name: str | None = None) -> Any:
    """Copy a layer with its weights, to compute in float32 regardless of its training precision.

    Args:
        layer: a built layer.
        kind: class of the copy, with the same constructor and weights; by default the layer's.
        name: name of the copy; by default chosen by Keras.
    """
    config = {**layer.get_config(), "dtype": "float32"}
    del config["name"]
    copy = (kind or type(layer)).from_config(config if name is None else {**config, "name": name})
    if layer.built and layer.get_build_config():
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy


def inference_model(models: Sequence[ECGModel], plain: Mapping[type, Plain]) -> Any:
    """Merge an ensemble into one network for inference only.

    Args:
        models: models with the same form of input and the same classes.
        plain: for each custom layer class, an equivalent function of plain Keras operations; it is
            called with the layer and its inputs and returns the outputs.

    Returns:
        A model from ``signal`` ``(batch, time, lead)`` in millivolts to ``{"diagnosis": (batch,
        classes)}``, the mean of the models' probabilities, in float32.

    Raises:
        ModelFileError: if the models differ in the form of input.
    """
    first = models[0]
    for model in models[1:]:
        if model.contract.input_form != first.contract.input_form:
            raise ModelFileError(
                f"{model.path} and {first.path} take signals of different rate, length or leads,"
                " and cannot share one exported file; export each by itself."
            )

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(layer, keras.layers.Dropout):
            return inputs[0]
        if isinstance(layer, SignalContract):
            return _standardised(layer.contract, *inputs)
        if type(layer) in plain:
            return plain[type(layer)](layer, *inputs)
        if isinstance(layer, keras.layers.Layer):
            layer = float32_copy(layer)
        return layer(*inputs, **options)

    members = []
    for number, model in enumerate(models, 1):
        answer = {"diagnosis": model.network.output["diagnosis"]}
        pruned = keras.Model(model.network.input, answer, name=f"member_{number}")
        members.append(
            keras.models.clone_model(pruned, clone_function=lambda layer: layer, call_function=call)
        )
    if len(members) == 1:
        return members[0]
    signal = keras.Input(members[0].input.shape[1:], name="signal")
    answers = [member(signal)["diagnosis"] for member in members]
    return keras.Model(signal, {"diagnosis": keras.layers.Average()(answers)}, name="ensemble")


def _standardised(contract: Contract, signal: Any) -> Any:
    if (contract.mean, contract.std) == (0.0, 1.0):
        return signal
    return keras.layers.Rescaling(1 / contract.std, -contract.mean / contract.std)(signal)


def facts_of(models: Sequence[ECGModel]) -> dict[str, Any]:
    """Collect everything needed to use an exported file.

    Args:
        models: the models in the file.

    Returns:
        The contract without the standardisation, which is part of the network: ``network``,
        ``task``, ``class_names``, ``sampling_rate`` in Hz, ``input_length`` in samples, ``fit``,
        ``single_label``, ``leads`` in order, and ``thresholds``, averaged over the models; also
        ``unit`` and ``members``, the number of models.
    """
    contract = joint_contract([model.contract for model in models])
    facts = {name: value for name, value in asdict(contract).items() if name not in ("mean", "std")}
    return {**facts, "unit": "mV", "members": len(models)}


# --- Three formats -----------------------------------------------------------------------------


def write_onnx(path: Path, network: Any, facts: dict[str, Any]) -> None:
    """Write ONNX by Keras' own export; each fact becomes a metadata property, as JSON.

    Raises:
        ModelFileError: if the network has an operation that ONNX does not support.
    """
    import onnx

    signal = tf.TensorSpec([None, *network.input.shape[1:]], tf.float32, name="signal")
    with warnings.catch_warnings():  # tf2onnx uses a deprecated NumPy name
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        network.export(path, format="onnx", verbose=False, input_signature=[signal])
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        path.unlink()
        raise ModelFileError(
            f"{path.name} cannot be written, since ONNX does not have an operation of the network"
            f" ({str(error).splitlines()[0]}); leave onnx out of --formats."
        ) from error
    onnx.save(model, path)


def write_saved_model(path: Path, network: Any, facts: dict[str, Any]) -> None:
    """Write a SavedModel; the facts become its ``assets/contract.json``.

    Keras' own export would store every weight twice.
    """
    signal = tf.TensorSpec([None, *network.input.shape[1:]], tf.float32, name="signal")
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    module.answer = tf.function(
        lambda signal: network(signal, training=False), input_signature=[signal], autograph=False
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.answer})
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets" / "contract.json").write_text(json.dumps(facts, indent=1))


def write_litert(path: Path, saved_model: Path, facts: dict[str, Any]) -> None:
    """Convert a SavedModel to LiteRT; variables become constants.

    The facts become ``contract.json`` in a ZIP archive appended to the network: a ``.tflite`` file
    may end with an archive of associated files.
    """
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved_model)).convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("contract.json", json.dumps(facts, indent=1))


def run_onnx(path: Path) -> Run:
    """Open an ONNX file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda signals: session.run(["diagnosis"], {"signal": signals})[0]


def run_saved_model(path: Path) -> Run:
    """Open a SavedModel in TensorFlow."""
    model = tf.saved_model.load(str(path))

    def run(signals: np.ndarray) -> np.ndarray:
        # Refer to ``model`` here to keep it alive: it owns the variables of its function.
        answer = model.signatures["serving_default"]
        return answer(signal=tf.constant(signals))["diagnosis"].numpy()

    return run


def run_litert(path: Path) -> Run:
    """Open a LiteRT file in its interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    answer = Interpreter(str(path)).get_signature_runner("serving_default")
    return lambda signals: answer(signal=signals)["diagnosis"]


# --- The command -------------------------------------------------------------------------------


def export(
    *,
    models: Sequence[str],
    out: Path,
    formats: Sequence[str],
    records: Path | None,
    fs: float | None = None,
    unit: str | None = None,
) -> None:
    """Do the work of ``ecg-export``.

    Args:
        models: files or patterns.
        out: folder for the files; an earlier export in it is overwritten.
        formats: any of ``onnx``, ``litert`` and ``saved_model``.
        records: recordings to compare on; None for generated ones.
        fs: sampling rate in hertz, of recordings that do not state it.
        unit: unit of recordings that do not state it; see
            :func:`data_prep.records.read_record`.

    Raises:
        ECGError: if the models cannot be exported, or a recording cannot be used.
        ModelFileError: if a file's probabilities differ from those of Keras; no file is kept.
    """
    _require_packages(formats)
    ensemble = open_models(models)
    inputs = [Path(model.path) for model in ensemble] + ([records] if records else [])
    with (
        written_as_one(out, names=tuple(FILES.values()), inputs=inputs) as folder,
        TemporaryDirectory() as other,
    ):
        network, facts = inference_model(ensemble, _plain_forms(ensemble)), facts_of(ensemble)
        signals = _signals_to_compare(ensemble[0].contract, records, fs=fs, unit=unit)
        keras_answers = run_keras(ensemble)
        expected = keras_answers(signals)
        rows = [("Keras", "", _milliseconds(keras_answers, signals), "")]
        saved_model = (folder if "saved_model" in formats else Path(other)) / "saved_model"
        if set(formats) & {"litert", "saved_model"}:
            write_saved_model(saved_model, network, facts)
        for name in sorted(set(formats), key=list(FILES).index):
            file = FILES[name]
            part = folder / file
            if name == "onnx":
                write_onnx(part, network, facts)
                answers = run_onnx(part)
            elif name == "litert":
                write_litert(part, saved_model, facts)
                answers = run_litert(part)
            else:
                answers = run_saved_model(saved_model)
            difference = float(np.abs(answers(signals) - expected).max())
            if not difference <= TOLERANCE:  # also refuses NaN
                raise ModelFileError(
                    f"{out / file} was not written, since it would answer differently from Keras,"
                    f" by up to {difference:.1g}; report this with the model file."
                )
            rows.append(
                (file, _megabytes(part), _milliseconds(answers, signals), f"{difference:.0e}")
            )
    print(
        f"{out}: {facts['network']} for {facts['task']}, {len(ensemble)}"
        f" model{'s' if len(ensemble) > 1 else ''}, compared on {len(signals)} recordings."
    )
    print(f"{'':14}{'size':>10}{'a recording':>14}{'largest difference':>21}")
    for file, size, duration, difference_text in rows:
        print(f"{file:14}{size:>10}{duration:>14}{difference_text:>21}")


def _plain_forms(models: Sequence[ECGModel]) -> dict[type, Plain]:
    """Collect the plain forms of custom layers from the packages of these models."""
    plain: dict[type, Plain] = {}
    for network in {model.contract.network for model in models}:
        forms = part(network, "plain")
        if forms is not None:
            plain |= forms.PLAIN
    return plain


def _require_packages(formats: Sequence[str]) -> None:
    needed = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",), "saved_model": ()}
    from importlib.util import find_spec

    for name in formats:
        for package in needed[name]:
            if find_spec(package) is None:
                raise OptionError(
                    f"exporting to {name} needs the package {package.replace('_', '-')}, which is"
                    " not installed; run: pip install 'ecg-keras[export]'."
                )
    if not formats:
        raise OptionError("--formats names none; give at least one of onnx, litert, saved_model.")


def run_keras(models: Sequence[ECGModel]) -> Run:
    """Return the mean prediction of the trained networks, computed in float32."""

    def copy(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Layer):
            return float32_copy(layer, name=layer.name)
        return layer  # an operation without weights

    networks = [keras.models.clone_model(model.network, clone_function=copy) for model in models]
    return lambda signals: np.mean(
        [network.predict_on_batch(signals)["diagnosis"] for network in networks], axis=0
    )


def _signals_to_compare(
    contract: Contract, records: Path | None, *, fs: float | None, unit: str | None
) -> np.ndarray:
    """Prepare the recordings, or generate some that fill the input: ``(records, time, lead)``."""
    if records is not None:
        paths = choose_records(csv_file=None, records=records).values()
        chosen = [path for path in paths if isinstance(path, Path)][:COMPARED]
        found = [as_record(path, fs=fs, unit=unit, fallback=records.is_dir()) for path in chosen]
    else:
        seconds = max(MIN_SECONDS, contract.input_length / contract.sampling_rate)
        made = [
            synthetic_record((label,), seconds=seconds, seed=label) for label in range(COMPARED)
        ]
        found = [
            Record(str(m.labels), m.signal, m.fs, m.age, m.sex, (), Path("generated")) for m in made
        ]
    return np.stack([prepare_record(record, contract) for record in found])


def _milliseconds(run: Run, signals: np.ndarray) -> str:
    """Return the median time for a batch of one recording."""
    run(signals[:1])
    durations: list[float] = []
    while len(durations) < 5 or (sum(durations) < 0.5 and len(durations) < 50):
        start = time.perf_counter()
        run(signals[:1])
        durations.append(time.perf_counter() - start)
    return f"{1e3 * statistics.median(durations):.1f} ms"


def _megabytes(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.2f} MB"
