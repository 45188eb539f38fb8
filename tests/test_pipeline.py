"""The whole way, from records to a report, by the commands a researcher types."""

import csv
import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_ptbxl, write_reference, write_wfdb
from sklearn.metrics import f1_score, roc_auc_score
from test_commands import exit_of, run_python
from whole_networks import layer_by_layer

from data_prep.labels import CPSC_CLASSES, read_reference
from data_prep.store import Store
from ecg_keras.evaluation.plots import read_history
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.evaluation.scores import best_thresholds
from ecg_keras.model.contract import Contract
from ecg_keras.prediction import command
from ecg_keras.training.batches import StoreBatches

MLBF = ("--input-length", "320", "--filters", "2", "--gru-units", "2", "--batch-size", "64")
MRM = ("--input-length", "80", "--low-channels", "4", "--high-channels", "8", "--batch-size", "64")
PACKAGES = ("mlbf_keras", "mrm_keras")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic records, and a store of them for each network."""
    place = tmp_path_factory.mktemp("pipeline")
    build = ("storing.build", "--source", place / "records" / "train", "--out")
    synthetic = ("synthetic", "--out", place / "records", "--records", 54, "--test-records", 9)
    for module, *options in (
        (*synthetic, "--max-seconds", 7),
        (*build, place / "250.h5"),
        (*build, place / "100.h5", "--rate", 100),
    ):
        main = import_module(f"data_prep.{module}").main
        assert exit_of(main, *options, "--workers", 1) is None
    return place


def options_of(package: str, place: Path, out: Path, *folds: int) -> tuple[object, ...]:
    if package == "mlbf_keras":
        options: tuple[object, ...] = ("--store", place / "250.h5", "--loss-weight", 0.5, *MLBF)
    else:
        options = ("--store", place / "100.h5", *MRM)
    return (*options, "--out", out, "--test-fold", 10, "--folds", *folds, "--epochs", 2)


@layer_by_layer()
def trained(package: str, place: Path) -> Path:
    main = import_module(f"{package}.train").main
    assert exit_of(main, *options_of(package, place, place / package, 1, 2)) is None
    return place / package


@pytest.fixture(scope="module")
def mlbf_run(place: Path) -> Path:
    return trained("mlbf_keras", place)


@pytest.fixture(scope="module")
def mrm_run(place: Path) -> Path:
    return trained("mrm_keras", place)


@pytest.fixture(
    scope="module", params=[pytest.param("mlbf_keras", marks=pytest.mark.slow), "mrm_keras"]
)
def run(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A package and its finished run of two folds."""
    name = "mlbf_run" if request.param == "mlbf_keras" else "mrm_run"
    return request.param, request.getfixturevalue(name)


# --- Training ------------------------------------------------------------------------------------


def test_a_run_tells_how_it_was_made(run: tuple[str, Path]) -> None:
    package, folder = run
    assert sorted(path.name for path in folder.iterdir()) == ["fold_1", "fold_2"]
    for fold in (1, 2):
        names = {path.name for path in (folder / f"fold_{fold}").iterdir()}
        files = {"args.json", "best.keras", "history.csv", "learning_curves.png", "training.log"}
        assert names == {*files, "validation.npz", "last_epoch.npz"}
        saved = json.loads((folder / f"fold_{fold}" / "args.json").read_text())
        assert saved["fold"] == fold
        assert saved["options"]["folds"] == ["1", "2"] and saved["options"]["epochs"] == 2
        assert saved["options"]["seed"] == 0 and saved["options"]["test_fold"] == 10
        main = import_module(f"{package}.train").main
        assert set(saved["options"]) == set(inspect.signature(main).parameters)


def test_the_kept_epoch_has_the_scores_of_scikit_learn(run: tuple[str, Path]) -> None:
    _, folder = run
    for fold in ("fold_1", "fold_2"):
        history = read_history(folder / fold / "history.csv")
        best = int(history["val_macro_f1"].argmax())
        kept = load_predictions(folder / fold / "validation.npz")
        if kept.single_label:
            truth: Any = kept.first_labels
            f1 = f1_score(truth, kept.answers, labels=range(9), average="macro", zero_division=0)
        else:
            present = kept.probabilities >= 0.5
            f1 = f1_score(kept.labels, present, average="macro", zero_division=0)
        assert history["val_macro_f1"][best] == pytest.approx(f1, abs=1e-9)
        assert kept.labels is not None
        mixed = [c for c in range(9) if 0 < kept.labels[:, c].sum() < len(kept.labels)]
        auc = np.mean([roc_auc_score(kept.labels[:, c], kept.probabilities[:, c]) for c in mixed])
        assert history["val_macro_auc"][best] == pytest.approx(auc, abs=1e-9)


def test_validation_records_alone_choose_the_thresholds(run: tuple[str, Path], place: Path) -> None:
    package, folder = run
    with Store(place / ("250.h5" if package == "mlbf_keras" else "100.h5")) as store:
        for fold in (1, 2):
            kept = load_predictions(folder / f"fold_{fold}" / "validation.npz")
            rows = [store.ids.tolist().index(name) for name in kept.ids]
            assert sorted(rows) == np.flatnonzero(store.folds == fold).tolist()
            np.testing.assert_array_equal(kept.labels, store.labels()[rows])
            expected = best_thresholds(store.labels()[rows], kept.probabilities)
            model = import_module(package).load_model(folder / f"fold_{fold}" / "best.keras")
            np.testing.assert_array_equal(np.array(model.contract.thresholds), expected)


def test_standardisation_is_fitted_on_training_records_only(mrm_run: Path, place: Path) -> None:
    with Store(place / "100.h5") as store:
        for fold in (1, 2):
            inside = ~np.isin(store.folds, [fold, 10])
            # As far as the network sees them: its input is shorter than every record.
            records = np.flatnonzero(inside)
            samples = np.concatenate([store.signal(int(i))[:80] for i in records])
            contract = (
                import_module("mrm_keras")
                .load_model(mrm_run / f"fold_{fold}" / "best.keras")
                .contract
            )
            assert contract.mean == pytest.approx(samples.mean(dtype=np.float64), abs=1e-9)
            assert contract.std == pytest.approx(samples.std(dtype=np.float64), rel=1e-9)


def test_the_validation_loss_is_that_of_the_heads(run: tuple[str, Path], place: Path) -> None:
    """MLBF-Net, eq. 10 with the lambda asked for; MRM-Net, eq. 4 without the mutual terms."""
    package, folder = run
    model = import_module(package).load_model(folder / "fold_1" / "best.keras")
    with Store(place / ("250.h5" if package == "mlbf_keras" else "100.h5")) as store:
        records = np.flatnonzero(store.folds == 1)
        batches = StoreBatches(store, records, contract=model.contract, heads=("diagnosis",))
        (signals, labels), truth = batches[0], batches.labels
        np.testing.assert_array_equal(labels["diagnosis"], truth)
    answers = model.network.predict(signals, verbose=0)
    p = {head: answer.astype(np.float64) for head, answer in answers.items()}
    if package == "mlbf_keras":
        losses = {head: -np.log((q * truth).sum(axis=1)).mean() for head, q in p.items()}
        loss = losses.pop("diagnosis") + 0.5 * sum(losses.values())
    else:
        loss = sum(-np.where(truth, np.log(p[h]), np.log(1 - p[h])).mean() for h in ("low", "high"))
    history = read_history(folder / "fold_1" / "history.csv")
    best = int(history["val_macro_f1"].argmax())
    assert history["val_loss"][best] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_two_deterministic_runs_are_equal(package: str, place: Path, tmp_path: Path) -> None:
    """Each in a process of its own, also if one trained another fold before."""
    for number, folds in enumerate([(1, 2), (2,)]):
        options = options_of(package, place, tmp_path / f"{number}", *folds)
        run = run_python("-m", f"{package}.train", *map(str, options), "--deterministic")
        assert run.returncode == 0, run.stderr
        for fold in folds:
            assert run.stdout.count(f"\nfold {fold}: best val_macro_f1 ") == 1
    once, twice = (tmp_path / name / "fold_2" for name in ("0", "1"))
    assert (once / "history.csv").read_bytes() == (twice / "history.csv").read_bytes()
    kept, again = (load_predictions(of_fold / "validation.npz") for of_fold in (once, twice))
    np.testing.assert_array_equal(kept.probabilities, again.probabilities)


# --- Predicting and scoring ----------------------------------------------------------------------


def predict(run: Path, out: Path, *options: object) -> int | str | None:
    models = ("--models", run / "fold_*" / "best.keras", "--out", out)
    return exit_of(command.main, *models, *options)


@pytest.mark.slow
def test_from_held_out_records_to_a_report(
    mlbf_run: Path, mrm_run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, table = place / "records" / "test", place / "records" / "test.csv"
    reference = read_reference(records / "REFERENCE.csv")
    names = table.read_text().split()[1:]
    files = []
    for package, run in (("mlbf_keras", mlbf_run), ("mrm_keras", mrm_run)):
        out = tmp_path / package
        options = ("--csv", table, "--records", records, "--batch-size", 4)
        assert predict(run, out, *options) is None
        found = load_predictions(out / "predictions.npz")
        assert found.ids.tolist() == names and set(names) == set(reference)
        assert found.class_names == CPSC_CLASSES and found.members.shape == (2, 9, 9)
        np.testing.assert_allclose(found.probabilities, found.members.mean(axis=0), rtol=1e-6)
        model = import_module(package).load_model(run / "fold_2" / "best.keras")
        answer = model.predict_record(records / f"{names[3]}.hea")
        alone = list(answer.probabilities.values())
        np.testing.assert_allclose(alone, found.members[1, 3], rtol=1e-4)
        with (out / "answers.csv").open(newline="") as file:
            answers = {row["Recording"]: row["Result"] for row in csv.DictReader(file)}
        assert answers == dict(zip(names, (str(a + 1) for a in found.answers), strict=True))
        files.append(out / "predictions.npz")

    capsys.readouterr()
    main = import_module("ecg_keras.evaluation.command").main
    words = (
        *("--predictions", *files, "--reference", records / "REFERENCE.csv"),
        *("--history", *sorted(mlbf_run.glob("*/history.csv"))),
        *("--bootstrap", 20, "--out", tmp_path / "report"),
    )
    assert exit_of(main, *words) is None
    page = (tmp_path / "report" / "index.html").read_text()
    assert "MLBF-Net" in page and "MRM-Net" in page
    assert str(tmp_path / "report" / "index.html") in capsys.readouterr().out
    assert (tmp_path / "report" / "scores.json").is_file()


def test_some_recordings_cannot_be_used(
    mrm_run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "short"):
        write_wfdb(tmp_path / "records", name, sine_leads(3000))
    (tmp_path / "records" / "short.mat").write_bytes(b"\0" * 100)
    out = tmp_path / "out"
    options = ("--records", tmp_path / "records")
    assert predict(mrm_run, out, *options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ecg-toy: 1 of 2 recordings could not be used, the first because: ")
    assert "short" in last and str(out / "rejected.csv") in last
    assert load_predictions(out / "predictions.npz").ids.tolist() == ["good"]


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--folds", "13"), "100.h5 has no record in fold 13; it has folds 1, 2"),
        (("--folds", "ten"), "--folds takes numbers, or the one word all, not ten"),
        (("--folds", "3", "10"), "fold 10 is the test fold and cannot validate too"),
        (("--store", "{place}/250.h5"), "250.h5 holds signals at 250 Hz and the network needs 100"),
        (
            ("--store", "{place}/absent.h5"),
            "absent.h5 does not exist as a file; make it with ecg-build",
        ),
        (("--store", "{place}/records/test.csv"), "test.csv is not a readable HDF5 file"),
        (("--task", "rhythm"), "100.h5 has no task 'rhythm'; name one of cpsc2018"),
        (("--out", "{mrm}", "--folds", "1"), "fold_1 holds a run already; choose another --out"),
        (("--out", "{place}/250.h5"), "250.h5"),
        (("--input-length", "82"), "take an input length that is a multiple of 4"),
        (("--epochs", "0"), "--epochs must be above 0"),
    ],
)
def test_training_that_cannot_be(
    options: tuple[str, ...],
    sentence: str,
    mrm_run: Path,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = import_module("mrm_keras.train").main
    usual = {"--store": str(place / "100.h5"), "--out": str(tmp_path / "run"), "--epochs": "1"}
    given = [word.format(place=place, mrm=mrm_run) for word in options]
    words = [w for name, value in usual.items() if name not in given for w in (name, value)]
    before = {path: path.stat().st_mtime_ns for path in mrm_run.rglob("*")}
    assert exit_of(main, *words, *MRM[2:], *given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ecg-toy: ") and sentence in last and last.endswith(".")
    assert not (tmp_path / "run").exists()
    assert {path: path.stat().st_mtime_ns for path in mrm_run.rglob("*")} == before


def test_mlbf_net_leaves_out_what_has_no_main_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a REFERENCE.csv nobody knows which of two labels comes first."""
    for i in range(12):
        codes = "59118001,164889003" if i else "426783006"
        write_wfdb(tmp_path / "r", f"A{i}", sine_leads(1000, seed=i), comments=[f"Dx: {codes}"])
    build, train = (import_module(m).main for m in ("data_prep.storing.build", "mlbf_keras.train"))
    store = tmp_path / "a.h5"
    options = ("--source", tmp_path / "r", "--out", store, "--workers", 1)
    assert exit_of(build, *options) is None
    capsys.readouterr()
    words = ("--store", store, "--out", tmp_path / "run", "--folds", "all", *MLBF)
    assert exit_of(train, *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{store} has no " in last and "record with one label of cpsc2018" in last
    assert "--several-labels rarest" in last


def test_a_store_of_several_tasks_needs_one_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_ptbxl(tmp_path / "ptbxl", [{"NORM": 100.0, "SR": 0.0}] * 3, hr=False)
    build, train = (import_module(m).main for m in ("data_prep.storing.build", "mrm_keras.train"))
    options = ("--source", source, "--out", tmp_path / "p.h5", "--workers", 1)
    assert exit_of(build, *options) is None
    words = ("--store", tmp_path / "p.h5", "--out", tmp_path / "run")
    assert exit_of(train, *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "p.h5 holds several tasks; name one of" in last and "superdiagnostic" in last


@pytest.mark.parametrize(
    ("table", "sentence"),
    [("Record\nA1\n", "test.csv"), ("Recording\nZ9\n", "test.csv names Z9 not in")],
)
def test_tables_that_cannot_be_used(
    table: str,
    sentence: str,
    mrm_run: Path,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "test.csv").write_text(table)
    options = ("--csv", tmp_path / "test.csv", "--records", place / "records" / "test")
    assert predict(mrm_run, tmp_path / "out", *options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ecg-toy: ") and sentence in last
    assert not (tmp_path / "out").exists()


def test_models_of_other_classes_cannot_join(
    mrm_run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mrm_keras import build_model

    contract = Contract("MRM-Net", "rhythm", ("SR", "AFIB"), 100.0, 80, "stretch", False)
    small = {"num_classes": 2, "input_length": 80, "low_channels": 4, "high_channels": 8}
    build_model(contract=contract, **small).save(tmp_path / "rhythm.keras")
    models = ("--models", mrm_run / "fold_1" / "best.keras", tmp_path / "rhythm.keras")
    options = ("--records", place / "records" / "test", "--out", tmp_path / "out")
    assert exit_of(command.main, *models, *options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'rhythm.keras'} cannot join {mrm_run}/fold_1/best.keras" in last
    assert not (tmp_path / "out").exists()


# --- Real records --------------------------------------------------------------------------------


@pytest.mark.slow
def test_cpsc_2018_in_both_layouts(shared_data: Path, tmp_path: Path) -> None:
    """210 records, 20 of them held out: a network, its answers, their scores."""
    sources = [shared_data / "cpsc2018" / part for part in ("challenge2020", "original")]
    reference = {n: r for s in sources for n, r in read_reference(s / "REFERENCE.csv").items()}
    held_out = sorted(reference)[::11]
    # The tables number the classes from 1.
    table = {name: [label + 1 for label in reference[name]] for name in held_out}
    write_reference(tmp_path / "test.csv", table)
    build, train = (import_module(m).main for m in ("data_prep.storing.build", "mlbf_keras.train"))
    options: list[object] = ["--source", *sources, "--leave-out", tmp_path / "test.csv"]
    options += ["--out", tmp_path / "a.h5"]
    assert exit_of(build, *options) is None
    options = ["--store", tmp_path / "a.h5", "--out", tmp_path / "run", "--epochs", 1, *MLBF]
    options += ["--input-length", 2500, "--batch-size", 64]
    assert exit_of(train, *options) is None
    with Store(tmp_path / "a.h5") as store:
        assert len(store) + len(held_out) == len(reference) == 210
        assert not set(store.ids) & set(held_out)
    for records in sources:
        names = [name for name in held_out if any(records.glob(f"{name}.*"))]
        write_reference(tmp_path / "part.csv", {name: table[name] for name in names})
        options = ["--csv", tmp_path / "part.csv", "--records", records]
        out = tmp_path / "answers" / records.name
        assert predict(tmp_path / "run", out, *options) is None
        main = import_module("ecg_keras.evaluation.command").main
        options = ["--predictions", out / "predictions.npz", "--out", out / "report"]
        options += ["--reference", tmp_path / "part.csv", "--bootstrap", 20]
        assert exit_of(main, *options) is None
        assert load_predictions(out / "predictions.npz").ids.tolist() == names
        assert (out / "report" / "index.html").is_file()


@pytest.mark.slow
def test_ptb_xl(shared_data: Path, tmp_path: Path) -> None:
    """400 records of all ten folds, five superclasses, the tenth fold held out."""
    build, train = (import_module(m).main for m in ("data_prep.storing.build", "mrm_keras.train"))
    options: list[object] = ["--source", shared_data / "ptbxl", "--out", tmp_path / "p.h5"]
    assert exit_of(build, *options) is None
    options = ["--store", tmp_path / "p.h5", "--task", "superdiagnostic", "--epochs", 1]
    options += ["--out", tmp_path / "run", *MRM[2:]]
    assert exit_of(train, *options) is None
    with Store(tmp_path / "p.h5") as store:
        usable = store.records_of("superdiagnostic")
        kept = load_predictions(tmp_path / "run" / "fold_9" / "validation.npz")
        assert kept.ids.tolist() == store.ids[usable][store.folds[usable] == 9].tolist()
        tested = store.ids[usable][store.folds[usable] == 10]
    records = sorted((shared_data / "ptbxl" / "records100").rglob("*_lr.hea"))[:20]
    (tmp_path / "some").mkdir()
    for header in records:
        for file in (header, header.with_suffix(".dat")):
            (tmp_path / "some" / file.name).symlink_to(file)
    options = ["--records", tmp_path / "some"]
    assert predict(tmp_path / "run", tmp_path / "o", *options) is None
    found = load_predictions(tmp_path / "o" / "predictions.npz")
    assert len(found.ids) == 20 and not found.single_label and len(found.class_names) == 5
    assert not set(tested) & set(kept.ids)
