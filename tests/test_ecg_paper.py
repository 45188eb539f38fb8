"""ECG paper: measured on the drawn pixels, and on the traces' own numbers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads
from matplotlib.image import imread

from data_prep.ecg_paper import Shading, ecg_figure
from data_prep.errors import OptionError
from data_prep.labels import LEADS
from data_prep.records import Record, read_record

FS = 250.0
PIXELS = 10  # a millimetre


def pixels(figure: Any) -> np.ndarray:
    """The figure at 254 dpi: ten pixels are a millimetre on paper."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=25.4 * PIXELS)
    return imread(io.BytesIO(file.getvalue()))[..., :3]


def ink(image: np.ndarray) -> np.ndarray:
    return image.max(axis=2) < 0.35


def blue(image: np.ndarray) -> np.ndarray:
    return image[..., 2] - image[..., 0] > 0.3


def traces(figure: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """All lines but the calibration pulses and the marks between columns."""
    lines = [line.get_data() for line in figure.axes[0].lines]
    return [(np.asarray(x), np.asarray(y)) for x, y in lines if len(x) > 6]


def pulses(seconds: float = 10.0) -> np.ndarray:
    """1 mV for 0.2 s in the middle of every second, in all leads; elsewhere 0.3 mV off zero."""
    time = np.arange(round(seconds * FS)) / FS
    high = (time % 1 >= 0.4) & (time % 1 < 0.6)
    return np.repeat(np.where(high, 1.3, 0.3)[:, None], 12, axis=1).astype(np.float32)


class TestScale:
    def test_a_second_is_25_mm_and_a_millivolt_10_mm(self) -> None:
        image = pixels(ecg_figure(pulses(), fs=FS, layout="strip"))
        drawn = ink(image)
        # The row of the traces' tops: where the most ink lies beside the title and the caption.
        columns = np.flatnonzero(drawn[:, 200:2600].sum(axis=0) > 80) + 200
        rises = columns[np.flatnonzero(np.diff(columns, prepend=0) > 30)]
        # One line up and one down each second; the up-lines are 1 s apart.
        assert len(rises) == 20
        np.testing.assert_allclose(np.diff(rises[::2]), 25 * PIXELS, atol=2)
        np.testing.assert_allclose(rises[1::2] - rises[::2], 5 * PIXELS, atol=2)
        for column in rises[2:]:  # the first pair stands below the lead's name
            rows = np.flatnonzero(drawn[:, column : column + 3].any(axis=1))
            assert rows[-1] - rows[0] == pytest.approx(10 * PIXELS, abs=4)

    def test_the_calibration_pulse_is_1_mv_and_a_fifth_of_a_second(self) -> None:
        image = pixels(ecg_figure(np.zeros((2500, 12)), fs=FS, layout="strip"))
        drawn = ink(image)[:, 50:150]
        drawn[:100] = False  # the title
        heights = drawn.sum(axis=0)
        sides = np.flatnonzero(heights > 80)
        assert np.ptp(sides) == pytest.approx(5 * PIXELS, abs=4)
        rows = np.flatnonzero(drawn[:, sides[0]])
        assert np.ptp(rows) == pytest.approx(10 * PIXELS, abs=4)

    def test_ten_seconds_fit_on_a4_across(self) -> None:
        width, height = ecg_figure(pulses(), fs=FS).get_size_inches() * 25.4
        assert 260 < width < 297 and height < 210

    def test_the_paper_is_ruled_in_millimetres(self) -> None:
        image = pixels(ecg_figure(np.zeros((2500, 12)), fs=FS, layout="strip"))
        # A line of pixels across the paper between trace and title, where nothing else is.
        across = image[130, 200:2600, 1]
        darkest = np.flatnonzero((across < 0.8) & (across <= np.roll(across, 1)))
        starts = darkest[np.flatnonzero(np.diff(darkest, prepend=-9) > 3)]
        np.testing.assert_allclose(np.diff(starts), 5 * PIXELS, atol=2)


class TestLayout:
    def test_three_rows_of_four_leads_follow_each_other_in_time(self) -> None:
        signal = sine_leads(2500, fs=FS).astype(np.float32)
        figure = ecg_figure(signal, fs=FS)
        order = "I aVR V1 V4 II aVL V2 V5 III aVF V3 V6 II".split()
        labels = [text.get_text() for text in figure.axes[0].texts][: len(order)]
        assert labels == order
        for number, (name, (x, y)) in enumerate(zip(order, traces(figure), strict=True)):
            part = slice(0, 2500)
            if number < 12:
                part = slice(625 * (number % 4), 625 * (number % 4) + 626)
            expected = signal[part, LEADS.index(name)].astype(float)
            expected = 10 * (expected - np.median(expected))
            base = (y - expected).mean()
            np.testing.assert_allclose(y - base, expected, atol=1e-4)
            # All columns hang on one axis of time.
            np.testing.assert_allclose(x, 15 + 25 * np.arange(2500)[part] / FS, atol=1e-6)

    def test_twelve_rows(self) -> None:
        figure = ecg_figure(pulses(), fs=FS, layout="12x1", start=2, seconds=4)
        assert [text.get_text() for text in figure.axes[0].texts][:12] == list(LEADS)
        for x, _ in traces(figure):
            assert len(x) == 4 * FS + 1 and np.ptp(x) == pytest.approx(100)

    def test_a_strip_shows_a_long_recording_to_its_end(self) -> None:
        signal = sine_leads(6250, fs=FS)
        figure = ecg_figure(signal, fs=FS, layout="strip", lead="V2")
        lines = traces(figure)
        assert [len(x) for x, _ in lines] == [2501, 2501, 1250]
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts[:3] == ["V2  0 s", "V2  10 s", "V2  20 s"]

    @pytest.mark.parametrize("layout", ["3x4", "12x1", "strip"])
    def test_rows_with_large_complexes_do_not_touch(self, layout: Any) -> None:
        signal = np.zeros((6250, 12), np.float32)
        signal[::200], signal[100::200] = 2.2, -2.1
        figure = ecg_figure(signal, fs=FS, layout=layout)
        rows = sorted({(round(y.min(), 3), round(y.max(), 3)) for _, y in traces(figure)})
        assert len(rows) == {"3x4": 4, "12x1": 12, "strip": 3}[layout]
        for (_, top), (bottom, _) in zip(rows[:-1], rows[1:], strict=True):
            assert bottom > top

    def test_a_recording_of_3_s_is_drawn_at_the_same_scale(self) -> None:
        figure = ecg_figure(pulses(3.0), fs=FS)
        assert np.ptp(traces(figure)[-1][0]) == pytest.approx(25 * (3 - 1 / FS))

    def test_a_record_brings_its_rate_and_title(self, tmp_path: Path) -> None:
        record = Record("A0001", pulses(), FS, 61.0, "female", (), tmp_path)
        texts = [text.get_text() for text in ecg_figure(record).axes[0].texts]
        assert "A0001    female    61 years" in texts
        assert any("25 mm/s    10 mm/mV    250 Hz" in text for text in texts)


class TestInvalid:
    def test_no_line_bridges_a_gap(self) -> None:
        signal = pulses()
        signal[500:1000, 1] = np.nan
        figure = ecg_figure(signal, fs=FS, layout="strip")
        ((_, y),) = traces(figure)
        assert np.isnan(y[500:1000]).all() and np.isfinite(np.delete(y, slice(500, 1000))).all()
        hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
        assert len(hatched) == 1
        box = hatched[0].get_path().get_extents(hatched[0].get_patch_transform())
        assert (box.x0, box.x1) == pytest.approx((15 + 25 * 2.0, 15 + 25 * 4.0))

    def test_a_lead_without_any_sample_says_so(self) -> None:
        signal = pulses()
        signal[:, LEADS.index("V3")] = np.inf
        figure = ecg_figure(signal, fs=FS, layout="12x1")
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts.count("no valid signal") == 1
        pixels(figure)


class TestShading:
    def test_colour_lies_behind_its_time_and_lead(self) -> None:
        edges = np.linspace(0, 10, 101)
        values = np.zeros((100, 12))
        values[30:35, LEADS.index("V1")] = 1.0
        figure = ecg_figure(
            np.zeros((2500, 12)), fs=FS, layout="12x1", shading=Shading("marks", edges, values)
        )
        shown = blue(pixels(figure))
        shown[-13 * PIXELS :] = False  # the legend
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        # From 3.0 to 3.5 s, where the trace begins 15 mm from the left.
        assert columns[0] == pytest.approx((15 + 75) * PIXELS, abs=3)
        assert columns[-1] == pytest.approx((15 + 87.5) * PIXELS, abs=3)
        height = figure.get_size_inches()[1] * 25.4
        base = height - float(traces(figure)[LEADS.index("V1")][1][0])
        assert rows[0] < base * PIXELS < rows[-1] and np.ptp(rows) < 30 * PIXELS

    def test_below_zero_is_orange_and_the_legend_has_both_ends(self) -> None:
        shading = Shading("marks", np.array([0.0, 5.0, 10.0]), np.array([-0.5, 0.25]))
        figure = ecg_figure(np.zeros((2500, 12)), fs=FS, layout="strip", shading=shading)
        image = pixels(figure)[: -13 * PIXELS]
        orange = image[..., 0] - image[..., 2] > 0.4
        left, right = orange[:, : 140 * PIXELS], orange[:, 140 * PIXELS :]
        assert left.mean() > 0.2 and not right.any()
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert {"−0.5", "0.5", "marks"} <= set(texts)

    def test_what_hardly_varies_is_pale(self) -> None:
        edges, values = np.array([0.0, 10.0]), np.array([0.01])
        for least, seen in ((0.0, True), (1.0, False)):
            shading = Shading("marks", edges, values, least)
            figure = ecg_figure(np.zeros((2500, 12)), fs=FS, layout="strip", shading=shading)
            assert blue(pixels(figure)[: -13 * PIXELS]).any() == seen

    def test_missing_values_are_not_coloured(self) -> None:
        shading = Shading("marks", np.array([0.0, 5.0, 10.0]), np.array([np.nan, 1.0]))
        figure = ecg_figure(np.zeros((2500, 12)), fs=FS, layout="strip", shading=shading)
        shown = blue(pixels(figure)[: -13 * PIXELS])
        assert not shown[:, : 139 * PIXELS].any() and shown[:, 141 * PIXELS :].any()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"fs": None}, "give fs"),
        ({"fs": 0.0}, "give fs"),
        ({"lead": "V7"}, "no lead 'V7'"),
        ({"start": 10.0}, "recording of 10 s"),
        ({"seconds": 0.0}, "more than 0 s"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        ecg_figure(pulses(), **{"fs": FS, **wrong})


def test_shapes_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\(12, 2500\)"):
        ecg_figure(pulses().T, fs=FS)
    with pytest.raises(OptionError, match="values of shape"):
        Shading("marks", np.arange(4.0), np.zeros(4))
    with pytest.raises(OptionError, match="its own rate"):
        ecg_figure(Record("A", pulses(), FS, np.nan, "", (), tmp_path), fs=FS)


def test_a_real_recording_is_drawn_as_a_vector_graphic(shared_data: Path, tmp_path: Path) -> None:
    (path,) = (shared_data / "cpsc2018" / "challenge2020").rglob("A0018.hea")
    record = read_record(path)
    shading = Shading("marks", np.arange(0, 51.0), np.random.default_rng(0).random(50))
    file = tmp_path / "ecg.pdf"
    ecg_figure(record, layout="strip", shading=shading).savefig(file)
    assert file.read_bytes().startswith(b"%PDF") and file.stat().st_size > 50_000
