"""A checkpoint after each epoch, from which an interrupted training resumes exactly.

Keras' own ``BackupAndRestore`` does not save the best score and the remaining patience, and its
files may be from different epochs.  Here a single file, ``checkpoint.npz``, holds the whole state:
the variables of the network, its dropout and its optimiser, the counters of the callbacks, the
history, and the states of Python's and NumPy's random generators.  It is replaced atomically at
the end of each epoch.  The model of a new best epoch is first written to the folder
``of_this_epoch`` and moved into place after the checkpoint; a resumed training first brings the
folder to the state of the checkpoint.
"""

import csv
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.errors import ModelFileError, OptionError
from data_prep.files import read_json, written_whole
from data_prep.npz import read_npz
from data_prep.store import Store
from ecg_keras.model.backend import keras
from ecg_keras.training.settings import BEFORE_OPTIONS

CHECKPOINT = "checkpoint.npz"
LAST = "last_epoch.npz"
"""The last checkpoint of a training that completed all its epochs without stopping early."""
NEW_BEST = "of_this_epoch"

# These may differ in a resumed training, since they do not affect the results.  That the store
# holds the same records is checked by a digest of the records.
_FREE_OPTIONS = ("resume", "out", "folder", "store", "folds")


def state_of(folder: Path) -> Literal["new", "half", "finished"]:
    """Return the state of the training in a folder.

    Args:
        folder: the folder of one fold.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    finished = (folder / "best.keras").exists() and (folder / "learning_curves.png").exists()
    return "finished" if finished and not (folder / CHECKPOINT).exists() else "half"


def require_startable(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that a training would overwrite.

    Args:
        folder: the folder of one fold.
        resume: whether to continue an unfinished training.

    Raises:
        OptionError: if the folder holds a run that cannot be continued, saying what to do.
    """
    state, fold = state_of(folder), folder.name.removeprefix("fold_")
    if state == "finished" and not resume:
        raise OptionError(
            f"{folder} holds a run already; choose another --out, take {fold} out of --folds, or"
            " remove that folder."
        )
    if state == "half" and not resume:
        raise OptionError(
            f"{folder} holds a run that was not finished; run the same command with --resume to"
            " continue it, choose another --out, or remove that folder."
        )
    if state == "half" and not (folder / CHECKPOINT).exists() and (folder / "best.keras").exists():
        raise OptionError(
            f"{folder} holds a run without the {CHECKPOINT} that --resume needs; choose another"
            f" --out, take {fold} out of --folds, or remove that folder."
        )


def can_add_epochs(folder: Path, *, epochs: int) -> bool:
    """Tell whether a finished training can be continued to more epochs.

    Args:
        folder: the folder of the training.
        epochs: number of epochs now requested.

    Returns:
        False if no more epochs are requested, or if the training stopped early, did not keep its
        last checkpoint, or ended its one cycle.
    """
    try:
        settings = read_json(folder / "args.json")["settings"]
        more = epochs > int(settings["epochs"]) and settings.get("schedule") != "one-cycle"
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return more and (folder / LAST).exists()


def reopen(folder: Path) -> None:
    """Make a finished training that kept its last checkpoint resumable.

    Args:
        folder: the folder of the training.
    """
    os.replace(folder / LAST, folder / CHECKPOINT)


def require_same_run(written: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a training with other options or records.

    Epochs may be added if the learning rate is constant.

    Args:
        written: ``options``, ``settings``, ``records`` and ``init`` (the SHA-256 of the model to
            start from) from ``args.json``.
        asked: the same for this command; without ``init``, that is not compared.
        folder: the folder of the training.

    Raises:
        OptionError: naming the first option that differs.
    """
    asked = json.loads(json.dumps(asked, default=str))
    may_add = asked["settings"]["schedule"] == "constant"
    for part in ("options", "settings"):
        before, now = written.get(part, {}), asked[part]
        # Earlier releases wrote fewer settings; the others were among the options.
        names = {*before} if part == "settings" else {*before, *now} - {*_FREE_OPTIONS}
        for name in sorted(names):
            if name == "epochs" and may_add and before.get(name, 0) <= now[name]:
                continue
            if before.get(name, BEFORE_OPTIONS.get(name)) != now.get(name):
                option = "--" + name.replace("_", "-")
                raise OptionError(
                    f"{folder} was started with {option} {before.get(name)}, not"
                    f" {now.get(name)}; use --resume with the original options, or choose another"
                    " --out."
                )
    if written.get("records") != asked["records"]:
        raise OptionError(
            f"{folder} was started with other records than those of --store"
            f" {asked['options'].get('store')}; use --resume with the original store, or choose"
            " another --out."
        )
    if {"init"} <= written.keys() & asked.keys() and written["init"] != asked["init"]:
        raise OptionError(
            f"{folder} was started from {written['settings'].get('init')}, which has changed since;"
            " restore that file, or choose another --out."
        )


def digest_of_records(store: Store, *parts: np.ndarray, task: str) -> str:
    """Return a digest of the records, their labels and the split.

    Args:
        store: an open store.
        parts: indices of the records of each part.
        task: task of the labels.
    """
    digest = hashlib.sha256(repr(store.fs).encode())
    labels = [store.labels(task), store.first_labels(task)]
    tables = [store.ids, store.lengths, *labels, store.checksums]
    for part in parts:
        for table in tables:
            digest.update(b"" if table is None else np.ascontiguousarray(table[part]).tobytes())
    return digest.hexdigest()


class Checkpoint(keras.callbacks.Callback):
    """Writes the checkpoint and the history; must come after all callbacks that have a state.

    Creating it brings the folder of an unfinished training to its last complete epoch; when
    ``fit`` begins, it restores the state at the end of that epoch.  (Layers draw random numbers
    from Keras' seed generators, which are among the network's variables; the state of TensorFlow's
    own generators, which no layer here uses, cannot be read.)

    Args:
        folder: the folder of the training.
        counters: callbacks whose numeric attributes are saved, by name.
        epochs: number of epochs requested.

    Attributes:
        epoch: number of complete epochs.
        complete: True if training has ended, after all epochs or by early stopping.

    Raises:
        ModelFileError: if the checkpoint is corrupt.
    """

    def __init__(self, folder: Path, *, counters: Mapping[str, Any], epochs: int) -> None:
        super().__init__()
        self.folder = folder
        self.epochs = epochs
        self.counters = dict(counters)
        self.epoch = 0
        self.complete = False
        self._history = ""
        self._saved: dict[str, np.ndarray] = {}
        for left in folder.glob("*.part.*"):  # by a killed run
            left.unlink()
        if (folder / CHECKPOINT).exists():
            self._open()
        else:
            shutil.rmtree(folder / NEW_BEST, ignore_errors=True)

    def _open(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            self._saved = read_npz(path, most_bytes=path.stat().st_size)
            state = json.loads(self._saved.pop("told").tobytes())
            self.epoch = int(state["epoch"])
            # Earlier releases did not record why a training had ended.
            over = state["stopped"] if "stopped" in state else state["complete"]
            self.complete = bool(over) or self.epoch >= self.epochs
            self._history = str(state["history"])
            self._counts = dict(state["counters"])
            self._random = {name: state["random"][name] for name in ("python", "numpy")}
        except OSError as error:
            raise ModelFileError(
                f"{path} cannot be read ({error.strerror or error}); make it readable, and run the"
                " same command again."
            ) from error
        except (ValueError, KeyError, TypeError):
            raise ModelFileError(
                f"{path} is corrupt, so the training cannot be resumed; remove {self.folder} and"
                " train that fold again."
            ) from None
        self._set_counters()
        # Epochs are counted from 0.  A new best model of the last complete epoch still has to be
        # moved; one of a later epoch is discarded, since that epoch will be trained again.
        if (self.folder / NEW_BEST / _made_in(self.epoch - 1)).exists():
            self._move_new_best()
        shutil.rmtree(self.folder / NEW_BEST, ignore_errors=True)
        self._write_history()

    def _set_counters(self) -> None:
        for name, callback in self.counters.items():
            vars(callback).update(self._counts[name])

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restore the state at the end of the last complete epoch."""
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
                f"{self.folder / CHECKPOINT} is of another network than this release builds;"
                " resume with the release that started it, or choose another --out."
            )
        for key, variable in variables.items():
            variable.assign(self._saved[key])
        version, words, gauss = self._random["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(tuple(self._random["numpy"]))
        self._saved = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the checkpoint."""
        self.epoch = epoch + 1
        stopped = bool(self.model.stop_training)
        self.complete = stopped or self.epoch >= self.epochs
        self._add_to_history({"epoch": epoch, **dict(sorted((logs or {}).items()))})
        kind, words, *rest = np.random.get_state()
        state = {
            "epoch": self.epoch,
            "complete": self.complete,
            "stopped": stopped,
            "history": self._history,
            "counters": {name: _numbers(callback) for name, callback in self.counters.items()},
            "random": {
                "python": random.getstate(),
                "numpy": [kind, np.asarray(words).tolist(), *rest],
            },
        }
        arrays = {
            "told": np.frombuffer(json.dumps(state).encode(), np.uint8),
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
            for new in (self.folder / NEW_BEST).rglob(name):  # may already have been moved
                kept = self.folder / new.relative_to(self.folder / NEW_BEST)
                kept.parent.mkdir(exist_ok=True)
                os.replace(new, kept)
        shutil.rmtree(self.folder / NEW_BEST)

    def finish(self, *, keep: bool) -> None:
        """Remove the checkpoint, or keep it as ``last_epoch.npz``; the training is complete.

        Args:
            keep: keep it so that epochs can be added, unless training stopped early.
        """
        if keep and self.epoch >= self.epochs:
            os.replace(self.folder / CHECKPOINT, self.folder / LAST)
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
    """Return the numeric attributes of a callback, including those that are still None."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(callback).items()
        if value is None or isinstance(value, (bool, int, float, np.generic))
    }
