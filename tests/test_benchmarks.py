"""That the benchmarks run and write down what they measured, not how fast anything is."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_mrm_reproduce import smoke_store

from benchmarks import leaderboard
from benchmarks.__main__ import Report, table
from benchmarks.data_path import HELD, Waiting, build, plain_build, write_recordings
from benchmarks.memory import in_child
from benchmarks.networks import plain_mlbf
from benchmarks.timing import Ratio, ratio, times
from data_prep.errors import OptionError
from data_prep.records import read_record
from data_prep.store import Store
from mlbf_keras.model import build_model, compile_model

ROOT = Path(__file__).parents[1]


def test_a_ratio_compares_repeat_by_repeat() -> None:
    compared = ratio(np.array([4.0, 9.0, 10.0]), np.array([2.0, 3.0, 1.0]))
    assert (compared.median, compared.least, compared.most) == (3.0, 2.0, 10.0)
    assert str(compared) == "3.00× (2.00–10.00)"


def test_things_are_run_in_turn_after_one_run_unmeasured() -> None:
    order: list[str] = []
    seconds = times({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert {name: values.shape for name, values in seconds.items()} == {"a": (2,), "b": (2,)}


def hold(megabytes: int) -> int:
    """Hold this much memory for a moment."""
    return len(b"\1" * (megabytes * 1_000_000))


def test_the_peak_is_of_the_work_and_what_it_returns_comes_back() -> None:
    little, peak_of_little = in_child("test_benchmarks:hold", 100)
    much, peak_of_much = in_child("test_benchmarks:hold", megabytes=400)
    assert (little, much) == (100_000_000, 400_000_000)
    assert peak_of_much.own - peak_of_little.own == pytest.approx(300, abs=60)
    assert peak_of_much.child < 100


def test_recordings_are_built_into_a_store(tmp_path: Path) -> None:
    lengths = np.arange(3000, 3000 + 20 * 50, 50)
    folder = write_recordings(tmp_path / "records", lengths)
    record = read_record(folder / "N00007.hea")
    assert record.fs == 500 and record.signal.shape == (3350, 12)
    assert record.signal.std() == pytest.approx(2 / np.sqrt(12), rel=0.02)  # ±1 mV, uniform
    assert build(folder, tmp_path / "store.h5", 2) > 0
    with Store(tmp_path / "store.h5") as store:
        assert store.lengths.tolist() == (lengths // 2).tolist()
        assert store.first_labels().tolist() == [i % 9 for i in range(20)]
        ours = np.concatenate([store.signal(i) for i in range(20)])
    plain_build(folder, tmp_path / "plain.h5")
    with h5py.File(tmp_path / "plain.h5") as plain:
        np.testing.assert_allclose(ours, plain["samples"][:], rtol=0, atol=1e-6)


def test_tables_are_markdown() -> None:
    assert table(("a", "long"), [("1", "2")]).splitlines() == [
        "| a | long |",
        "| - | ---- |",
        "| 1 | 2    |",
    ]


def test_goals_are_met_or_not() -> None:
    report = Report()
    report.at_least("reached", 1.8, Ratio(1.8, 1.7, 1.9))
    report.at_least("missed", 4, 3.99)
    report.waiting(
        [
            Waiting("no wait", {}, {}, {HELD: Ratio(1.05, 1.01, 1.1)}),
            Waiting("wait", {}, {}, {HELD: Ratio(1.2, 1.1, 1.3)}),
        ]
    )
    assert [(shown, met) for _, _, shown, met in report.goals] == [
        ("1.80× (1.70–1.90)", True),
        ("3.99×", False),
        ("1.05× (1.01–1.10)", True),
        ("1.20× (1.10–1.30)", False),
    ]


def test_the_plain_network_is_trained_for_the_loss_of_ours() -> None:
    sizes: dict[str, Any] = {"num_leads": 2, "input_length": 64}
    labels = np.eye(9)[:2]
    losses = [
        float(model.compute_loss(y=dict.fromkeys(model.output, labels), y_pred=answers))
        for model in (plain_mlbf(**sizes), compile_model(build_model(**sizes)))
        for answers in ({head: np.full((2, 9), 1 / 9) for head in model.output},)
    ]
    np.testing.assert_allclose(losses, 3 * np.log(9), rtol=1e-5)  # of both leads and all


@pytest.mark.slow
def test_everything_is_measured_and_written_down(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--repeats", "1", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.md", "scaling.png"]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "results.md").read_text()
    assert "the numbers mean nothing" in written
    for name in ("commit ", "tensorflow ", "keras ", "machine ", "cores "):
        assert name in written
    for title in (
        "MLBF-Net against its plain form",
        "MRM-Net against its plain form",
        "Batches of MLBF-Net by the lengths in them",
        "Building a store",
        "Memory of building a store",
        "Does training wait for its batches?",
        "How cost grows",
    ):
        assert f"## {title}\n" in written
    goals = written.split("| met |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert len(goals) == 13
    # All tables are printed as well.
    for line in written.split("## ", 1)[1].splitlines():
        assert not line.startswith("|") or line in run.stdout


def test_the_recipe_of_the_leaderboard_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaderboard.main(
        store=smoke_store(tmp_path),
        network="resnet1d_wang_benchmark",
        task="superdiagnostic",
        epochs=1,
        batch_size=16,
        checkpoint=tmp_path / "checkpoint",
    )
    printed = capsys.readouterr().out.splitlines()[-3:]
    assert printed[0].startswith("fold 9: macro-AUC 0.")
    assert printed[1].startswith("fold 10: macro-AUC 0.")
    assert printed[2] == "leaderboard, fold 10: 0.9300"
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("wrong", [{"network": "ECG_BNN"}, {"task": "rhythm"}])
def test_what_the_leaderboard_lacks_is_said_before_training(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="no figure for .*; choose --task from all, superdiag"):
        leaderboard.main(store=tmp_path / "none.h5", **wrong)


def test_crops_are_of_their_records_and_new_each_epoch() -> None:
    signals = np.arange(40)[:, None, None] * 10_000.0 + np.arange(1000)[:, None] + np.zeros(12)
    crops = leaderboard.Crops(signals, np.arange(40)[:, None], batch_size=16, seed=0)
    seen = []
    for _ in range(2):
        x, y = (np.concatenate(part) for part in zip(*(crops[i] for i in range(2)), strict=True))
        assert len(crops) == 2 and x.shape == (32, 250, 12) and len(np.unique(y)) == 32
        starts = x[:, 0, 0] - y[:, 0] * 10_000
        assert (x == (y * 10_000 + starts[:, None] + np.arange(250))[:, :, None]).all()
        assert 0 <= starts.min() < 200 and 550 < starts.max() <= 750
        seen.append(starts)
        crops.on_epoch_end()
    assert (seen[0] != seen[1]).any()


def test_a_window_with_the_finding_is_enough() -> None:
    class Peak:
        def predict(self, x: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
            return {"diagnosis": x[:, :, 0].max(axis=1, keepdims=True)}

    signals = np.zeros((3, 1000, 12))
    signals[0, 999], signals[1, 0] = 0.7, 0.4
    assert leaderboard.windowed(Peak(), signals)[:, 0].tolist() == [0.7, 0.4, 0]
