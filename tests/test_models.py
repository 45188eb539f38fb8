"""What both networks' packages promise alike: who knows one knows the other."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from test_commands import run_python

from data_prep.errors import ModelFileError, OptionError
from data_prep.labels import LEADS
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, set_thresholds

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")

PACKAGES = ("mlbf_keras", "mrm_keras")
CLASSES = ("calm", "fast", "slow", "odd")
OF_MRM_KERAS = (
    "MRM-Net or fcn_wang or resnet1d_wang or xresnet1d101 or ECG_BNN or MobileNetV3 or"
    " InceptionTime or MVMSNet or fcn_wang_benchmark or resnet1d_wang_benchmark or"
    " xresnet1d101_benchmark"
)


@dataclass(frozen=True)
class Network:
    """A package with a small network of it, and that network's file."""

    package: ModuleType
    contract: Contract
    sizes: dict[str, Any]
    model: Any
    signals: np.ndarray
    answers: dict[str, np.ndarray]
    path: Path


def sizes_of(package: str) -> dict[str, Any]:
    if package == "mlbf_keras":
        return {"input_length": 100, "filters": 2, "gru_units": 2}
    return {"input_length": 80, "low_channels": 4, "high_channels": 8}


def contract_of(package: str) -> Contract:
    mlbf = package == "mlbf_keras"
    return Contract(
        network="MLBF-Net" if mlbf else "MRM-Net",
        task="rhythm",
        class_names=CLASSES,
        sampling_rate=250.0 if mlbf else 100.0,
        input_length=sizes_of(package)["input_length"],
        fit="pad" if mlbf else "stretch",
        single_label=mlbf,
        mean=0.03125,
        std=0.25,
        thresholds=(0.5, 0.125, 0.25, 0.875),
    )


@pytest.fixture(scope="module", params=PACKAGES)
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    package, contract = import_module(request.param), contract_of(request.param)
    sizes = sizes_of(request.param)
    keras.utils.set_random_seed(3)
    model = package.build_model(num_classes=4, contract=contract, **sizes)
    # Fresh biases and batch norms are zeros and ones, which hide weights that are not loaded.
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0.01, 0.1, w.shape) for w in model.get_weights()])
    shape = (5, contract.input_length, 12)
    signals = rng.normal(0, 0.3, shape).astype(np.float32)
    path = tmp_path_factory.mktemp(request.param) / "best.keras"
    model.save(path)
    heads = model(signals, training=False)
    answers = {head: np.asarray(answer) for head, answer in heads.items()}
    yield Network(package, contract, sizes, model, signals, answers, path)
    keras.backend.clear_session()


# --- The mirror --------------------------------------------------------------------------------


def test_both_packages_have_the_same_files() -> None:
    files = []
    for package in PACKAGES:
        folder = Path(import_module(package).__file__ or "").parent
        files.append({path.name for path in folder.iterdir() if path.is_file()})
    required = {"__init__.py", "layers.py", "model.py", "train.py", "explain.py", "py.typed"}
    assert required <= files[0] and required <= files[1]


def test_both_packages_have_the_same_public_names() -> None:
    for package in map(import_module, PACKAGES):
        assert sorted(package.__all__) == ["build_model", "compile_model", "load_model"]
        for name in package.__all__:
            assert getattr(package, name) is getattr(
                import_module(f"{package.__name__}.model"), name
            )
        with pytest.raises(AttributeError, match="has no attribute 'build'"):
            package.build  # noqa: B018


def test_both_networks_are_asked_for_alike() -> None:
    shared = {"input_length", "num_leads", "num_classes", "dropout", "contract"}
    for package in map(import_module, PACKAGES):
        build = inspect.signature(package.build_model).parameters
        assert shared <= set(build)
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in build.values())
        assert {"learning_rate", "jit_compile"} <= set(
            inspect.signature(package.compile_model).parameters
        )
        assert list(inspect.signature(package.load_model).parameters) == ["path"]


def test_both_train_commands_share_their_options() -> None:
    ours, theirs = (
        inspect.signature(import_module(f"{package}.train").main).parameters for package in PACKAGES
    )
    shared = [name for name in ours if name in theirs]
    assert shared == [
        *("store", "out", "task", "resume", "folds", "test_fold", "input_length", "dropout"),
        *("epochs", "batch_size", "learning_rate", "schedule", "patience", "monitor", "seed"),
        *("deterministic", "precision", "jit_compile", "tensorboard", "init", "freeze"),
    ]
    # The papers' protocols differ in these only.
    differing = {name for name in shared if ours[name].default != theirs[name].default}
    assert differing == {"folds", "test_fold", "input_length", "epochs"}
    assert (ours["learning_rate"].default, ours["batch_size"].default) == (1e-3, 64)
    assert ours["patience"].default == 50


# --- Answers -----------------------------------------------------------------------------------


def test_the_answers_are_a_dict_that_begins_with_the_diagnosis(network: Network) -> None:
    heads = list(network.model.output)
    assert list(network.answers) == heads and heads[0] == "diagnosis"
    if network.package.__name__ == "mlbf_keras":
        assert heads[1:] == [f"lead_{lead}" for lead in LEADS]
    else:
        assert heads[1:] == ["low", "high"]
    assert network.model.input.name == "signal"
    for head in heads:
        assert network.answers[head].shape == (5, 4)
        assert network.answers[head].dtype == np.float32
        assert ((network.answers[head] > 0) & (network.answers[head] < 1)).all()
        if network.contract.single_label:
            np.testing.assert_allclose(network.answers[head].sum(axis=1), 1, atol=1e-6)
    if not network.contract.single_label:
        both = (network.answers["low"] + network.answers["high"]) / 2
        np.testing.assert_allclose(network.answers["diagnosis"], both, rtol=1e-6)
    assert np.ptp(network.answers["diagnosis"], axis=0).max() > 1e-4  # the signal matters


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_answers_stay_float32_in_mixed_precision(package: str, precision: str) -> None:
    keras.config.set_dtype_policy(precision)
    try:
        model = import_module(package).build_model(**sizes_of(package))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {head.dtype for head in model.output.values()} == {"float32"}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


def test_a_contract_that_contradicts_the_network_is_refused(network: Network) -> None:
    for changes in ({"num_classes": 9}, {"num_classes": 4, "num_leads": 8}):
        with pytest.raises(OptionError, match="the contract promises 4 classes, .* 12 leads"):
            network.package.build_model(contract=network.contract, **network.sizes, **changes)


# --- Files -------------------------------------------------------------------------------------


def test_a_file_carries_everything(network: Network) -> None:
    model = network.package.load_model(network.path)
    assert isinstance(model, ECGModel)
    assert model.contract == network.contract
    assert model.path == network.path
    pairs = zip(model.network.get_weights(), network.model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_thresholds_reach_the_file(network: Network, tmp_path: Path) -> None:
    set_thresholds(network.model, np.array([0.125, 0.25, 0.375, 0.5]))
    network.model.save(tmp_path / "best.keras")
    set_thresholds(network.model, np.array(network.contract.thresholds))
    contract = network.package.load_model(tmp_path / "best.keras").contract
    assert contract.thresholds == (0.125, 0.25, 0.375, 0.5)


FRESH = """
import sys, warnings
from importlib import import_module
import keras, numpy as np
package, path, folder = sys.argv[1:]
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)  # some network cannot be registered
    import_module(package + ".layers")
model = import_module(package).load_model(path)
np.save(folder + "/answers.npy", model.predict(np.load(folder + "/signals.npy")))
answer = model.predict_record(folder + "/E1.hea")
print(repr(model.contract))
print(answer.record, *answer.labels)
"""


def test_a_fresh_process_gives_the_same_answers(network: Network, tmp_path: Path) -> None:
    np.save(tmp_path / "signals.npy", network.signals)
    write_wfdb(tmp_path, "E1", sine_leads(2000))
    arguments = (network.package.__name__, str(network.path), str(tmp_path))
    run = run_python("-c", FRESH, *arguments)
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), network.answers["diagnosis"])
    contract, answer = run.stdout.splitlines()
    assert contract == repr(network.contract)
    assert answer.split()[0] == "E1" and set(answer.split()[1:]) <= set(CLASSES)


def refusal(package: ModuleType, path: Path) -> str:
    with pytest.raises(ModelFileError) as error:
        package.load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_the_other_packages_file_is_refused(network: Network) -> None:
    (other,) = (import_module(p) for p in PACKAGES if p != network.package.__name__)
    wanted = "MLBF-Net or BranchNet" if other.__name__ == "mlbf_keras" else OF_MRM_KERAS
    assert refusal(other, network.path) == (
        f"{network.path} holds {network.contract.network} and not {wanted}; open it with the"
        " package that trained it."
    )


def test_files_that_are_no_model_of_ours(network: Network, tmp_path: Path) -> None:
    assert "does not exist" in refusal(network.package, tmp_path / "absent.keras")
    cut = tmp_path / "cut.keras"
    cut.write_bytes(network.path.read_bytes()[:-2000])
    assert "is not a Keras model file" in refusal(network.package, cut)
    flipped = bytearray(network.path.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    cut.write_bytes(flipped)
    assert "is broken" in refusal(network.package, cut)
    signal = keras.Input((100, 12))
    plain = keras.Model(signal, keras.layers.GlobalAveragePooling1D()(signal))
    plain.save(tmp_path / "plain.keras")
    assert "carries no contract" in refusal(network.package, tmp_path / "plain.keras")
