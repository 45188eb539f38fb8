"""The MRM-Net paper's tables and figures: their numbers, their captions, their protocols."""

import csv
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from test_commands import exit_of

from data_prep.errors import StoreError
from data_prep.labels import CPSC_CLASSES
from data_prep.store import Store, StoreWriter
from ecg_keras.evaluation.command import main as evaluate
from ecg_keras.evaluation.plots import plot_parallel_coordinates
from ecg_keras.evaluation.predictions import Predictions, load_predictions, save_predictions
from ecg_keras.papers import reproduction
from ecg_keras.papers.jobs import Job
from ecg_keras.training.settings import Settings
from mrm_keras.baselines import BUILDERS
from mrm_keras.published import BENCHMARK_AUC, TABLE_IV, TABLE_V, TABLE_VI, TABLE_VII, TABLES_II_III
from mrm_keras.reproduce import (
    ALL_TASKS,
    PAPER_NETWORKS,
    TABLES,
    Name,
    Network,
    Task,
    _tasks_of,
    main,
)
from mrm_keras.results import METRICS, printed_figures
from mrm_keras.train import MRMNet
from mrm_keras.variants import EPOCHS, Baseline, Protocol, Variant, train


def test_cpsc_tables_are_of_its_classes_whatever_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / "nine.h5"
    classes = {"cpsc2018": CPSC_CLASSES}
    with StoreWriter(path, dataset="own", fs=100, class_names=classes) as writer:
        writer.append("r", np.ones((9, 12), np.float32), labels={"cpsc2018": [1]}, fold=1)
    assert _tasks_of(path, "table4", ()) == ("cpsc2018",)


# --- Without training: jobs whose answers are made up -----------------------------------------


def answers_of(options: dict[str, Any], store: Path) -> Predictions:
    """Answers that are right by as much as the job's name says."""
    with Store(store) as opened:
        fold = options["validation_fold"] if options["test_fold"] is None else options["test_fold"]
        records = np.flatnonzero(opened.folds == fold)
        labels = opened.labels(options["task"])[records]
        name = f"{options['network']}{options['fusion']}{options['alpha']}{options['seed']}"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        probabilities = np.clip(0.3 * labels + rng.uniform(0, 0.8, labels.shape), 0, 1)
        return Predictions(
            ids=opened.ids[records],
            class_names=opened.class_names(options["task"]),
            probabilities=probabilities,
            members=probabilities[None],
            thresholds=np.full(labels.shape[1], 0.4),
            single_label=False,
            network=options["network"],
            task=options["task"],
            labels=labels,
            first_labels=opened.first_labels(options["task"])[records],
        )


HISTORY = "epoch,loss,val_loss,val_macro_auc,val_macro_f1\n0,2,1.5,0.6,0.4\n1,1,1.2,0.7,0.5\n"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that are asked for, done at once."""
    asked: list[Job] = []

    def done(jobs: Sequence[Job], *, store: Path, out: Path, scheduler: str | None) -> list[Path]:
        for job in jobs:
            folder = out / "units" / job.name
            answers = answers_of(job.options, store)
            save_predictions(folder / "scored.npz", answers)
            if job.options["every_epoch"]:
                save_predictions(folder / "scored_on_test.npz", answers)
            made = {"parameters": 1000 + job.options["low_channels"], "epochs": 4, "seconds": 10.0}
            (folder / "training.json").write_text(json.dumps(made))
            (folder / "history.csv").write_text(HISTORY)
        asked.extend(jobs)
        assert scheduler is None
        return [out / "units" / job.name for job in jobs]

    monkeypatch.setattr(reproduction, "run_jobs", done)
    return asked


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row[next(iter(row))]: row for row in rows}


def test_scores_are_those_of_the_kept_answers(tmp_path: Path, jobs: list[Job]) -> None:
    main("table2_3", out=tmp_path, smoke=True, networks=("fcn_wang", "MRM-Net"), tasks=("rhythm",))
    rows = rows_of(tmp_path / "table2_3_rhythm.csv")
    assert list(rows) == ["fcn_wang", "MRM-Net"]
    for job in jobs:
        answers = load_predictions(tmp_path / "units" / job.name / "scored.npz")
        assert answers.labels is not None
        truth, called = answers.labels, answers.probabilities >= 0.5
        row = rows[job.options["network"]]
        at = {
            "AUC": roc_auc_score(truth, answers.probabilities, average="macro"),
            "accuracy": (truth == called).mean(),
            "F1 per record": f1_score(truth, called, average="samples", zero_division=0),
            "macro-F1": f1_score(truth, called, average="macro", zero_division=0),
            "macro-F1 at validation thresholds": f1_score(
                truth, answers.probabilities >= np.float32(0.4), average="macro", zero_division=0
            ),
        }
        assert {name: float(row[name]) for name in at} == pytest.approx(at)
    low, high = (float(rows["fcn_wang"][f"AUC [95 %] {end}"]) for end in ("low", "high"))
    assert low < float(rows["fcn_wang"]["AUC"]) < high
    difference = rows["fcn_wang"]["AUC − that of MRM-Net [95 %]"]
    expected = float(rows["fcn_wang"]["AUC"]) - float(rows["MRM-Net"]["AUC"])
    assert float(difference) == pytest.approx(expected)
    assert float(rows["fcn_wang"]["AUC, published (other data)"]) == pytest.approx(0.9053)


def test_each_network_has_its_own_rate_in_one_cycle(tmp_path: Path, jobs: list[Job]) -> None:
    networks: tuple[Network, ...] = ("fcn_wang", "MRM-Net", "InceptionTime")
    for options, rates, note in (
        ({}, [1e-3] * 3, "Adam 0.001, float32"),
        (
            {"schedule": "one-cycle"},
            [1e-2, 1e-3, 1e-2],
            "cycle up to 0.01 for fcn_wang and InceptionTime, 0.001 for MRM-Net, float32",
        ),
        (
            {"schedule": "one-cycle", "learning_rate": 0.005},
            [5e-3] * 3,
            "Adam in one cycle up to 0.005, float32",
        ),
    ):
        jobs.clear()
        main(
            "table2_3",
            out=tmp_path,
            smoke=True,
            networks=networks,
            tasks=("form",),
            bootstrap=1,
            **options,
        )
        assert [job.options["learning_rate"] for job in jobs] == rates
        assert {job.options["schedule"] for job in jobs} == {options.get("schedule", "constant")}
        assert note in (tmp_path / "table2_3_form.md").read_text()


def test_every_network_and_task_stands_beside_the_paper(tmp_path: Path, jobs: list[Job]) -> None:
    main(
        "table2_3",
        out=tmp_path,
        smoke=True,
        networks=(*PAPER_NETWORKS, "MRM-Net"),
        tasks=ALL_TASKS,
        bootstrap=1,
    )
    assert len(jobs) == 6 * 8 == len({job.name for job in jobs})
    for task in ALL_TASKS:
        rows = rows_of(tmp_path / f"table2_3_{task}.csv")
        assert list(rows) == list(PAPER_NETWORKS)
        assert all(row["F1 per record, published (other data)"] for row in rows.values())
    text = (tmp_path / "table2_3_form.md").read_text()
    assert "9 records of the task form in fold 10, which were not used for selection." in text
    assert "72 records trained, all folds but 9 and 10; of 1 epochs the one of best AUC" in text
    assert (tmp_path / "table2_3_form_curves.png").stat().st_size > 10_000


@pytest.mark.usefixtures("jobs")
def test_the_benchmarks_leaderboard_has_a_column_of_its_own(tmp_path: Path) -> None:
    networks: tuple[Network, ...] = ("InceptionTime", "MRM-Net")
    tasks: tuple[Task, ...] = ("all", "form")
    main("table2_3", out=tmp_path, smoke=True, networks=networks, tasks=tasks, bootstrap=1)
    rows = rows_of(tmp_path / "table2_3_all.csv")
    shown = {name: row["AUC, PTB-XL benchmark"] for name, row in rows.items()}
    assert shown == {"InceptionTime": "0.925", "MRM-Net": ""}
    assert "AUC, PTB-XL benchmark" not in rows_of(tmp_path / "table2_3_form.csv")["MRM-Net"]
    assert all(name in BUILDERS for task in BENCHMARK_AUC.values() for name in task)


def test_several_seeds_give_a_spread_over_them(tmp_path: Path, jobs: list[Job]) -> None:
    store = smoke_store(tmp_path)
    main("table5", store=store, out=tmp_path, seeds=(3, 5, 5), tasks=("form",), bootstrap=5)
    assert [job.options["seed"] for job in jobs] == [3, 5] * 3
    rows = rows_of(tmp_path / "table5_form.csv")
    assert list(rows) == ["addition", "concatenation", "MRM-Net"]
    assert "Addition and concatenation are our reading" in (tmp_path / "table5_form.md").read_text()
    by_seed = [
        roc_auc_score(answers.labels, answers.probabilities, average="macro")
        for seed in (3, 5)
        for answers in [
            load_predictions(tmp_path / f"units/MRM-Net_form_seed={seed}" / "scored.npz")
        ]
    ]
    assert float(rows["MRM-Net"]["AUC"]) == pytest.approx(np.mean(by_seed))
    assert float(rows["MRM-Net"]["AUC SD"]) == pytest.approx(np.std(by_seed, ddof=1))
    assert {job.options["low_channels"] for job in jobs} == {128}


def smoke_store(folder: Path) -> Path:
    from mrm_keras.reproduce import _smoke_store

    return _smoke_store(folder, cpsc=False)


def test_what_is_selected_on_test_says_so(tmp_path: Path, jobs: list[Job]) -> None:
    rows = {}
    for protocol in ("no", "yes", "both"):
        main(
            "table6",
            out=tmp_path / protocol,
            smoke=True,
            tasks=("form",),
            paper_protocol=protocol,
            bootstrap=5,
        )
        text = (tmp_path / protocol / "table6_form.md").read_text()
        assert ("selected on test" in text.lower()) == (protocol != "no")
        assert ("Selected on test." in text.splitlines()[0]) == (protocol != "no")
        assert ("which were not used for selection" in text) == (protocol == "no")
        rows[protocol] = list(rows_of(tmp_path / protocol / "table6_form.csv"))
    assert rows["no"] == rows["yes"] == ["low resolution", "high resolution", "MRM-Net"]
    assert rows["both"][:2] == [
        "low resolution, selected on validation",
        "low resolution, selected on test",
    ]
    # One training serves both selections.
    assert [job.options["every_epoch"] for job in jobs] == [False] * 3 + [True] * 6
    kept = jobs[-1].name
    assert kept.endswith("_every-epoch")
    # What has kept every epoch is not trained again for tables that need none.
    main("table5", out=tmp_path / "both", smoke=True, tasks=("form",), bootstrap=5)
    assert kept in [job.name for job in jobs[-3:]]
    flattering = rows_of(tmp_path / "both" / "table6_form.csv")["MRM-Net, selected on test"]
    assert flattering["macro-F1 at validation thresholds"] == ""


def test_both_selections_stand_beside_the_published_figures(
    tmp_path: Path, jobs: list[Job]
) -> None:
    common: dict[str, Any] = {"out": tmp_path, "smoke": True, "tasks": ("all",), "bootstrap": 5}
    main("table2_3", networks=("fcn_wang_benchmark",), paper_protocol="both", **common)
    rows = rows_of(tmp_path / "table2_3_all.csv")
    benchmark = BENCHMARK_AUC["all"]["fcn_wang_benchmark"]
    assert len(rows) == 2
    assert {float(row["AUC, PTB-XL benchmark"]) for row in rows.values()} == {benchmark}


def test_a_store_without_the_test_fold_says_where_it_is_scored(
    tmp_path: Path, jobs: list[Job]
) -> None:
    store = smoke_store(tmp_path)
    main("table6", store=store, out=tmp_path, smoke=True, tasks=("form",), test_fold=4, bootstrap=5)
    text = (tmp_path / "table6_form.md").read_text()
    assert "in fold 4, which were not used for selection" in text
    main(
        "table6",
        store=one_fold_less(store, tmp_path / "nine.h5"),
        out=tmp_path / "nine",
        smoke=True,
        tasks=("form",),
        bootstrap=5,
    )
    text = (tmp_path / "nine" / "table6_form.md").read_text()
    assert "9 records of the task form in fold 9, which also chose the epoch." in text
    # Thresholds found on these very records would flatter.
    assert "macro-F1 at validation thresholds" not in text
    assert jobs[-1].options["test_fold"] is None


def one_fold_less(store: Path, path: Path) -> Path:
    from data_prep.store import StoreWriter

    with Store(store) as opened:
        names = {task: opened.class_names(task) for task in opened.tasks}
        with StoreWriter(path, dataset="ptb-xl", fs=100, class_names=names) as writer:
            for i in np.flatnonzero(opened.folds < 10):
                labels = {t: tuple(int(c) for c in opened.labels(t)[i].nonzero()[0]) for t in names}
                writer.append(
                    opened.ids[i], opened.signal(int(i)), labels=labels, fold=int(opened.folds[i])
                )
    return path


def test_table7_has_widths_and_times(tmp_path: Path, jobs: list[Job]) -> None:
    store = smoke_store(tmp_path)
    main("table7", store=store, out=tmp_path, seeds=(0,), epochs=4, bootstrap=5)
    rows = rows_of(tmp_path / "table7_all.csv")
    assert list(rows) == list(TABLE_VII["all"])
    widths = [(job.options["low_channels"], job.options["high_channels"]) for job in jobs]
    assert widths == [(64, 128), (128, 256), (256, 512)]  # each is asked for once
    first = rows["64 and 128 channels"]
    assert float(first["seconds per epoch"]) == 2.5
    assert (first["published, RTX 3080"], first["parameters"]) == ("50", "1064")
    assert "AUC − that of 128 and 256 channels [95 %]" in first
    assert first["accuracy, published (other data)"] == ""
    main("table7", store=store, out=tmp_path, seeds=(0,), epochs=4, bootstrap=5, widths=(64, 128))
    assert list(rows_of(tmp_path / "table7_all.csv")) == list(TABLE_VII["all"])[:2]


def test_fig5_counts_answers_by_true_class(tmp_path: Path, jobs: list[Job]) -> None:
    main("fig5", out=tmp_path, smoke=True)
    (job,) = jobs
    answers = load_predictions(tmp_path / "units" / job.name / "scored.npz")
    rows = rows_of(tmp_path / "fig5.csv")
    assert list(rows) == list(answers.class_names)
    assert answers.first_labels is not None
    for truth, answer in zip(answers.first_labels, answers.answers, strict=True):
        row = rows[answers.class_names[truth]]  # of each class there is one record
        assert (float(row[answers.class_names[answer]]), row["records"]) == (1.0, "1")
    assert (tmp_path / "fig5.png").stat().st_size > 10_000
    assert "STE and a class" in (tmp_path / "fig5.md").read_text()


def test_fig5_is_refused_before_it_trains(tmp_path: Path, jobs: list[Job]) -> None:
    store, classes = tmp_path / "s.h5", {"cpsc2018": CPSC_CLASSES}
    with StoreWriter(store, dataset="cpsc2018", fs=100, class_names=classes) as writer:
        for fold in range(1, 11):
            signal = np.ones((1000, 12), np.float32)
            writer.append(f"A{fold}", signal, labels={"cpsc2018": (0, 1)}, fold=fold)
    with pytest.raises(StoreError, match="records in fold 10 of which the first label is unknown"):
        main("fig5", store=store, out=tmp_path / "out", epochs=1)
    assert jobs == []


def test_fig6_tries_every_combination(tmp_path: Path, jobs: list[Job]) -> None:
    main("fig6", out=tmp_path, smoke=True, weights=(0.01, 0.1))
    tried = [tuple(job.options[name] for name in ("alpha", "beta", "gamma")) for job in jobs]
    assert len(set(tried)) == len(tried) == 8
    # The paper's own weights are the job of the other tables.
    assert (
        jobs[tried.index((0.01, 0.01, 0.1))].name
        == Variant(low_channels=4, high_channels=8).name + "_cpsc2018_seed=0"
    )
    with (tmp_path / "fig6.csv").open() as file:
        areas = [float(row["AUC"]) for row in csv.DictReader(file)]
    assert areas == sorted(areas, reverse=True)
    text = (tmp_path / "fig6.md").read_text()
    assert "do better than 1" in text and "not of the paper's CPSC 2018" not in text
    main("fig6", store=smoke_store(tmp_path), out=tmp_path, smoke=True, weights=(0.1,))
    assert "of all, not of the paper's CPSC 2018" in (tmp_path / "fig6.md").read_text()
    assert (tmp_path / "fig6.png").stat().st_size > 10_000


def test_parallel_coordinates_join_values_and_results() -> None:
    lines = np.array([[0.01, 1.0, 0.9], [0.1, 1.0, 0.7], [1.0, 2.0, 0.8]])
    (axes,) = plot_parallel_coordinates(lines, ("a", "b", "AUC")).axes
    paths = [np.asarray(line.get_path().vertices) for line in axes.lines]
    drawn = [path[:, 1] for path in paths if len(path) == 3]
    # Drawn from the worst to the best; values are at equal distances.
    np.testing.assert_allclose(np.array(drawn), np.array([[0.5, 0, 0], [1, 1, 0.5], [0, 0, 1.0]]))
    texts = {text.get_text() for text in axes.texts}
    assert {"0.01", "0.1", "1", "2", "0.700", "0.900"} <= texts


# --- The paper's figures -----------------------------------------------------------------------


def test_published_figures_are_read_as_fractions() -> None:
    known, unknown, alone = printed_figures("93.59±0.19 – 50")
    assert known is not None and unknown is None
    assert (known.mean, known.sd) == pytest.approx((0.9359, 0.0019))
    assert alone is not None and alone.mean == 0.5 and math.isnan(alone.sd)


def test_published_tables_are_whole() -> None:
    assert set(TABLES_II_III) == set(ALL_TASKS)
    for of_networks in (*TABLES_II_III.values(), TABLE_IV):
        assert set(of_networks) == set(PAPER_NETWORKS)
    texts = [
        text
        for table in (*TABLES_II_III.values(), TABLE_IV, *TABLE_V.values(), *TABLE_VI.values())
        for text in table.values()
    ]
    for text in texts:
        figures = printed_figures(text)
        assert len(figures) == 3
        for figure in figures:
            assert figure is not None and 0.4 < figure.mean < 1 and not math.isnan(figure.sd)
    # Section IV-B: on form ahead of the second best by 2.09 (it writes rhythm) and by 1.83.
    form = {name: printed_figures(text) for name, text in TABLES_II_III["form"].items()}
    best, second = sorted((f[0].mean for f in form.values() if f[0]), reverse=True)[:2]
    assert best - second == pytest.approx(0.0209)
    f1 = sorted((f[2].mean for f in form.values() if f[2]), reverse=True)[:2]
    assert f1[0] - f1[1] == pytest.approx(0.0183)


def test_table1_is_the_trunk_of_the_paper(tmp_path: Path) -> None:
    main("table1", out=tmp_path)
    rows = rows_of(tmp_path / "table1.csv")
    expected = {"trunk_1": (11, 12, 32), "trunk_2": (7, 32, 64), "trunk_3": (5, 64, 128)}
    for name, (kernel, channels, filters) in {**expected, "trunk_4": (3, 128, 128)}.items():
        assert rows[name]["published"].endswith(f": {kernel}, stride 1, {channels}→{filters}")
        assert (rows[name]["kernels"], rows[name]["stride"]) == (str(kernel), "1")
        assert int(rows[name]["parameters"]) == kernel * channels * filters + 2 * filters
    parameters = [int(row["parameters"]) for name, row in rows.items() if name != "Total"]
    assert sum(parameters) == int(rows["Total"]["parameters"])
    assert rows["trunk_4"]["output"] == "1004×128"


# --- Trained for real, in small ----------------------------------------------------------------


@pytest.mark.slow
def test_networks_trained_on_generated_records(tmp_path: Path) -> None:
    def reproduce() -> dict[str, dict[str, str]]:
        networks: tuple[Any, ...] = ("ECG_BNN", "MRM-Net")
        main("table2_3", out=tmp_path, smoke=True, networks=networks, tasks=("superdiagnostic",))
        return rows_of(tmp_path / "table2_3_superdiagnostic.csv")

    rows = reproduce()
    assert int(rows["ECG_BNN"]["parameters"]) == 31_016
    job = tmp_path / "units" / "MRM-Net_low_channels=4_high_channels=8_superdiagnostic_seed=0"
    made = {path.name for path in job.iterdir()}
    assert {"best.keras", "scored.npz", "validation.npz", "history.csv", "unit.json"} <= made
    assert len(load_predictions(job / "scored.npz").ids) == 9

    # Both heads are scored alone, too; the answer is their mean.
    assert list(rows) == [
        "ECG_BNN",
        "MRM-Net",
        "MRM-Net, low head alone",
        "MRM-Net, high head alone",
    ]
    whole, low, high = (
        load_predictions(job / f"scored{head}.npz").probabilities for head in ("", "_low", "_high")
    )
    np.testing.assert_allclose(whole, (low + high) / 2, atol=1e-6)

    # The same numbers from the kept answers by the package's own scoring.
    evaluate(predictions=(job / "scored.npz",), out=tmp_path / "report", bootstrap=10)
    report = json.loads((tmp_path / "report" / "scores.json").read_text())
    (scored,) = report["predictions"]
    for score, name in METRICS.items():
        assert scored["scores"][score]["value"] == pytest.approx(float(rows["MRM-Net"][name]))

    # What is trained is not trained again.
    before = (job / "best.keras").stat().st_mtime_ns
    assert reproduce() == rows
    assert (job / "best.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_scored_records_choose_only_if_asked_to(tmp_path: Path) -> None:
    """One training, two choices; the second is the best of all epochs by its own rule."""
    main(
        "table4", out=tmp_path, smoke=True, networks=("MRM-Net",), paper_protocol="both",
        epochs=3, bootstrap=5,
    )  # fmt: skip
    (job,) = (tmp_path / "units").glob("MRM-Net*")
    assert job.name.endswith("_every-epoch") and not (job / "epochs").exists()
    with Store(tmp_path / "smoke_cpsc.h5") as opened:
        of_fold = {fold: set(opened.ids[opened.folds == fold]) for fold in (9, 10)}
    assert set(load_predictions(job / "validation.npz").ids) == of_fold[9]

    def value(selection: str) -> float:
        scores = []
        for head in ("low", "high"):
            answers = load_predictions(job / f"scored{selection}_{head}.npz")
            assert set(answers.ids) == of_fold[10] and answers.labels is not None
            called = answers.probabilities >= 0.5
            f1 = f1_score(answers.labels, called, average="samples", zero_division=0)
            scores.append(roc_auc_score(answers.labels, answers.probabilities) + f1)
        return max(scores)

    assert value("_on_test") >= value("")
    assert json.loads((job / "training.json").read_text())["epoch_on_test"] in (1, 2, 3)


def test_a_kill_among_the_weights_of_the_epochs_chooses_no_other(tmp_path: Path) -> None:
    """All was written: the epochs that are left would choose anew."""
    (tmp_path / "training.json").write_text("{}")
    (tmp_path / EPOCHS).mkdir()
    (tmp_path / EPOCHS / "0002.weights.h5").touch()
    folds: dict[str, int] = {"validation_fold": 9, "test_fold": 10}
    train(tmp_path / "absent.h5", tmp_path, task="form", every_epoch=True, **folds)
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


HOW: dict[str, Any] = {
    **{"epochs": 7, "batch_size": 8, "learning_rate": 0.02, "schedule": "one-cycle"},
    **{"monitor": "macro-auc", "precision": "mixed_bfloat16"},
}


@pytest.mark.parametrize(
    ("variant", "network"),
    [
        (
            Variant(fusion="concat", low_channels=64, high_channels=96, alpha=0.2),
            MRMNet(input_length=320, fusion="concat", low_channels=64, high_channels=96, alpha=0.2),
        ),
        (Variant(beta=0.3, gamma=0.4), MRMNet(input_length=320, beta=0.3, gamma=0.4)),
        (Variant("InceptionTime"), Baseline("InceptionTime", input_length=320)),
    ],
)
def test_a_job_trains_the_network_of_its_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Variant, network: MRMNet | Baseline
) -> None:
    """An option under another name would be dropped, and the default be trained in its place."""
    handed: list[dict[str, Any]] = []

    def stop(opened: Store, **given: Any) -> None:
        handed.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("ecg_keras.training.fit.train_fold", stop)
    protocol = Protocol(input_length=320, validation_fold=9, test_fold=10, **HOW)
    options = {**asdict(variant), **asdict(protocol), "seed": 5}
    (tmp_path / "job").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(smoke_store(tmp_path), tmp_path / "job", task="form", every_epoch=False, **options)
    (given,) = handed
    assert given["network"] == network
    # None of the paper's trainings stops early.
    assert given["settings"] == Settings(**HOW, patience=HOW["epochs"], seed=5)
    with Store(tmp_path / "smoke_ptbxl.h5") as opened:
        folds = [
            set(opened.folds[part]) for part in (given["parts"].train, given["parts"].validation)
        ]
    assert folds == [set(range(1, 9)), {9}]


# --- The command -------------------------------------------------------------------------------


def test_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(list=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TABLES)
    assert set(TABLES) == set(Name.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name what to reproduce: table1, table2_3"),
        (("table6",), "table6 needs --store"),
        (("table6", "--smoke", "--epochs", "0"), "--epochs must be above 0"),
        (("table6", "--smoke", "--bootstrap", "0"), "--bootstrap must be at least 1"),
        (("fig6", "--smoke", "--weights", "-1"), "--weights must be 0 or more, not -1"),
        (("table6", "--smoke", "--seeds", "-1"), "--seeds must be 0 or more, not -1"),
        (
            ("fig5", "--smoke", "--paper-protocol", "both"),
            "fig5 shows one selection of the epoch; choose --paper-protocol yes or no",
        ),
        (
            ("table6", "--smoke", "--test-fold", "9"),
            "fold 9 cannot be both the validation and the test fold",
        ),
        (("table6", "--smoke", "--validation-fold", "12"), "has no record in fold 12"),
        (("table6", "--smoke", "--tasks", "cpsc2018"), "has no task 'cpsc2018'"),
        (("table4", "--smoke", "--store", "STORE"), "table4 needs a store of CPSC 2018"),
        (("table6", "--store", "absent.h5"), "absent.h5 does not exist"),
        (("table6", "--store", "NINE", "--paper-protocol", "yes"), "has no fold 10"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "STORE" in arguments or "NINE" in arguments:
        one_fold_less(smoke_store(tmp_path / "STORE.d"), tmp_path / "NINE")
        (tmp_path / "STORE.d" / "smoke_ptbxl.h5").rename(tmp_path / "STORE")
    assert exit_of(main, *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
