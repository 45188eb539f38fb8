"""What a model file says of the records that trained and chose it."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_model_files import with_config
from toy import toy_contract, toy_model

from data_prep.errors import ModelFileError
from ecg_keras.model.model_files import load_model, save_model, set_origin
from ecg_keras.model.origin import (
    CHOSE,
    TRAINED,
    UNKNOWN,
    UNSEEN,
    ModelFacts,
    Origin,
    _packed,
    facts_rows,
    generated_notice,
    overlap,
    seen_by_any,
)

ORIGIN = Origin(
    dataset="ptb-xl",
    trained=("00002_lr", "00001_lr"),
    chose=("00003_lr",),
    store={"package": "ecg-keras 0.1.0", "source": ["ptb-xl"]},
    version="0.1.0",
    commit="abc1234",
    date="2026-11-24T10:00:00+00:00",
    epoch=7,
    monitor="val_macro_auc",
    score=0.9344,
)


def test_what_was_seen_goes_by_name_and_data_set() -> None:
    names = ["00003_lr", "00004_lr", "00001_lr"]
    known = [CHOSE, UNSEEN, TRAINED]
    assert ORIGIN.seen(names, "ptb-xl").tolist() == known
    assert ORIGIN.seen(names, "cpsc2018").tolist() == [UNSEEN] * 3
    assert ORIGIN.seen(names).tolist() == known
    assert ORIGIN.seen([]).shape == (0,)
    # The same recordings at 500 Hz.
    names = ["00003_hr", "00004_hr", "00001_hr", "00001"]
    assert ORIGIN.seen(names, "ptb-xl").tolist() == [*known, UNSEEN]


def test_the_most_that_a_member_has_seen() -> None:
    codes = [[UNSEEN, UNSEEN, UNSEEN, UNKNOWN, UNKNOWN], [UNSEEN, CHOSE, UNKNOWN, UNKNOWN, TRAINED]]
    joined = seen_by_any([np.array(row, np.int8) for row in codes])
    assert joined.tolist() == [UNSEEN, CHOSE, UNKNOWN, UNKNOWN, TRAINED]
    assert joined.dtype == np.int8


def test_what_is_said_of_an_overlap() -> None:
    seen = np.array([TRAINED] * 3 + [CHOSE] * 2 + [UNSEEN, UNKNOWN])
    trained, chose = overlap(seen, dataset="ptb-xl")
    assert trained.startswith("3 of 7 records scored here were used to train this model: ")
    assert chose.startswith(
        "2 of 7 records scored here were used to choose its epoch and thresholds: "
    )
    trained, chose = overlap(seen, dataset="", members=2, verb="answered")
    assert "3 of 7 records answered here were used to train a member of this ensemble" in trained
    assert "compared by name" in trained and "compared by name" in chose
    assert overlap(np.zeros(4, int), dataset="") == () and overlap(None, dataset="") == ()
    (one,) = overlap(np.array([TRAINED]), dataset="ptb-xl")
    assert one.startswith("This recording was used to train this model: ")


def test_a_model_file_carries_it(tmp_path: Path) -> None:
    model = toy_model(toy_contract())
    model.save(tmp_path / "earlier.keras")
    set_origin(model, ORIGIN)
    save_model(model, tmp_path / "best.keras")
    opened = load_model(tmp_path / "best.keras", networks=("Toy",))
    assert opened.origin == replace(ORIGIN, trained=("00001_lr", "00002_lr"))
    assert opened.network.get_layer("contract").origin == opened.origin
    assert opened.seen(["00002_lr"], "ptb-xl").tolist() == [TRAINED]
    assert opened.facts == ModelFacts(
        f"{tmp_path.name}/best.keras",  # the folders above are nobody's matter
        "0.1.0",
        "abc1234",
        "2026-11-24T10:00:00+00:00",
        "ptb-xl",
        ("ptb-xl",),
        "",
        2,
        1,
        7,
        "val_macro_auc",
        0.9344,
    )


def test_a_file_saved_by_keras_names_only_what_trained_it_before(tmp_path: Path) -> None:
    """It may have been trained further since."""
    model = toy_model(toy_contract())
    set_origin(model, replace(ORIGIN, before=ORIGIN))
    model.save(tmp_path / "tuned.keras")
    opened = load_model(tmp_path / "tuned.keras", networks=("Toy",))
    assert opened.seen(["00002_lr", "of-my-own"], "ptb-xl").tolist() == [TRAINED, UNKNOWN]


def test_files_of_earlier_releases_open(tmp_path: Path) -> None:
    toy_model(toy_contract()).save(tmp_path / "best.keras")
    with zipfile.ZipFile(tmp_path / "best.keras") as archive:
        assert "origin" not in archive.read("config.json").decode()
    opened = load_model(tmp_path / "best.keras", networks=("Toy",))
    assert opened.origin is None and opened.seen(["a", "b"]).tolist() == [UNKNOWN] * 2
    rows = dict(facts_rows([opened.facts]))
    assert rows["Origin"].startswith("unknown: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "7"},
        {"score": "high"},
        {"dataset": 3},
        {"version": None},
        {"monitor": ["a"]},
        {"store": [1]},
        {"store": {"source": 3}},
        {"store": {"stores": [{"stores": 3}]}},
        {"trained": 3},
        {"trained": _packed(["a" * 2**27])},
        {"before": {"trained": 3}},
        {"colour": "red"},
        [1],
    ],
)
def test_another_origin_is_refused_in_one_sentence(tmp_path: Path, changes: Any) -> None:
    model = toy_model(toy_contract())
    set_origin(model, ORIGIN)
    model.save(tmp_path / "best.keras")

    def change(config: Any) -> Any:
        layer = next(x for x in config["config"]["layers"] if x["class_name"] == "SignalContract")
        of_file = layer["config"]["origin"]
        layer["config"]["origin"] = {**of_file, **changes} if isinstance(changes, dict) else changes
        return config

    with_config(tmp_path / "best.keras", change, tmp_path / "altered.keras")
    with pytest.raises(ModelFileError, match=r"altered\.keras carries a contract that this"):
        load_model(tmp_path / "altered.keras")


def test_twenty_thousand_names_are_small() -> None:
    names = tuple(f"{number:05d}_lr" for number in range(1, 20_001))
    config = replace(ORIGIN, trained=names).to_config()
    assert len(json.dumps(config)) < 150_000
    assert Origin.from_config(config).trained == names


@pytest.mark.parametrize("damaged", ["eJw", "####", 7])
def test_damaged_names(tmp_path: Path, damaged: object) -> None:
    model = toy_model(toy_contract())
    set_origin(model, ORIGIN)
    model.save(tmp_path / "best.keras")
    with zipfile.ZipFile(tmp_path / "best.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "SignalContract":
            layer["config"]["origin"]["trained"] = damaged
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "best.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ModelFileError, match="best.keras carries a contract that this release"):
        load_model(tmp_path / "best.keras", networks=("Toy",))


def test_facts_come_back() -> None:
    for facts in (ORIGIN.facts("a/best.keras"), ModelFacts(epoch=3)):
        again = ModelFacts.from_json(facts.to_json())
        assert again.to_json() == facts.to_json() and type(again.sources) is tuple
    later = json.dumps({**json.loads(ORIGIN.facts().to_json()), "unheard of": 1})
    assert ModelFacts.from_json(later) == ORIGIN.facts()
    with pytest.raises(ValueError, match="JSON object"):
        ModelFacts.from_json("[]")


def test_models_are_described_together() -> None:
    facts = ORIGIN.facts("runs/fold_1/best.keras")
    rows = dict(facts_rows([facts]))
    assert rows["Model file"] == "runs/fold_1/best.keras"
    assert rows["Made with"] == "ecg-keras 0.1.0, commit abc1234"
    assert rows["Trained"] == "2026-11-24"
    assert rows["Training records"] == "2 of ptb-xl (ptb-xl)"
    chosen = "epoch 7, val_macro_auc 0.934 on the 1 records that chose them"
    assert rows["Epoch and thresholds"] == chosen
    other = replace(facts, file="runs/fold_2/best.keras", trained=1500, epoch=12, score=0.9)
    rows = dict(facts_rows([facts, other]))
    assert rows["Model file"] == "2: runs/fold_1/best.keras to runs/fold_2/best.keras"
    assert rows["Training records"] == "2 to 1,500 of ptb-xl (ptb-xl)"
    assert rows["Epoch and thresholds"].startswith("epoch 7 to 12, val_macro_auc 0.900 to 0.934")
    assert facts_rows([]) == ()


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"source": ["train"], "generated": "all"}, "trained on generated records, not patients"),
        ({"source": ["mixed"], "generated": "some"}, "generated records among others"),
        (
            {"stores": [{"source": ["real"]}, {"source": ["made"], "generated": "all"}]},
            "generated records among others",
        ),
        ({"stores": [{"generated": "all"}, {"generated": "all"}]}, "not patients"),
        ({"source": ["real"]}, ""),
    ],
)
def test_generated_records_are_named(store: dict, said: str) -> None:
    facts = replace(ORIGIN, store=store).facts()
    notice = " ".join(generated_notice([facts]))
    assert said in notice and bool(notice) == bool(said)
    together = " ".join(generated_notice([facts, ORIGIN.facts()]))
    assert together.startswith("Some of these models were") or not said
