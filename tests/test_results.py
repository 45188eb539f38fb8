"""The figures of RESULTS.md follow from the predictions that are kept in results/."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ecg_keras.evaluation.predictions import load_predictions

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


@pytest.mark.parametrize(("table", "row"), ROWS, ids=NAMES)
def test_a_row_follows_from_its_predictions(table: Path, row: dict[str, str]) -> None:
    name = next(iter(row.values()))
    if "AUC" in row:
        # One seed has no spread.
        seeds = "*" if row["AUC SD"] else "0"
        task = table.stem.rpartition("_")[2]
        stem = f"{STEMS.get(name, name)}_{task}_seed={seeds}"
        found = [load_predictions(path) for path in table.parent.glob(f"predictions/{stem}.npz")]
        scores = []
        for answers in found:
            assert answers.labels is not None
            present = answers.labels.any(axis=0)
            scores.append(
                roc_auc_score(answers.labels[:, present], answers.probabilities[:, present])
            )
        figure, digits = float(row["AUC"]), 4
    else:
        stem = name.replace("λ = ", "lambda=").replace(" ", "-")
        stem = HOSPITALS.get(name, stem)
        answers = load_predictions(table.parent / "predictions" / table.stem / f"{stem}.npz")
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


def test_there_are_rows() -> None:
    assert len(ROWS) > 10
