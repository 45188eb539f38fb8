"""Four packages, each of which imports only what stands below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"data_prep", "ecg_keras", "mlbf_keras", "mrm_keras"}
MAY_IMPORT = {
    "data_prep": set[str](),
    "ecg_keras": {"data_prep"},
    "mlbf_keras": {"data_prep", "ecg_keras"},
    "mrm_keras": {"data_prep", "ecg_keras"},
}
KERAS = {"keras", "tensorflow", "ecg_keras.model.backend"}


def imports_of(folder: Path) -> set[str]:
    """Every module and name that the files of a folder import, dotted."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_import_runs_up(package: str) -> None:
    imported = {name.partition(".")[0] for name in imports_of(ROOT / package)} & PACKAGES
    assert imported - {package} <= MAY_IMPORT[package]


@pytest.mark.parametrize("folder", ["data_prep", "ecg_keras/evaluation"])
def test_no_keras_where_data_and_scores_are(folder: str) -> None:
    assert not [
        n for n in imports_of(ROOT / folder) if any(f"{n}.".startswith(f"{k}.") for k in KERAS)
    ]


def test_training_knows_no_papers() -> None:
    assert not [n for n in imports_of(ROOT / "ecg_keras/training") if ".papers" in n]
