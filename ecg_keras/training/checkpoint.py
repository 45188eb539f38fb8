"""A training written down after each epoch, so that a killed one goes on where it was.

Keras' own ``BackupAndRestore`` forgets the best score and what is left of the patience, and its
files may be an epoch apart.  Here one file is the truth, ``checkpoint.npz``: the variables of the
network, of its dropout and of its optimiser, the counters of the callbacks, the history, the
state of Python's and NumPy's random numbers.  It is replaced in one step at each epoch's end.
The model of a new best epoch waits in the folder ``of_this_epoch`` until then, and is moved to
its place after; a training that goes on brings the folder to what the checkpoint says.
"""

import csv
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.errors import ModelFileError, OptionError
from data_prep.files import written_whole
from data_prep.store import Store
from ecg_keras.model.backend import keras

CHECKPOINT = "checkpoint.npz"
NEW_BEST = "of_this_epoch"

# These may differ when a training goes on: they do not touch the numbers.  That the store holds
# the same records is asked of the records themselves.
_FREE_OPTIONS = ("resume", "out", "store", "folds")


def state_of(folder: Path) -> Literal["new", "half", "finished"]:
    """Say how far the training in a folder has come.

    Args:
        folder: of one fold.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    finished = (folder / "best.keras").exists() and (folder / "learning_curves.png").exists()
    return "finished" if finished and not (folder / CHECKPOINT).exists() else "half"


def require_startable(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that a training would overwrite.

    Args:
        folder: of one fold.
        resume: whether a half-finished training is to go on.

    Raises:
        OptionError: saying what to do.
    """
    state, fold = state_of(folder), folder.name.removeprefix("fold_")
    if state == "finished" and not resume:
        raise OptionError(
            f"{folder} holds a run already; choose another --out, take {fold} out of --folds, or"
            " remove that folder."
        )
    if state == "half" and not resume:
        raise OptionError(
            f"{folder} holds a run that was not finished; run the same command with --resume to go"
            " on with it, choose another --out, or remove that folder."
        )
    if state == "half" and not (folder / CHECKPOINT).exists() and (folder / "best.keras").exists():
        raise OptionError(
            f"{folder} holds a run without the {CHECKPOINT} that --resume needs; choose another"
            f" --out, take {fold} out of --folds, or remove that folder."
        )


def require_same_run(written: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a training under other options or on other records.

    Args:
        written: ``options``, ``settings`` and ``records``, as ``args.json`` holds them.
        asked: likewise, as they are now.
        folder: of the training.

    Raises:
        OptionError: naming the first option that differs.
    """
    asked = json.loads(json.dumps(asked, default=str))
    for part in ("options", "settings"):
        before, now = written.get(part, {}), asked[part]
        for name in sorted({*before, *now} - {*_FREE_OPTIONS}):
            if before.get(name) != now.get(name):
                option = "--" + name.replace("_", "-")
                raise OptionError(
                    f"{folder} was begun with {option} {before.get(name)} and not"
                    f" {now.get(name)}; give --resume the options it was begun with, or choose"
                    " another --out."
                )
    if written.get("records") != asked["records"]:
        raise OptionError(
            f"{folder} was begun with other records than --store {asked['options'].get('store')}"
            " holds; give --resume the store it was begun with, or choose another --out."
        )


def digest_of_records(store: Store, *parts: np.ndarray, task: str) -> str:
    """Return a number that tells one set of records, labels and parts from another.

    Args:
        store: an open store.
        parts: indices of the records of each part.
        task: whose labels.
    """
    digest = hashlib.sha256(repr(store.fs).encode())
    tables = [store.ids, store.lengths, store.labels(task), store.first_labels, store.checksums]
    for part in parts:
        for table in tables:
            digest.update(b"" if table is None else np.ascontiguousarray(table[part]).tobytes())
    return digest.hexdigest()


class Checkpoint(keras.callbacks.Callback):
    """Writes the checkpoint and the history; the last of the callbacks, so that it sees them all.

    Opening it brings a half-finished folder to its last complete epoch.  In ``fit`` it then sets
    everything to the state of that epoch's end.  (Layers draw their random numbers from Keras'
    seed generators, which are among the network's variables; the state of TensorFlow's own
    generators, which no layer here uses, cannot be read.)

    Args:
        folder: of the training.
        counters: callbacks whose attributes that are numbers are to be kept, by a name for each.

    Attributes:
        epoch: how many epochs are complete.
        complete: True where fitting came to its end, by its last epoch or for want of patience.

    Raises:
        ModelFileError: where the checkpoint is broken.
    """

    def __init__(self, folder: Path, *, counters: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.counters = dict(counters)
        self.epoch = 0
        self.complete = False
        self._history = ""
        self._saved: dict[str, np.ndarray] = {}
        if (folder / CHECKPOINT).exists():
            self._open()
        else:
            shutil.rmtree(folder / NEW_BEST, ignore_errors=True)

    def _open(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                self._saved = {name: arrays[name] for name in arrays.files}
            told = json.loads(self._saved.pop("told").tobytes())
            self.epoch, self.complete = int(told["epoch"]), bool(told["complete"])
            self._history = str(told["history"])
            self._counts = dict(told["counters"])
            self._random = {name: told["random"][name] for name in ("python", "numpy")}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            raise ModelFileError(
                f"{path} is broken, so that the training cannot go on; remove {self.folder} and"
                " train that fold again."
            ) from None
        self._set_counters()
        # Epochs count from 0: a new best of the last complete epoch was not moved in time, one
        # of a later epoch is of one that counts for nothing.
        if (self.folder / NEW_BEST / _made_in(self.epoch - 1)).exists():
            self._move_new_best()
        shutil.rmtree(self.folder / NEW_BEST, ignore_errors=True)
        self._write_history()

    def _set_counters(self) -> None:
        for name, callback in self.counters.items():
            vars(callback).update(self._counts[name])

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Set everything to the end of the last complete epoch."""
        if not self._saved:
            return
        self._set_counters()
        if not self.model.optimizer.built:
            with self.model.distribute_strategy.scope():
                self.model.optimizer.build(self.model.trainable_variables)
        variables = self._variables()
        shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
        if shapes != {key: value.shape for key, value in self._saved.items()}:
            raise ModelFileError(
                f"{self.folder / CHECKPOINT} is of another network than this release builds; go on"
                " with the release that began, or choose another --out."
            )
        for key, variable in variables.items():
            variable.assign(self._saved[key])
        version, words, gauss = self._random["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(tuple(self._random["numpy"]))
        self._saved = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the epoch down."""
        self.epoch = epoch + 1
        last = self.epoch == self.params["epochs"]
        self.complete = bool(last or self.model.stop_training)
        self._add_to_history({"epoch": epoch, **dict(sorted((logs or {}).items()))})
        kind, words, *rest = np.random.get_state()
        told = {
            "epoch": self.epoch,
            "complete": self.complete,
            "history": self._history,
            "counters": {name: _numbers(callback) for name, callback in self.counters.items()},
            "random": {
                "python": random.getstate(),
                "numpy": [kind, np.asarray(words).tolist(), *rest],
            },
        }
        arrays = {
            "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
            **{key: keras.ops.convert_to_numpy(v) for key, v in self._variables().items()},
        }
        new_best = self.folder / NEW_BEST
        if new_best.exists():
            (new_best / _made_in(epoch)).touch()
        with written_whole(self.folder / CHECKPOINT) as part, open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        if new_best.exists():
            self._move_new_best()
        self._write_history()

    def _move_new_best(self) -> None:
        for name in ("best.keras", "validation.npz"):
            for new in (self.folder / NEW_BEST).rglob(name):  # or a killed process has moved it
                kept = self.folder / new.relative_to(self.folder / NEW_BEST)
                kept.parent.mkdir(exist_ok=True)
                os.replace(new, kept)
        shutil.rmtree(self.folder / NEW_BEST)

    def finish(self) -> None:
        """Remove the checkpoint of a training that is complete in everything."""
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _variables(self) -> dict[str, Any]:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        return {f"variable_{i}": variable for i, variable in enumerate(variables)}

    def _add_to_history(self, row: Mapping[str, float]) -> None:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, list(row), lineterminator="\n")
        if not self._history:
            rows.writeheader()
        rows.writerow(row)
        self._history += text.getvalue()

    def _write_history(self) -> None:
        with written_whole(self.folder / "history.csv") as part:
            part.write_text(self._history)


def _made_in(epoch: int) -> str:
    return f"epoch_{epoch}"


def _numbers(callback: Any) -> dict[str, float | int | None]:
    """The attributes of a callback that are numbers, or will be."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(callback).items()
        if value is None or isinstance(value, (bool, int, float, np.generic))
    }
