"""Networks announce themselves; one function opens the files of all, and they answer together."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from toy import toy_contract

import ecg_keras
from data_prep.errors import ModelFileError, OptionError
from data_prep.labels import CPSC_CLASSES
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.export import command as export
from ecg_keras.model import networks
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import SignalContract
from ecg_keras.prediction import command as prediction
from mlbf_keras.model import NETWORKS, build_branchnet
from mrm_keras.baselines import BUILDERS
from mrm_keras.model import NETWORK, build_model

ROOT = Path(__file__).resolve().parents[1]


def small_mrm(**sizes: Any) -> Any:
    return build_model(**{"input_length": 64, "low_channels": 8, "high_channels": 16, **sizes})


def small_branchnet() -> Any:
    return build_branchnet(input_length=256, filters=2, gru_units=2)


def test_every_network_is_announced() -> None:
    """If this fails in a checkout that worked, install it again with pip install -e '.[dev]'."""
    assert set(networks.announced()) >= {*NETWORKS, NETWORK, *BUILDERS}


def test_one_function_opens_the_files_of_both_packages(tmp_path: Path) -> None:
    path = tmp_path / "best.keras"
    for model in (small_branchnet(), small_mrm(num_leads=3)):
        model.save(path)
        opened = ecg_keras.load_model(path)
        assert opened.contract == model.get_layer("contract").contract
    assert opened.contract.leads == ("I", "II", "III")


def test_layers_nobody_provides_are_named_with_the_cure(tmp_path: Path) -> None:
    class Odd(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    signal = keras.Input((100, 12), name="signal")
    x = Odd()(SignalContract(toy_contract(), name="contract")(signal))
    answer = keras.layers.Dense(3, name="diagnosis")(keras.layers.Flatten()(x))
    keras.Model(signal, {"diagnosis": answer}).save(tmp_path / "odd.keras")
    with pytest.raises(ModelFileError, match=r"odd\.keras holds the network Toy.* install"):
        ecg_keras.load_model(tmp_path / "odd.keras")


@pytest.mark.parametrize("imports", ["import ecg_keras, keras", "import keras, ecg_keras"])
def test_keras_opens_our_files(tmp_path: Path, imports: str) -> None:
    """Also beside a package whose networks cannot be imported."""
    small_mrm().save(tmp_path / "mrm.keras")
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(f"[{networks.GROUP}]\nBroken = broken_network\n")
    code = f"{imports}\nprint(keras.models.load_model('mrm.keras').name)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "mrm_net\n"
    assert "the networks of broken_network cannot be opened" in run.stderr


@pytest.fixture
def both(tmp_path: Path) -> dict[str, Any]:
    """A BranchNet and an MRM-Net for the same classes, and a recording: options of commands."""
    small_branchnet().save(tmp_path / "branchnet.keras")
    small_mrm().save(tmp_path / "mrm.keras")
    write_wfdb(tmp_path / "records", "A1", sine_leads(1500))
    return {"models": (str(tmp_path / "*.keras"),), "records": tmp_path / "records"}


def test_different_networks_answer_together(tmp_path: Path, both: dict[str, Any]) -> None:
    """Each prepares the recording by its own contract; the answer is one class, as BranchNet's."""
    prediction.main(**both, out=tmp_path / "out")
    found = load_predictions(tmp_path / "out" / "predictions.npz")
    assert found.network == "BranchNet + MRM-Net" and found.single_label
    for name, member in zip(("branchnet", "mrm"), found.members, strict=True):
        model = ecg_keras.load_model(tmp_path / f"{name}.keras")
        alone = model.predict_record(tmp_path / "records" / "A1.hea").probabilities
        np.testing.assert_allclose(member[0], list(alone.values()), rtol=1e-4)
    mean = found.members.mean(axis=0)
    np.testing.assert_allclose(found.probabilities, mean, rtol=1e-6)
    answers = (tmp_path / "out" / "answers.csv").read_text().splitlines()
    assert answers[1].startswith(f"A1,{CPSC_CLASSES[mean[0].argmax()]},")


def test_what_different_networks_cannot_do_together(tmp_path: Path, both: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="--explain .* BranchNet and MRM-Net"):
        prediction.main(**both, out=tmp_path / "out", explain=True)
    with pytest.raises(ModelFileError, match="different rate, length or leads"):
        export.main(**both, out=tmp_path / "out", formats=("onnx",))


def test_different_networks_share_an_exported_file(tmp_path: Path, both: dict[str, Any]) -> None:
    """If they take the same signals; the command compares the file with Keras itself."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "branchnet.keras").unlink()
    BUILDERS["fcn_wang"](num_classes=len(CPSC_CLASSES), input_length=64, num_leads=12).save(
        tmp_path / "fcn.keras"
    )
    export.main(**both, out=tmp_path / "out", formats=("onnx",))
    assert (tmp_path / "out" / "model.onnx").is_file()
