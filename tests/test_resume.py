"""Trainings that are killed and go on, held to the very numbers of one that nobody disturbed."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import CLASSES, compiled_toy, toy_model, toy_network, write_toy_store

from data_prep import files
from data_prep.errors import ModelFileError, OptionError
from data_prep.store import Store, StoreWriter
from ecg_keras.evaluation.plots import read_history
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.training import callbacks, checkpoint
from ecg_keras.training.callbacks import Progress
from ecg_keras.training.checkpoint import CHECKPOINT, LAST, Checkpoint, state_of
from ecg_keras.training.fit import train_fold, train_folds
from ecg_keras.training.folds import SECOND, Parts
from ecg_keras.training.settings import Run, Settings, Validation

pytestmark = pytest.mark.usefixtures("undrawn_curves")

SETTINGS = Settings(epochs=9, batch_size=16, patience=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(write_toy_store(tmp_path_factory.mktemp("s") / "toy.h5")) as opened:
        yield opened


def train(
    store: Store,
    out: Path,
    *,
    resume: bool = False,
    folds: tuple[int, ...] = (1,),
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Train the toy network, its learning rate falling at each step; return the first folder."""

    def compiled_model(contract: Contract) -> Any:
        model = toy_model(contract, dropout=0.5)
        falling = keras.optimizers.schedules.ExponentialDecay(0.005, 3, 0.9)
        loss = {"diagnosis": "categorical_crossentropy"}
        model.compile(keras.optimizers.Adam(falling), loss=loss)
        return model

    train_folds(
        Run(store=store.path, out=out, resume=resume),
        Validation(folds=tuple(map(str, folds)), test_fold=10),
        toy_network(compiled_model, **(options or {"dropout": 0.5})),
        replace(SETTINGS, **changes),
    )
    return out / f"fold_{folds[0]}"


@pytest.fixture(autouse=True)
def last_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the last checkpoint of a finished training beside its folder."""
    finish = Checkpoint.finish

    def keep_and_finish(self: Checkpoint, *, keep: bool) -> None:
        shutil.copy(self.folder / CHECKPOINT, self.folder.with_suffix(".npz"))
        finish(self, keep=keep)

    monkeypatch.setattr(Checkpoint, "finish", keep_and_finish)


def everything(folder: Path) -> dict[str, Any]:
    """All numbers a training ends with, by name."""
    with np.load(folder.with_suffix(".npz"), allow_pickle=False) as arrays:
        numbers: dict[str, Any] = {name: arrays[name] for name in arrays.files}
    told = json.loads(numbers.pop("told").tobytes())
    numbers |= {name: json.dumps(value) for name, value in told.items()}
    validation = load_predictions(folder / "validation.npz")
    numbers |= vars(validation)
    # Only the day may differ.
    numbers["models"] = str([replace(model, date="") for model in validation.models])
    numbers["csv"] = (folder / "history.csv").read_text()
    best = keras.saving.load_model(folder / "best.keras", compile=False)
    numbers |= {f"best {v.path}": np.asarray(v) for v in best.weights}
    numbers["thresholds of best"] = best.get_layer("contract").contract.thresholds
    return numbers


def assert_equal(folder: Path, unbroken: Path) -> int:
    """Hold every number of two trainings to one another, bit for bit; return how many."""
    ours, theirs = everything(folder), everything(unbroken)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert np.asarray(ours[name]).tobytes() == np.asarray(value).tobytes(), name
    assert {p.name for p in folder.iterdir()} == {p.name for p in unbroken.iterdir()}
    return sum(np.asarray(value).size for value in theirs.values())


# --- The folder as it is at any moment ---------------------------------------------------------


@pytest.fixture(scope="module")
def moments(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An undisturbed run in ``run``, and copies of its folder as a kill would have left it.

    A copy sees what a killed process leaves: what had gone to the files, and no more.
    """
    home = tmp_path_factory.mktemp("moments")
    counts: dict[str, int] = {}

    def snapshot(name: str) -> None:
        counts[name] = counts.get(name, 0) + 1
        if (home / "run" / "fold_1").exists():
            shutil.copytree(home / "run" / "fold_1", home / f"{name} {counts[name]}" / "fold_1")

    rename, save, step = os.replace, np.savez, Progress.on_train_batch_end

    def replace_and_snapshot(source: Path, target: Path) -> None:
        rename(source, target)
        snapshot(f"after {Path(target).parent.name} {Path(target).name}")

    def save_and_snapshot(file: Any, **arrays: Any) -> None:
        file.write(b"half of a file")
        file.flush()
        snapshot("while saving")
        file.seek(0)
        save(file, **arrays)

    def step_and_snapshot(self: Progress, batch: int, logs: Any = None) -> None:
        step(self, batch, logs)
        snapshot(f"after batch {batch}")

    finish = Checkpoint.finish

    def snapshot_and_finish(self: Checkpoint, *, keep: bool) -> None:
        snapshot("before the end")
        shutil.copy(self.folder / CHECKPOINT, self.folder.with_suffix(".npz"))
        finish(self, keep=keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_and_snapshot)
        patch.setattr(checkpoint.np, "savez", save_and_snapshot)
        patch.setattr(Progress, "on_train_batch_end", step_and_snapshot)
        patch.setattr(Checkpoint, "finish", snapshot_and_finish)
        train(store, home / "run")
    yield home


MOMENTS = (
    "while saving 3",
    "after fold_1 best.keras 2",  # the new best is moved, its answers are not
    *(
        pytest.param(moment, marks=pytest.mark.slow)
        for moment in (
            "after batch 1 1",  # nothing is complete
            "while saving 1",
            "after batch 2 3",
            "after of_this_epoch best.keras 3",
            "after of_this_epoch validation.npz 2",
            "after fold_1 checkpoint.npz 3",
            "after fold_1 validation.npz 2",
            "after fold_1 history.csv 6",  # the patience has ended
            "before the end 1",
        )
    ),
)


def test_the_undisturbed_run_leaves_something_to_lose(moments: Path) -> None:
    """Several new bests, then epochs without one until the patience ends."""
    told = everything(moments / "run" / "fold_1")
    epochs, counters = int(told["epoch"]), json.loads(told["counters"])
    assert 5 <= epochs < SETTINGS.epochs and told["complete"] == "true"
    assert counters["stopping"]["wait"] == 2
    assert counters["best"]["epoch"] == epochs - 3
    assert (moments / "after of_this_epoch best.keras 2").exists()


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_goes_on_from_any_moment(
    store: Store, moments: Path, tmp_path: Path, moment: str
) -> None:
    shutil.copytree(moments / moment, tmp_path / "run")
    np.random.seed(5)  # another process would know nothing of this one
    assert state_of(tmp_path / "run" / "fold_1") == "half"
    with pytest.raises(OptionError, match="fold_1 holds a run that was not finished; .* --resume"):
        train(store, tmp_path / "run")
    folder = train(store, tmp_path / "run", resume=True)
    assert assert_equal(folder, moments / "run" / "fold_1") > 200


def test_half_a_file_of_a_killed_run_is_removed(half: Path, tmp_path: Path) -> None:
    """After the last epoch nothing else would replace it."""
    shutil.copytree(half, tmp_path / "run")
    left = tmp_path / "run" / "fold_1" / "training.part.log"
    left.write_text("half of")
    Checkpoint(left.parent, counters={}, epochs=SETTINGS.epochs)
    assert not left.exists()


class Killed(BaseException):
    """Stands for a kill between two steps."""


@pytest.mark.slow
def test_a_loss_scale_goes_on_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16 the optimiser scales the loss, and counts the steps until it doubles the scale."""
    half: dict[str, Any] = {"precision": "mixed_float16", "epochs": 4}
    unbroken = train(store, tmp_path / "unbroken", **half)
    with np.load(unbroken.with_suffix(".npz")) as arrays:
        values = [arrays[name] for name in arrays.files if arrays[name].ndim == 0]
    assert any(value >= 2**15 for value in values)  # the scale
    step, steps = Progress.on_train_batch_end, []

    def step_and_stop(self: Progress, batch: int, logs: Any = None) -> None:
        step(self, batch, logs)
        steps.append(batch)
        if len(steps) == 8:
            raise Killed

    monkeypatch.setattr(Progress, "on_train_batch_end", step_and_stop)
    with pytest.raises(Killed):
        train(store, tmp_path / "killed", **half)
    folder = train(store, tmp_path / "killed", resume=True, **half)
    assert len(steps) == 6 + 2 + 6  # of the third epoch all again
    assert_equal(folder, unbroken)


def one_cycle(store: Store, out: Path, *, resume: bool = False, epochs: int = 3) -> Path:
    train_folds(
        Run(store=store.path, out=out, resume=resume),
        Validation(folds=("1",), test_fold=10),
        toy_network(lambda c: compiled_toy(c, learning_rate=0.02, dropout=0.5)),
        replace(SETTINGS, epochs=epochs, learning_rate=0.02, schedule="one-cycle", patience=epochs),
    )
    return out / "fold_1"


def test_one_cycle_goes_on_where_it_was_killed_and_takes_no_more_epochs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = Progress.on_train_batch_end

    def step_and_note(self: Progress, batch: int, logs: Any = None) -> None:
        step(self, batch, logs)
        rates.append(float(self.model.optimizer.learning_rate))
        if len(rates) == 9 + 4:  # in the second epoch of the other run
            raise Killed

    monkeypatch.setattr(Progress, "on_train_batch_end", step_and_note)
    unbroken = one_cycle(store, tmp_path / "unbroken")
    assert len(rates) == 9
    assert max(rates) == rates[3] > rates[2] > rates[1] > rates[0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    with pytest.raises(Killed):
        one_cycle(store, tmp_path / "killed")
    with pytest.raises(OptionError, match="fold_1 was started with --epochs 3, not 4"):
        one_cycle(store, tmp_path / "killed", resume=True, epochs=4)
    folder = one_cycle(store, tmp_path / "killed", resume=True)
    assert rates[-6:] == rates[3:9]
    assert_equal(folder, unbroken)
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    with pytest.raises(OptionError, match="fold_1 was started with --epochs 3, not 4"):
        one_cycle(store, tmp_path / "unbroken", resume=True, epochs=4)
    one_cycle(store, tmp_path / "unbroken", resume=True)
    assert before == {path.name: path.read_bytes() for path in unbroken.iterdir()}


# --- Two validation parts in one fit -----------------------------------------------------------


def train_pair(store: Store, folder: Path, *, validation: int, second: int, both: bool) -> Path:
    """Train on all folds but two, of which one or both choose an epoch."""
    parts = {fold: np.flatnonzero(store.folds == fold) for fold in (validation, second)}
    train_fold(
        store,
        folder=folder,
        fold=validation,
        task="cpsc2018",
        parts=Parts(
            np.flatnonzero(~np.isin(store.folds, [validation, second])),
            parts[validation],
            parts[second] if both else None,
        ),
        settings=replace(SETTINGS, epochs=30, patience=3),
        network=toy_network(lambda c: compiled_toy(c, learning_rate=0.002, dropout=0.5)),
        options={},
        resume=True,
    )
    return folder


def chosen(folder: Path) -> dict[str, bytes]:
    """What a validation part chose: weights, thresholds and answers."""
    best = keras.saving.load_model(folder / "best.keras", compile=False)
    numbers = {v.path: np.asarray(v) for v in best.weights}
    answers = load_predictions(folder / "validation.npz")
    numbers |= {name: getattr(answers, name) for name in ("ids", "probabilities", "thresholds")}
    return {name: np.asarray(value).tobytes() for name, value in numbers.items()}


def test_one_fit_chooses_for_both_folds_as_two_fits_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is killed after one fold has chosen."""
    apart = [
        train_pair(store, tmp_path / f"{a}", validation=a, second=b, both=False)
        for a, b in ((1, 7), (7, 1))
    ]
    unbroken = train_pair(store, tmp_path / "both", validation=1, second=7, both=True)
    epochs = [len(read_history(f / "history.csv")["epoch"]) for f in (*apart, unbroken)]
    assert epochs[2] == max(epochs[:2])
    for ours, theirs in ((unbroken, apart[0]), (unbroken / SECOND, apart[1])):
        assert chosen(ours) == chosen(theirs)

    save = checkpoint.np.savez
    saved: list[Any] = []

    def save_and_stop(file: Any, **arrays: Any) -> None:
        save(file, **arrays)
        saved.append(file)
        if len(saved) == epochs[2] - 1:
            raise Killed

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint.np, "savez", save_and_stop)
        train_pair(store, folder, validation=1, second=7, both=True)
    train_pair(store, folder, validation=1, second=7, both=True)
    assert_equal(folder, unbroken)
    assert chosen(folder / SECOND) == chosen(unbroken / SECOND)
    assert not (folder / checkpoint.NEW_BEST).exists()


# --- What is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(moments: Path) -> Path:
    """A run that was killed in its third epoch."""
    return moments / "while saving 3"


def test_epochs_can_be_added_to_a_finished_run(store: Store, moments: Path, tmp_path: Path) -> None:
    folder = train(store, tmp_path / "run", epochs=2)
    assert state_of(folder) == "finished" and (folder / LAST).exists()
    with pytest.raises(OptionError, match="fold_1 .*--batch-size 16, not 8"):
        train(store, tmp_path / "run", epochs=4, resume=True, batch_size=8)
    assert state_of(folder) == "finished"
    train(store, tmp_path / "run", epochs=4, resume=True)
    at_once = train(store, tmp_path / "at once", epochs=4)
    assert_equal(folder, at_once)
    assert len((folder / "training.log").read_text().splitlines()) == 4
    for part in ("options", "settings"):
        assert json.loads((folder / "args.json").read_text())[part]["epochs"] == 4
    # A run that ended because its patience did has nothing to add.
    stopped = shutil.copytree(moments / "run", tmp_path / "stopped") / "fold_1"
    assert not (stopped / LAST).exists()
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    train(store, tmp_path / "stopped", epochs=40, resume=True)
    assert before == {path.name: path.read_bytes() for path in stopped.iterdir()}


def test_a_finished_run_of_other_options_or_records_is_not_part_of_another(
    store: Store, moments: Path, tmp_path: Path
) -> None:
    shutil.copytree(moments / "run", tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(OptionError, match="fold_1 .*--batch-size 16, not 8"):
        train(store, tmp_path / "run", folds=(2, 1), resume=True, batch_size=8)
    assert not list((tmp_path / "run").glob("fold_2/*"))
    with (
        Store(write_toy_store(tmp_path / "fewer.h5", lengths=(100,) * 50)) as fewer,
        pytest.raises(OptionError, match=r"fold_1 was started with other records than .*fewer\.h5"),
    ):
        train(fewer, tmp_path / "run", folds=(1, 2), resume=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": {"dropout": 0.4}}, "--dropout 0.5, not 0.4"),
        ({"epochs": 8}, "--epochs 9, not 8"),
        (
            {"options": {"dropout": 0.5, "fusion": "add"}},
            "--fusion None, not add",
        ),
        ({"batch_size": 8}, "--batch-size 16, not 8"),
        ({"seed": 1}, "--seed 0, not 1"),
    ],
)
def test_other_options_are_refused_by_name(
    store: Store, half: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    shutil.copytree(half, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(OptionError, match=f"fold_1 .*{sentence}"):
        train(store, tmp_path / "run", resume=True, **changes)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_run_of_an_earlier_release_goes_on(
    store: Store, half: Path, moments: Path, tmp_path: Path
) -> None:
    """It wrote learning rate and XLA among the options only, and the folder too."""
    shutil.copytree(half, tmp_path / "run")
    path = tmp_path / "run" / "fold_1" / "args.json"
    written = json.loads(path.read_text())
    for name in ("learning_rate", "jit_compile"):
        del written["settings"][name]
    written["options"]["folder"] = "elsewhere"
    path.write_text(json.dumps(written))
    assert_equal(train(store, tmp_path / "run", resume=True), moments / "run" / "fold_1")


def test_other_records_are_refused(half: Path, tmp_path: Path) -> None:
    """One sample of one record differs."""
    shutil.copytree(half, tmp_path / "run")
    path = write_toy_store(tmp_path / "toy.h5")
    with (
        Store(path) as like,
        StoreWriter(
            tmp_path / "other.h5",
            dataset=like.dataset,
            fs=like.fs,
            class_names={"cpsc2018": CLASSES},
        ) as writer,
    ):
        for i in range(len(like)):
            signal = like.signal(i)
            signal[7, 3] += i == 33
            writer.append(
                like.ids[i],
                signal,
                labels={"cpsc2018": np.flatnonzero(like.labels()[i]).tolist()},
                first_label=int(like.first_labels()[i]),
                fold=int(like.folds[i]),
            )
    with Store(tmp_path / "other.h5") as other:
        with pytest.raises(OptionError, match=r"other records than .* --store .*other\.h5"):
            train(other, tmp_path / "run", resume=True)


def test_a_broken_checkpoint_is_named(store: Store, half: Path, tmp_path: Path) -> None:
    shutil.copytree(half, tmp_path / "run")
    path = tmp_path / "run" / "fold_1" / CHECKPOINT
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"x" * len(data), pickle.dumps({"epoch": 1})):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"fold_1/checkpoint\.npz is corrupt"):
            train(store, tmp_path / "run", resume=True)
    np.savez(path, told=np.array([{"epoch": 1}], object))
    with pytest.raises(ModelFileError, match=r"checkpoint\.npz is corrupt"):
        train(store, tmp_path / "run", resume=True)


def test_a_run_without_checkpoint_is_not_begun_anew(store: Store, tmp_path: Path) -> None:
    """It may have cost many hours, under a release that wrote none."""
    (tmp_path / "fold_1").mkdir()
    (tmp_path / "fold_1" / "best.keras").write_bytes(b"dear")
    with pytest.raises(OptionError, match=r"without the checkpoint\.npz that --resume needs"):
        train(store, tmp_path, resume=True)
    assert (tmp_path / "fold_1" / "best.keras").read_bytes() == b"dear"


def test_two_trainings_into_one_folder(store: Store, tmp_path: Path) -> None:
    with files.locked(tmp_path / "fold_1", doing="trained"):
        for resume in (False, True):
            with pytest.raises(OptionError, match=r"fold_1 is being trained by process \d+ on"):
                train(store, tmp_path, folds=(2, 1), resume=resume)
    assert list(tmp_path.iterdir()) == []


# --- Real kills of both networks -----------------------------------------------------------------

KILLS = (("mlbf_keras", "in the second batch of epoch 2"), ("mrm_keras", "before validation.npz"))
SMALL: dict[str, dict[str, Any]] = {
    "mlbf_keras": {"network": "branchnet", "input_length": 64, "filters": 2, "gru_units": 2},
    "mrm_keras": {"input_length": 64, "low_channels": 2, "high_channels": 4, "test_fold": None},
}


def kill_in(network: str, where: str) -> None:
    """Make this process kill itself there."""
    step, save = Progress.on_train_batch_end, callbacks.save_predictions

    def step_and_kill(self: Progress, batch: int, logs: Any = None) -> None:
        step(self, batch, logs)
        if "batch" in where and self.bar.n == self.params["steps"] + 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_kill(path: Path, predictions: Any) -> None:
        if path.name in where and network in path.parts:
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, predictions)

    vars(callbacks)["save_predictions"] = save_and_kill
    setattr(Progress, "on_train_batch_end", step_and_kill)  # noqa: B010


def train_both(home: Path, number: int) -> None:
    """Train both networks, keeping the last checkpoints: undisturbed (0), killed or resumed."""
    finish = Checkpoint.finish

    def keep_and_finish(self: Checkpoint, *, keep: bool) -> None:
        shutil.copy(self.folder / CHECKPOINT, self.folder.with_suffix(".npz"))
        finish(self, keep=keep)

    setattr(Checkpoint, "finish", keep_and_finish)  # noqa: B010
    tf.config.run_functions_eagerly(True)  # to trace the networks would take most of the time
    if 0 < number <= len(KILLS):
        kill_in(*KILLS[number - 1])
    for network, small in SMALL.items():
        import_module(f"{network}.train").main(
            store=home / f"{network}.h5",
            out=home / ("killed" if number else "undisturbed") / network,
            folds=("1",),
            epochs=2,
            batch_size=12,
            deterministic=True,
            resume=number > 1,
            **small,
        )


@pytest.mark.slow
def test_both_networks_go_on_after_kills(tmp_path: Path) -> None:
    """The first is killed in the midst of an epoch, then the other while it saves."""
    write_toy_store(tmp_path / "mlbf_keras.h5", lengths=(64,) * 40, fs=250.0)
    write_toy_store(tmp_path / "mrm_keras.h5", lengths=(64,) * 40, fs=100.0)
    for number in range(len(KILLS) + 2):
        run = subprocess.run(
            [sys.executable, __file__, str(tmp_path), str(number)], capture_output=True, text=True
        )
        killed = 0 < number <= len(KILLS)
        assert run.returncode == (-signal.SIGKILL if killed else 0), run.stderr
    assert run.stdout.count("is finished") == 1  # what the second run ended
    for network in SMALL:
        import_module(f"{network}.model")  # to open its files
        folders = [tmp_path / name / network / "fold_1" for name in ("killed", "undisturbed")]
        assert assert_equal(folders[0], folders[1]) > 1000


if __name__ == "__main__":
    train_both(Path(sys.argv[1]), int(sys.argv[2]))
