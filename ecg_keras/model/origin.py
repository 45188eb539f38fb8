"""Where a model comes from: the records that trained and selected it, when, and with what code.

Does not import Keras, so that reports can use it.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from data_prep.labels import OWN_DATASET

_MOST_NAMES = 2**26  # bytes: a few million records

UNKNOWN, UNSEEN, CHOSE, TRAINED = -1, 0, 1, 2
"""How a model has used a record, as returned by :meth:`Origin.seen`."""


@dataclass(frozen=True)
class ModelFacts:
    """What pages and reports say about a model file.

    Attributes:
        file: name of the file and its folder, as pages are passed on; empty if there is none.
        version: version of this package that trained the model; like all following fields, empty
            if the file was written before model files recorded their origin.
        commit: commit of the code.
        date: date of the best epoch, ISO 8601, UTC.
        dataset: data set of the store, such as ``"ptb-xl"``.
        sources: the folders that the store was built from.
        generated: ``"all"`` or ``"some"`` if the store held generated records.
        trained: number of training records.
        chose: number of records that selected the epoch and the thresholds.
        epoch: the best epoch, counted from 1; 0 if unknown.
        monitor: the validation score that selected the epoch.
        score: value of that score; NaN if unknown.
    """

    file: str = ""
    version: str = ""
    commit: str = ""
    date: str = ""
    dataset: str = ""
    sources: tuple[str, ...] = ()
    generated: str = ""
    trained: int = 0
    chose: int = 0
    epoch: int = 0
    monitor: str = ""
    score: float = float("nan")

    def __post_init__(self) -> None:
        """Check the types of all fields."""
        _require_types(self)

    def to_json(self) -> str:
        """Return all fields as one line of JSON."""
        values = {**asdict(self), "score": self.score if np.isfinite(self.score) else None}
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "ModelFacts":
        """Read the output of :meth:`to_json`, ignoring fields that a later release added.

        Raises:
            ValueError: if it is not such output.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the facts of a model must be a JSON object")
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        return cls(**{**known, "sources": tuple(known.get("sources", ()))})


@dataclass(frozen=True)
class Origin:
    """How a model was trained; stored in the model file next to the contract.

    Attributes:
        dataset: data set of the store, such as ``"ptb-xl"``.
        trained: names of the training records.
        chose: names of the records that selected the epoch and the thresholds.
        store: provenance of the store.
        version: version of this package.
        commit: commit of the code; with a plus sign if there were uncommitted changes.
        date: date of the epoch, ISO 8601, UTC.
        epoch: the best epoch, counted from 1.
        monitor: the validation score that selected it.
        score: value of that score.
        before: origin of the model whose weights the training started from, if any.
        known: False for a model that does not name its records, which may be any.
    """

    dataset: str
    trained: tuple[str, ...]
    chose: tuple[str, ...]
    store: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    commit: str = ""
    date: str = ""
    epoch: int = 0
    monitor: str = ""
    score: float = float("nan")
    before: "Origin | None" = None
    known: bool = True

    def __post_init__(self) -> None:
        """Check the types of all fields."""
        _require_types(self)

    @classmethod
    def unknown(cls) -> "Origin":
        """Return the origin of a model that does not name its records."""
        return cls("", (), (), known=False)

    def seen(self, names: Sequence[str], dataset: str = "") -> np.ndarray:
        """Find which records this model has seen.

        Args:
            names: names of N records.
            dataset: their data set; empty if unknown, as for files in a folder.  Records of
                another data set count as unseen; but if the data set is unknown, or either is the
                user's own (which may share records with others), only the names are compared.

        Returns:
            int8 ``(N,)``: :data:`TRAINED` or :data:`CHOSE`, else :data:`UNSEEN`, or
            :data:`UNKNOWN` if this model started from one that does not name its records.  Those
            used by the model that this one started from count too.
        """
        if not self.known:
            return np.full(len(names), UNKNOWN, np.int8)
        chose, trained = map(_at_any_rate, self.chose), map(_at_any_rate, self.trained)
        codes = dict.fromkeys(chose, CHOSE) | dict.fromkeys(trained, TRAINED)
        if dataset and dataset != self.dataset and OWN_DATASET not in (dataset, self.dataset):
            codes = {}
        seen = np.array([codes.get(_at_any_rate(name), UNSEEN) for name in names], np.int8)
        if self.before is None:
            return seen
        return seen_by_any([seen, self.before.seen(names, dataset)])

    def facts(self, file: str = "") -> ModelFacts:
        """Summarise the origin for pages and reports.

        Args:
            file: name of the model file and its folder.
        """
        sources, generated = _sources(self.store)
        dataset, trained = self.dataset, len(self.trained)
        if self.before is not None:
            first = self.before.facts()
            sources = tuple(dict.fromkeys((*first.sources, *sources)))
            if first.generated != generated:
                generated = "some"
            if first.dataset != dataset:
                dataset = f"{first.dataset or 'unknown records'} and {dataset}"
            again = self.before.seen(self.trained, self.dataset) == TRAINED
            trained += first.trained - int(again.sum())
        same = ("version", "commit", "date", "epoch", "monitor", "score")
        return ModelFacts(
            file=file,
            dataset=dataset,
            sources=sources,
            generated=generated,
            trained=trained,
            chose=len(self.chose),
            **{name: getattr(self, name) for name in same},
        )

    def to_config(self) -> dict[str, Any]:
        """Return a dict for JSON, with the names compressed to about 3 bytes each."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        before = {} if self.before is None else {"before": self.before.to_config()}
        del values["before"]
        if self.known:  # as in earlier releases
            del values["known"]
        return {
            **values,
            **before,
            "store": dict(self.store),
            "trained": _packed(self.trained),
            "chose": _packed(self.chose),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Origin":
        """Read the output of :meth:`to_config`.

        Raises:
            ValueError: if the names are damaged, or a field is of another type.
            AttributeError, KeyError, TypeError: if it is not such output.
        """
        names = {part: _unpacked(config[part]) for part in ("trained", "chose")}
        before = config.get("before")
        origin = cls(**{**config, **names, "before": cls.from_config(before) if before else None})
        origin.facts()  # reads the provenance, which may have any form
        return origin


def seen_by_any(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Combine what the members of an ensemble have seen.

    Args:
        codes: for each member, ``(N,)`` with values from :data:`UNKNOWN` to :data:`TRAINED`.

    Returns:
        int8 ``(N,)``: the largest code of any member; but :data:`UNKNOWN` if no member is known to
        have seen the record and at least one is unknown.
    """
    stacked = np.stack(codes)
    most = stacked.max(axis=0)
    unknown = (most == UNSEEN) & (stacked == UNKNOWN).any(axis=0)
    return np.where(unknown, UNKNOWN, most).astype(np.int8)


def overlap(
    seen: np.ndarray | None, *, dataset: str, members: int = 1, verb: str = "scored"
) -> tuple[str, ...]:
    """Say how many records the models have seen before.

    Args:
        seen: ``(N,)`` codes of :meth:`Origin.seen`, or None if nothing is known.
        dataset: data set of the records; empty if they were compared by name only.
        members: number of models in the ensemble.
        verb: what is done with the records here, ``"scored"`` or ``"answered"``.

    Returns:
        One sentence for each kind of overlap; empty if no record is known to have been seen.
    """
    if seen is None:
        return ()
    total = f"{len(seen):,}"
    model = "this model" if members == 1 else "a member of this ensemble"
    by = "" if dataset else " (compared by name: files do not say which data set they are from)"
    sentences = []
    if len(seen) == 1:
        did = {TRAINED: f"train {model}", CHOSE: f"choose the epoch and thresholds of {model}"}
        if int(seen[0]) not in did:
            return ()
        return (
            f"This recording was used to {did[int(seen[0])]}{by}: the answer here says nothing"
            " about other recordings.",
        )
    if count := int((seen == TRAINED).sum()):
        sentences.append(
            f"{count:,} of {total} records {verb} here {_were(count)} used to train {model}{by}:"
            " its scores on them say nothing about other recordings."
        )
    if count := int((seen == CHOSE).sum()):
        whose = "its" if members == 1 else "the"
        sentences.append(
            f"{count:,} of {total} records {verb} here {_were(count)} used to choose {whose} epoch"
            f" and thresholds{'' if members == 1 else ' of ' + model}{by}: scores on them are"
            " optimistic."
        )
    return tuple(sentences)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def generated_notice(models: Sequence[ModelFacts]) -> tuple[str, ...]:
    """Say in one sentence that these models were trained on generated records, if any was."""
    kinds = {model.generated for model in models if model.generated}
    if not kinds:
        return ()
    several = len(models) > 1
    all_of_them = all(model.generated for model in models)
    who = (
        "This model was"
        if not several
        else f"{'T' if all_of_them else 'Some of t'}hese models were"
    )
    if kinds == {"all"}:
        what = "generated records, not patients"
        so = f"{'their' if several else 'its'} answers and scores say nothing about patients."
        return (f"{who} trained on {what}: {so}",)
    return (f"{who} trained on generated records among others.",)


def facts_rows(models: Sequence[ModelFacts]) -> tuple[tuple[str, str], ...]:
    """Describe the models of an ensemble, for a page or a report.

    Returns:
        Pairs of a name and a value; empty if there are no models.
    """
    if not models:
        return ()
    files = [model.file for model in models if model.file]
    rows = []
    if files:
        several = f"{len(files)}: {files[0]} to {files[-1]}"
        rows.append(("Model file", files[0] if len(files) == 1 else several))
    known = [model for model in models if model.version]
    if len(known) < len(models):
        how_many = "" if len(models) == 1 else f" of {len(models) - len(known)} of them"
        rows.append(
            ("Origin", f"unknown{how_many}: written before model files named what trained them")
        )
    if not known:
        return tuple(rows)
    made = {f"ecg-keras {model.version}, commit {model.commit}" for model in known}
    where = {f"{m.dataset} ({', '.join(m.sources)})" if m.sources else m.dataset for m in known}
    epochs, scores = sorted(m.epoch for m in known), sorted(m.score for m in known)
    monitors = " and ".join(sorted({m.monitor for m in known}))
    return (
        *rows,
        ("Made with", " and ".join(sorted(made))),
        ("Trained", _span(sorted(model.date[:10] for model in known))),
        (
            "Training records",
            f"{_counts(m.trained for m in known)} of {' and '.join(sorted(where))}",
        ),
        (
            "Epoch and thresholds",
            f"epoch {_span([str(epoch) for epoch in epochs])}, {monitors}"
            f" {_span([f'{score:.3f}' for score in scores])} on the"
            f" {_counts(m.chose for m in known)} records that chose them",
        ),
    )


def _at_any_rate(name: str) -> str:
    """PTB-XL's record 00009 is named 00009_lr at 100 Hz, and 00009_hr at 500 Hz."""
    return re.sub(r"^(\d{5})_[lh]r$", r"\1_lr", str(name))


def _counts(numbers: Iterable[int]) -> str:
    return _span([f"{number:,}" for number in sorted(numbers)])


def _span(in_order: Sequence[str]) -> str:
    first, last = in_order[0], in_order[-1]
    return first if first == last else f"{first} to {last}"


def _sources(store: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the folders a store was built from, and whether its records were generated."""
    parts = store.get("stores")
    if parts:  # several stores merged into one
        of_parts = [_sources(part) for part in parts]
        kinds = {generated for _, generated in of_parts}
        mixed = "some" if kinds - {""} else ""
        sources = tuple(source for sources, _ in of_parts for source in sources)
        return sources, kinds.pop() if len(kinds) == 1 else mixed
    return tuple(store.get("source", ())), str(store.get("generated", ""))


def _packed(names: Sequence[str]) -> str:
    text = "\0".join(sorted(names)).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode("ascii")


def _unpacked(text: str) -> tuple[str, ...]:
    unpacking = zlib.decompressobj()
    try:
        names = unpacking.decompress(base64.b64decode(text, validate=True), _MOST_NAMES).decode()
    except zlib.error as error:
        raise ValueError(f"its names of records are damaged ({error})") from None
    if not unpacking.eof:
        raise ValueError("its names of records are cut short, or too many")
    return tuple(names.split("\0")) if names else ()


def _require_types(of: "Origin | ModelFacts") -> None:
    """Reject a field of another type, as from a file that was changed."""
    for each in fields(of):
        value = getattr(of, each.name)
        if each.type == tuple[str, ...]:
            fits = isinstance(value, tuple) and all(isinstance(name, str) for name in value)
        elif each.type in (str, int, float):
            fits = isinstance(value, {str: str, int: Integral, float: Real}[each.type])
        else:
            fits = True
        if not fits:
            raise ValueError(f"its {each.name} is of the type {type(value).__name__}")
