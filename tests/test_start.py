"""Trainings that start from the weights of another model."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import toy_signal, write_toy_store

import mlbf_keras.model
import mrm_keras.model
from data_prep.errors import ModelFileError, OptionError
from data_prep.store import StoreWriter
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model
from ecg_keras.model.origin import CHOSE, TRAINED, UNKNOWN, Origin
from ecg_keras.training.checkpoint import require_same_run
from ecg_keras.training.start import freeze_features, head_layers, start_from

CLASSES = ("calm", "fast", "slow")


def contract_of(network: str, **changes: Any) -> Contract:
    rate = 100.0 if network == "MRM-Net" else 250.0
    fields: dict[str, Any] = {
        "network": network,
        "task": "speed",
        "class_names": CLASSES,
        "sampling_rate": rate,
        "input_length": 256,
        "fit": "stretch" if rate == 100 else "pad",
        "single_label": rate == 250,
    }
    return Contract(**{**fields, **changes})


def mlbf_net(contract: Contract, width: int = 2, build: Any = mlbf_keras.model.build_model) -> Any:
    return build(
        input_length=contract.input_length,
        num_classes=len(contract.class_names),
        filters=width,
        gru_units=width,
        single_label=contract.single_label,
        contract=contract,
    )


branchnet = partial(mlbf_net, build=mlbf_keras.model.build_branchnet)


def mrm_net(contract: Contract, width: int = 4) -> Any:
    return mrm_keras.model.build_model(
        input_length=contract.input_length,
        num_classes=len(contract.class_names),
        low_channels=width,
        high_channels=2 * width,
        contract=contract,
    )


NETWORKS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "MLBF-Net": (mlbf_net, ("diagnosis", "lead_softmax")),
    "BranchNet": (branchnet, ("diagnosis",)),
    "MRM-Net": (mrm_net, ("low_head_linear", "high_head_linear")),
}


def as_model(network: Any, path: str = "from.keras") -> ECGModel:
    return ECGModel(network, network.get_layer("contract").contract, Path(path))


def answers(network: Any, length: int = 256) -> dict[str, np.ndarray]:
    signals = np.random.default_rng(5).normal(size=(3, length, 12)).astype(np.float32)
    return {name: np.asarray(answer) for name, answer in network(signals).items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_classes_give_equal_answers_before_training(name: str) -> None:
    build, heads = NETWORKS[name]
    source, network = build(contract_of(name)), build(contract_of(name))
    assert set(head_layers(network)) == set(heads)
    for variable in source.weights:  # also what the statistics of batch norm begin with
        variable.assign(variable + 0.1)
    before, expected = answers(network), answers(source)
    start = start_from(network, as_model(source))
    assert start.new == () and set(heads) < set(start.taken)
    for head, answer in answers(network).items():
        np.testing.assert_array_equal(answer, expected[head])
        assert np.abs(answer - before[head]).max() > 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_other_classes_begin_anew_and_the_length_may_differ(name: str) -> None:
    build, heads = NETWORKS[name]
    source = build(contract_of(name))
    for classes in (("calm", "slow", "fast"), ("calm", "fast")):
        network = build(contract_of(name, class_names=classes, input_length=512))
        was = {head: network.get_layer(head).get_weights() for head in heads}
        start = start_from(network, as_model(source))
        assert set(start.new) == set(heads)
        for layer in network.layers:
            given = was.get(layer.name) or source.get_layer(layer.name).get_weights()
            for ours, theirs in zip(layer.get_weights(), given, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_started_from() -> None:
    small = mlbf_net(contract_of("MLBF-Net"))
    with pytest.raises(OptionError, match=r"from\.keras holds BranchNet and cannot start MLBF-Net"):
        start_from(small, as_model(branchnet(contract_of("BranchNet"))))
    wide = mlbf_net(contract_of("MLBF-Net"), width=3)
    with pytest.raises(OptionError, match=r"no layer of from\.keras has the shape"):
        start_from(wide, as_model(small))


def test_frozen_features_need_weights() -> None:
    contract = contract_of("MRM-Net")
    network = mrm_net(contract)
    source = mrm_keras.model.build_model(
        input_length=256, num_classes=3, low_channels=4, high_channels=8, fusion="low",
        contract=contract,
    )  # fmt: skip
    start = start_from(network, as_model(source))
    with pytest.raises(OptionError, match="would keep high_multi_scale, "):
        freeze_features(network, start)


def four_class_store(path: Path) -> Path:
    """Twenty records of two seconds at 100 Hz, of four classes."""
    with StoreWriter(
        path, dataset="own", fs=100, class_names={"four": ("a", "b", "c", "d")}
    ) as writer:
        for i in range(20):
            signal = toy_signal(200, i % 4, seed=i)
            writer.append(f"F{i}", signal, labels={"four": [i % 4]}, fold=i % 10 + 1)
    return path


@pytest.mark.slow
def test_a_training_that_starts_from_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also through a second store: the file then names the records of both."""
    from mrm_keras.train import main

    small: dict[str, Any] = {"epochs": 1, "input_length": 256, "low_channels": 4}
    small |= {"high_channels": 8, "batch_size": 8}
    first = write_toy_store(tmp_path / "first.h5", lengths=(200,) * 20, fs=100)
    main(store=first, out=tmp_path / "first", **small)
    init = str(tmp_path / "first" / "fold_9" / "best.keras")
    source = load_model(init)
    capsys.readouterr()

    second = four_class_store(tmp_path / "second.h5")
    main(store=second, out=tmp_path / "second", init=init, freeze="features", **small)
    printed = capsys.readouterr().out
    assert f"layers take and keep the weights of {init}" in printed
    assert "new: low_head_linear, high_head_linear." in printed
    model = load_model(tmp_path / "second" / "fold_9" / "best.keras")
    assert model.contract.class_names == ("a", "b", "c", "d")
    assert (model.contract.mean, model.contract.std) == (source.contract.mean, source.contract.std)
    for layer in model.network.layers:
        if layer.name not in ("low_head_linear", "high_head_linear"):
            kept = source.network.get_layer(layer.name).get_weights()
            for ours, theirs in zip(layer.get_weights(), kept, strict=True):
                np.testing.assert_array_equal(ours, theirs)

    assert model.origin is not None and source.origin is not None
    assert model.origin.before == source.origin
    seen = model.seen(["R000", "R008", "F0", "F8", "new"], "own")
    assert seen.tolist() == [TRAINED, CHOSE, TRAINED, CHOSE, 0]
    assert model.seen(["R000", "F0"], "cpsc2018").tolist() == [TRAINED, TRAINED]
    assert model.facts.trained == 16 + 16
    assert model.facts.dataset == "cpsc2018 and own"
    kept = load_predictions(tmp_path / "second" / "fold_9" / "validation.npz")
    assert kept.class_names == ("a", "b", "c", "d")

    with pytest.raises(ModelFileError, match="absent.keras does not exist"):
        main(store=first, out=tmp_path / "third", init="absent.keras", **small)
    with pytest.raises(OptionError, match="--freeze features would leave random weights"):
        main(store=first, out=tmp_path / "third", freeze="features", **small)


def test_a_training_is_continued_from_the_model_that_it_began_with() -> None:
    """Its mean, its standard deviation and its origin are not in the checkpoint."""
    settings = {"schedule": "constant", "init": "pre.keras"}
    run = {"options": {}, "settings": settings, "records": "1", "init": "a"}
    require_same_run(run, run, Path("run"))
    require_same_run({**run, "init": None}, {**run, "init": None}, Path("run"))
    with pytest.raises(OptionError, match=r"run was started from pre\.keras, which has changed"):
        require_same_run(run, {**run, "init": "b"}, Path("run"))
    # Earlier releases did not write it.
    require_same_run({**run, "init": "b"}, {k: v for k, v in run.items() if k != "init"}, Path("r"))


def test_origins_of_origins() -> None:
    store = {"source": ["p"], "generated": "all"}
    first = Origin("ptb-xl", ("1", "2"), ("3",), store, score=0.5)
    second = Origin("cpsc2018", ("1", "A"), ("B",), {"source": ["c"]}, score=0.5, before=first)
    assert Origin.from_config(second.to_config()) == second
    assert second.seen(["1", "3", "A", "B", "C"]).tolist() == [2, 1, 2, 1, 0]
    assert second.seen(["1", "3", "A"], "ptb-xl").tolist() == [2, 1, 0]
    assert second.seen(["1", "3", "A"], "cpsc2018").tolist() == [2, 0, 2]
    assert second.seen(["2", "3", "A"], "own").tolist() == [2, 1, 2]
    facts = second.facts()
    # Two records of one name in two data sets are two.
    assert (facts.trained, facts.dataset) == (4, "ptb-xl and cpsc2018")
    assert (facts.sources, facts.generated) == (("p", "c"), "some")
    same = replace(second, dataset="ptb-xl", store=first.store)
    assert (same.facts().trained, same.facts().generated) == (3, "all")


def test_a_model_from_one_that_names_no_records_has_perhaps_seen_all() -> None:
    origin = Origin("ptb-xl", ("1",), ("2",), score=0.5, before=Origin.unknown())
    assert Origin.from_config(origin.to_config()) == origin
    assert origin.seen(["1", "2", "3"]).tolist() == [TRAINED, CHOSE, UNKNOWN]
    third = replace(origin, trained=("4",), before=origin)
    assert third.seen(["1", "3", "4"]).tolist() == [TRAINED, UNKNOWN, TRAINED]
    assert origin.facts().dataset == "unknown records and ptb-xl"
    assert "known" not in Origin("ptb-xl", (), ()).to_config()
