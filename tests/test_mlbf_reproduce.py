import csv
import hashlib
import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from make_records import sine_leads, write_reference, write_wfdb
from sklearn.metrics import f1_score
from toy import toy_contract, toy_model

from data_prep.errors import (
    LabelError,
    ModelFileError,
    OptionError,
    RecordError,
    StoreError,
)
from data_prep.labels import CPSC_CLASSES
from data_prep.store import Store, StoreWriter
from ecg_keras.evaluation import command as evaluate
from ecg_keras.evaluation.predictions import Predictions, load_predictions, save_predictions
from ecg_keras.evaluation.scores import cpsc_scores
from ecg_keras.model.model_files import save_model, set_origin
from ecg_keras.model.origin import Origin
from ecg_keras.training.folds import SECOND, Parts
from ecg_keras.training.settings import Settings
from mlbf_keras import load_model, results, variants
from mlbf_keras.published import (
    PRIVATE_TEST_SET,
    TABLE_II,
    TABLE_IV,
    TABLE_VI_BRANCH,
    TABLE_VI_FUSED,
)
from mlbf_keras.reproduce import TABLES, main
from mlbf_keras.train import MLBFNet

Rows = list[dict[str, str]]


def write_store(
    path: Path, *, records: int = 120, fs: float = 250, seed: int = 0, provenance: Any = None
) -> Path:
    """Noise with a class and a fold, 1 to 10, each."""
    random = np.random.default_rng(seed)
    form: dict[str, Any] = {"dataset": "cpsc2018", "class_names": {"cpsc2018": CPSC_CLASSES}}
    with StoreWriter(path, fs=fs, provenance=provenance, **form) as writer:
        for i in range(records):
            label = int(random.integers(9)) if i >= 9 else i
            more = (label, 8) if i % 20 == 3 and label < 8 else (label,)
            writer.append(
                f"A{i + 1:04d}",
                random.normal(0, 0.1, (20, 12)).astype(np.float32),
                labels={"cpsc2018": more},
                first_label=label,
                fold=i % 10 + 1,
            )
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "real.h5")


def pretended_train(store: Path, folder: Path, **options: Any) -> None:
    """In place of training: answers that are right the more often, the more loss the leads have."""
    pretended_answers(store, folder, fold=options["test_fold"], **options)
    if options["both_ways"]:
        (folder / SECOND).mkdir()
        pretended_answers(store, folder / SECOND, fold=options["validation_fold"], **options)


def pretended_answers(store: Path, folder: Path, *, fold: int, **options: Any) -> None:
    skill = (
        0.3 + 0.05 * options["loss_weight"] * options["auxiliary_heads"] + 0.2 * options["extra"]
    )
    with Store(store) as opened:
        chosen = np.flatnonzero(opened.folds == fold)
        truth = opened.first_labels()[chosen]
        random = np.random.default_rng([options["seed"], *chosen])
        answers = np.where(
            random.random(len(chosen)) < skill, truth, random.integers(9, size=len(truth))
        )
        probabilities = 0.5 * np.eye(9)[answers] + 0.5 * random.dirichlet(np.ones(9), len(chosen))
        save_predictions(
            folder / "test.npz",
            Predictions(
                ids=opened.ids[chosen],
                class_names=CPSC_CLASSES,
                probabilities=probabilities,
                members=probabilities[None],
                thresholds=np.full(9, 0.5),
                single_label=True,
                network=options["network"],
                task="cpsc2018",
                labels=opened.labels()[chosen],
                first_labels=truth,
            ),
        )


def of_pair(out: Path, test: int, validation: int) -> Path:
    """Where MLBF-Net's model lies that is tested on one fold and validated on another."""
    folder = out / "units" / f"lambda=1_folds={min(test, validation)}-{max(test, validation)}"
    return folder if test < validation else folder / SECOND


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been trained, with answers made up in its place."""
    made: list[dict[str, Any]] = []

    def train(store: Path, folder: Path, **options: Any) -> None:
        made.append(options)
        pretended_train(store, folder, **options)

    monkeypatch.setattr(variants, "train", train)
    return made


def rows_of(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def first_label_f1(answers: list[Predictions]) -> np.ndarray:
    """By scikit-learn, each class's F1 over all records."""
    truth = np.concatenate([np.asarray(part.first_labels) for part in answers])
    called = np.concatenate([part.probabilities.argmax(axis=1) for part in answers])
    return f1_score(truth, called, labels=range(9), average=None, zero_division=0)


def evaluated(*predictions: Path, out: Path) -> list[dict[str, float]]:
    """The macro-F1 that ecg-evaluate finds in each file, and its interval."""
    evaluate.main(predictions=predictions, out=out, bootstrap=50)
    scores = json.loads((out / "scores.json").read_text())
    return [each["scores"]["macro_f1_first_label"] for each in scores["predictions"]]


class TestTable4:
    def test_is_a_cross_validation(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        main("table4", store=store, out=tmp_path, bootstrap=50, epochs=7, seed=100)
        assert [call["network"] for call in calls] == ["BranchNet"] * 10 + ["MLBF-Net"] * 10
        folds = [(call["test_fold"], call["validation_fold"]) for call in calls]
        pairs = [(k, k % 10 + 1) for k in range(1, 11)]
        # MLBF-Net's trainings serve both folds of a pair.
        assert folds == pairs + [(min(pair), max(pair)) for pair in pairs]
        assert [call["both_ways"] for call in calls] == [False] * 10 + [True] * 10
        assert [call["seed"] for call in calls] == 2 * [100 + max(pair) for pair in pairs]
        paper = {"input_length": 15000, "batch_size": 64, "patience": 50, "loss_weight": 1.0}
        assert all(paper.items() <= call.items() and call["epochs"] == 7 for call in calls)

    def test_figures_are_those_of_the_answers(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        main("table4", store=store, out=tmp_path, bootstrap=50)
        rows = {row["network"]: row for row in rows_of(tmp_path / "table4.csv")}
        assert [*rows] == [
            *("BranchNet", "BranchNet, published (other data)"),
            *("MLBF-Net", "MLBF-Net, published (other data)"),
        ]
        pairs = [(k, k % 10 + 1) for k in range(1, 11)]
        units = tmp_path / "units"
        folders = {
            "BranchNet": [units / f"branchnet_test={k}_validation={v}" for k, v in pairs],
            "MLBF-Net": [of_pair(tmp_path, k, v) for k, v in pairs],
        }
        for network, of_network in folders.items():
            answers = [load_predictions(folder / "test.npz") for folder in of_network]
            folds = np.array([first_label_f1([part]) for part in answers])
            truths = [np.asarray(part.first_labels) for part in answers]
            folds[[[c not in truth for c in range(9)] for truth in truths]] = np.nan
            for c, name in enumerate(CPSC_CLASSES):
                assert float(rows[network][name]) == pytest.approx(np.nanmean(folds[:, c]))
                assert float(rows[network][f"{name} SD"]) == pytest.approx(
                    np.nanstd(folds[:, c], ddof=1)
                )
            averages = np.nanmean(folds, axis=1)
            assert float(rows[network]["average F1"]) == pytest.approx(averages.mean())
            assert float(rows[network]["average F1 SD"]) == pytest.approx(averages.std(ddof=1))
            pooled = first_label_f1(answers).mean()
            assert float(rows[network]["pooled macro-F1 [95 %]"]) == pytest.approx(pooled)
            printed = rows[f"{network}, published (other data)"]
            assert (float(printed["AF"]), float(printed["AF SD"])) == TABLE_IV[network][1]

        text = (tmp_path / "table4.md").read_text()
        assert "Scored out-of-fold on 120 records (10 of 10 folds, 8:1:1)." in text
        assert "Where no record of a fold has a class" in text

    @pytest.mark.slow
    def test_ecg_evaluate_gives_the_same_numbers(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        main("table4", store=store, out=tmp_path, bootstrap=50)
        rows = {row["network"]: row for row in rows_of(tmp_path / "table4.csv")}
        networks = ("BranchNet", "MLBF-Net")
        files = [tmp_path / "table4" / f"{network}.npz" for network in networks]
        found = evaluated(*files, out=tmp_path / "report")
        for network, scores in zip(networks, found, strict=True):
            for key, end in (("value", ""), ("low", " low"), ("high", " high")):
                theirs = float(rows[network][f"pooled macro-F1 [95 %]{end}"])
                assert scores[key] == pytest.approx(theirs)
        # The difference of the two networks, too.
        noted = re.search(r"MLBF-Net − BranchNet.*: (\S+) \[", (tmp_path / "table4.md").read_text())
        assert noted and noted.group(1) in (tmp_path / "report" / "report.md").read_text()

    def test_a_training_of_an_earlier_version_is_used(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        """Folder names and unit.json as commit 6225ffd wrote them."""
        folder = tmp_path / "units" / "lambda=1_folds=1-2"
        shared = {"input_length": 15000, "epochs": 7, "batch_size": 64, "patience": 50}
        options = {
            **{"network": "MLBF-Net", "auxiliary_heads": True, "loss_weight": 1.0, **shared},
            **{"precision": "float32", "seed": 2, "test_fold": 1, "validation_fold": 2},
            **{"both_ways": True, "extra": False},
        }
        folder.mkdir(parents=True)
        pretended_train(store, folder, **options)
        made = {
            "work": "mlbf_keras.variants:train",
            "options": options,
            "store": hashlib.sha256(store.read_bytes()).hexdigest(),
            "finished": "2026-11-20T10:00:00+00:00",
            "seconds": 5.0,
            "made with": {"ecg-keras": "0.1.0"},
        }
        (folder / "unit.json").write_text(json.dumps(made))
        main("table4", store=store, out=tmp_path, folds=("1",), epochs=7, bootstrap=5)
        assert [call["network"] for call in calls] == ["BranchNet"]

    def test_tables_share_their_models(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        main("table4", store=store, out=tmp_path, folds=("2", "5"), bootstrap=10)
        assert len(calls) == 4
        main(
            "table5",
            store=store,
            out=tmp_path,
            folds=("2", "5"),
            loss_weights=(0.1, 1),
            bootstrap=10,
        )
        assert [call["loss_weight"] for call in calls[4:]] == [0, 0, 0.1, 0.1]
        assert [call["auxiliary_heads"] for call in calls[4:]] == [False, False, True, True]
        with pytest.raises(OptionError, match=r"made with other options \(epochs\)"):
            main("table4", store=store, out=tmp_path, folds=("2",), epochs=3)


def test_table5(tmp_path: Path, store: Path, calls: list[dict[str, Any]]) -> None:
    main("table5", store=store, out=tmp_path, loss_weights=(10, 0, 1), bootstrap=20)
    rows = rows_of(tmp_path / "table5.csv")
    below, above = ([f"λ {where} 1, value not stated"] * 3 for where in ("below", "above"))
    assert [row["loss"] for row in rows] == [
        *("single loss", "λ = 0", *below, "λ = 1", "λ = 10", *above)
    ]
    # The paper's figures, in its table's order.
    published = [row["published (other data)"] for row in rows]
    assert [figure for figure in published if figure] == [
        *("0.828", "0.837", "0.844", "0.849", "0.852", "0.843", "0.848", "0.847")
    ]
    assert (published[0], published[1], published[5], published[6]) == ("0.828", "", "0.852", "")

    ours = [row for row in rows if "not stated" not in row["loss"]]
    pooled = [float(row["pooled macro-F1 [95 %]"]) for row in ours]
    assert pooled[3] > 0.6 > pooled[0]  # as pretended
    difference = "difference to the single loss [95 %]"
    assert ours[0][difference] == ""
    for row, score in zip(ours[1:], pooled[1:], strict=True):
        low, at, high = (float(row[difference + end]) for end in (" low", "", " high"))
        assert at == pytest.approx(score - pooled[0])
        assert low <= at <= high
    assert float(ours[3][f"{difference} low"]) > 0


def test_table5_has_three_lambdas_on_either_side_of_1(
    tmp_path: Path, store: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    main("table5", store=store, out=tmp_path, folds=("1",), bootstrap=10)
    assert capsys.readouterr().out.startswith("8 trainings: 0 already done, 8 to do.\n")
    weights = [call["loss_weight"] for call in calls if call["auxiliary_heads"]]
    assert len(weights) == 7 and weights[0] == 0 and weights[-1] == 10
    assert weights == sorted(weights) and weights[3] == 1


class TestTable3:
    def test_no_member_has_seen_what_it_answers_for(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        main("table3", store=store, out=tmp_path, folds=("3", "4"), bootstrap=20)
        # Folds 3 and 4 with each other, and each with the eight others.
        pairs = [(c["test_fold"], c["validation_fold"]) for c in calls]
        assert len(pairs) == len({*pairs}) == 1 + 2 * 8
        assert all(low < high and {low, high} & {3, 4} for low, high in pairs)
        assert all(call["seed"] == call["validation_fold"] for call in calls)
        rows = rows_of(tmp_path / "table3.csv")
        assert [row["work"] for row in rows[:2]] == ["[28]", "[38]"]
        assert [row["work"] for row in rows[-4:]] == ["Ours¹", "Ours²", "single model", "ensemble"]
        assert {row["scored on"] for row in rows[:-2]} == {"private test set"}
        assert {row["scored on"] for row in rows[-2:]} == {"out-of-fold"}

        members = {
            (test, validation): load_predictions(of_pair(tmp_path, test, validation) / "test.npz")
            for test in (3, 4)
            for validation in range(1, 11)
            if validation != test
        }
        with Store(store) as opened:
            for (test, _), member in members.items():
                assert member.ids.tolist() == opened.ids[opened.folds == test].tolist()
        answers = [members[3, 4], members[4, 5]]
        single = first_label_f1(answers)
        firsts = np.concatenate([np.asarray(part.first_labels) for part in answers])
        counts = {
            name: f"{name} ({theirs}; here {(firsts == c).sum()})"
            for c, (name, theirs) in enumerate(zip(CPSC_CLASSES, PRIVATE_TEST_SET, strict=True))
        }
        average = "average (2,954; here 24)"
        assert float(rows[-2][average]) == pytest.approx(single.mean())
        assert [float(rows[-2][name]) for name in counts.values()] == pytest.approx(single.tolist())
        challenge = cpsc_scores(
            np.concatenate([np.asarray(part.labels) for part in answers]),
            firsts,
            np.concatenate([part.probabilities.argmax(axis=1) for part in answers]),
        )["score"][0]
        assert float(rows[-2]["challenge score"]) == pytest.approx(challenge)
        assert challenge > single.mean()  # it takes any label of a record for right
        assert {row["challenge score"] for row in rows[:-2]} == {""}
        assert "2,954 records was never published" in (tmp_path / "table3.md").read_text()
        ensemble = load_predictions(tmp_path / "table3" / "ensemble.npz")
        mean = [
            np.mean([m.probabilities for (test, _), m in members.items() if test == k], axis=0)
            for k in (3, 4)
        ]
        np.testing.assert_allclose(ensemble.probabilities, np.concatenate(mean), rtol=1e-6)

    def test_45_trainings_serve_all_pairs_of_folds(
        self,
        tmp_path: Path,
        store: Path,
        calls: list[dict[str, Any]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """And those of them that table4 needs are already done."""
        main("table3", store=store, out=tmp_path, bootstrap=10)
        printed = capsys.readouterr().out
        assert printed.startswith("45 trainings: 0 already done, 45 to do.\n")
        assert len(calls) == 45
        main("table4", store=store, out=tmp_path, bootstrap=10)
        printed = capsys.readouterr().out
        assert printed.startswith("20 trainings: 10 already done, 10 to do.\n")

    def test_on_held_out_recordings(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With models that exist: their mean answers for recordings of a folder."""
        seen = []

        def train(store: Path, folder: Path, **options: Any) -> None:
            seen.append((options["test_fold"], options["validation_fold"]))
            contract = toy_contract(
                network="MLBF-Net", class_names=CPSC_CLASSES, sampling_rate=250.0, input_length=200
            )
            toy_model(contract, seed=options["seed"]).save(folder / "best.keras")

        monkeypatch.setattr(variants, "train", train)
        truth = {f"B{i:04d}": [i % 9 + 1] for i in range(9)}
        for i, name in enumerate(truth):
            write_wfdb(tmp_path / "held", name, sine_leads(1000, seed=i))
        write_reference(tmp_path / "held.csv", truth)
        held: dict[str, Any] = {
            "held_out": tmp_path / "held.csv",
            "held_out_records": tmp_path / "held",
        }
        main("table3", store=store, out=tmp_path / "out", folds=("1", "2"), bootstrap=20, **held)
        assert seen == [(None, 1), (None, 2)]
        single, ensemble = (
            load_predictions(tmp_path / "out" / "table3" / f"{name}.npz")
            for name in ("single-model", "ensemble")
        )
        assert ensemble.members.shape == (2, 9, 9)
        np.testing.assert_allclose(ensemble.members.mean(axis=0), ensemble.probabilities, rtol=1e-6)
        np.testing.assert_array_equal(single.probabilities, ensemble.members[0])
        rows = rows_of(tmp_path / "out" / "table3.csv")
        average = float(rows[-1]["average (2,954; here 9)"])
        assert average == pytest.approx(first_label_f1([ensemble]).mean())
        assert rows[-1]["scored on"] == "held.csv"

    def test_held_out_recordings_are_in_no_store(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        write_wfdb(tmp_path / "held", "A0005", sine_leads(1000))
        write_reference(tmp_path / "held.csv", {"A0005": [1]})
        held: dict[str, Any] = {
            "held_out": tmp_path / "held.csv",
            "held_out_records": tmp_path / "held",
        }
        with pytest.raises(OptionError, match="A0005, which is in .*--leave-out held.csv"):
            main("table3", store=store, out=tmp_path, **held)
        assert calls == []

    def test_held_out_recordings_are_checked_before_any_training(
        self, tmp_path: Path, store: Path, calls: list[dict[str, Any]]
    ) -> None:
        write_wfdb(tmp_path / "held", "B0005", sine_leads(1000))
        held: dict[str, Any] = {
            "held_out": tmp_path / "held.csv",
            "held_out_records": tmp_path / "held",
        }
        write_reference(tmp_path / "held.csv", {"B0005": [1], "B0006": [1]})
        with pytest.raises(RecordError, match="1 of the recordings of .*held.csv cannot be used"):
            main("table3", store=store, out=tmp_path, **held)
        (tmp_path / "held.csv").write_text("Recording,First_label\nB0005,10\n")
        with pytest.raises(LabelError, match="held.csv, line 2"):
            main("table3", store=store, out=tmp_path, **held)
        assert calls == []


def test_generated_records_only_train(
    tmp_path: Path, store: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = write_store(tmp_path / "extra.h5", records=60, seed=1)
    out = tmp_path / "out"
    common: dict[str, Any] = {"folds": ("1", "2"), "bootstrap": 20, "epochs": 8}
    main("generated", store=store, extra_store=extra, out=out, **common)
    with Store(store) as real, Store(extra) as added, Store(out / "merged.h5") as merged:
        assert merged.folds.tolist() == [*real.folds, *[variants.EXTRA_FOLD] * 60]
        np.testing.assert_array_equal(merged.signal(125), added.signal(5))
        np.testing.assert_array_equal(
            merged.labels(), np.concatenate([real.labels(), added.labels()])
        )
        assert merged.ids[120] == "extra-A0001"
    assert [call["extra"] for call in calls] == [False, False, True, True]
    # 96 real records train, and 60 more: 156 / 96 times the epochs make as many steps.
    assert [call["epochs"] for call in calls] == [13, 13, 8, 8]
    rows = rows_of(out / "generated.csv")
    assert [(row["about"], row["epochs at most"]) for row in rows] == [("96", "13"), ("156", "8")]
    assert float(rows[1]["average F1"]) > float(rows[0]["average F1"])  # as pretended
    # Already done, from the same store.
    main("generated", store=store, extra_store=extra, out=out, **common)
    assert len(calls) == 4

    answers = load_predictions(out / "generated" / "generated-and-real-records.npz")
    assert not any(name.startswith("extra") for name in answers.ids)
    with pytest.raises(OptionError, match="needs --extra-store"):
        main("generated", store=store, out=out)


def write_source(folder: Path, network: str, origin: Origin) -> Path:
    """A model file to start from."""
    model = toy_model(toy_contract(network=network))
    set_origin(model, origin)
    save_model(model, folder / "source.keras")
    return folder / "source.keras"


@pytest.mark.parametrize(
    ("before", "which"),
    [
        (None, "that has seen none of these"),
        (Origin.unknown(), "that does not name all records that trained it"),
    ],
)
def test_pretrained_weights_against_random_ones(
    tmp_path: Path, store: Path, calls: list[dict[str, Any]], before: Origin | None, which: str
) -> None:
    out = tmp_path / "out"
    origin = Origin("ptb-xl", ("A0001",), ("A0002",), before=before, score=0.5)
    init = str(write_source(tmp_path, "MLBF-Net", origin))
    main("pretrained", store=store, out=out, init=init, folds=("1", "2"), bootstrap=20, epochs=8)
    assert [call["init"] for call in calls] == [None, None, init, init]
    for option in ("epochs", "batch_size", "validation_fold", "seed"):
        assert [call[option] for call in calls[:2]] == [call[option] for call in calls[2:]]
    rows = rows_of(out / "pretrained.csv")
    assert [row["training"] for row in rows] == ["from scratch", "pretrained"]
    assert f"{init}, a model {which}" in (out / "pretrained.md").read_text()
    # MLBF-Net from scratch is that of Table IV.
    main("table4", store=store, out=out, folds=("1", "2"), bootstrap=20, epochs=8)
    assert [call["network"] for call in calls[4:]] == ["BranchNet", "BranchNet"]
    score = first_label_f1([load_predictions(out / "pretrained" / "pretrained.npz")]).mean()
    assert float(rows[1]["pooled macro-F1 [95 %]"]) == pytest.approx(score)


@pytest.mark.parametrize(
    ("network", "dataset", "kind", "sentence"),
    [
        ("BranchNet", "ptb-xl", ModelFileError, "holds BranchNet and not MLBF-Net"),
        ("MLBF-Net", "cpsc2018", OptionError, "has seen 2 of the 120 records of .*tested"),
    ],
)
def test_weights_that_cannot_be_compared(
    tmp_path: Path,
    store: Path,
    calls: list[dict[str, Any]],
    network: str,
    dataset: str,
    kind: type[Exception],
    sentence: str,
) -> None:
    source = write_source(tmp_path, network, Origin(dataset, ("A0005",), ("A0006", "B0001")))
    with pytest.raises(kind, match=sentence):
        main("pretrained", store=store, out=tmp_path / "out", init=str(source))
    assert calls == []


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a job hands to the training, which then stops."""
    handed: list[dict[str, Any]] = []

    def stop(opened: Store, **given: Any) -> None:
        handed.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("ecg_keras.training.fit.train_fold", stop)
    return handed


@pytest.mark.parametrize(
    ("extra", "test", "both_ways", "sizes"),
    [
        (False, 1, False, (96, 12)),
        (False, 1, True, (96, 12)),
        (True, 1, False, (156, 12)),
        (False, None, False, (108, 12)),
    ],
)
def test_parts_of_a_job(
    tmp_path: Path,
    store: Path,
    untrained: list[dict[str, Any]],
    extra: bool,
    test: int | None,
    both_ways: bool,
    sizes: tuple[int, int],
) -> None:
    """What is tested neither trains nor validates; generated records train or are left out."""
    merged = variants.merge_stores(
        store, write_store(tmp_path / "extra.h5", records=60, seed=1), tmp_path / "merged.h5"
    )
    options: dict[str, Any] = {
        **{"network": "MLBF-Net", "auxiliary_heads": True, "loss_weight": 1.0},
        **{"test_fold": test, "validation_fold": 2, "both_ways": both_ways, "extra": extra},
        "input_length": 1024,
        **{"epochs": 1, "batch_size": 8, "patience": 1, "precision": "float32", "seed": 0},
    }
    with pytest.raises(KeyboardInterrupt):
        variants.train(merged, tmp_path, **options)
    parts: Parts = untrained[0]["parts"]
    train, validation = parts.train, parts.validation
    assert (len(train), len(validation)) == sizes
    with Store(merged) as opened:
        assert set(opened.folds[validation]) == {2}
        assert not set(opened.folds[train]) & {2, test}
        assert (variants.EXTRA_FOLD in opened.folds[train]) == extra
        second = parts.second
        assert (second is not None) == both_ways
        if second is not None:
            assert set(opened.folds[second]) == {test}


@pytest.mark.parametrize(
    ("variant", "network"),
    [
        (
            variants.Variant(loss_weight=0.5, init="before.keras"),
            MLBFNet(input_length=1024, loss_weight=0.5),
        ),
        (
            variants.Variant(auxiliary_heads=False),
            MLBFNet(input_length=1024, auxiliary_heads=False),
        ),
        (variants.Variant("BranchNet"), MLBFNet(network="branchnet", input_length=1024)),
    ],
)
def test_a_job_trains_the_network_of_its_variant(
    tmp_path: Path,
    store: Path,
    untrained: list[dict[str, Any]],
    variant: variants.Variant,
    network: MLBFNet,
) -> None:
    """An option under another name would be dropped, and the default be trained in its place."""
    how: dict[str, Any] = {"epochs": 7, "batch_size": 8, "patience": 3}
    how |= {"precision": "mixed_bfloat16", "seed": 5}
    split: dict[str, Any] = {"test_fold": 1, "validation_fold": 2}
    split |= {"both_ways": False, "extra": False}
    protocol = variants.Protocol(input_length=1024, **how)
    with pytest.raises(KeyboardInterrupt):
        variants.train(store, tmp_path, **split, **asdict(variant), **asdict(protocol))
    (given,) = untrained
    assert given["network"] == network
    assert given["settings"] == Settings(**how, init=variant.init)


def test_table2(tmp_path: Path, store: Path) -> None:
    main("table2", store=store, out=tmp_path / "of_store")
    rows = rows_of(tmp_path / "of_store" / "table2.csv")
    with Store(store) as opened:
        firsts, labels = opened.first_labels(), opened.labels()
    assert [int(row["first label, real.h5"]) for row in rows] == [
        *((firsts == c).sum() for c in range(9)),
        120,
    ]
    assert [int(row["any label, real.h5"]) for row in rows[:9]] == labels.sum(axis=0).tolist()
    assert [int(row["Table II"]) for row in rows] == [*TABLE_II, 6877]
    differences = {row["class"]: row["Table II − public file"] for row in rows}
    assert {k: v for k, v in differences.items() if v != "+0"} == {
        **{"PAC": "-18", "PVC": "+19", "STD": "-1"}
    }


def test_table2_counts_the_only_label_as_the_first(tmp_path: Path) -> None:
    """A table of 0 and 1 does not say which label is the first."""
    classes = {"cpsc2018": CPSC_CLASSES}
    with StoreWriter(tmp_path / "s.h5", dataset="own", fs=250, class_names=classes) as store:
        for i, labels in enumerate([(4,), (4,), (1, 6)]):
            signal = np.zeros((5, 12), np.float32)
            store.append(str(i), signal, labels={"cpsc2018": labels}, first_label=-1, fold=1)
    main("table2", store=tmp_path / "s.h5", out=tmp_path)
    rows = {row["class"]: row["first label, s.h5"] for row in rows_of(tmp_path / "table2.csv")}
    assert (rows["RBBB"], rows["Total"]) == ("2", "2")
    assert "1 records whose first label is unknown" in (tmp_path / "table2.md").read_text()


def test_table2_of_the_public_file(tmp_path: Path, shared_data: Path) -> None:
    main("table2", reference=shared_data / "labels" / "cpsc2018_REFERENCE.csv", out=tmp_path)
    rows = rows_of(tmp_path / "table2.csv")
    counted = [row["first label, cpsc2018_REFERENCE.csv"] for row in rows]
    assert counted == [row["first label, public file"] for row in rows]
    assert "476 of the 6,877 records" in (tmp_path / "table2.md").read_text()


def test_table6(tmp_path: Path) -> None:
    main("table6", out=tmp_path)
    rows = {row["layer"]: row for row in rows_of(tmp_path / "table6.csv")}
    branch = [rows[f"branch: {name}"] for name in TABLE_VI_BRANCH]
    fused = [rows[f"fused: {name}"] for name in TABLE_VI_FUSED]
    for row in (*branch, *fused):
        more = {"branch: Attention": 24 + 24, "fused: Attention": 288 + 288}.get(row["layer"], 0)
        assert int(row["ours"]) - int(row["published"]) == more
    totals = {
        column: 12 * sum(int(row[column]) for row in branch)
        + sum(int(row[column]) for row in fused)
        for column in ("ours", "trainable of these", "published")
    }
    assert {column: int(rows["Total"][column]) for column in totals} == totals
    assert totals["ours"] == 419_157
    # The paper's total is reached in two ways: W alone and batch norm with its moving statistics,
    # or all that is trainable; b and u_w are as many as the moving statistics.
    assert totals["published"] == totals["trainable of these"] == 418_005
    b_and_u_w = 12 * (24 + 24) + (288 + 288)
    moving = 12 * (24 + 24) + (288 + 288)
    untrained = [
        int(row["ours"]) - int(row["trainable of these"])
        for row in (*branch, *fused)
        if "Batch norm" in row["layer"]
    ]
    assert 12 * untrained[0] + untrained[1] == moving == b_and_u_w == 1_152
    note = (tmp_path / "table6.md").read_text()
    assert "two ways" in note and "1,152" in note


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"folds": "stratified"}, "stratified by class; the paper's are random"),
        ({"folds": "random"}, "The folds are random, as the paper's."),
        ({}, None),
    ],
)
def test_tables_say_how_the_folds_were_dealt(
    tmp_path: Path, calls: list[dict[str, Any]], options: dict[str, str], sentence: str | None
) -> None:
    store = write_store(tmp_path / "s.h5", records=60, provenance={"options": options})
    for name in ("table3", "table4"):
        main(cast(Any, name), store=store, out=tmp_path, folds=("1",), bootstrap=5)
        text = (tmp_path / f"{name}.md").read_text()
        assert sentence is None or sentence in text
        assert ("The folds are" in text) == (sentence is not None)


def test_fig3(tmp_path: Path, store: Path) -> None:
    main("fig3", store=store, out=tmp_path)
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match="no record Z9"):
        main("fig3", store=store, out=tmp_path, record="Z9")


@pytest.mark.slow
def test_trial_of_table4_and_fig4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything for real but the records: two networks trained, scored, and looked into."""
    out = tmp_path / "out"
    main("table4", smoke=True, folds=("1",), out=out, bootstrap=20)
    rows = {row["network"]: row for row in rows_of(out / "table4.csv")}
    assert "A trial run" in (out / "table4.md").read_text()
    one_way = out / "units" / "branchnet_test=1_validation=2"
    for network, folder in (("BranchNet", one_way), ("MLBF-Net", of_pair(out, 1, 2))):
        answers = load_predictions(folder / "test.npz")
        assert len(answers.ids) == 18 and answers.network == network
        np.testing.assert_array_equal(
            answers.thresholds, load_predictions(folder / "validation.npz").thresholds
        )
        f1 = first_label_f1([answers]).mean()
        assert float(rows[network]["average F1"]) == pytest.approx(f1)
    (scores,) = evaluated(folder / "test.npz", out=tmp_path / "report")
    assert scores["value"] == pytest.approx(f1)
    capsys.readouterr()

    def kept(*arguments: Any, **options: Any) -> Any:
        seen.append(features_of(*arguments, **options))
        return seen[0]

    seen: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    features_of = results.features_of
    monkeypatch.setattr(results, "features_of", kept)
    monkeypatch.setattr(results, "TSNE", partial(results.TSNE, max_iter=250))
    main("fig4", smoke=True, folds=("1",), out=out)
    assert "1 training: 1 already done, 0 to do." in capsys.readouterr().out
    assert (out / "fig4.png").read_bytes().startswith(b"\x89PNG")
    with np.load(out / "fig4.npz") as saved:
        assert saved["MLBF-Net"].shape == saved["aVR"].shape == (18, 2)
        assert len(saved.files) == 2 + 1 + 12
        assert saved["ids"].tolist() == answers.ids.tolist()  # the test records alone

    # The features are those from which the network answers: from them once more, in NumPy.
    features, classes = seen[0]
    assert (features["MLBF-Net"].shape, features["V6"].shape) == ((18, 288), (18, 24))
    np.testing.assert_array_equal(classes, answers.first_labels)
    network = load_model(folder / "best.keras").network
    norm = network.get_layer("fused_norm")
    gamma, beta, mean, variance = norm.get_weights()
    kernel, bias = network.get_layer("diagnosis").get_weights()
    x = (features["MLBF-Net"] - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    powers = np.exp(x @ kernel + bias)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-4)


class TestCommand:
    def test_list_names_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(list=True)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(TABLES)

    @pytest.mark.parametrize(
        ("table", "options", "sentence"),
        [
            ((), {}, "name what to reproduce"),
            (("table4",), {}, "needs --store"),
            (("table4",), {"smoke": True, "store": Path("x.h5")}, "--smoke generates"),
            (("table3",), {"held_out": Path("x.csv")}, "go together"),
            (("table4",), {"bootstrap": 0}, "--bootstrap must be at least 1"),
        ],
    )
    def test_options_that_make_no_sense(
        self, table: tuple[Any, ...], options: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(OptionError, match=sentence):
            main(*table, **options)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"epochs": 0}, "--epochs must be above 0"),
            ({"loss_weights": (1.0, -1.0)}, "--loss-weights must be 0 or more"),
            ({"folds": ("eleven",)}, "--folds takes numbers"),
        ],
    )
    def test_options_that_cannot_train(
        self, tmp_path: Path, store: Path, options: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(OptionError, match=sentence):
            main("table5", store=store, out=tmp_path, **options)

    @pytest.mark.parametrize(
        ("fs", "folds", "kind", "sentence"),
        [
            (100, 1, StoreError, "at 100 Hz; build it again with --rate 250"),
            (250, 2, OptionError, "has 2 folds, and 8:1:1 needs three"),
        ],
    )
    def test_a_store_that_does_not_suit(
        self, tmp_path: Path, fs: int, folds: int, kind: type[Exception], sentence: str
    ) -> None:
        store = write_store(tmp_path / "s.h5", records=folds, fs=fs)
        with pytest.raises(kind, match=sentence):
            main("table4", store=store, out=tmp_path)
