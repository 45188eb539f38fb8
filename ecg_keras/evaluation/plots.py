"""Figures of scores and explanations: each function returns a Matplotlib ``Figure``.

Throughout, C is the number of classes, named by ``class_names``; ``labels`` and ``truth`` are
``(N, C)`` of 0 and 1, ``probabilities`` is ``(N, C)``.

Pyplot is not used, so drawing leaves no global state and needs no display.  Most colours are from
the palette of Okabe and Ito, which is safe for colour-blind readers.
"""

import csv
import math
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from data_prep.errors import PredictionsError
from data_prep.files import opened
from ecg_keras.evaluation.scores import calibration, class_auc, class_average_precision

# Up to this many classes, each has its own panel; beyond that, only their mean is drawn.
MOST_PANELS = 12

_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_PURPLE, _SKY, _GREY, _INK = "#CC79A7", "#56B4E9", "#B8BCC4", "#22262E"
_BROWN = "#A6761D"
_RUN_COLOURS = (_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY, _INK, _BROWN)
_CLASS_COLOURS = (_GREY, _BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY, _INK, _BROWN)
_MOST_HISTORY = 2**26  # bytes
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a class may be named $\frac{$
    "font.size": 11.0,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
}

# Scores that a history may hold, and their names in figures.
_HISTORY_SCORES = {"val_macro_f1": "macro-F1", "val_macro_auc": "macro-AUC"}


def plot_confusion_matrix(matrix: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Draw a confusion matrix: colour is the share of the row, numbers are records.

    Args:
        matrix: ``(C, C)`` numbers of records; rows are the truth, columns the answer.
        class_names: the C classes.
    """
    classes = len(class_names)
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    with rc_context(_STYLE):
        side = float(np.clip(0.62 * classes + 1.6, 4.5, 12))
        figure = _figure(side, side - 0.7)
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size = min(11.0, 40 * side / classes)
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right", fontsize=size)
        axes.set_yticks(range(classes), class_names, fontsize=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5 if classes <= MOST_PANELS else 0.5)
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")
        if classes <= MOST_PANELS:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                dark = shares[row, column] > 0.55
                axes.text(
                    column,
                    row,
                    f"{matrix[row, column]}",
                    ha="center",
                    va="center",
                    color="white" if dark else _INK,
                )
        colours = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
        colours.outline.set_visible(False)
        colours.set_label("share of the row's records")
    return figure


def plot_roc(labels: np.ndarray, probabilities: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Draw the ROC curve of each class, or the mean and spread if there are many classes."""
    return _plot_curves(
        labels,
        probabilities,
        class_names,
        curve=lambda truth, scores: roc_curve(truth, scores)[:2],
        chance=lambda prevalence: (0, 1),
        areas=class_auc(labels, probabilities),
        area_name="AUC",
        x_name="1 − specificity",
        y_name="sensitivity",
        drawstyle="default",
    )


def plot_precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, class_names: tuple[str, ...]
) -> Figure:
    """Draw the precision-recall curve of each class, or the mean and spread if there are many."""

    def curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        precision, recall, _ = precision_recall_curve(truth, scores)
        return recall[::-1], precision[::-1]

    both = (np.sum(labels, axis=0) > 0) & (np.sum(labels, axis=0) < len(labels))
    return _plot_curves(
        labels,
        probabilities,
        class_names,
        curve=curve,
        chance=lambda prevalence: (prevalence, prevalence),
        areas=np.where(both, class_average_precision(labels, probabilities), np.nan),
        area_name="AP",
        x_name="recall",
        y_name="precision",
        # Between two points of this curve, precision is that of the right-hand point.
        drawstyle="steps-pre",
    )


def plot_reliability(
    truth: np.ndarray, probabilities: np.ndarray, class_names: tuple[str, ...]
) -> Figure:
    """Draw a reliability diagram of each class, or of all pooled if there are many classes."""
    together = len(class_names) > MOST_PANELS
    names = (f"all {len(class_names)} classes",) if together else class_names
    with rc_context(_STYLE):
        figure, grid = _square_panels(len(names))
        for c, (axes, name) in enumerate(zip(grid, names, strict=False)):
            cells = (slice(None), slice(None) if together else c)
            bins = calibration(truth[cells], probabilities[cells])
            axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1.2)
            axes.plot(bins.probability, bins.share, color=_BLUE, linewidth=1.6)
            size = 12 + 120 * np.sqrt(bins.number / bins.number.sum())
            axes.scatter(bins.probability, bins.share, s=size, color=_BLUE, linewidths=0)
            axes.set_title(f"{name}  ECE {bins.error:.3f}")
        figure.supxlabel("probability", fontsize=11, color=_INK)
        figure.supylabel("share of records that have the class", fontsize=11, color=_INK)
    return figure


def plot_class_auc(
    auc: np.ndarray, intervals: np.ndarray, support: np.ndarray, class_names: tuple[str, ...]
) -> Figure:
    """Draw the AUC of each class with its interval, from the highest to the lowest.

    Args:
        auc: ``(C,)``; classes with NaN are left out.
        intervals: ``(C, 2)``.
        support: ``(C,)`` number of records with the class.
        class_names: the C classes.
    """
    order = np.argsort(-auc, kind="stable")[: int(np.isfinite(auc).sum())]
    columns = 1 if len(order) <= MOST_PANELS else 2
    rows = max(math.ceil(len(order) / columns), 1)
    lowest = min(0.5, np.nanmin(intervals, initial=0.5)) - 0.02
    with rc_context(_STYLE):
        figure = _figure(7.2, 0.9 + 0.21 * rows)
        for column, axes in enumerate(np.ravel(figure.subplots(1, columns, sharex=True))):
            shown = order[column * rows : (column + 1) * rows]
            at = np.arange(len(shown))
            axes.axvline(np.nanmean(auc), color=_GREY, linestyle=":", linewidth=1.2)
            axes.hlines(at, *intervals[shown].T, color=_SKY, linewidth=1.8)
            axes.plot(auc[shown], at, "o", color=_BLUE, markersize=4)
            axes.set_yticks(
                at, [f"{class_names[c]} ({support[c]:,.0f})" for c in shown], fontsize=8
            )
            axes.set(xlim=(lowest, 1.005), ylim=(rows - 0.4, -0.6))
        figure.supxlabel("AUC", fontsize=11, color=_INK)
    return figure


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Read the ``history.csv`` of a training run, which has one row per epoch.

    Args:
        path: a CSV file with the columns ``epoch`` (from 0), ``loss``, ``val_loss`` and optionally
            ``val_macro_f1`` and ``val_macro_auc``.

    Returns:
        Arrays ``(epochs,)`` float64 by column name; empty cells are NaN.

    Raises:
        PredictionsError: if the file is missing or empty, or is not such a table.
    """
    try:
        with (
            opened(path, most=_MOST_HISTORY) as data,
            TextIOWrapper(data, encoding="utf-8", newline="") as file,
        ):
            rows = list(csv.DictReader(file))
        if not rows or not {"epoch", "loss", "val_loss"} <= rows[0].keys():
            raise ValueError
        return {
            name: np.array([float(row[name] or "nan") for row in rows])
            for name in rows[0]
            if name in ("epoch", "loss", "val_loss", *_HISTORY_SCORES)
        }
    except OSError:
        raise PredictionsError(
            f"{path} cannot be read; give the history.csv of a training run."
        ) from None
    # An empty, binary or truncated file can raise any of these.
    except (ValueError, TypeError, csv.Error):
        raise PredictionsError(
            f"{path} is not the history of a training run (it needs the columns epoch, loss and"
            " val_loss, and at least one row of numbers); give its history.csv."
        ) from None


def plot_learning_curves(
    histories: Mapping[str, Mapping[str, np.ndarray]], *, monitor: str
) -> Figure:
    """Draw loss and validation scores by epoch; a dot marks the best epoch in all panels.

    Args:
        histories: histories from :func:`read_history`, by name of the run.  Up to eight runs have
            different colours; more are all drawn in the same colour.
        monitor: the validation score that selected the epoch, such as ``"macro-f1"``; if a history
            does not have it, no epoch is marked.
    """
    chooses = next((key for key, name in _HISTORY_SCORES.items() if name.lower() == monitor), "")
    scores = [name for name in _HISTORY_SCORES if any(name in h for h in histories.values())]
    panels = 1 + len(scores)
    with rc_context(_STYLE):
        figure = _figure(3.6 * panels, 3.9)
        loss, *others = figure.subplots(1, panels, squeeze=False)[0]
        for axes in (loss, *others):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axes.grid(axis="y", color=_GREY, alpha=0.4, linewidth=0.8)
        loss.set_title("loss (dashed: training)")
        for axes, score in zip(others, scores, strict=True):
            axes.set_title(f"validation {_HISTORY_SCORES[score]}")

        named = len(histories) <= len(_RUN_COLOURS)
        lines: list[Line2D] = []
        for run, history in enumerate(histories.values()):
            colour, alpha = (_RUN_COLOURS[run], 1.0) if named else (_BLUE, 0.5)
            epoch = history["epoch"] + 1
            # A run of one epoch is a point, not a line.
            marker = "." if len(epoch) == 1 else ""
            draw = {"color": colour, "alpha": alpha, "marker": marker, "linewidth": 1.6}
            loss.plot(epoch, history["loss"], linestyle="--", **draw)
            chosen_by = history.get(chooses, np.array([np.nan]))
            kept = int(np.nanargmax(chosen_by)) if np.isfinite(chosen_by).any() else None
            for axes, score in zip((loss, *others), ("val_loss", *scores), strict=True):
                if score not in history:
                    continue
                drawn = axes.plot(epoch, history[score], **draw)
                lines += drawn if axes is loss else []
                if kept is not None:
                    axes.plot(epoch[kept], history[score][kept], "o", color=colour, alpha=alpha)
        names = list(histories) if named else [f"each of {len(histories)} runs"]
        figure.legend(
            lines[: len(names)], names, loc="outside lower center", ncols=min(4, len(names))
        )
    return figure


def plot_lead_contributions(
    leads: tuple[str, ...],
    heads: np.ndarray | None,
    probability: float,
    without: np.ndarray,
    *,
    class_name: str,
) -> Figure:
    """Draw the contribution of each lead to the probability of a class.

    Args:
        leads: names of the L leads.
        heads: ``(L,)`` probability from each lead's own head, or None if there are no such heads.
        probability: probability from all leads together.
        without: ``(L,)`` the same with that lead set to 0 mV.
        class_name: the class.
    """
    with rc_context(_STYLE):
        figure = _figure(6.4, 0.26 * len(leads) + 1.4)
        *own, change = figure.subplots(1, 2 if heads is not None else 1, squeeze=False)[0]
        for axes in (*own, change):
            axes.set_yticks(range(len(leads)), leads)
            axes.invert_yaxis()
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=_GREY, alpha=0.4, linewidth=0.8)
            axes.set_axisbelow(True)
        for axes in own:
            axes.barh(leads, heads, color=_BLUE, height=0.7)
            axes.axvline(probability, color=_INK, linestyle=":", linewidth=1.2)
            axes.set_xlim(0, 1)
            axes.set_title(f"{class_name} by the lead's own head")
            axes.set_xlabel("probability (dotted: all leads)")
        moved = without - probability
        change.barh(leads, moved, color=np.where(moved < 0, _BLUE, _ORANGE), height=0.7)
        change.axvline(0, color=_INK, linewidth=0.8)
        side = max(0.02, 1.1 * float(np.abs(moved).max()))
        change.set_xlim(-side, side)
        change.xaxis.set_major_locator(MaxNLocator(nbins=4))
        change.set_title(f"{class_name} without the lead")
        change.set_xlabel("change of the probability")
    return figure


def plot_deletion(
    shares: np.ndarray, marked: np.ndarray, random: np.ndarray, *, class_name: str
) -> Figure:
    """Draw how a probability falls as parts of the recording are removed.

    Args:
        shares: ``(K,)`` fractions of the recording that are removed, from 0 to 1.
        marked: ``(K,)`` probability after removing the most relevant parts.
        random: ``(K,)`` probability after removing as much at random.
        class_name: the class.
    """
    with rc_context(_STYLE):
        figure = _figure(6.4, 4.5)
        axes = figure.add_subplot()
        places = np.arange(len(shares))
        axes.plot(places, random, "o--", color=_GREY, label="drawn at random")
        axes.plot(places, marked, "o-", color=_BLUE, label="marked most")
        axes.set_xticks(places, [f"{100 * share:g} %" for share in shares])
        axes.set_ylim(0, max(1.0, float(np.max([marked, random]))) * 1.02)
        axes.set_xlabel("share of the recording that is removed")
        axes.set_ylabel(f"probability of {class_name}")
        axes.grid(axis="y", color=_GREY, alpha=0.4, linewidth=0.8)
        axes.legend()
    return figure


def plot_channel_weights(weights: Mapping[str, np.ndarray]) -> Figure:
    """Draw the weights of feature channels, sorted, one line per network.

    Args:
        weights: ``(networks, channels)`` in 0..1, by name of the attention.
    """
    with rc_context(_STYLE):
        figure = _figure(6.4, 3.2)
        panels = figure.subplots(1, len(weights), squeeze=False, sharey=True)[0]
        for axes, (name, of_networks) in zip(panels, weights.items(), strict=True):
            for values in of_networks:
                axes.plot(np.sort(values)[::-1], color=_BLUE, linewidth=1.6, alpha=0.8)
            axes.set_title(f"{name} branch")
            axes.set_xlabel("channels, sorted")
            axes.set_ylim(0, 1.02)
        panels[0].set_ylabel("weight")
    return figure


def _plot_curves(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: tuple[str, ...],
    *,
    curve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    chance: Callable[[float], tuple[float, float]],
    areas: np.ndarray,
    area_name: str,
    x_name: str,
    y_name: str,
    drawstyle: str,
) -> Figure:
    """Draw one kind of curve in a panel per class, or the mean if there are many classes.

    ``chance`` gives the left and right end of the dotted line from the prevalence of the class.
    """
    labels = np.asarray(labels)
    dotted = {"color": _GREY, "linestyle": ":", "linewidth": 1.2}
    drawable = [c for c, area in enumerate(areas) if np.isfinite(area)]
    curves = {c: curve(labels[:, c], probabilities[:, c]) for c in drawable}
    panels = len(class_names) if len(class_names) <= MOST_PANELS else 1
    with rc_context(_STYLE):
        figure, grid = _square_panels(panels)
        if len(class_names) <= MOST_PANELS:
            for c, axes in enumerate(grid[:panels]):
                for x, y in curves.values():
                    axes.plot(x, y, color=_GREY, alpha=0.55, linewidth=0.7, drawstyle=drawstyle)
                if c in curves:
                    axes.plot([0, 1], chance(labels[:, c].mean()), **dotted)
                    axes.plot(*curves[c], color=_BLUE, linewidth=2.2, drawstyle=drawstyle)
                    axes.set_title(f"{class_names[c]}  {area_name} {areas[c]:.3f}")
                else:
                    axes.set_title(class_names[c])
                    note = "on no record" if not labels[:, c].any() else "on every record"
                    axes.text(0.5, 0.5, note, ha="center", va="center", color=_INK)
        elif curves:
            axes = grid[0]
            steps = np.linspace(0, 1, 201)
            onto_steps = _interpolate if drawstyle == "default" else _step
            values = np.array([onto_steps(steps, x, y) for x, y in curves.values()])
            axes.plot([0, 1], chance(labels[:, drawable].mean()), **dotted)
            low, high = np.percentile(values, [10, 90], axis=0)
            axes.fill_between(
                steps, low, high, color=_SKY, alpha=0.3, linewidth=0, label="middle 80 % of classes"
            )
            axes.plot(
                steps,
                values.mean(axis=0),
                color=_BLUE,
                linewidth=2.2,
                label=f"mean, {area_name} {areas[drawable].mean():.3f}",
            )
            axes.set_title(f"{len(curves)} of {len(class_names)} classes")
            axes.legend(loc="lower right" if drawstyle == "default" else "best")
        figure.supxlabel(x_name, fontsize=11, color=_INK)
        figure.supylabel(y_name, fontsize=11, color=_INK)
    return figure


def plot_embeddings(
    points: Mapping[str, np.ndarray],
    classes: np.ndarray,
    class_names: tuple[str, ...],
    *,
    title: str,
) -> Figure:
    """Draw records as points in a plane, coloured by class, one panel per embedding.

    Args:
        points: ``(N, 2)`` positions without unit, by name of the panel.
        classes: ``(N,)`` 0-based.
        class_names: the classes, at most nine.
        title: title above all panels.

    Returns:
        A figure with at most four panels per row.
    """
    columns = min(4, len(points))
    rows = math.ceil(len(points) / columns)
    with rc_context(_STYLE):
        figure = _figure(3.0 * columns, 3.0 * rows + 0.8)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(points) :]:
            axes.set_axis_off()
        for axes, (name, at) in zip(grid, points.items(), strict=False):
            for c, class_name in enumerate(class_names):
                mine = classes == c
                axes.scatter(*at[mine].T, s=9, color=_CLASS_COLOURS[c], label=class_name)
            axes.set(title=name, xticks=[], yticks=[])
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=min(len(class_names), 3 * columns - 1),
            markerscale=2,
        )
        figure.suptitle(title, fontsize=12, color=_INK)
    return figure


def plot_parallel_coordinates(lines: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw settings and their results as lines across parallel axes (MRM-Net, Fig. 6).

    Values on the axes of the settings are equally spaced; the last axis, the result, is linear and
    also determines the colour.

    Args:
        lines: ``(L, C)``, one combination of settings per row, its result in the last column.
        names: names of the C columns.
    """
    settings, results = lines[:, :-1], lines[:, -1]
    levels = [np.unique(column) for column in settings.T]
    low, high = float(np.nanmin(results)), float(np.nanmax(results))
    span = high - low or 1.0
    heights = [
        np.searchsorted(of, column) / max(1, len(of) - 1)
        for of, column in zip(levels, settings.T, strict=True)
    ]
    heights.append((results - low) / span)
    with rc_context(_STYLE):
        figure = _figure(7.2, 4.2)
        axes = figure.add_subplot()
        shades = ScalarMappable(Normalize(low, low + span), "Blues")
        # The best is drawn last, on top of the others.
        for i in np.argsort(results):
            shade = shades.to_rgba(low + span * (0.25 + 0.75 * heights[-1][i]))
            axes.plot(range(len(names)), [h[i] for h in heights], color=shade, linewidth=1.6)
        for x, of in enumerate([*levels, np.linspace(low, low + span, 5)]):
            axes.axvline(x, color=_INK, linewidth=0.8)
            for height, value in zip(np.linspace(0, 1, len(of)), of, strict=True):
                text = f"{value:g}" if x < len(levels) else f"{value:.3f}"
                axes.annotate(
                    text,
                    (x, height),
                    (5, 0),
                    textcoords="offset points",
                    va="center",
                    color=_INK,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
                )
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlim(-0.15, len(names) - 0.6)
    return figure


def _square_panels(panels: int) -> tuple[Figure, np.ndarray]:
    """Make square panels with axes from 0 to 1, at most three per row."""
    columns = 1 if panels == 1 else 2 if panels in (2, 4) else 3
    rows = math.ceil(panels / columns)
    width, height = (5.0, 5.0) if panels == 1 else (7.2, 7.2 / columns * rows + 0.5)
    figure = _figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set_xticklabels(["0", "0.5", "1"])
        axes.set_yticklabels(["0", "0.5", "1"])
    for axes in grid[panels:]:
        axes.set_axis_off()
        # The panel above an empty one needs the tick labels of the x-axis.
        grid[list(grid).index(axes) - columns].tick_params(labelbottom=True)
    return figure, grid


def _interpolate(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate a curve with non-decreasing ``x``; if an ``x`` repeats, use its last ``y``."""
    last = np.concatenate([x[1:] != x[:-1], [True]])
    return np.interp(at, x[last], y[last])


def _step(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Evaluate a step function: the ``y`` of the first point whose ``x`` is not below ``at``."""
    return y[np.minimum(np.searchsorted(x, at, side="left"), len(x) - 1)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
