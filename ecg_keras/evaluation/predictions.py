"""Predictions, and the file that passes them from predicting to scoring."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.class_names import require_class_names
from data_prep.errors import PredictionsError
from data_prep.files import written_whole
from data_prep.labels import CPSC_TASK
from data_prep.names import require_name, shown
from data_prep.npz import read_npz
from ecg_keras.evaluation.scores import patient_groups
from ecg_keras.model.origin import UNKNOWN, ModelFacts, overlap, seen_by_any

_REQUIRED = (
    "ids",
    "class_names",
    "probabilities",
    "members",
    "thresholds",
    "single_label",
    "network",
    "task",
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a network, or of an ensemble, for N records and C classes.

    Attributes:
        ids: ``(N,)`` str, unique names of the records.
        class_names: the C classes, in the order of the probabilities.
        probabilities: ``(N, C)`` float32 in 0..1, the mean over the members.
        members: ``(M, N, C)`` float32 in 0..1, probabilities of each of the M networks.
        thresholds: ``(C,)`` float32; a class counts as present if its probability reaches its
            threshold.
        single_label: True if the answer is the most probable class alone.
        network: name of the network, such as ``"MLBF-Net"``.
        task: the task its classes belong to, such as ``"cpsc2018"``.
        labels: ``(N, C)`` uint8 of 0 and 1, or None if unknown.
        first_labels: ``(N,)`` int16, 0-based class of each record's first label (CPSC 2018's
            ``First_label``), -1 if unknown; or None.
        patients: ``(N,)`` str, patient of each record, empty if unknown; or None.
        seen: ``(N,)`` int8, how the models have used each record: 0 not at all, 1 to select the
            epoch and thresholds of one, 2 to train one, -1 unknown; None if all are unknown.
        dataset: data set of the records, such as ``"ptb-xl"``; empty if unknown, as for files,
            in which case ``seen`` was found by comparing names only.
        models: the model files and their origin.

    Raises:
        PredictionsError: if shapes disagree, an id is repeated, a name is unusable, or a number is
            out of range.
    """

    ids: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    members: np.ndarray
    thresholds: np.ndarray
    single_label: bool
    network: str
    task: str
    labels: np.ndarray | None = None
    first_labels: np.ndarray | None = None
    patients: np.ndarray | None = None
    seen: np.ndarray | None = None
    dataset: str = ""
    models: tuple[ModelFacts, ...] = ()

    def __post_init__(self) -> None:
        """Convert every field to its type and check that they are consistent."""
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        records, classes = len(self.ids), len(self.class_names)
        for name, dtype, *shape in (
            ("ids", np.str_, records),
            ("probabilities", np.float32, records, classes),
            ("members", np.float32, len(self.members), records, classes),
            ("thresholds", np.float32, classes),
            ("labels", np.uint8, records, classes),
            ("first_labels", np.int16, records),
            ("patients", np.str_, records),
            ("seen", np.int8, records),
        ):
            if getattr(self, name) is None:
                continue
            array = _as_type(name, getattr(self, name), dtype)
            object.__setattr__(self, name, array)
            if array.shape != tuple(shape):
                raise PredictionsError(
                    f"{name} has the shape {array.shape} where {records} ids and {classes} class"
                    f" names need {tuple(shape)}; predict again."
                )
        if len(self.members) == 0:
            raise PredictionsError("no member's probabilities are in it; predict again.")
        for name in ("probabilities", "members", "thresholds"):
            if not are_probabilities(getattr(self, name)).all():
                raise PredictionsError(
                    f"{name} holds numbers that are not between 0 and 1; find the record or the"
                    " model they came from and predict again."
                )
        if self.labels is not None and (self.labels > 1).any():
            raise PredictionsError("labels holds numbers other than 0 and 1; predict again.")
        if self.first_labels is not None and (
            (self.first_labels < -1).any() or (self.first_labels >= classes).any()
        ):
            raise PredictionsError(
                f"first_labels holds numbers outside -1..{classes - 1}; predict again."
            )
        if self.seen is not None and ((self.seen < -1).any() or (self.seen > 2).any()):
            raise PredictionsError("seen holds numbers outside -1..2; predict again.")
        self._require_names()

    def _require_names(self) -> None:
        try:
            require_name(self.network, "network", most=1000)  # those of an ensemble are joined
            require_name(self.task, "task")
            require_class_names(self.class_names, self.task)
            ids = self.ids.tolist()
            if unusable := [name for name in ids if not name or shown(name) != name]:
                raise ValueError(f"the record name {unusable[0]!r} holds control characters")
        except ValueError as error:
            raise PredictionsError(f"{error}; predict again.") from None
        if len(set(ids)) < len(ids):
            twice = max(ids, key=Counter(ids).__getitem__)
            raise PredictionsError(
                f"the record {twice} occurs more than once; name each once and predict again."
            )

    @property
    def groups(self) -> np.ndarray:
        """``(N,)`` int64, groups for the bootstrap: records of one patient are drawn together."""
        return patient_groups(self.patients, len(self.ids))

    @property
    def answers(self) -> np.ndarray:
        """``(N,)`` int64, the 0-based most probable class of each record."""
        return self.probabilities.argmax(axis=1)

    @property
    def found(self) -> np.ndarray:
        """``(N, C)`` bool, the classes found in each record; see :func:`found_classes`."""
        return found_classes(
            self.probabilities, self.thresholds, single_label=self.single_label, task=self.task
        )

    @property
    def names_found(self) -> list[tuple[str, ...]]:
        """The names of the classes found in each record, the most probable first."""
        return [
            names_by_probability(self.class_names, row, found)
            for row, found in zip(self.probabilities, self.found, strict=True)
        ]

    @property
    def names_of_labels(self) -> list[tuple[str, ...] | None]:
        """The names of the labels of each record, in the order of the classes; None if unknown."""
        if self.labels is None:
            return [None] * len(self.ids)
        return [tuple(compress(self.class_names, row)) for row in self.labels]

    def overlap(self, verb: str = "scored") -> tuple[str, ...]:
        """Say how many records the models have seen before; see :func:`origin.overlap`."""
        return overlap(self.seen, dataset=self.dataset, members=len(self.members), verb=verb)

    def overlap_of_each(self) -> list[tuple[str, ...]]:
        """Say of each record, on a page of its own, whether the models have seen it before."""
        if self.seen is None:
            return [()] * len(self.ids)
        return [
            overlap(seen[None], dataset=self.dataset, members=len(self.members))
            for seen in self.seen
        ]


def _as_type(name: str, value: Any, dtype: type) -> np.ndarray:
    """Convert to a type, allowing no loss except rounding: 257 must not become the label 1."""
    given: np.ndarray = np.asarray(value)
    if dtype is np.str_:
        return given.astype(np.str_)
    if given.dtype.kind not in "biuf":
        raise PredictionsError(f"{name} holds no numbers but {given.dtype}; predict again.")
    with np.errstate(over="ignore", invalid="ignore"):
        converted: np.ndarray = given.astype(dtype)
        whole = converted.dtype.kind == "f" or np.array_equal(converted, given)
    if not whole:
        raise PredictionsError(
            f"{name} holds numbers that {converted.dtype} cannot, such as fractions or numbers too"
            " large; predict again."
        )
    return converted


def are_probabilities(values: np.ndarray) -> np.ndarray:
    """Tell which rows hold only probabilities.

    Args:
        values: ``(..., C)``.

    Returns:
        bool ``(...)``; False for a row with NaN or a number outside 0..1.
    """
    # Rounding may bring a float32 softmax slightly above 1.
    return np.asarray(((values >= 0) & (values <= 1 + 1e-6)).all(axis=-1))


def found_classes(
    probabilities: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    single_label: bool,
    task: str,
) -> np.ndarray:
    """Decide which classes are found; all commands use this rule.

    A single-label network finds the most probable class; a multi-label network finds every class
    whose probability reaches its threshold.  In CPSC 2018 every recording has at least one of the
    nine classes, one of which is Normal, and the challenge requires an answer for each recording:
    so if no class reaches its threshold there, the most probable class is found.  (Scores "at the
    thresholds" do not make this exception.)

    Args:
        probabilities: ``(..., C)`` in 0..1.
        thresholds: ``(C,)``; compared as float32, as they are stored.
        single_label: True for a single-label network.
        task: the task of the classes.

    Returns:
        bool ``(..., C)``.
    """
    probabilities = np.asarray(probabilities, np.float32)
    classes = np.arange(probabilities.shape[-1])
    most_probable = classes == probabilities.argmax(axis=-1)[..., None]
    if single_label:
        return most_probable
    found: np.ndarray = probabilities >= np.asarray(thresholds, np.float32)
    if task == CPSC_TASK:
        found |= most_probable & ~found.any(axis=-1, keepdims=True)
    return found


def names_by_probability(
    class_names: Sequence[str], probabilities: np.ndarray, found: np.ndarray
) -> tuple[str, ...]:
    """Return the names of the classes found in one record, the most probable first.

    Args:
        class_names: names of the C classes.
        probabilities: ``(C,)``.
        found: bool ``(C,)``.
    """
    ranked = np.argsort(-np.asarray(probabilities), kind="stable")
    return tuple(class_names[c] for c in ranked if found[c])


def pooled(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate predictions for different records, such as those of a cross-validation.

    Args:
        parts: predictions of the same classes for disjoint records; all with labels, or none.

    Returns:
        Predictions for all records, with the mean of the parts' thresholds.  The members are kept
        if all parts have the same number; otherwise there is one member, the mean.

    Raises:
        PredictionsError: if a record is repeated or the classes differ.
    """
    first = parts[0]
    _require_alike(parts)
    probabilities = np.concatenate([part.probabilities for part in parts])
    members = probabilities[None]
    if len({len(part.members) for part in parts}) == 1:
        members = np.concatenate([part.members for part in parts], axis=1)
    return replace(
        first,
        ids=np.concatenate([part.ids for part in parts]),
        probabilities=probabilities,
        members=members,
        thresholds=np.mean([part.thresholds for part in parts], axis=0),
        labels=_joined([part.labels for part in parts]),
        first_labels=_joined([part.first_labels for part in parts]),
        patients=_joined([part.patients for part in parts]),
        seen=_joined([part.seen for part in parts]),
        dataset=first.dataset if len({part.dataset for part in parts}) == 1 else "",
        models=_all_models(parts),
    )


def averaged(members: Sequence[Predictions]) -> Predictions:
    """Combine predictions for the same records into those of an ensemble.

    Args:
        members: predictions for the same records in the same order, of the same classes.

    Returns:
        Predictions with the mean probabilities and thresholds; the names of the networks are
        joined by " + ".  The ensemble is single-label if any network is.

    Raises:
        PredictionsError: if the records or the classes differ.
    """
    first = members[0]
    _require_alike(members)
    for other in members[1:]:
        if not np.array_equal(first.ids, other.ids):
            raise PredictionsError(
                "members of an ensemble answer for different records; let all answer for the same."
            )
    probabilities = np.concatenate([member.members for member in members])
    unknown = np.full(len(first.ids), UNKNOWN, np.int8)
    return replace(
        first,
        probabilities=probabilities.mean(axis=0),
        members=probabilities,
        thresholds=np.mean([member.thresholds for member in members], axis=0),
        network=" + ".join(dict.fromkeys(member.network for member in members)),
        single_label=any(member.single_label for member in members),
        seen=seen_by_any([unknown if m.seen is None else m.seen for m in members]),
        models=_all_models(members),
    )


def _all_models(parts: Sequence[Predictions]) -> tuple[ModelFacts, ...]:
    return tuple(dict.fromkeys(model for part in parts for model in part.models))


def _require_alike(parts: Sequence[Predictions]) -> None:
    if len({part.class_names for part in parts}) > 1:
        raise PredictionsError(
            "predictions of different classes cannot be put together; choose those of one task."
        )


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions to a NumPy ``.npz`` file, atomically.

    Args:
        path: the file; overwritten if it exists.  Its folder is created.
        predictions: the predictions.
    """
    values = {**vars(predictions), "models": [model.to_json() for model in predictions.models]}
    arrays = {
        name: np.asarray(value, np.str_ if name == "models" else None)
        for name, value in values.items()
        if value is not None
    }
    with written_whole(Path(path)) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _one(name: str, array: np.ndarray, kind: str) -> Any:
    """Return the single truth value or text in a 0-d array."""
    if array.dtype.kind != kind or array.shape != ():
        what = {"b": "truth value, True or False", "U": "text"}[kind]
        raise PredictionsError(f"{name} is not one {what}; predict again.")
    return array.item()


def load_predictions(path: Path) -> Predictions:
    """Read a file written by :func:`save_predictions`.

    Args:
        path: an ``.npz`` file.

    Raises:
        PredictionsError: if the file is missing or corrupt, is not a file of predictions, or holds
            inconsistent arrays.
    """
    path = Path(path)
    if path.is_dir():
        raise PredictionsError(f"{path} is a folder; give the predictions.npz inside it.")
    try:
        found = read_npz(path)
    except FileNotFoundError:
        raise PredictionsError(
            f"{path} is absent; give the predictions.npz that ecg-predict wrote."
        ) from None
    except ValueError:
        raise PredictionsError(
            f"{path} cannot be read as a file of predictions (it is not an .npz file, or damaged);"
            " predict again with ecg-predict."
        ) from None

    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise PredictionsError(
            f"{path} holds no {', '.join(missing)}, so it is not a file of predictions; give the"
            " predictions.npz that ecg-predict wrote."
        )
    try:
        predictions = Predictions(
            ids=found["ids"],
            class_names=tuple(found["class_names"].tolist()),
            probabilities=found["probabilities"],
            members=found["members"],
            thresholds=found["thresholds"],
            single_label=_one("single_label", found["single_label"], "b"),
            network=_one("network", found["network"], "U"),
            task=_one("task", found["task"], "U"),
            labels=found.get("labels"),
            first_labels=found.get("first_labels"),
            patients=found.get("patients"),
            seen=found.get("seen"),
            dataset=_one("dataset", found.get("dataset", np.array("")), "U"),
            models=tuple(ModelFacts.from_json(str(text)) for text in found.get("models", ())),
        )
        labels, first = predictions.labels, predictions.first_labels
        if labels is not None and first is not None:
            known = np.flatnonzero((first >= 0) & labels.any(axis=1))
            if not labels[known, first[known]].all():
                raise PredictionsError("first_labels are not among the labels; predict again.")
        average = predictions.members.mean(axis=0)
        if not np.allclose(average, predictions.probabilities, rtol=0, atol=1e-5):
            raise PredictionsError("members do not average to probabilities; predict again.")
        return predictions
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error}") from None
    except (ValueError, TypeError, RecursionError):
        raise PredictionsError(
            f"{path} holds arrays of another kind than predictions; predict again with ecg-predict."
        ) from None
