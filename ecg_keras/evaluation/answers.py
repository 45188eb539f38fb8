"""What networks say of recordings, as objects and as a table; never imports Keras."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import OptionError

NONE_FOUND = "none above its threshold"
_SHOWN = 20
_CLASSES_SHOWN = 5
_LEAST_CUT = 0.1  # s; a few samples more than the network takes are not worth a word


@dataclass(frozen=True)
class Answer:
    """What a network, or an ensemble, says of one recording.

    Attributes:
        record: the recording's name.
        probabilities: of each class, by its name, in 0..1.
        labels: the classes found, the most probable first; see :meth:`Contract.found`.
        warnings: what is doubtful about the recording, a sentence each (see
            :func:`data_prep.plausibility.check`), and how much of it was not used.
        thresholds: of each class, by its name, in 0..1.
        seconds_used: of the recording, from its start; NaN if unknown.
        notes: the warnings in a few words, for a narrow table.
        single_label: True if the answer is the most probable class, whatever the thresholds.
    """

    record: str
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)
    seconds_used: float = float("nan")
    notes: tuple[str, ...] = ()
    single_label: bool = False

    def to_frame(self) -> Any:
        """Return a pandas DataFrame of one row; see :meth:`Answers.to_frame`."""
        return Answers((self,)).to_frame()


@dataclass(frozen=True)
class Rejected:
    """A recording that cannot be used.

    Attributes:
        name: of the recording.
        file: its path; empty if it has none.
        reason: one sentence.
    """

    name: str
    file: str
    reason: str


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """The answers to several recordings, in their order.

    Attributes:
        answers: to those that could be used.
        rejected: the others, with the reasons.
    """

    answers: tuple[Answer, ...]
    rejected: tuple[Rejected, ...] = ()

    def __len__(self) -> int:
        """Return the number of recordings answered."""
        return len(self.answers)

    def __getitem__(self, index: Any) -> Any:
        """Return one answer, or those of a slice."""
        return self.answers[index]

    def __iter__(self) -> Iterator[Answer]:
        """Go through the answers."""
        return iter(self.answers)

    @property
    def columns(self) -> list[str]:
        """The names of the columns of :attr:`rows`, as ``answers.csv`` has them."""
        classes = list(self.answers[0].probabilities) if self.answers else []
        thresholds = [f"threshold_{name}" for name in classes]
        return ["Recording", "found", *classes, *thresholds, "warnings", "seconds_used"]

    @property
    def rows(self) -> list[list[Any]]:
        """A row for each answer; classes found are separated by ``"; "``."""
        return [
            [
                answer.record,
                "; ".join(answer.labels) or NONE_FOUND,
                *answer.probabilities.values(),
                *answer.thresholds.values(),
                " ".join(answer.warnings),
                answer.seconds_used,
            ]
            for answer in self.answers
        ]

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame, with the columns of ``answers.csv``.

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
    """Tell whether a network leaves part of a recording unused.

    Args:
        used: seconds that it takes.
        total: seconds that the recording lasts.
    """
    return total - used >= _LEAST_CUT


def table_lines(answers: Sequence[Answer]) -> Iterable[str]:
    """Lay answers out for a terminal, the first twenty of them.

    Args:
        answers: one or more.

    Yields:
        The lines, in ASCII but for the names of recordings and classes.
    """
    rows = [("recording", _found_heading(answers[0]), "warnings")]
    rows += [
        (answer.record, found_text(answer), ", ".join(answer.notes)) for answer in answers[:_SHOWN]
    ]
    if not any(answer.notes for answer in answers[:_SHOWN]):
        rows = [(name, found, "") for name, found, _ in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, found, notes in rows:
        yield f"{name:{widths[0]}}  {found:{widths[1]}}  {notes}".rstrip()
    if len(answers) > _SHOWN:
        yield f"and {len(answers) - _SHOWN:,} more"


def _found_heading(answer: Answer) -> str:
    return "found (probability)" if answer.single_label else "found (probability, threshold)"


def found_text(answer: Answer) -> str:
    """Name the classes found, the first five of them, with probability and threshold.

    Args:
        answer: to one recording.
    """
    texts = []
    for name in answer.labels[:_CLASSES_SHOWN]:
        probability, threshold = answer.probabilities[name], answer.thresholds[name]
        text = f"{probability:.2f}"
        if not answer.single_label:
            below = "below " if probability < threshold else ""
            text += f", {below}{threshold:.2f}"
        texts.append(f"{name} ({text})")
    if len(answer.labels) > _CLASSES_SHOWN:
        texts.append(f"and {len(answer.labels) - _CLASSES_SHOWN} more")
    return "; ".join(texts) or NONE_FOUND
