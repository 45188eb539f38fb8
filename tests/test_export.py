import json
import re
import runpy
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from make_records import sine_leads, write_wfdb
from toy import toy_contract, toy_model

import ecg_keras.export.export
from data_prep.errors import ModelFileError, OptionError, RecordError
from data_prep.labels import LEADS
from data_prep.records import find_records, read_record
from ecg_keras.export import command
from ecg_keras.export.export import inference_model, write_onnx
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model, prepare_record

layers = keras.layers
PACKAGES = ("mlbf_keras", "mrm_keras")
CLASSES = ("calm", "fast", "slow", "odd")
FORMATS = ("onnx", "litert", "saved_model")


def small_contract(package: str, **changes: Any) -> Contract:
    mlbf = package == "mlbf_keras"
    fields: dict[str, Any] = {
        "network": "MLBF-Net" if mlbf else "MRM-Net",
        "task": "rhythm",
        "class_names": CLASSES,
        "sampling_rate": 50.0,
        "input_length": 300,
        "fit": "pad" if mlbf else "stretch",
        "single_label": mlbf,
        "leads": ("II", "V5") if mlbf else LEADS,
    }
    return Contract(**{**fields, **changes})


def package_of(contract: Contract) -> str:
    return "mrm_keras" if contract.network == "MRM-Net" else "mlbf_keras"


def small_model(
    contract: Contract, *, seed: int, build: Callable[..., Any] | None = None, **options: Any
) -> Any:
    """A network whose every bias, scale and moving statistic differs from its beginning."""
    package = package_of(contract)
    sizes = (
        {"filters": 2, "gru_units": 3}
        if package == "mlbf_keras"
        else {"low_channels": 4, "high_channels": 8}
    )
    keras.utils.set_random_seed(seed)
    model = (build or import_module(package).build_model)(
        num_classes=len(contract.class_names),
        input_length=contract.input_length,
        num_leads=len(contract.leads),
        contract=contract,
        **sizes,
        **options,
    )
    rng = np.random.default_rng(seed)
    model.set_weights(
        [w + rng.uniform(0.01, 0.2, w.shape) if w.ndim == 1 else 2 * w for w in model.get_weights()]
    )
    return model


def signals_for(contract: Contract, count: int = 5) -> np.ndarray:
    """Recordings of different size and length, zero behind their ends."""
    shape = (count, contract.input_length, len(contract.leads))
    signals = np.random.default_rng(7).normal(0.1, 0.4, shape).astype(np.float32)
    for i in range(count):
        signals[i] *= 1 + i
        signals[i, contract.input_length - 40 * i :] = 0
    return signals


def answers_of(path: Path, signals: np.ndarray) -> np.ndarray:
    """What the format's own runtime answers, opened as its manual says."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"signal": signals})[0])
    if path.suffix == ".tflite":
        interpreter = Interpreter(str(path))
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], signals.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], signals)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    model = tf.saved_model.load(str(path))
    return model.signatures["serving_default"](signal=tf.constant(signals))["diagnosis"].numpy()


# --- An ensemble, in every format --------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    """What the command made of two models that differ in standardisation and thresholds."""

    package: str
    contract: Contract
    models: list[Path]
    files: dict[str, Path]
    printed: str


@pytest.fixture(scope="module", params=PACKAGES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp(request.param)
    contracts = [
        small_contract(request.param, mean=0.0625, std=0.25, thresholds=(0.5, 0.25, 0.75, 0.125)),
        small_contract(request.param, mean=-0.125, std=0.5, thresholds=(0.25, 0.25, 0.5, 0.125)),
    ]
    models = []
    for seed, contract in enumerate(contracts):
        models.append(folder / f"fold_{seed}" / "best.keras")
        models[-1].parent.mkdir()
        small_model(contract, seed=seed).save(models[-1])
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text: printed.append(text))
        command.main(models=(str(folder / "fold_*/best.keras"),), out=folder / "out")
    names = ("model.onnx", "model.tflite", "saved_model")
    files = {form: folder / "out" / name for form, name in zip(FORMATS, names, strict=True)}
    yield Exported(request.param, contracts[0], models, files, "\n".join(printed))
    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_ensemble_answers_as_its_models_do(exported: Exported, form: str) -> None:
    load = import_module(exported.package).load_model
    signals = signals_for(exported.contract)
    networks = [load(path).network for path in exported.models]
    expected = np.mean([network(signals)["diagnosis"] for network in networks], axis=0)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the recordings are told apart
    for count in (5, 1):
        found = answers_of(exported.files[form], signals[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_ensemble_answers_for_real_recordings(
    exported: Exported, form: str, shared_data: Path
) -> None:
    folder = {
        "mlbf_keras": shared_data / "cpsc2018" / "original",
        "mrm_keras": shared_data / "ptbxl" / "records100" / "00000",
    }[exported.package]
    records = [read_record(path) for path in list(find_records(folder).values())[:6]]
    models = [import_module(exported.package).load_model(path) for path in exported.models]
    signals = np.stack([prepare_record(record, exported.contract) for record in records])
    expected = np.mean([model.network(signals)["diagnosis"] for model in models], axis=0)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the recordings are told apart
    np.testing.assert_allclose(answers_of(exported.files[form], signals), expected, atol=5e-6)


@pytest.mark.slow
def test_each_file_says_how_it_is_used(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.files["onnx"])
    properties = session.get_modelmeta().custom_metadata_map
    inside = {
        "onnx": {name: json.loads(text) for name, text in properties.items()},
        "litert": json.loads(zipfile.ZipFile(exported.files["litert"]).read("contract.json")),
        "saved_model": json.loads(
            (exported.files["saved_model"] / "assets" / "contract.json").read_text()
        ),
    }
    for facts in inside.values():
        assert facts == {
            "network": exported.contract.network,
            "task": "rhythm",
            "class_names": list(CLASSES),
            "sampling_rate": 50.0,
            "input_length": 300,
            "fit": exported.contract.fit,
            "single_label": exported.contract.single_label,
            "leads": list(exported.contract.leads),
            "thresholds": [0.375, 0.25, 0.625, 0.125],
            "unit": "mV",
            "members": 2,
        }


@pytest.mark.slow
def test_the_command_reports_size_time_and_difference(exported: Exported) -> None:
    first, head, *rows = exported.printed.splitlines()
    assert first.endswith(
        f"{exported.contract.network} for rhythm, 2 models, compared on 8 recordings."
    )
    assert head.split() == ["size", "a", "recording", "largest", "difference"]
    assert rows[0].split()[0] == "Keras" and rows[0].split()[2] == "ms"
    for row, path in zip(rows[1:], exported.files.values(), strict=True):
        file, size, mb, _, ms, difference = row.split()
        assert (file, mb, ms) == (path.name, "MB", "ms")
        assert float(difference) <= 1e-5
        if path.is_file():
            assert float(size) == round(path.stat().st_size / 1e6, 2)


@pytest.mark.slow
def test_onnx_has_the_operators_of_the_paper(exported: Exported) -> None:
    graph = onnx.load(exported.files["onnx"]).graph
    assert [value.name for value in graph.input] == ["signal"]
    batch, *sizes = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param and [d.dim_value for d in sizes] == [300, len(exported.contract.leads)]
    count = Counter(node.op_type for node in graph.node)
    if exported.package == "mlbf_keras":
        # Two models of two branches: 15 convolutions each, and a model's recurrences in one loop.
        assert (count["Conv"], count["LeakyRelu"], count["Loop"]) == (60, 60, 2)
    else:
        # A model: trunk 4; a branch: 2, three blocks of 2, and 3 behind the attention.
        assert count["Conv"] >= 2 * (4 + 2 * 11)
        assert not count.keys() & {"Loop", "Scan", "If"}


# --- Other forms of the networks ---------------------------------------------------------------


def onnx_answers(model: Any, signals: np.ndarray, path: Path) -> np.ndarray:
    """Export a network to ONNX and run it."""
    contract = model.get_layer("contract").contract
    package = package_of(contract)
    plain = import_module(f"{package}.plain")
    network = inference_model([ECGModel(model, contract, path)], plain.PLAIN)
    assert list(network.output) == ["diagnosis"]
    write_onnx(path, network, {})
    return answers_of(path, signals)


def other_forms() -> dict[str, Callable[[], Any]]:
    mlbf, mrm = small_contract("mlbf_keras"), small_contract("mrm_keras")
    from mlbf_keras.model import build_branchnet

    forms = {
        "BranchNet": lambda: small_model(
            replace(mlbf, network="BranchNet"), seed=3, build=build_branchnet
        ),
        "single loss": lambda: small_model(mlbf, seed=3, auxiliary_heads=False),
        "odd length": lambda: small_model(replace(mlbf, input_length=251), seed=3),
        "several labels": lambda: small_model(
            replace(mlbf, single_label=False), seed=3, single_label=False
        ),
    }
    fusions = ("add", "concat", "low", "high")
    return {**forms, **{f: partial(small_model, mrm, seed=3, fusion=f) for f in fusions}}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=() if form == "odd length" else pytest.mark.slow)
        for form in other_forms()
    ],
)
def test_ablations_export_too(form: str, tmp_path: Path) -> None:
    model = other_forms()[form]()
    signals = signals_for(model.get_layer("contract").contract)
    expected = model(signals)["diagnosis"]
    found = onnx_answers(model, signals, tmp_path / "model.onnx")
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize(
    "package", [pytest.param("mlbf_keras", marks=pytest.mark.slow), "mrm_keras"]
)
def test_what_was_trained_in_half_precision_answers_in_float32(
    package: str, tmp_path: Path
) -> None:
    models = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            models.append(small_model(small_contract(package), seed=5))
        finally:
            keras.config.set_dtype_policy("float32")
    exact, half = models
    half.set_weights(exact.get_weights())
    signals = signals_for(small_contract(package))
    expected = exact(signals)["diagnosis"]
    assert np.abs(half(signals)["diagnosis"] - expected).max() > 1e-5
    found = onnx_answers(half, signals, tmp_path / "model.onnx")
    np.testing.assert_allclose(found, expected, atol=5e-6)


# --- What cannot be exported -------------------------------------------------------------------


def export_toys(folder: Path, *contracts: Contract, **options: Any) -> None:
    for i, contract in enumerate(contracts):
        toy_model(contract, seed=i).save(folder / f"toy_{i}.keras")
    ecg_keras.export.export.export(
        **{
            "models": [str(folder / "toy_*.keras")],
            "out": folder / "out",
            "formats": ["onnx"],
            "records": None,
            **options,
        },
    )


def test_models_of_different_input_share_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="toy_1.keras and .*toy_0.keras take signals of"):
        export_toys(tmp_path, toy_contract(), toy_contract(sampling_rate=100.0))


def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_toys(tmp_path, toy_contract())
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    run = ecg_keras.export.export.run_onnx
    for wrong in (2e-5, np.nan):
        monkeypatch.setattr(
            ecg_keras.export.export, "run_onnx", lambda path, e=wrong: lambda x: run(path)(x) + e
        )
        with pytest.raises(ModelFileError, match="model.onnx was not written, since it would"):
            export_toys(tmp_path, toy_contract())
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    stale = tmp_path / "out" / "saved_model" / "stale"
    stale.mkdir(parents=True)
    export_toys(tmp_path, toy_contract(), formats=["saved_model"])
    assert not stale.exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["saved_model"]
    facts = json.loads((tmp_path / "out/saved_model/assets/contract.json").read_text())
    assert facts["class_names"] == ["calm", "fast", "slow"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--formats names none"):
        export_toys(tmp_path, toy_contract(), formats=[])
    with pytest.raises(RecordError, match="holds no recording"):
        (tmp_path / "empty").mkdir()
        export_toys(tmp_path, toy_contract(), records=tmp_path / "empty")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"onnx needs the package tf2onnx, .*ecg-keras\[export\]"):
        export_toys(tmp_path, toy_contract())


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    signal = keras.Input((10, 2), name="signal")
    erfinv = layers.Lambda(tf.math.erfinv, output_shape=(10, 2))(signal)
    network = keras.Model(signal, {"diagnosis": layers.Flatten()(erfinv)})
    with pytest.raises(ModelFileError, match=r"model\.onnx .* Erfinv"):
        write_onnx(tmp_path / "model.onnx", network, {})
    assert not (tmp_path / "model.onnx").exists()


def test_the_example_answers_as_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = toy_contract(
        single_label=False, thresholds=(0.01, 0.99, 0.01), leads=("V5", "II", "aVR")
    )
    export_toys(tmp_path, contract, out=tmp_path / "exported")
    write_wfdb(tmp_path, "my_recording", sine_leads(1500))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    runpy.run_path(str(Path(__file__).parents[1] / "docs" / "examples" / "run_exported.py"))
    answer = load_model(tmp_path / "toy_0.keras").predict_record(tmp_path / "my_recording.hea")
    assert len(answer.labels) == 2
    found = re.findall(r"^(\w+) +(\d\.\d+)( found)?$", capsys.readouterr().out, re.M)
    assert [(name, bool(is_found)) for name, _, is_found in found] == [
        (name, name in answer.labels) for name in answer.probabilities
    ]
    probabilities = [float(probability) for _, probability, _ in found]
    assert probabilities == pytest.approx(list(answer.probabilities.values()), abs=5e-4)


def test_recordings_to_compare_on_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        write_wfdb(tmp_path / "records", f"E{seed}", sine_leads(900, seed=seed))
    export_toys(tmp_path, toy_contract(), records=tmp_path / "records")
    assert "Toy for cpsc2018, 1 model, compared on 3 recordings." in capsys.readouterr().out
