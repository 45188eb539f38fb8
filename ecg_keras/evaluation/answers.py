"""Answers of networks to recordings, as objects and as a table; never imports Keras."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import OptionError

NONE_FOUND = "none above its threshold"
_SHOWN = 20
_CLASSES_SHOWN = 5
_LEAST_CUT = 0.1  # s; no warning if only a few samples are cut off


@dataclass(frozen=True)
class Answer:
    """The answer of a network, or an ensemble, to one recording.

    Attributes:
        record: name of the recording.
        probabilities: probability of each class by name, in 0..1.
        labels: the classes found, the most probable first; see :meth:`Contract.found`.
        warnings: plausibility warnings, one sentence each (see
            :func:`data_prep.plausibility.check`), and a warning if part of the recording was not
            used.
        thresholds: decision threshold of each class by name, in 0..1.
        seconds_used: seconds of the recording that were used, from its start; NaN if unknown.
        notes: the warnings in a few words, for narrow tables.
        single_label: True if the answer is the most probable class, regardless of the thresholds.
        true_labels: the recording's own labels, in the order of the classes; None if unknown.
    """

    record: str
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)
    seconds_used: float = float("nan")
    notes: tuple[str, ...] = ()
    single_label: bool = False
    true_labels: tuple[str, ...] | None = None

    def to_frame(self) -> Any:
        """Return a pandas DataFrame of one row; see :meth:`Answers.to_frame`."""
        return Answers((self,)).to_frame()


@dataclass(frozen=True)
class Rejected:
    """A recording that cannot be used.

    Attributes:
        name: name of the recording.
        file: path of the recording; empty if it is not a file.
        reason: the reason, one sentence.
    """

    name: str
    file: str
    reason: str


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """The answers to several recordings, in order.

    Attributes:
        answers: answers to the recordings that could be used.
        rejected: recordings that could not be used, with the reasons.
    """

    answers: tuple[Answer, ...]
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        """Return the number of recordings answered."""
        return len(self.answers)

    def __getitem__(self, index: Any) -> Any:
        """Return one answer, or a slice of them."""
        return self.answers[index]

    def __iter__(self) -> Iterator[Answer]:
        """Iterate over the answers."""
        return iter(self.answers)

    @property
    def labelled(self) -> bool:
        """Whether the recordings' own labels are known, at least of one."""
        return any(answer.true_labels is not None for answer in self.answers)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of :attr:`rows`, as in ``answers.csv``."""
        classes = list(self.answers[0].probabilities) if self.answers else []
        thresholds = [f"threshold_{name}" for name in classes]
        found = ["found", "labels"] if self.labelled else ["found"]
        return ["Recording", *found, *classes, *thresholds, "warnings", "seconds_used"]

    @property
    def rows(self) -> list[list[Any]]:
        """One row per answer; the classes found, and the labels, are separated by ``"; "``."""
        labelled = self.labelled
        return [
            [
                answer.record,
                "; ".join(answer.labels) or NONE_FOUND,
                *(["; ".join(answer.true_labels or ())] if labelled else []),
                *answer.probabilities.values(),
                *answer.thresholds.values(),
                " ".join(answer.warnings),
                answer.seconds_used,
            ]
            for answer in self.answers
        ]

    def to_frame(self) -> Any:
        """Return the answers as a pandas DataFrame, with the columns of ``answers.csv``.

        Raises:
            OptionError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise OptionError(
                "to_frame() needs pandas, which is not installed; run: pip install pandas."
            ) from None
        return pandas.DataFrame(self.rows, columns=self.columns)


def seconds_cut(used: float, total: float) -> bool:
    """Return whether a noticeable part of a recording is not used.

    Args:
        used: duration of the network's input, in seconds.
        total: duration of the recording, in seconds.
    """
    return total - used >= _LEAST_CUT


def table_lines(answers: Answers) -> Iterable[str]:
    """Format the first twenty answers as a table for the terminal.

    Args:
        answers: one or more answers.

    Yields:
        The lines, in ASCII except for the names of recordings and classes.
    """
    shown = answers.answers[:_SHOWN]
    threshold = "" if shown[0].single_label else ", threshold"
    columns = [
        ["recording", *(answer.record for answer in shown)],
        [f"found (probability{threshold})", *(found_text(answer) for answer in shown)],
    ]
    if answers.labelled:
        columns.append(["labels", *(_listed(answer.true_labels or ()) for answer in shown)])
    if any(answer.notes for answer in shown):
        columns.append(["warnings", *(", ".join(answer.notes) for answer in shown)])
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    if len(answers) > _SHOWN:
        yield f"and {len(answers) - _SHOWN:,} more"


def found_text(answer: Answer) -> str:
    """List the first five classes found, with probability and threshold.

    Args:
        answer: the answer to one recording.
    """
    texts = []
    for name in answer.labels:
        probability, threshold = answer.probabilities[name], answer.thresholds[name]
        text = _two_decimals(probability)
        if not answer.single_label:
            below = "below " if probability < threshold else ""
            text += f", {below}{_two_decimals(threshold)}"
        texts.append(f"{name} ({text})")
    return _listed(texts) or NONE_FOUND


def _two_decimals(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


def _listed(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - _CLASSES_SHOWN} more"] if len(texts) > _CLASSES_SHOWN else []
    return "; ".join([*texts[:_CLASSES_SHOWN], *more])
