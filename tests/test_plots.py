"""Figures show the numbers they were given, with few classes and with many."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn import metrics

from data_prep.errors import PredictionsError
from ecg_keras.evaluation.plots import (
    plot_class_auc,
    plot_confusion_matrix,
    plot_learning_curves,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
    read_history,
)
from ecg_keras.evaluation.scores import (
    calibration,
    class_auc,
    class_average_precision,
    macro_auc,
)


def made_up(classes: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    random = np.random.default_rng(0)
    labels = (random.random((200, classes)) < 0.3).astype(np.uint8)
    probabilities = 0.4 * labels + 0.6 * random.random((200, classes))
    return labels, probabilities, tuple(f"class {c}" for c in range(classes))


def require_drawn(figure: Figure) -> None:
    """It renders, warnings being errors, and is not one plain colour."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    assert file.getvalue().startswith(b"\x89PNG")
    assert len(file.getvalue()) > 3000


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in (axes.title, *axes.texts)] + [
        axes.get_title(loc="left") for axes in figure.axes
    ]


class TestConfusionMatrix:
    def test_numbers_and_colours(self) -> None:
        matrix = np.array([[6, 2, 0], [0, 5, 0], [0, 0, 0]])
        figure = plot_confusion_matrix(matrix, ("Normal", "AF", "$\\frac{$"))
        axes = figure.axes[0]
        placed = {text.get_position(): text.get_text() for text in axes.texts}
        # (column, row): numbers stand at the column of the answer and the row of the truth.
        assert placed == {(0, 0): "6", (1, 0): "2", (1, 1): "5"}
        shares = axes.images[0].get_array()
        assert shares is not None
        np.testing.assert_allclose(4 * np.asarray(shares), [[3, 1, 0], [0, 4, 0], [0, 0, 0]])
        assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["Normal", "AF"]
        require_drawn(figure)

    def test_many_classes_have_no_numbers(self) -> None:
        figure = plot_confusion_matrix(np.eye(71, dtype=int), tuple(map(str, range(71))))
        assert not figure.axes[0].texts
        require_drawn(figure)


class TestCurves:
    @pytest.mark.parametrize("classes", [2, 5, 9, 12])
    def test_each_class_has_its_panel_and_area(self, classes: int) -> None:
        labels, probabilities, names = made_up(classes)
        for plot, areas, word in (
            (plot_roc, class_auc(labels, probabilities), "AUC"),
            (plot_precision_recall, class_average_precision(labels, probabilities), "AP"),
        ):
            figure = plot(labels, probabilities, names)
            shown = texts(figure)
            for name, area in zip(names, areas, strict=True):
                assert f"{name}  {word} {area:.3f}" in shown
            require_drawn(figure)

    def test_drawn_curves_have_the_areas_they_state(self) -> None:
        labels, probabilities, names = made_up(5)
        figure = plot_roc(labels, probabilities, names)
        for c, axes in enumerate(figure.axes[:5]):
            x, y = axes.lines[-1].get_data()
            assert metrics.auc(x, y) == pytest.approx(class_auc(labels, probabilities)[c])
        figure = plot_precision_recall(labels, probabilities, names)
        for c, axes in enumerate(figure.axes[:5]):
            x, y = map(np.asarray, axes.lines[-1].get_data())
            # The staircase that steps at its left ends: width times the height at the right.
            area = np.sum(np.diff(x) * y[1:])
            assert area == pytest.approx(class_average_precision(labels, probabilities)[c])

    def test_many_classes_show_mean_and_spread(self) -> None:
        labels, probabilities, names = made_up(71)
        labels[:, 70] = 0
        figure = plot_roc(labels, probabilities, names)
        (axes,) = figure.axes
        assert axes.get_title(loc="left") == "70 of 71 classes"
        mean = axes.lines[-1]
        x, y = mean.get_data()
        assert metrics.auc(x, y) == pytest.approx(macro_auc(labels, probabilities), abs=0.005)
        assert mean.get_label() == f"mean, AUC {macro_auc(labels, probabilities):.3f}"
        require_drawn(figure)
        require_drawn(plot_precision_recall(labels, probabilities, names))

    def test_classes_on_no_or_every_record_are_said_so(self) -> None:
        labels, probabilities, names = made_up(3)
        labels[:, 0], labels[:, 1] = 0, 1
        for plot in (plot_roc, plot_precision_recall):
            figure = plot(labels, probabilities, names)
            assert {"on no record", "on every record"} <= set(texts(figure))
            require_drawn(figure)

    @pytest.mark.parametrize("classes", [3, 71])
    def test_nothing_to_draw(self, classes: int) -> None:
        _, probabilities, names = made_up(classes)
        figure = plot_roc(np.zeros_like(probabilities), probabilities, names)
        assert sum(len(axes.lines) for axes in figure.axes) == 0
        assert texts(figure).count("on no record") == (3 if classes == 3 else 0)


class TestReliability:
    def test_each_class_has_a_panel(self) -> None:
        labels, probabilities, names = made_up(4)
        figure = plot_reliability(labels, probabilities, names)
        for c, axes in enumerate(figure.axes):
            bins = calibration(labels[:, c], probabilities[:, c])
            np.testing.assert_array_equal(axes.lines[1].get_ydata(), bins.share)
            assert axes.get_title(loc="left") == f"{names[c]}  ECE {bins.error:.3f}"
        require_drawn(figure)

    def test_many_classes_share_one(self) -> None:
        labels, probabilities, names = made_up(71)
        (axes,) = plot_reliability(labels, probabilities, names).axes
        assert axes.get_title(loc="left").startswith("all 71 classes")


class TestClassAUC:
    @pytest.mark.parametrize("classes", [3, 71])
    def test_from_the_highest_to_the_lowest(self, classes: int) -> None:
        labels, probabilities, names = made_up(classes)
        auc = class_auc(labels, probabilities)
        auc[2:3] = np.nan
        intervals = np.stack([auc - 0.1, auc + 0.05], axis=1)
        figure = plot_class_auc(auc, intervals, labels.sum(axis=0), names)
        drawn = np.concatenate([axes.lines[1].get_xdata() for axes in figure.axes])
        np.testing.assert_array_equal(drawn, np.sort(auc[np.isfinite(auc)])[::-1])
        rows = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
        best = int(np.nanargmax(auc))
        assert rows[0] == f"{names[best]} ({labels[:, best].sum()})"
        assert len(rows) == len(drawn)
        bar = np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)
        np.testing.assert_allclose(bar[:, 0], intervals[best])
        require_drawn(figure)


class TestLearningCurves:
    HISTORY = "epoch,loss,val_loss,val_macro_f1,learning_rate\n0,2,1.5,0.2,1e-3\n1,1,1.2,0.6,1e-3\n"

    def test_history_is_read_and_drawn(self, tmp_path: Path) -> None:
        path = tmp_path / "history.csv"
        path.write_text(self.HISTORY + "2,0.5,1.4,,1e-3\n")
        history = read_history(path)
        np.testing.assert_array_equal(history["val_loss"], [1.5, 1.2, 1.4])
        np.testing.assert_array_equal(history["val_macro_f1"], [0.2, 0.6, np.nan])
        figure = plot_learning_curves({"fold_1": history}, monitor="macro-f1")
        loss, score = figure.axes
        np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(loss.lines[1].get_ydata(), [1.5, 1.2, 1.4])
        assert score.get_title(loc="left") == "validation macro-F1"
        # The second epoch was kept; it is marked in both panels.
        marks = [np.concatenate(axes.lines[-1].get_data()).tolist() for axes in (loss, score)]
        assert marks == [[2, 1.2], [2, 0.6]]
        require_drawn(figure)

    def test_many_runs_and_single_epochs(self, tmp_path: Path) -> None:
        path = tmp_path / "history.csv"
        path.write_text("epoch,loss,val_loss\n0,2,1.5\n")
        history = read_history(path)
        histories = {f"fold_{fold}": history for fold in range(1, 11)}
        figure = plot_learning_curves(histories, monitor="macro-f1")
        assert len(figure.axes) == 1
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["each of 10 runs"]
        require_drawn(figure)

    @pytest.mark.parametrize(
        "content",
        [b"", b"epoch,loss,val_loss\n", b"Recording,Result\nA1,2\n", b"\x89PNG\xff\x00\x01"]
        + [b"epoch,loss,val_loss\n0,x,1\n", b"epoch,loss,val_loss\n0,1\n\x00\n"],
    )
    def test_no_history(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "history.csv"
        path.write_bytes(content)
        with pytest.raises(
            PredictionsError, match="history.csv is not the history of a training run"
        ):
            read_history(path)

    def test_a_pipe_for_a_history(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "history.csv")
        with pytest.raises(PredictionsError, match="history.csv cannot be read"):
            read_history(tmp_path / "history.csv")

    def test_absent_history(self, tmp_path: Path) -> None:
        with pytest.raises(PredictionsError, match="history.csv cannot be read"):
            read_history(tmp_path / "history.csv")
