"""What the release before wrote, and the names it used, still work."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("name", ["mlbf_net", "mrm_net"])
def test_model_files_of_9a32b3a_open(name: str) -> None:
    """Written by that commit, before the packages were laid out in four, with their answers."""
    model = ecg_keras.load_model(FILES / f"{name}.keras")
    contract = model.contract
    shape = (1, contract.input_length, len(contract.leads))
    signal = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    np.testing.assert_allclose(
        model.predict(signal), np.load(FILES / f"{name}.npy"), rtol=0, atol=1e-6
    )
