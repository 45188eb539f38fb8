"""The figures of RESULTS.md follow from the predictions that are kept in results/."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ecg_keras.evaluation.predictions import Predictions, load_predictions
from ecg_keras.evaluation.report import score_predictions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TEXT = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
STEMS = {
    "addition": "MRM-Net_fusion=add",
    "concatenation": "MRM-Net_fusion=concat",
    "low resolution": "MRM-Net_fusion=low",
    "high resolution": "MRM-Net_fusion=high",
    "MRM-Net, low head alone": "MRM-Net_low-head",
    "MRM-Net, high head alone": "MRM-Net_high-head",
}

HOSPITALS = {
    "CPSC 2018, A0001 to A0210": "CPSC-2018",
    "Georgia, Chapman, Ningbo and CPSC-Extra": "four-others",
}


def rows() -> Iterator[tuple[Path, dict[str, str]]]:
    """Each row of ours in each table."""
    for table in sorted(RESULTS.glob("*/*.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if "published" not in next(iter(row.values())):
                    yield table, row


ROWS = list(rows())
NAMES = [f"{table.parent.name}-{table.stem}-{next(iter(row.values()))}" for table, row in ROWS]


def interval(row: dict[str, str], column: str, *, digits: int) -> str:
    """A score with its interval, as a table shows them."""
    value, low, high = (float(row[column + side]) for side in ("", " low", " high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def predictions_of(table: Path, row: dict[str, str]) -> list[Predictions]:
    """The predictions behind a row, one for each seed."""
    name = next(iter(row.values()))
    if "AUC" in row:
        # One seed has no spread.
        seeds = "*" if row["AUC SD"] else "0"
        task = table.stem.rpartition("_")[2]
        stem = f"predictions/{STEMS.get(name, name)}_{task}_seed={seeds}"
    else:
        stem = HOSPITALS.get(name, name.replace("λ = ", "lambda=").replace(" ", "-"))
        stem = f"predictions/{table.stem}/{stem}"
    return [load_predictions(path) for path in sorted(table.parent.glob(f"{stem}.npz"))]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=NAMES)
def test_a_row_follows_from_its_predictions(table: Path, row: dict[str, str]) -> None:
    name = next(iter(row.values()))
    found = predictions_of(table, row)
    scores = []
    if "AUC" in row:
        for answers in found:
            assert answers.labels is not None
            present = answers.labels.any(axis=0)
            scores.append(
                roc_auc_score(answers.labels[:, present], answers.probabilities[:, present])
            )
        figure, digits = float(row["AUC"]), 4
    else:
        (answers,) = found
        called = answers.probabilities.argmax(axis=1)
        truth = answers.first_labels
        if truth is None:  # one answer against all labels
            called, truth = np.eye(9)[called], answers.labels
        scores = [f1_score(truth, called, average="macro", labels=range(9), zero_division=0)]
        (heading,) = (column for column in row if column.endswith("macro-F1 [95 %]"))
        figure, digits = float(row[heading]), 3
    assert scores and figure == pytest.approx(np.mean(scores), abs=1e-6)
    lines = [line for line in TEXT.splitlines() if line.startswith(f"| {name} |")]
    assert any(f" {figure:.{digits}f} " in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "row"), ROWS, ids=NAMES)
def test_its_interval_follows_too(table: Path, row: dict[str, str]) -> None:
    name = next(iter(row.values()))
    (answers,) = predictions_of(table, row)
    result = score_predictions(answers, path=table, name=name, labels_from="")
    score, column, digits = "macro_auc", "AUC [95 %]", 4
    if "AUC" not in row:
        score = f"macro_f1_{'first' if answers.first_labels is not None else 'any'}_label"
        (column,) = (column for column in row if column.endswith("macro-F1 [95 %]"))
        digits = 3
    low, high = (float(row[f"{column} {side}"]) for side in ("low", "high"))
    np.testing.assert_allclose(result.intervals[score], [low, high], atol=1e-9)
    shown = interval(row, column, digits=digits)
    lines = [line for line in TEXT.splitlines() if line.startswith(f"| {name} |")]
    assert any(shown in line for line in lines)


def test_the_first_table_repeats_those_below() -> None:
    first = TEXT[TEXT.index("## PTB-XL in one table") :].split("\n## ", 2)[0]
    cells = [[cell.strip() for cell in line.split("|")] for line in first.splitlines()]
    shown = [(row[2].removesuffix(", constant rate"), row[4]) for row in cells if len(row) > 4][2:]
    assert len(shown) > 5
    ours = {
        (row["network"], interval(row, "AUC [95 %]", digits=3)) for _, row in ROWS if "AUC" in row
    }
    assert set(shown) <= ours


def test_there_are_rows() -> None:
    assert len(ROWS) > 10
