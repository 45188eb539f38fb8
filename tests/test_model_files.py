import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from test_contract import ALTERED
from toy import CLASSES, toy_answers, toy_contract, toy_model

from data_prep.errors import ModelFileError, OptionError, RecordError
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.records import read_record
from data_prep.signals import prepare
from ecg_keras.model import model_files
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import load_model, prepare_record, save_model, set_thresholds

STANDARDISED = {"mean": 0.01, "std": 0.25}


def saved(path: Path, **changes: Any) -> Path:
    toy_model(toy_contract(**changes)).save(path)
    return path


def opened(path: Path) -> Any:
    return load_model(path, networks=("Toy",))


def with_config(source: Path, change: Callable[[Any], Any], path: Path) -> Path:
    """Copy a model file and change its config.json."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = json.dumps(change(json.loads(content))).encode()
            new.writestr(name, content)
    return path


def contract_of(config: Any) -> Any:
    layers = config["config"]["layers"]
    return next(x for x in layers if x["class_name"] == "SignalContract")["config"]["contract"]


def test_a_file_gives_back_network_and_contract(tmp_path: Path) -> None:
    contract = toy_contract(**STANDARDISED, thresholds=(0.125, 0.25, 0.75))
    model = toy_model(contract)
    model.save(tmp_path / "toy.keras")
    again = opened(tmp_path / "toy.keras")
    assert again.contract == contract
    assert again.path == tmp_path / "toy.keras"
    signals = np.random.default_rng(0).normal(0, 0.5, (5, 100, 12)).astype(np.float32)
    answers = again.predict(signals, batch_size=2)
    assert answers.shape == (5, 3) and answers.dtype == np.float32
    np.testing.assert_allclose(answers, toy_answers(model, signals), rtol=1e-5)
    assert opened(str(tmp_path / "toy.keras")).contract == contract  # type: ignore[arg-type]


def test_thresholds_set_after_training_are_saved(tmp_path: Path) -> None:
    model = toy_model(toy_contract())
    set_thresholds(model, np.array([0.25, 0.5, 0.875], np.float32))
    model.save(tmp_path / "toy.keras")
    contract = opened(tmp_path / "toy.keras").contract
    assert contract == toy_contract(thresholds=(0.25, 0.5, 0.875))


@pytest.mark.parametrize("shape", [(100, 12), (1, 99, 12), (1, 100, 11), (1, 12, 100)])
def test_signals_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = opened(saved(tmp_path / "toy.keras"))
    with pytest.raises(
        ModelFileError, match=r"toy.keras takes signals of shape \(records, 100, 12"
    ):
        model.predict(np.zeros(shape, np.float32))


# --- One recording ---------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [500, 50, 257])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_recording_of_any_rate_and_lead_order(tmp_path: Path, fs: int, fit: str) -> None:
    signal = sine_leads(3 * fs // 2, fs=fs, seed=1)
    order = np.random.default_rng(0).permutation(12)
    leads = [LEADS[i].upper() for i in order]
    header = write_wfdb(tmp_path, "E1", signal[:, order], fs=fs, leads=leads)
    model = opened(saved(tmp_path / "toy.keras", fit=fit, **STANDARDISED))
    answer = model.predict_record(header)
    ready = prepare(signal, fs=fs, target_fs=50, length=100, fit=fit)  # type: ignore[arg-type]
    expected = toy_answers(model.network, ready[None])[0]
    assert answer.record == "E1"
    assert list(answer.probabilities) == list(CLASSES)
    np.testing.assert_allclose(list(answer.probabilities.values()), expected, rtol=1e-4)
    assert answer.labels == (CLASSES[int(expected.argmax())],)
    for same in (str(header), read_record(header)):
        assert model.predict_record(same) == answer


def test_leads_come_in_the_order_of_the_contract(tmp_path: Path) -> None:
    record = read_record(write_wfdb(tmp_path, "E1", sine_leads(1000)))
    standard, chosen = (
        prepare_record(record, toy_contract(leads=leads)) for leads in (LEADS, ("V6", "aVR", "I"))
    )
    assert chosen.shape == (100, 3)
    np.testing.assert_array_equal(chosen, standard[:, [11, 3, 0]])
    with pytest.raises(OptionError, match="lead named 'lead 1'"):
        prepare_record(record, toy_contract(leads=("lead 1",)))


def test_every_class_from_its_threshold_on_is_an_answer(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path, "E1", sine_leads(1000))
    plain = opened(saved(tmp_path / "a.keras", single_label=False))
    found = np.array(list(plain.predict_record(header).probabilities.values()), np.float32)
    # One class just under its threshold, one exactly at it, one above.
    thresholds = (float(np.nextafter(found[0], np.float32(1))), float(found[1]), 0.001)
    model = opened(saved(tmp_path / "b.keras", single_label=False, thresholds=thresholds))
    assert model.predict_record(header).labels == CLASSES[1:]
    never = {"single_label": False, "thresholds": (1.0,) * 3}
    model = opened(saved(tmp_path / "c.keras", task="rhythm", **never))
    assert model.predict_record(header).labels == ()
    # Every recording of CPSC 2018 has a class, and its answers.csv one number for each.
    model = opened(saved(tmp_path / "d.keras", task="cpsc2018", **never))
    assert model.predict_record(header).labels == (CLASSES[int(found.argmax())],)


def test_an_invalid_recording_is_named(tmp_path: Path) -> None:
    signal = sine_leads(1000)
    signal[:400, 7] = np.nan
    header = write_wfdb(tmp_path, "E1", signal)
    model = opened(saved(tmp_path / "toy.keras"))
    with pytest.raises(RecordError, match="E1.hea: 40% of lead V2 is invalid"):
        model.predict_record(header)
    with pytest.raises(RecordError, match="E2"):
        model.predict_record(tmp_path / "E2.hea")


# --- Files that cannot be used ---------------------------------------------------------------


def refusal(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(ModelFileError) as error:
        opened(path)
    sentence = str(error.value)
    assert str(path) in sentence and sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_what_is_no_model_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.keras")
    (tmp_path / "fold_2").mkdir()
    (tmp_path / "fold_2" / "best.keras").touch()
    named = f"is a folder; name a .keras file in it, such as {tmp_path / 'fold_2' / 'best.keras'}."
    assert named in refusal(tmp_path)
    for name, content in {"empty": b"", "text": b"Recording\nA0001\n", "zip": b"PK\3\4"}.items():
        (tmp_path / f"{name}.keras").write_bytes(content)
        assert "is not a Keras model file" in refusal(tmp_path / f"{name}.keras")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is not a Keras model file" in refusal(tmp_path / "other.keras")


@pytest.mark.parametrize("config", [[], {}, {"config": 3}, {"config": {"layers": None}}, "x"])
def test_a_strange_configuration(tmp_path: Path, config: Any) -> None:
    source = saved(tmp_path / "toy.keras")
    assert "Keras model" in refusal(with_config(source, lambda _: config, tmp_path / "x.keras"))


def test_a_keras_model_without_contract(tmp_path: Path) -> None:
    path = tmp_path / "plain.keras"
    model = keras.Sequential(
        [keras.Input((100, 12)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.save(path)
    assert "is a Keras model but carries no contract" in refusal(path)


def test_a_file_of_another_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.keras", network="Other-Net")
    assert "holds Other-Net and not Toy; open it with the package that" in refusal(path)
    with pytest.raises(ModelFileError, match="holds Other-Net and not A or B"):
        load_model(path, networks=("A", "B"))


def altered(source: Path, changes: dict[str, Any], *, digest: bool = False) -> Path:
    """Copy a model file with another contract, as of an earlier release without digest."""

    def change(config: Any) -> Any:
        contract_of(config).update(changes)
        if not digest:
            layers = config["config"]["layers"]
            del next(x for x in layers if x["class_name"] == "SignalContract")["config"]["digest"]
        return config

    return with_config(source, change, source.with_name("altered.keras"))


def test_altered_contracts_are_refused_in_one_sentence(tmp_path: Path) -> None:
    source = saved(tmp_path / "toy.keras")
    changes: list[dict[str, Any]] = [
        {name: value} for name, values in ALTERED.items() for value in values
    ]
    changes += [{"colour": "red"}, {"class_names": list(CPSC_CLASSES[::-1])}]
    for each in changes:
        assert "carries a contract that this release cannot read" in refusal(altered(source, each))
    of_another: list[dict[str, Any]] = [
        {"input_length": 99},
        {"leads": list(LEADS[:11])},
        {"class_names": ["a", "b"], "thresholds": []},
        {"class_names": ["a", "b", "c", "d"], "thresholds": []},
    ]
    for each in of_another:
        assert "under a contract of" in refusal(altered(source, each))
    swapped = {"leads": ["II", "I", *LEADS[2:]]}
    assert "was changed after the model was saved" in refusal(altered(source, swapped, digest=True))
    assert opened(altered(source, {})).contract == toy_contract()  # written before digests


def test_what_was_saved_is_what_is_opened(tmp_path: Path) -> None:
    """Also other weights under the same contract are noticed."""
    whole = tmp_path / "toy.keras"
    save_model(toy_model(toy_contract(), seed=1), whole)
    assert opened(whole).contract == toy_contract()
    assert keras.saving.load_model(whole).name == "toy"
    other = saved(tmp_path / "other.keras")
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(other) as weights:
        with zipfile.ZipFile(tmp_path / "mixed.keras", "w") as mixed:
            for name in archive.namelist():
                source = weights if name == "model.weights.h5" else archive
                mixed.writestr(name, source.read(name))
    assert "was changed after it was saved" in refusal(tmp_path / "mixed.keras")


def test_archives_of_odd_kinds(tmp_path: Path) -> None:
    source = saved(tmp_path / "toy.keras")
    path = tmp_path / "odd.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
    assert "is not a Keras model file" in refusal(path)
    for kind, offset in (("encrypted", 8), ("unknown method", 10)):
        with zipfile.ZipFile(source) as archive:
            start = archive.start_dir
        content = bytearray(source.read_bytes())
        content[start + offset] = 1 if kind == "encrypted" else 99  # of metadata.json
        for entry in (i for i in range(start, len(content)) if content[i : i + 4] == b"PK\1\2"):
            content[entry + offset] = 1 if kind == "encrypted" else 99
        path.write_bytes(content)
        assert "is not a Keras model file" in refusal(path), kind
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("config.json", json.dumps(list(range(10_000))))
    content = bytearray(path.read_bytes())
    content[60:100] = bytes(40)
    path.write_bytes(content)
    assert "is not a Keras model file" in refusal(path)


@pytest.mark.parametrize("name", ["digest.txt", "assets/more", "model.weights.h5"])
def test_files_that_unpack_to_more_than_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(model_files, "_MOST_UNPACKED", 10**6)
    source, path = saved(tmp_path / "toy.keras"), tmp_path / "bomb.keras"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in {*old.namelist(), name}:
            new.writestr(member, bytes(2 * 10**6) if member == name else old.read(member))
    assert "is not a Keras model file" in refusal(path)


def test_layers_that_nobody_knows(tmp_path: Path) -> None:
    def change(config: Any) -> Any:
        config["config"]["layers"][-1].update(
            module=None, class_name="Gone", registered_name="Gone"
        )
        return config

    path = with_config(saved(tmp_path / "toy.keras"), change, tmp_path / "x.keras")
    assert "holds the network Toy, whose layers no installed package provides" in refusal(path)


def test_damage_is_noticed_or_does_not_matter(tmp_path: Path) -> None:
    """Cut and flipped files: never another exception, never other weights."""
    path = saved(tmp_path / "toy.keras")
    whole, before = path.read_bytes(), opened(path)
    rng = random.Random(0)
    damaged = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            model = opened(path)
        except ModelFileError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert model.contract == before.contract
        pairs = zip(model.network.get_weights(), before.network.get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert refused > 60
