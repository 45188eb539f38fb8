"""The notebooks run, show what they promise, define nothing, and are kept with small outputs."""

import ast
import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from matplotlib.image import imread
from nbclient import NotebookClient
from test_commands import ROOT

from data_prep.labels import CPSC_CLASSES
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.model.contract import Contract

NOTEBOOKS = tuple(sorted((ROOT / "notebooks").glob("*.ipynb")))


def opened(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    own: str | None = None,
    end: str = "",
) -> tuple[str, list[np.ndarray]]:
    """Execute a notebook in ``folder``, its first variables set as ``own`` says, and ``end`` after.

    Returns what it printed, and its figures.  Fails where a cell does, where a cell that is
    tagged as one with a figure shows none, and where another cell shows one.
    """
    notebook = opened(name)
    if own is not None:
        (parameters,) = (
            c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])
        )
        parameters.source = f"from pathlib import Path\n{own}"
    notebook.cells.append(nbformat.v4.new_code_cell(end))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Nobody's own start-up files and settings.
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1800, coalesce_streams=True, resources=place).execute()

    printed, figures = "", []
    for cell in code_cells(notebook):
        images = [
            output.data["image/png"]
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        promised = "figure" in cell.metadata.get("tags", [])
        # What one's own files are not labelled with cannot be drawn.
        assert promised if images else own or not promised, cell.source
        figures += [imread(io.BytesIO(base64.b64decode(image))) for image in images]
        printed += "".join(output.get("text", "") for output in cell.outputs)
    assert not re.search(r"\w+Warning:", printed)
    for figure in figures:
        assert min(figure.shape[:2]) > 200 and figure[..., :3].std() > 0.02
    return printed, figures


# --- As they are kept ----------------------------------------------------------------------------


def test_the_notebooks_are_numbered_from_1() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_", "05_", "06_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small(path: Path) -> None:
    """As ``notebooks/save.py`` saves them."""
    notebook = opened(path.stem)
    nbformat.validate(notebook)
    for number, cell in enumerate(code_cells(notebook), start=1):
        assert cell.execution_count == number
        assert set(cell.metadata) <= {"tags"}
        figures = []
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            assert "/tmp/" not in output.get("text", "") and str(ROOT) not in str(output)
            figures += [v for k, v in output.get("data", {}).items() if k.startswith("image/")]
        assert bool(figures) == ("figure" in cell.metadata.get("tags", [])), cell.source
        assert all(len(base64.b64decode(figure)) <= 150_000 for figure in figures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_defined(path: Path) -> None:
    for cell in code_cells(opened(path.stem)):
        tree = ast.parse(cell.source.replace("%matplotlib inline", ""))
        hidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, hidden)], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_them_hold(path: Path) -> None:
    for cell in opened(path.stem).cells:
        for target in re.findall(
            r"\]\(([^)]+)\)", cell.source if cell.cell_type == "markdown" else ""
        ):
            assert (path.parent / target).is_file()


# --- As they are met first -----------------------------------------------------------------------


@pytest.mark.slow
def test_01_records_and_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, figures = run("01_records_and_store", tmp_path, monkeypatch)
    assert len(figures) == 4
    assert "dataset  cpsc2018 at 250 Hz, 180 records" in printed
    # Written in steps of a thousandth of a millivolt.
    found = re.search(r"I \+ III differs from II by (\d\.\d+) mV", printed)
    assert found and float(found[1]) <= 0.0015


@pytest.mark.slow
def test_02_train_and_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer epochs than a reader's.
    own = "recordings, epochs = None, 2"
    printed, figures = run("02_train_and_watch", tmp_path, monkeypatch, own=own)
    assert len(figures) == 3
    assert "mlbf_keras: takes (15000, 12), 419,157 weights" in printed
    assert "mrm_keras: takes (1000, 12)" in printed
    for file in ("best.keras", "validation.npz", "history.csv", "args.json"):
        assert f"kB  {file}" in printed


# Nobody listens there: the notebooks take the recording that pydicom ships.
NO_SERVER = "http://127.0.0.1:9/"


@pytest.mark.slow
def test_03_load_and_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"models, recordings, url = 'mrm-net-ptbxl-all', None, {NO_SERVER!r}"
    printed, figures = run("03_load_and_predict", tmp_path, monkeypatch, own=own)
    assert "cannot be fetched" in printed
    assert len(figures) == 3
    assert "3 networks answered for 27 recordings" in printed
    rows = re.findall(r"^(\S+) +(0\.\d{3}|1\.000) +(\d\.\d{3})$", printed, re.M)
    assert len(rows) == 10
    # Written in whole microvolts the second time.
    for _, before, again in rows:
        assert float(again) == pytest.approx(float(before), abs=0.02)


@pytest.mark.slow
def test_04_read_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ROOT / "results" / "ptbxl" / "predictions" / "MRM-Net_all_seed=0.npz"
    own = f"predictions_file = Path({str(kept)!r})\nreference, chosen = None, 'AFIB'"
    printed, figures = run("04_read_the_results", tmp_path, monkeypatch, own=own)
    assert len(figures) == 4
    found = re.search(r"^ (\d\.\d{3}) .* Macro-AUC over classes$", printed, re.M)
    assert found and float(found[1]) > 0.9
    assert "\nindex.html\n" in printed


@pytest.mark.slow
def test_05_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"models, recording, url = 'mrm-net-ptbxl-all', None, {NO_SERVER!r}"
    printed, figures = run("05_explain", tmp_path, monkeypatch, own=own)
    assert len(figures) == 6
    rows = re.findall(r"^  (what is marked most|drawn at random) +(\S+)$", printed, re.M)
    marked, random = (float(number) for _, number in rows)
    # An explanation worth its name.
    assert marked < random
    found = re.search(r"^missing +([+-]\S+)$", printed, re.M)
    assert found and abs(float(found[1])) < 0.02
    assert re.search(r"^\S+\.html: \d+\.\d MB$", printed, re.M)


@pytest.mark.slow
def test_06_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer epochs than a reader's.
    own = "recordings, table, epochs = None, None, 1"
    printed, figures = run("06_own_data", tmp_path, monkeypatch, own=own)
    assert len(figures) == 2
    assert "task rhythms: extra beats, fibrillation, regular" in printed
    rows = re.findall(r"^(extra beats|fibrillation|regular) +(\d\.\d+)$", printed, re.M)
    assert len(rows) == 3
    assert sum(float(p) for _, p in rows) == pytest.approx(1, abs=0.01)
    assert re.search(
        "explained is the probability of '(extra beats|fibrillation|regular)'", printed
    )


# --- With files of one's own ---------------------------------------------------------------------


@pytest.mark.slow
def test_01_with_a_folder_of_ptbxl(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"recordings = Path({str(shared_data / 'ptbxl')!r})\ntask = 'superdiagnostic'"
    printed, _ = run("01_records_and_store", tmp_path, monkeypatch, own=own)
    assert "dataset  ptb-xl at 100 Hz, 400 records" in printed
    assert "classes  NORM, MI, STTC, CD, HYP" in printed


@pytest.mark.slow
def test_03_with_models_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbf_keras import build_model

    contract = Contract("MLBF-Net", "cpsc2018", CPSC_CLASSES, 250.0, 640, "pad", True)
    widths = {"input_length": 640, "num_classes": 9, "filters": 2, "gru_units": 2}
    for fold in (1, 2):
        build_model(contract=contract, **widths).save(tmp_path / f"{fold}.keras")
        write_wfdb(tmp_path / "mine", f"A{fold}", sine_leads(3000, seed=fold))
    own = f"models = '{tmp_path}/*.keras'\nrecordings, url = Path('{tmp_path}/mine'), None"
    printed, _ = run("03_load_and_predict", tmp_path, monkeypatch, own=own)
    assert "2 networks answered for 2 recordings" in printed
    assert "synthetic" not in printed


def test_04_with_predictions_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several labels a record, and nobody knows which stands first: no confusion matrix."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((40, 3), np.float32)
    mine = Predictions(
        ids=np.array([f"R{i}" for i in range(40)]),
        class_names=("NORM", "MI", "CD"),
        probabilities=probabilities,
        members=probabilities[None],
        thresholds=np.full(3, 0.5),
        single_label=False,
        network="MRM-Net",
        task="mine",
        labels=(rng.random((40, 3)) < probabilities).astype(np.uint8),
    )
    save_predictions(tmp_path / "mine.npz", mine)
    own = f"predictions_file = Path('{tmp_path}/mine.npz')\nreference, chosen = None, 'MI'"
    printed, figures = run("04_read_the_results", tmp_path, monkeypatch, own=own)
    assert "MRM-Net for mine: 40 recordings" in printed
    assert len(figures) == 4
