"""From predictions and labels to a report: what is written, and what is refused."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from test_commands import exit_of

from data_prep.errors import LabelError, OptionError, PredictionsError, StoreError
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.store import StoreWriter
from ecg_keras.evaluation import command as evaluate
from ecg_keras.evaluation import report
from ecg_keras.evaluation.predictions import Predictions, load_predictions, save_predictions
from ecg_keras.evaluation.scores import best_thresholds, cpsc_scores
from ecg_keras.model.origin import ModelFacts

RECORDS = 60


def truth() -> tuple[np.ndarray, np.ndarray]:
    """Labels of one or two classes, every class first in some record."""
    random = np.random.default_rng(0)
    first_labels = np.arange(RECORDS) % 9
    labels = np.eye(9, dtype=np.uint8)[first_labels]
    labels[::7, 4] = 1
    return labels[order := random.permutation(RECORDS)], first_labels[order]


def answered(*, network: str, single_label: bool, seed: int, with_labels: bool) -> Predictions:
    labels, first_labels = truth()
    random = np.random.default_rng(seed)
    members = 0.45 * labels + 0.55 * random.random((2, RECORDS, 9))
    return Predictions(
        ids=np.array([f"A{number:04d}" for number in range(RECORDS)]),
        class_names=CPSC_CLASSES,
        probabilities=members.mean(axis=0),
        members=members,
        thresholds=best_thresholds(labels, members[0]),
        single_label=single_label,
        network=network,
        task="cpsc2018",
        labels=labels if with_labels else None,
        first_labels=first_labels if with_labels else None,
    )


@pytest.fixture
def mlbf(tmp_path: Path) -> Path:
    path = tmp_path / "mlbf" / "predictions.npz"
    made = answered(network="MLBF-Net", single_label=True, seed=1, with_labels=False)
    save_predictions(path, made)
    return path


@pytest.fixture
def mrm(tmp_path: Path) -> Path:
    """A multi-label network's answers to the same records, in another order."""
    path = tmp_path / "mrm" / "predictions.npz"
    made = answered(network="MRM-Net", single_label=False, seed=2, with_labels=True)
    save_predictions(path, shuffled(made))
    return path


def shuffled(made: Predictions) -> Predictions:
    order = np.random.default_rng(9).permutation(len(made.ids))
    assert made.labels is not None and made.first_labels is not None
    return replace(
        made,
        ids=made.ids[order],
        probabilities=made.probabilities[order],
        members=made.members[:, order],
        labels=made.labels[order],
        first_labels=made.first_labels[order],
    )


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "REFERENCE.csv"
    lines = ["Recording,First_label,Second_label,Third_label"]
    for number, (row, first) in enumerate(zip(*truth(), strict=True)):
        others = [str(c + 1) for c in np.flatnonzero(row) if c != first]
        lines.append(",".join([f"A{number:04d}", str(first + 1), *others, "", ""][:4]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "mlbf" / "fold_1" / "history.csv"
    path.parent.mkdir(parents=True)
    path.write_text("epoch,loss,val_loss,val_macro_f1\n0,2,1.5,0.2\n1,1,1.2,0.6\n")
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second a report, and most tests here do not look at the figures."""
    monkeypatch.setattr(report, "_pictures", lambda _result: iter(()))


class Page(HTMLParser):
    """Collects what a page refers to and whether its elements close as they should."""

    VOID = frozenset({"meta", "img", "link", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := values.get(key))]
        self.anchors.add(f"#{values.get('id')}")
        if tag == "img":
            assert values.get("alt"), "a figure without a description"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class TestReport:
    def test_every_file_is_written(
        self, mlbf: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "report"
        evaluate.main(predictions=(mlbf,), out=out, reference=reference, bootstrap=50)
        assert {path.name for path in out.iterdir()} == {
            "index.html",
            "per_class.csv",
            "report.md",
            "scores.json",
            "mlbf-net_confusion_matrix.png",
            "mlbf-net_precision_recall.png",
            "mlbf-net_class_auc.png",
            "mlbf-net_reliability.png",
            "mlbf-net_roc.png",
        }
        printed = capsys.readouterr().out.splitlines()
        assert printed[-1] == str(out / "index.html")
        assert any(line.startswith("CPSC 2018 challenge score") for line in printed)

    @pytest.mark.usefixtures("undrawn")
    def test_numbers_are_those_of_sklearn(
        self, mlbf: Path, reference: Path, tmp_path: Path
    ) -> None:
        evaluate.main(predictions=(mlbf,), out=tmp_path / "r", reference=reference, bootstrap=50)
        (section,) = json.loads((tmp_path / "r" / "scores.json").read_text())["predictions"]
        labels, first_labels = truth()
        made = load_predictions(mlbf)
        expected = {
            "macro_f1_first_label": metrics.f1_score(first_labels, made.answers, average="macro"),
            "macro_auc": metrics.roc_auc_score(labels, made.probabilities, average="macro"),
            "record_f1": metrics.f1_score(
                labels, made.probabilities >= 0.5, average="samples", zero_division=0
            ),
            "label_accuracy": 1 - metrics.hamming_loss(labels, made.probabilities >= 0.5),
            "cpsc_score": cpsc_scores(labels, first_labels, made.answers)["score"][0],
        }
        found = section["scores"]
        assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
        for name, score in found.items():
            if name == "calibration_error":
                assert score["low"] is None
            else:
                assert score["low"] <= score["value"] <= score["high"]
        assert (section["records"], section["members"], section["left_out"]) == (RECORDS, 2, 0)

        with (tmp_path / "r" / "per_class.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == list(CPSC_CLASSES)
        f1 = metrics.f1_score(first_labels, made.answers, average=None)
        np.testing.assert_allclose([float(row["f1"]) for row in rows], f1)
        assert [int(row["support"]) for row in rows] == np.bincount(first_labels).tolist()
        positives = labels.sum(axis=0).tolist()
        assert [int(row["records_with_class"]) for row in rows] == positives

    @pytest.mark.usefixtures("undrawn")
    def test_multi_label_answers_take_the_stored_thresholds(
        self, mrm: Path, tmp_path: Path
    ) -> None:
        evaluate.main(predictions=(mrm,), out=tmp_path / "r", bootstrap=20)
        (section,) = json.loads((tmp_path / "r" / "scores.json").read_text())["predictions"]
        made = load_predictions(mrm)
        for key, called in (
            ("macro_f1_thresholds", made.probabilities >= made.thresholds),
            ("macro_f1_half", made.probabilities >= 0.5),
        ):
            expected = metrics.f1_score(made.labels, called, average="macro")
            assert section["scores"][key]["value"] == pytest.approx(expected)
        fitted = [row["threshold"] for row in section["classes"]]
        np.testing.assert_allclose(fitted, made.thresholds)
        assert made.labels is not None
        called = made.probabilities >= made.thresholds
        assert (called != (made.probabilities >= 0.5)).any(axis=0).sum() > 4
        of_classes = metrics.precision_recall_fscore_support(made.labels, called, zero_division=0)
        expected = dict(zip(("precision", "recall", "f1", "support"), of_classes, strict=True))
        expected["specificity"] = [
            metrics.recall_score(1 - labels, ~answers)
            for labels, answers in zip(made.labels.T, called.T, strict=True)
        ]
        for name, values in expected.items():
            np.testing.assert_allclose([row[name] for row in section["classes"]], values)
        assert section["labels_from"] == "the file of predictions itself"

    @pytest.mark.usefixtures("undrawn")
    def test_results_of_one_network_are_told_apart(self, mrm: Path, tmp_path: Path) -> None:
        deeper = tmp_path / "mrm" / "v1.2" / "predictions.npz"
        save_predictions(deeper, load_predictions(mrm))
        evaluate.main(predictions=(mrm, deeper), out=tmp_path / "r", bootstrap=2)
        sections = json.loads((tmp_path / "r" / "scores.json").read_text())["predictions"]
        assert [section["name"] for section in sections] == ["MRM-Net mrm", "MRM-Net v1.2"]

    def test_page_stands_alone(
        self, mlbf: Path, mrm: Path, reference: Path, history: Path, tmp_path: Path
    ) -> None:
        evaluate.main(
            predictions=(mlbf, mrm),
            out=tmp_path / "r",
            reference=reference,
            history=(history,),
            bootstrap=20,
        )
        text = (tmp_path / "r" / "index.html").read_text()
        page = Page(text)
        assert not page.open
        figures = [each for each in page.addresses if each.startswith("data:image/png;base64,")]
        links = [each for each in page.addresses if each.startswith("#")]
        assert len(figures) == len(list((tmp_path / "r").glob("*.png"))) == 11
        assert set(links) <= page.anchors
        assert len(figures) + len(links) == len(page.addresses)
        assert not re.search(r"https?:|url\(|@import|<script", text)
        words = " ".join(page.words)
        for said in (
            "Macro-F1 over classes, one label per record",
            "Mean per-record F1, at 0.5",
            "Label accuracy, at 0.5",
            "CPSC 2018 challenge score",
            "Learning curves of mlbf",
            str(reference),
            "2 networks, their probabilities averaged",
        ):
            assert said in words

    def test_the_kept_epoch_is_that_of_the_runs_own_score(self, history: Path) -> None:
        """It stands in the settings beside the history; without them no epoch is marked."""

        def marked() -> list[float]:
            (picture,) = report.learning_curves([history])
            loss, *_ = picture.figure.axes
            dots = [line for line in loss.lines if line.get_marker() == "o"]
            return [float(np.asarray(dot.get_xdata())[0]) for dot in dots]

        rows = ("epoch,loss,val_loss,val_macro_f1,val_macro_auc", "0,2,1,0.2,0.9", "1,1,2,0.6,0.8")
        history.write_text("\n".join(rows) + "\n")
        assert marked() == []
        for monitor, epoch in (("macro-f1", 2), ("macro-auc", 1)):
            args = {"settings": {"monitor": monitor}}
            history.with_name("args.json").write_text(json.dumps(args))
            assert marked() == [epoch]

    @pytest.mark.usefixtures("undrawn")
    def test_names_cannot_break_the_page_or_the_tables(self, mrm: Path, tmp_path: Path) -> None:
        names = ("<b>|&", "<script>", *CPSC_CLASSES[2:])
        made = replace(load_predictions(mrm), class_names=names, task="own", network="<i>net|")
        save_predictions(mrm, made)
        evaluate.main(predictions=(mrm,), out=tmp_path / "r", bootstrap=5)
        text = (tmp_path / "r" / "index.html").read_text()
        page = Page(text)
        assert not page.open
        assert {"<b>|&", "<script>"} <= set(page.words) and "<script" not in text
        row = next(
            line
            for line in (tmp_path / "r" / "report.md").read_text().splitlines()
            if line.startswith(r"| \<b\>\|&")
        )
        assert len(re.findall(r"(?<!\\)\|", row)) == 6

    def test_markdown_tables_have_even_rows(
        self, mlbf: Path, mrm: Path, reference: Path, tmp_path: Path
    ) -> None:
        evaluate.main(predictions=(mlbf, mrm), out=tmp_path / "r", reference=reference, bootstrap=5)
        tables: list[list[str]] = [[]]
        for line in (tmp_path / "r" / "report.md").read_text().splitlines():
            if line.startswith("|"):
                tables[-1].append(line)
            elif tables[-1]:
                tables.append([])
        assert len(tables) == 7
        for table in tables:
            assert len({line.count("|") for line in table}) <= 1
        text = (tmp_path / "r" / "report.md").read_text()
        figures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
        assert len(set(figures)) == 10
        for figure in figures:
            assert (tmp_path / "r" / figure).is_file()

    def test_no_figure_of_an_auc_that_no_class_has(self, mrm: Path, tmp_path: Path) -> None:
        made = load_predictions(mrm)
        assert made.labels is not None and made.first_labels is not None
        one = replace(
            made,
            ids=made.ids[:1],
            probabilities=made.probabilities[:1],
            members=made.members[:, :1],
            labels=made.labels[:1],
            first_labels=made.first_labels[:1],
        )
        save_predictions(tmp_path / "one.npz", one)
        evaluate.main(predictions=(tmp_path / "one.npz",), out=tmp_path / "r", bootstrap=5)
        assert not list((tmp_path / "r").glob("*class_auc.png"))

    def test_same_input_same_report(self, mlbf: Path, reference: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            evaluate.main(
                predictions=(mlbf,), out=tmp_path / name, reference=reference, bootstrap=20
            )
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.usefixtures("undrawn")
class TestComparison:
    def test_same_records_in_another_order(
        self, mlbf: Path, mrm: Path, reference: Path, tmp_path: Path
    ) -> None:
        evaluate.main(
            predictions=(mlbf, mrm), out=tmp_path / "r", reference=reference, bootstrap=100
        )
        content = json.loads((tmp_path / "r" / "scores.json").read_text())
        (difference,) = content["differences"]
        first, second = (section["scores"] for section in content["predictions"])
        assert (difference["of"], difference["minus"]) == ("MRM-Net", "MLBF-Net")
        # The Brier scores of one label and of several are held against different labels.
        with_intervals = first.keys() & second.keys() - {"calibration_error", "brier_score"}
        assert difference["scores"].keys() == with_intervals
        for key, score in difference["scores"].items():
            assert score["value"] == pytest.approx(second[key]["value"] - first[key]["value"])
            assert score["low"] <= score["value"] <= score["high"]

    def test_a_network_does_not_differ_from_itself(self, mrm: Path, tmp_path: Path) -> None:
        """Not even by the order of its records, since they are matched by name."""
        copy = tmp_path / "copy" / "predictions.npz"
        save_predictions(copy, shuffled(load_predictions(mrm)))
        evaluate.main(predictions=(mrm, copy), out=tmp_path / "r", bootstrap=20)
        content = json.loads((tmp_path / "r" / "scores.json").read_text())
        for score in content["differences"][0]["scores"].values():
            assert list(score.values()) == pytest.approx([0, 0, 0], abs=1e-12)
        names = [section["name"] for section in content["predictions"]]
        assert names == ["MRM-Net mrm", "MRM-Net copy"]

    def test_other_records_are_not_compared(self, mrm: Path, tmp_path: Path) -> None:
        made = load_predictions(mrm)
        other = tmp_path / "other.npz"
        ids = np.array([f"B{record}" for record in made.ids])
        save_predictions(other, replace(made, ids=ids, network="Other"))
        evaluate.main(predictions=(mrm, other), out=tmp_path / "r", bootstrap=5)
        assert json.loads((tmp_path / "r" / "scores.json").read_text())["differences"] == []
        assert "not set against each other" in (tmp_path / "r" / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
class TestWhatCannotBeScored:
    """Scores that do not exist are left out or blank, and the report says why."""

    def evaluated(self, made: Predictions, folder: Path) -> tuple[dict, str]:
        save_predictions(folder / "p.npz", made)
        evaluate.main(predictions=(folder / "p.npz",), out=folder / "r", bootstrap=10)
        (section,) = json.loads((folder / "r" / "scores.json").read_text())["predictions"]
        return section, (folder / "r" / "report.md").read_text()

    def test_absent_class(self, tmp_path: Path) -> None:
        made = answered(network="MLBF-Net", single_label=True, seed=1, with_labels=True)
        assert made.labels is not None and made.first_labels is not None
        kept = np.flatnonzero(made.first_labels != 8)
        members = made.members[:, kept]
        members[:, :, 8] = 0
        made = replace(
            made,
            ids=made.ids[kept],
            probabilities=members.mean(axis=0),
            members=members,
            labels=made.labels[kept],
            first_labels=made.first_labels[kept],
        )
        section, text = self.evaluated(made, tmp_path)
        assert section["classes"][8]["auc"] is None
        assert section["scores"]["cpsc_score"] == {"value": None, "low": None, "high": None}
        assert section["scores"]["cpsc_AF"]["value"] is not None
        assert "No record has as its first label STE" in text
        assert "macro-AUC is over the other 8 of 9 classes" in text
        assert "The CPSC 2018 challenge score does not exist here" in text

    def test_unknown_first_label(self, tmp_path: Path) -> None:
        made = answered(network="MLBF-Net", single_label=True, seed=1, with_labels=True)
        section, text = self.evaluated(replace(made, first_labels=None), tmp_path)
        assert "macro_f1_first_label" not in section["scores"]
        assert "cpsc_score" not in section["scores"]
        answers = np.eye(9, dtype=int)[made.answers]
        expected = metrics.f1_score(made.labels, answers, average="macro")
        assert section["scores"]["macro_f1_any_label"]["value"] == pytest.approx(expected)
        assert "It is not known which label of each record stands first" in text

    def test_records_without_a_label_are_left_out(self, tmp_path: Path) -> None:
        made = answered(network="MRM-Net", single_label=False, seed=1, with_labels=True)
        assert made.labels is not None
        labels = made.labels.copy()
        labels[:5] = 0
        section, text = self.evaluated(replace(made, labels=labels, task="form"), tmp_path)
        assert (section["records"], section["left_out"]) == (RECORDS - 5, 5)
        assert "5 predicted records have no label of the task" in text
        expected = metrics.roc_auc_score(labels[5:], made.probabilities[5:], average="macro")
        assert section["scores"]["macro_auc"]["value"] == pytest.approx(expected)

    def test_other_tasks_have_no_cpsc_score(self, tmp_path: Path) -> None:
        made = answered(network="MRM-Net", single_label=False, seed=1, with_labels=True)
        section, text = self.evaluated(replace(made, task="superdiagnostic"), tmp_path)
        assert not any(key.startswith("cpsc") for key in section["scores"])
        assert "CPSC" not in text

    def test_unfitted_thresholds(self, tmp_path: Path) -> None:
        made = answered(network="MRM-Net", single_label=False, seed=1, with_labels=True)
        _, text = self.evaluated(replace(made, thresholds=np.full(9, 0.5)), tmp_path)
        assert "none were fitted" in text


FACTS = ModelFacts(
    "runs/fold_1/best.keras",
    version="0.1.0",
    commit="abc1234",
    date="2026-11-24T10:00:00+00:00",
    dataset="cpsc2018",
    sources=("train",),
    trained=40,
    chose=5,
    epoch=3,
    monitor="val_macro_f1",
    score=0.75,
)


@pytest.mark.usefixtures("undrawn")
class TestWhatTheModelHasSeen:
    def evaluated(
        self, folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any
    ) -> tuple[list[dict], str, str, str]:
        made = answered(network="MRM-Net", single_label=False, seed=1, with_labels=True)
        alone = replace(made, members=made.members[:1], probabilities=made.members[0])
        save_predictions(folder / "p.npz", replace(alone, **changes))
        evaluate.main(predictions=(folder / "p.npz",), out=folder / "r", bootstrap=10)
        sections = json.loads((folder / "r" / "scores.json").read_text())["predictions"]
        warned = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
        page = (folder / "r" / "index.html").read_text()
        return sections, (folder / "r" / "report.md").read_text(), page, "\n".join(warned)

    def test_it_is_said_first_and_the_rest_scored_by_itself(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen = np.zeros(RECORDS, np.int8)
        seen[:25], seen[25:30] = 2, 1
        sections, text, page, warned = self.evaluated(
            tmp_path, capsys, seen=seen, dataset="cpsc2018", models=(FACTS,)
        )
        sentence = "25 of 60 records scored here were used to train this model"
        assert text.startswith(f"**{sentence}: ")
        assert sentence in page[page.index("<body>") :].splitlines()[1]
        assert (
            sentence in warned
            and "5 of 60 records scored here were used to choose its epoch" in warned
        )
        whole, rest = sections
        assert (whole["records"], rest["records"]) == (60, 30)
        assert (whole["only_unseen"], rest["only_unseen"]) == (False, True)
        assert whole["seen"] == {"trained": 25, "chose": 5, "unseen": 30, "unknown": 0}
        assert rest["name"] == "MRM-Net, unseen records" and rest["name"] in text
        made = load_predictions(tmp_path / "p.npz")
        assert made.labels is not None
        expected = metrics.roc_auc_score(made.labels[30:], made.probabilities[30:])
        assert rest["scores"]["macro_auc"]["value"] == pytest.approx(expected)
        assert "not set against each other" not in text

    def test_the_report_names_the_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen = np.zeros(RECORDS, np.int8)
        (section,), text, page, warned = self.evaluated(
            tmp_path, capsys, seen=seen, models=(FACTS,)
        )
        assert warned == "" and text.startswith("# Evaluation")
        assert section["models"][0]["trained"] == 40
        for said in ("runs/fold_1/best.keras", "commit abc1234", "2026-11-24", "40 of cpsc2018"):
            assert said in page

    def test_nothing_unseen_is_left(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (section,), text, _, warned = self.evaluated(tmp_path, capsys, seen=np.ones(RECORDS))
        assert "60 of 60 records scored here were used to choose its epoch and thresholds" in warned
        assert "No record is left that is known to be unseen" in text

    def test_it_is_not_known(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (section,), text, _, warned = self.evaluated(tmp_path, capsys)
        assert warned == "" and section["seen"] is None
        assert "Whether these records trained the model is not known" in text

    def test_generated_records_are_named_in_the_first_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        models = (replace(FACTS, generated="all"),)
        _, text, page, warned = self.evaluated(tmp_path, capsys, models=models)
        sentence = "This model was trained on generated records, not patients"
        assert sentence in text.splitlines()[0] and sentence in warned
        assert sentence in page[page.index("<body>") :].splitlines()[1]


class TestLabels:
    def test_from_a_store(self, mlbf: Path, tmp_path: Path) -> None:
        path = tmp_path / "store.h5"
        labels, first_labels = truth()
        with StoreWriter(
            path, dataset="cpsc2018", fs=250, class_names={"cpsc2018": CPSC_CLASSES}
        ) as writer:
            for number in reversed(range(RECORDS)):
                writer.append(
                    f"A{number:04d}",
                    np.zeros((5, len(LEADS)), np.float32),
                    labels={"cpsc2018": np.flatnonzero(labels[number]).tolist()},
                    first_label=int(first_labels[number]),
                    fold=1,
                )
        made = evaluate.label_predictions(load_predictions(mlbf), mlbf, store=path)
        np.testing.assert_array_equal(made.labels, labels)
        np.testing.assert_array_equal(made.first_labels, first_labels)

        save_predictions(mlbf, replace(made, task="rhythm"))
        with pytest.raises(StoreError, match="rhythm"):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r", store=path)
        save_predictions(mlbf, replace(made, class_names=tuple("abcdefghi")))
        with pytest.raises(PredictionsError, match="predicts a, b.*labels Normal, AF"):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r", store=path)

    def test_from_the_reference(self, mlbf: Path, reference: Path) -> None:
        made = evaluate.label_predictions(load_predictions(mlbf), mlbf, reference=reference)
        labels, first_labels = truth()
        np.testing.assert_array_equal(made.labels, labels)
        np.testing.assert_array_equal(made.first_labels, first_labels)

    def test_none(self, mlbf: Path, tmp_path: Path) -> None:
        with pytest.raises(PredictionsError, match="holds no labels.*--reference.*--store"):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r")

    def test_none_for_any_record(self, mrm: Path, tmp_path: Path) -> None:
        save_predictions(mrm, replace(load_predictions(mrm), labels=np.zeros((RECORDS, 9))))
        with pytest.raises(PredictionsError, match="none of the 60 records"):
            evaluate.main(predictions=(mrm,), out=tmp_path / "r")

    def test_absent_records(self, mlbf: Path, reference: Path, tmp_path: Path) -> None:
        reference.write_text("".join(reference.read_text().splitlines(True)[:-3]))
        with pytest.raises(
            PredictionsError, match=r"3 of the 60 records.*REFERENCE.csv \(the first is A0057\)"
        ):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r", reference=reference)

    def test_other_classes(self, mlbf: Path, reference: Path, tmp_path: Path) -> None:
        made = load_predictions(mlbf)
        save_predictions(mlbf, replace(made, class_names=tuple("abcdefghi"), task="own"))
        with pytest.raises(PredictionsError, match="give labels of the task own"):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r", reference=reference)

    def test_unknown_label(self, mlbf: Path, reference: Path, tmp_path: Path) -> None:
        reference.write_text("Recording,First_label,Second_label,Third_label\nA0000,10,,\n")
        with pytest.raises(LabelError, match="10"):
            evaluate.main(predictions=(mlbf,), out=tmp_path / "r", reference=reference)


class TestOptions:
    def test_contradictions(self, mlbf: Path, reference: Path, tmp_path: Path) -> None:
        out = tmp_path / "r"
        with pytest.raises(OptionError, match="one of --reference and --store"):
            evaluate.main(predictions=(mlbf,), out=out, reference=reference, store=reference)
        with pytest.raises(OptionError, match="nothing to score"):
            evaluate.main(predictions=(), out=out)
        with pytest.raises(OptionError, match="named twice"):
            evaluate.main(predictions=(mlbf, mlbf), out=out, reference=reference)
        with pytest.raises(OptionError, match="predictions.npz is a file, not a folder"):
            evaluate.main(predictions=(mlbf,), out=mlbf, reference=reference)
        with pytest.raises(OptionError, match="at least 1"):
            evaluate.main(predictions=(mlbf,), out=out, reference=reference, bootstrap=0)

    def test_on_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        missing = tmp_path / "p.npz"
        options = ("--predictions", missing, "--out", tmp_path / "r")
        assert exit_of(evaluate.main, *options) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith(f"ecg-toy: {missing} is absent")
