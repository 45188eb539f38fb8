import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from toy import CLASSES, compiled_toy, toy_contract

from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES, LEADS
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import SignalContract

NAN, INF = float("nan"), float("inf")
ALTERED: dict[str, tuple[Any, ...]] = {
    "network": (None, "", 3, ["MLBF-Net"]),
    "task": (None, "", 3),
    "class_names": (None, (), 3, "calm", ("calm", "calm", "slow"), ("calm", "", "slow"), (1, 2, 3)),
    "sampling_rate": (0, -100, NAN, INF, 1e9, 0.5, None, "50", True, (50.0,)),
    "input_length": (0, -1, 10**12, 99.5, NAN, None, "100", True),
    "fit": (None, "", "crop", 3, ("pad",)),
    "single_label": (None, "false", "", 0, 1, 1.0),
    "leads": (None, (), "I", 12, ("I", "I"), ("I", 2), ("I", "")),
    "mean": (NAN, INF, -INF, 1e9, None, "0", True),
    "std": (0, -1, NAN, INF, 1e-9, 1e9, None, "1", True),
    "thresholds": (None, 0.5, (0.5,), (0.5,) * 4, (0.5, NAN, 0.5), (0.5, -0.1, 0.5), (2, 0.5, 0.5)),
}
"""Values of each field that no contract can have; those of JSON also stand in model files."""


def test_thresholds_are_a_half_until_they_are_found() -> None:
    assert toy_contract().thresholds == (0.5, 0.5, 0.5)
    assert toy_contract(thresholds=(0.1, 0.2, 0.3)).thresholds == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"std": 0.0}, "must be above 0 mV.*, not 0.0"),
        (
            {"class_names": ("AF", *CPSC_CLASSES[2:], "Normal")},
            "classes of cpsc2018 are Normal",
        ),
        ({"class_names": CPSC_CLASSES[:8]}, "classes of cpsc2018 are Normal"),
        (
            {"task": "superdiagnostic", "class_names": ("MI", "NORM", "STTC", "CD", "HYP")},
            "classes of superdiagnostic are NORM, MI",
        ),
        ({"class_names": ("calm", "fast", "\x1b[31mslow")}, "class name .* control"),
        ({"class_names": ("calm", "fast", "Fast")}, "looks like the class 'fast'"),
        ({"class_names": ("calm", "fast", "found")}, "a column in answers.csv"),
        ({"class_names": ("calm", "fast", "a" * 101)}, "1 to 100 characters"),
        ({"task": "a\nwarning: none"}, "task name .* line breaks"),
        ({"network": "MLBF-Net\x07"}, "network name .* control"),
        ({"leads": ("I", "\u202eII")}, "lead name .* control"),
        *(
            ({name: value}, f"{name} in a contract must be")
            for name, values in ALTERED.items()
            for value in values
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence) as error:
        toy_contract(**changes)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_numbers_of_numpy_become_plain() -> None:
    contract = toy_contract(
        sampling_rate=np.float32(50), thresholds=tuple(np.full(3, 0.5, np.float32))
    )
    assert type(contract.sampling_rate) is float and type(contract.thresholds[0]) is float
    assert json.loads(json.dumps(asdict(contract)))["input_length"] == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling_rate": 51.0},
        {"input_length": 101},
        {"fit": "stretch"},
        {"leads": LEADS[::-1]},
    ],
)
def test_the_input_form_tells_what_needs_another_preparation(changes: dict[str, Any]) -> None:
    assert toy_contract(**changes).input_form != toy_contract().input_form
    other_answers = {"class_names": CLASSES[::-1], "thresholds": (0.1,) * 3, "mean": 1.0}
    assert toy_contract(**other_answers).input_form == toy_contract().input_form


def test_leads_are_put_in_the_networks_order() -> None:
    signal = np.arange(24.0).reshape(2, 12)
    assert toy_contract().in_lead_order(signal) is signal
    chosen = toy_contract(leads=("V6", "I", "aVR")).in_lead_order(signal)
    assert chosen.tolist() == [[11, 0, 3], [23, 12, 15]]
    with pytest.raises(OptionError, match="a lead named 'X', which no recording has"):
        toy_contract(leads=("I", "X")).in_lead_order(signal)


def test_signal_contract_basics() -> None:
    contract = toy_contract(mean=0.25, std=0.5, thresholds=(0.25, 0.5, 0.125))
    layer = SignalContract(contract, name="contract")
    assert layer.compute_output_shape((None, 100, 12)) == (None, 100, 12)
    # As a .keras file holds it: through JSON, which knows no tuples.
    config = json.loads(json.dumps(layer.get_config()))
    again = SignalContract.from_config(config)
    assert (again.contract, again.name) == (contract, "contract")
    assert isinstance(again.contract.class_names, tuple)
    assert again.get_config() == layer.get_config()
    config["contract"]["leads"][:2] = config["contract"]["leads"][1::-1]
    with pytest.raises(TypeError, match="was changed after"):  # Keras makes one of it
        SignalContract.from_config(config)
    del config["digest"]  # as in files of earlier releases
    assert SignalContract.from_config(config).contract.leads[:2] == ("II", "I")
    by_keras = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert by_keras.contract == contract
    assert layer.weights == [] and asdict(contract)["std"] == 0.5
    model = compiled_toy(contract)
    before = model.get_weights()
    signal = np.random.default_rng(0).normal(size=(3, 100, 12)).astype(np.float32)
    model.fit(signal, {"diagnosis": np.eye(3)}, verbose=0)
    assert model.get_layer("contract").contract == contract
    for weights, were in zip(model.get_weights(), before, strict=True):
        assert not np.array_equal(weights, were)


def test_signal_contract_correctness() -> None:
    signal = np.random.default_rng(0).normal(0.1, 0.4, (2, 5, 12)).astype(np.float32)
    layer = SignalContract(toy_contract(mean=0.25, std=0.5))
    np.testing.assert_allclose(layer(signal), (signal - 0.25) / 0.5, rtol=1e-6)
    np.testing.assert_array_equal(SignalContract(toy_contract())(signal), signal)


def test_millivolts_stay_float32_in_mixed_precision() -> None:
    layer = SignalContract(toy_contract(mean=3.0, std=0.001), dtype=None)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = SignalContract(toy_contract(mean=3.0, std=0.001))
    finally:
        keras.config.set_dtype_policy("float32")
    signal = np.full((1, 4, 12), 3.001, np.float32)
    assert keras.backend.standardize_dtype(mixed(signal).dtype) == "float32"
    # Half precision knows no number between 3 and 3.0156.
    np.testing.assert_array_equal(mixed(signal), layer(signal))
    np.testing.assert_allclose(mixed(signal), 1.0, rtol=1e-3)


def test_a_clone_keeps_the_contract() -> None:
    contract = toy_contract(mean=0.5)
    signal = keras.Input((100, 12), name="signal")
    model = keras.Model(signal, SignalContract(contract, name="contract")(signal))
    clone = keras.models.clone_model(model)
    assert clone.get_layer("contract").contract == contract
    assert replace(contract, mean=0.0) != clone.get_layer("contract").contract
