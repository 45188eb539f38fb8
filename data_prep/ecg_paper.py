"""Twelve leads on ECG paper, 25 mm/s and 10 mm/mV, true to scale when printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_prep.errors import OptionError
from data_prep.labels import LEADS
from data_prep.records import Record

MM_PER_SECOND = 25.0
MM_PER_MILLIVOLT = 10.0

# The usual print: four columns of a quarter of the time each, and one lead in full below.
_COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))

_MARGIN, _TITLE, _CAPTION = 5.0, 11.0, 13.0  # mm around the paper
_LEADER = 10.0  # mm before the traces, for the calibration pulse
_ABOVE, _BELOW = 11.0, 3.0  # least mm of a row: the pulse is 10 mm high
_MOST = 60.0  # most mm between rows; traces that need more overlap, as on paper

_INK, _SOFT, _PAPER, _FINE, _BOLD = "#15171c", "#5b6472", "#fffafa", "#f8d9d9", "#ecaaaa"
_INVALID = "#8b93a1"
# Orange below zero, blue above, no colour at zero; the paper's squares show through.
_COLOURS = LinearSegmentedColormap.from_list(
    "shading",
    [
        (0.00, (0.90, 0.45, 0.00, 0.75)),
        (0.25, (0.90, 0.55, 0.00, 0.40)),
        (0.50, (1.00, 1.00, 1.00, 0.00)),
        (0.75, (0.20, 0.55, 0.85, 0.40)),
        (1.00, (0.00, 0.40, 0.75, 0.75)),
    ],
)
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "text.color": _INK,
    "text.parse_math": False,  # a record may be named $\frac{$
}


@dataclass(frozen=True, eq=False)
class Shading:
    """A quantity that varies along a recording, drawn as a background colour.

    Attributes:
        name: of the quantity, with its unit, for the legend.
        edges: ``(steps + 1,)``, boundaries of the steps in seconds from the start of the
            recording, ascending.
        values: ``(steps,)`` for all leads alike, or ``(steps, 12)``; NaN if unknown.  Zero has
            no colour, positive values are blue, negative ones orange.
        least: full colour stands for the largest absolute value, but at least for this, so that
            a nearly constant quantity looks constant.

    Raises:
        OptionError: if the shapes disagree.
    """

    name: str
    edges: np.ndarray
    values: np.ndarray
    least: float = 0.0

    def __post_init__(self) -> None:
        """Reject shapes that cannot be drawn."""
        steps = len(self.edges) - 1
        if self.values.shape not in ((steps,), (steps, len(LEADS))):
            raise OptionError(
                f"a shading with {len(self.edges)} edges needs values of shape ({steps},) or"
                f" ({steps}, {len(LEADS)}), not {self.values.shape}; give one value a step."
            )

    @property
    def limit(self) -> float:
        """The value shown in full colour."""
        return float(np.nanmax(np.abs(self.values), initial=self.least)) or 1.0

    def of_lead(self, lead: int) -> np.ndarray:
        """Values ``(steps,)`` of one lead."""
        return self.values if self.values.ndim == 1 else self.values[:, lead]


@dataclass(frozen=True)
class _Trace:
    """One lead over one stretch of time, and its place in a row; ``left`` in mm."""

    lead: int
    start: float
    stop: float
    left: float
    label: str


def ecg_figure(
    recording: Record | np.ndarray,
    *,
    fs: float | None = None,
    layout: Literal["3x4", "12x1", "strip"] = "3x4",
    start: float = 0.0,
    seconds: float = 10.0,
    lead: str = "II",
    shading: Shading | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a recording on ECG paper, 25 mm/s and 10 mm/mV at the figure's own size.

    Every row begins with a calibration pulse of 1 mV and 0.2 s. Small squares are 1 mm (0.04 s,
    0.1 mV), large ones 5 mm (0.2 s, 0.5 mV). Each trace is shifted so that its median lies on a
    line of the paper, since the electrodes' offset voltage carries no information. Rows are as
    far apart as their traces need, up to 60 mm. Invalid samples leave a gap in the trace, which
    is hatched.

    Args:
        recording: from :func:`data_prep.records.read_record`, or millivolts ``(time, 12)``,
            leads in the order of :data:`data_prep.labels.LEADS`, NaN if invalid.
        fs: sampling rate of an array, hertz; a record has its own.
        layout: ``"3x4"`` is the usual print, three rows of four leads, each a quarter of the
            time, and below them one lead in full; ``"12x1"`` has a row for each lead;
            ``"strip"`` shows one lead from ``start`` to the recording's end, in lines of
            ``seconds`` each.
        start: of the drawing, in seconds from the start of the recording.
        seconds: duration shown (of a strip: in each line); less if the recording is shorter.
        lead: the one shown in full by ``"3x4"`` and ``"strip"``.
        shading: drawn behind the traces, such as a network's attention.
        title: above the paper; by default a record's name, age and sex.

    Returns:
        A figure of the paper's size in millimetres at any resolution: 275 mm wide for 10 s.

    Raises:
        OptionError: if the array, rate, lead or stretch of time is not valid.
    """
    signal, fs = _signal(recording, fs)
    duration = len(signal) / fs
    if lead not in LEADS:
        raise OptionError(f"there is no lead {lead!r}; choose one of {', '.join(LEADS)}.")
    if not (0 <= start < duration and seconds > 0):
        raise OptionError(
            f"{seconds:g} s from {start:g} s on cannot be drawn of a recording of {duration:g} s;"
            " begin within it and show more than 0 s."
        )
    stop = min(start + seconds, duration)
    if layout == "3x4":
        rows = _three_by_four(start, stop, LEADS.index(lead))
    elif layout == "12x1":
        rows = [[_Trace(i, start, stop, 0.0, name)] for i, name in enumerate(LEADS)]
    else:
        begins = np.arange(start, duration - 0.5 / fs, seconds)
        rows = [
            [_Trace(LEADS.index(lead), t, min(t + seconds, duration), 0.0, f"{lead}  {t:g} s")]
            for t in begins
        ]
    if title is None:
        title = _title(recording) if isinstance(recording, Record) else ""

    sheet = _Sheet(signal, fs, rows, shading, width=MM_PER_SECOND * max(stop - start, 6.0))
    with rc_context(_STYLE):
        sheet.draw()
        sheet.write(title, f"25 mm/s    10 mm/mV    {fs:g} Hz", numbered=layout != "strip")
    return sheet.figure


class _Sheet:
    """The paper, its rows and what is drawn on them; all positions in mm from the lower left."""

    def __init__(
        self,
        signal: np.ndarray,
        fs: float,
        rows: Sequence[Sequence[_Trace]],
        shading: Shading | None,
        *,
        width: float,
    ) -> None:
        self.rows, self.shading = rows, shading
        self.traces = [[_points(signal, fs, trace) for trace in row] for row in rows]
        self.labels = [
            [_above_label(trace, x, y) for trace, (x, y) in zip(row, points, strict=True)]
            for row, points in zip(rows, self.traces, strict=True)
        ]
        above = [
            max([_ABOVE, *(_highest(y) for _, y in row), *(label + 3 for label in labels)])
            for row, labels in zip(self.traces, self.labels, strict=True)
        ]
        below = [max([_BELOW, *(_highest(-y) for _, y in row)]) for row in self.traces]
        steps = [_squares(b + a + 1) for b, a in zip(below[:-1], above[1:], strict=True)]
        top, bottom = _squares(above[0] + 2), _squares(below[-1] + 2)

        # Traces start, and rows lie, on the bold lines of the paper.
        self.left = _MARGIN
        self.zero = self.left + _LEADER
        self.right = self.zero + _squares(width, most=np.inf) + 5
        self.bottom = _CAPTION
        self.top = self.bottom + bottom + sum(steps) + top
        self.baselines = self.top - top - np.concatenate([[0.0], np.cumsum(steps)])
        self.edges = [
            self.top,
            *(
                lower + (step - b - a) / 2 + a
                for lower, step, b, a in zip(
                    self.baselines[1:], steps, below[:-1], above[1:], strict=True
                )
            ),
            self.bottom,
        ]
        size = (self.right + _MARGIN, self.top + _TITLE)
        self.figure = Figure(figsize=(size[0] / 25.4, size[1] / 25.4), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
        self.axes.set_axis_off()

    def draw(self) -> None:
        """Draw paper, shading, calibration pulses and traces."""
        self._paper()
        halo = [patheffects.withStroke(linewidth=2.5, foreground=_PAPER)]
        clipping = self.axes.add_patch(self._rectangle(fill=False, linewidth=0))
        for row, (traces, base) in enumerate(zip(self.rows, self.baselines, strict=True)):
            pulse = np.array([[2, 0], [3.5, 0], [3.5, 10], [8.5, 10], [8.5, 0], [10, 0]])
            self.axes.plot(*(pulse + [self.left, base]).T, color=_INK, linewidth=0.7)
            for column, (trace, (x, y)) in enumerate(zip(traces, self.traces[row], strict=True)):
                left = self.zero + trace.left
                if self.shading is not None:
                    self._shade(trace, left, self.edges[row + 1], self.edges[row])
                self._hatch(trace, left + x, y, self.edges[row + 1], self.edges[row])
                if column:
                    self.axes.plot([left, left], [base - 2, base + 2], color=_INK, linewidth=0.7)
                (line,) = self.axes.plot(
                    left + x, base + y, color=_INK, linewidth=0.75, solid_joinstyle="round"
                )
                line.set_clip_path(clipping)
                self.axes.text(
                    left + 1,
                    min(base + self.labels[row][column], self.edges[row] - 3),
                    trace.label,
                    fontsize=9,
                    fontweight="bold",
                    va="bottom",
                    path_effects=halo,
                )

    def write(self, title: str, caption: str, *, numbered: bool) -> None:
        """Write title, seconds, scale and legend."""
        axes, first = self.axes, self.rows[-1][0]
        axes.text(self.left, self.top + 4, title, fontsize=11, fontweight="bold", va="center")
        if numbered:
            end = self.rows[-1][-1].stop
            for t in np.arange(np.ceil(first.start), end + 1e-6):
                place = self.zero + (t - first.start) * MM_PER_SECOND
                axes.text(
                    place, self.bottom - 1, f"{t:g} s", va="top", ha="center", color=_SOFT, size=7
                )
        axes.text(self.left, 4, caption, va="center", color=_SOFT)
        if self.shading is not None:
            self._legend(self.shading)

    def _legend(self, shading: Shading) -> None:
        signed = bool(np.nanmin(shading.values, initial=0.0) < 0)
        low, width = (-shading.limit if signed else 0.0), 30.0
        right = self.right - 12
        steps = np.linspace(low, shading.limit, 101)
        self._mesh(np.linspace(right - width, right, 101), 2.5, 5.5, steps[:-1])
        frame = {"fill": False, "edgecolor": _SOFT, "linewidth": 0.4}
        self.axes.add_patch(_box(right - width, 2.5, right, 5.5, **frame))
        for place, value, side in ((right - width, low, "right"), (right, shading.limit, "left")):
            away = -1 if side == "right" else 1
            self.axes.text(place + away, 4, _short(value), va="center", ha=side, color=_SOFT)
        self.axes.text(right - width - 16, 4, shading.name, va="center", ha="right", color=_SOFT)

    def _paper(self) -> None:
        self.axes.add_patch(self._rectangle(facecolor=_PAPER, linewidth=0))
        for step, colour, width in ((1, _FINE, 0.3), (5, _BOLD, 0.55)):
            upright = np.arange(self.left, self.right + 0.1, step)
            level = np.arange(self.bottom, self.top + 0.1, step)
            lines = [[(x, self.bottom), (x, self.top)] for x in upright]
            lines += [[(self.left, y), (self.right, y)] for y in level]
            self.axes.add_collection(LineCollection(lines, colors=colour, linewidths=width))

    def _shade(self, trace: _Trace, left: float, bottom: float, top: float) -> None:
        assert self.shading is not None
        edges = np.clip(self.shading.edges, trace.start, trace.stop)
        values, shown = self.shading.of_lead(trace.lead), np.diff(edges) > 0
        if shown.any():
            first, last = np.flatnonzero(shown)[[0, -1]]
            places = left + (edges[first : last + 2] - trace.start) * MM_PER_SECOND
            self._mesh(places, bottom, top, values[first : last + 1])

    def _mesh(self, edges: np.ndarray, bottom: float, top: float, values: np.ndarray) -> None:
        limit = self.shading.limit if self.shading is not None else 1.0
        self.axes.pcolormesh(
            edges, [bottom, top], values[None], cmap=_COLOURS, vmin=-limit, vmax=limit,
            rasterized=True, zorder=1.5,
        )  # fmt: skip

    def _hatch(
        self, trace: _Trace, x: np.ndarray, y: np.ndarray, bottom: float, top: float
    ) -> None:
        gaps = np.flatnonzero(np.diff(np.concatenate([[0], np.isnan(y).astype(int), [0]])))
        for begin, end in gaps.reshape(-1, 2):
            stop = x[end] if end < len(x) else x[-1]
            look = {"facecolor": "none", "edgecolor": _INVALID, "hatch": "////", "linewidth": 0}
            self.axes.add_patch(_box(x[begin], bottom, stop, top, **look))
            if stop - x[begin] > 15:
                self.axes.text(
                    (x[begin] + stop) / 2, (bottom + top) / 2, "no valid signal", color=_SOFT,
                    ha="center", va="center",
                    bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 1},
                )  # fmt: skip

    def _rectangle(self, **look: Any) -> Rectangle:
        return _box(self.left, self.bottom, self.right, self.top, **look)


def _box(left: float, bottom: float, right: float, top: float, **look: Any) -> Rectangle:
    return Rectangle((left, bottom), right - left, top - bottom, **look)


def _squares(length: float, *, most: float = _MOST) -> float:
    """Round up to whole large squares of 5 mm."""
    return 5 * np.ceil(min(length, most) / 5 - 1e-9)


def _signal(recording: Record | np.ndarray, fs: float | None) -> tuple[np.ndarray, float]:
    if isinstance(recording, Record):
        if fs is not None:
            raise OptionError("a record knows its own rate; give fs with an array only.")
        return recording.signal, recording.fs
    signal = np.asarray(recording, np.float32)
    if signal.ndim != 2 or signal.shape[1] != len(LEADS) or not len(signal):
        raise OptionError(
            f"an array of shape {signal.shape} cannot be drawn; give millivolts of shape (time,"
            f" {len(LEADS)})."
        )
    if fs is None or not fs > 0:
        raise OptionError("an array has no sampling rate; give fs in hertz, above 0.")
    return signal, float(fs)


def _title(record: Record) -> str:
    age = f"{record.age:g} years" if np.isfinite(record.age) else ""
    return "    ".join(part for part in (record.id, record.sex, age) if part)


def _three_by_four(start: float, stop: float, full: int) -> list[list[_Trace]]:
    quarter = (stop - start) / len(_COLUMNS)
    rows = [
        [
            _Trace(
                lead=LEADS.index(names[row]),
                start=start + column * quarter,
                stop=start + (column + 1) * quarter,
                left=column * quarter * MM_PER_SECOND,
                label=names[row],
            )
            for column, names in enumerate(_COLUMNS)
        ]
        for row in range(3)
    ]
    return [*rows, [_Trace(full, start, stop, 0.0, LEADS[full])]]


def _points(signal: np.ndarray, fs: float, trace: _Trace) -> tuple[np.ndarray, np.ndarray]:
    """The points of a trace, in mm right of its start and above its row's line."""
    first, last = np.ceil(trace.start * fs - 1e-6), np.floor(trace.stop * fs + 1e-6)
    samples = np.arange(first, min(last + 1, len(signal))).astype(int)
    values = signal[samples, trace.lead].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if np.isfinite(values).any():
        values -= np.nanmedian(values)
    return (samples / fs - trace.start) * MM_PER_SECOND, values * MM_PER_MILLIVOLT


def _short(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _above_label(trace: _Trace, x: np.ndarray, y: np.ndarray) -> float:
    """Height at which a lead's name clears the start of its trace, mm above the row's line."""
    return max(8.0, _highest(y[x < 2 + 2.2 * len(trace.label)]) + 1)


def _highest(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
