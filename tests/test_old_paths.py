"""What the release before wrote, and the names it used, still work."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import mlbf_numpy
import mrm_numpy
import numpy as np
import pytest
from whole_networks import require_answers, weights_of

import ecg_keras

FILES = Path(__file__).with_name("old_files")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data_prep.build", "data_prep.storing.build"),
        ("mlbf_keras.predict", "ecg_keras.prediction.command"),
        ("mrm_keras.predict", "ecg_keras.prediction.command"),
    ],
)
def test_old_names_point_to_the_new_ones(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"import {new} instead"):
        module = import_module(old)
    assert module.main is import_module(new).main


@pytest.mark.parametrize(
    ("name", "forward"), [("mlbf_net", mlbf_numpy.forward), ("mrm_net", mrm_numpy.forward)]
)
def test_model_files_of_9a32b3a_open(name: str, forward: Any) -> None:
    """Written by that commit, before the packages were laid out in four, with their answers."""
    model = ecg_keras.load_model(FILES / f"{name}.keras")
    contract, weights = model.contract, weights_of(model.network)
    assert (contract.mean, contract.std) == (0, 1)
    shape = (1, contract.input_length, len(contract.leads))
    signal = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    # The same weights, and the classes in the same order.
    answers = forward(signal.astype(np.float64), weights)["diagnosis"]
    np.testing.assert_allclose(answers, np.load(FILES / f"{name}.npy"), rtol=1e-6)
    # So loud that even these networks, which were never trained, tell the classes apart.
    loud = 10_000 * signal
    require_answers(model.network, loud, forward(loud.astype(np.float64), weights))
