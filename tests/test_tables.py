import csv
import io
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from ecg_keras.evaluation.document import Estimate
from ecg_keras.papers.reproduction import Reproduction, write_trial_store
from ecg_keras.papers.tables import ResultTable, Spread, as_csv, as_markdown, as_text, write_table

NAN = math.nan


def table(**changes: object) -> ResultTable:
    fields: dict[str, object] = {
        "title": "Table IX. What was found.",
        "columns": ("network", "records", "F1", "pooled", "published"),
        "rows": (
            ("A|B", 6877, Spread(0.81249, 0.0206), Estimate(0.8, 0.75, 0.85), Spread(0.852, 0.021)),
            ("C", 21, Spread(NAN), None, "-"),
        ),
    }
    return ResultTable(**{**fields, **changes})  # type: ignore[arg-type]


def test_spread_is_the_mean_and_the_sample_sd() -> None:
    values = [0.7, 0.8, 0.85]
    spread = Spread.of([*values, NAN])
    assert spread.mean == pytest.approx(statistics.mean(values))
    assert spread.sd == pytest.approx(statistics.stdev(values))
    assert Spread.of([0.5]).mean == 0.5 and math.isnan(Spread.of([0.5]).sd)
    assert math.isnan(Spread.of([NAN]).mean)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Spread(0.8516, 0.0209), "0.852 ± 0.021"),
        (Spread(0.5), "0.500"),
        (Spread(NAN), "–"),
        (Estimate(0.8, 0.75, 0.85), "0.800 [0.750, 0.850]"),
        (Estimate(0.02, -0.01, 0.05, signed=True), "+0.020 [-0.010, +0.050]"),
        (Estimate(0.8), "0.800"),
        (418005, "418,005"),
        (0.5, "0.500"),
        ("-", "-"),
        (None, ""),
    ],
)
def test_cells_as_text(cell: object, text: str) -> None:
    assert as_text(cell) == text  # type: ignore[arg-type]


class TestCaption:
    def test_says_where_figures_were_scored_and_what_chose_the_models(self) -> None:
        assert table().caption == "Table IX. What was found."
        scored = table(scored="out-of-fold on 210 records", selected_on_test=True)
        assert scored.caption == (
            "Table IX. What was found. Scored out-of-fold on 210 records. Selected on test."
        )
        assert scored.caption in as_markdown(scored)
        assert "Selected" not in table(scored="on test").caption

    def test_published_figures_on_other_data_are_marked(self, tmp_path: Path) -> None:
        form: dict[str, Any] = {"fs": 100, "tasks": ("cpsc2018",), "records": 9, "folds": 3}
        store = write_trial_store(tmp_path / "s.h5", dataset="cpsc2018", **form)
        heading = Reproduction(store, tmp_path, 10, None).published_heading
        assert heading({"cpsc2018": (9, 10)}) == "published"
        assert heading({"cpsc2018": (10,), "ptb-xl": (9,)}) == "published (other data)"


def test_markdown_has_all_cells_and_notes() -> None:
    lines = as_markdown(table(notes=("One.", "Two."), digits=2)).splitlines()
    assert lines[0] == "**Table IX. What was found.**"
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
        if line.startswith("|")
    ]
    assert cells[0] == ["network", "records", "F1", "pooled", "published"]
    assert [len(row) for row in cells] == [5] * 4
    assert cells[2] == ["A\\|B", "6,877", "0.81 ± 0.02", "0.80 [0.75, 0.85]", "0.85 ± 0.02"]
    assert cells[3] == ["C", "21", "–", "", "-"]
    assert lines[-2:] == ["- One.", "- Two."]


def test_csv_keeps_all_digits() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(table()))))
    assert rows[0] == {
        **{"network": "A|B", "records": "6877", "F1": "0.81249", "F1 SD": "0.0206"},
        **{"pooled": "0.8", "pooled low": "0.75", "pooled high": "0.85"},
        **{"published": "0.852", "published SD": "0.021"},
    }
    assert rows[1]["F1"] == rows[1]["pooled"] == rows[1]["published SD"] == ""
    assert rows[1]["published"] == "-"


def test_both_files_are_written(tmp_path: Path) -> None:
    path = write_table(tmp_path / "out", "table9", table())
    assert path == tmp_path / "out" / "table9.md"
    assert path.read_text(encoding="utf-8") == as_markdown(table())
    assert path.with_suffix(".csv").read_text(encoding="utf-8") == as_csv(table())
    assert len(list(path.parent.iterdir())) == 2


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="2 cells do not fit 5 columns"):
        table(rows=(("A", 1),))
