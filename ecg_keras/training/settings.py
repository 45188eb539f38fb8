"""The settings that all training commands share, and the values they may take.

Each command takes a :class:`Run`, a :class:`Validation`, the settings of its own network and
these :class:`Settings`; every field is one option.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_prep.errors import OptionError

Monitor = Literal["macro-f1", "macro-auc"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training reads, and where it writes.

    Attributes:
        store: made by ecg-build, at the network's sampling rate.
        out: folder of the run, such as runs/cpsc.
        task: the labels to learn, such as superdiagnostic; by default the only task of the store.
        resume: continue an interrupted run; the results are those of an uninterrupted one, and
            finished folds stay as they are.
    """

    store: Path
    out: Path
    task: str | None = None
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Which folds validate, and which is left out.

    Attributes:
        folds: each validates one model, trained on the others; numbers, or all for an ensemble
            with one model per fold.
        test_fold: used for neither training nor validation; None leaves no fold out.
    """

    folds: tuple[str, ...]
    test_fold: int | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: maximum number of passes over the training records.
        batch_size: records per step.
        learning_rate: Adam's, constant.
        patience: epochs without a better validation score after which training stops.
        monitor: the validation score that decides which epoch is kept; macro-auc is less noisy
            with many rare classes.
        seed: for weights, dropout and the order of records; fold k uses seed + k.
        deterministic: make two runs on one machine give the same numbers, at some cost in time.
        precision: of the computation; weights and probabilities are always float32.
        jit_compile: compile the step with XLA; slower on a CPU.
        tensorboard: also write logs for TensorBoard (which must be installed).
        init: start from the weights of this model file, which holds the same network; its heads
            are kept if it has the same classes, its standardisation always.
        freeze: features trains the heads alone and leaves all other layers as --init has them.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    patience: int = 50
    monitor: Monitor = "macro-f1"
    seed: int = 0
    deterministic: bool = False
    precision: Precision = "float32"
    jit_compile: bool = False
    tensorboard: bool = False
    init: str | None = None
    freeze: Literal["features"] | None = None


def options_of(*settings: Any) -> dict[str, Any]:
    """Return the fields of dataclasses by name, as the command line and ``args.json`` have them."""
    return {field.name: getattr(each, field.name) for each in settings for field in fields(each)}


def picked(kind: type[T], options: Mapping[str, Any]) -> T:
    """Make settings from those of the options that are fields of theirs.

    Args:
        kind: a dataclass.
        options: by name; fields that are missing keep their defaults.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names if name in options})


_ABOVE_0 = (
    *("epochs", "batch_size", "learning_rate", "input_length", "filters", "gru_units"),
    *("low_channels", "high_channels", "temperature", "widths"),
)
_NOT_BELOW_0 = ("patience", "seed", "loss_weight", "alpha", "beta", "gamma")


def require_sensible(options: Mapping[str, Any]) -> None:
    """Refuse options with which no network can be trained.

    Args:
        options: by name.

    Raises:
        OptionError: naming the option and the values it takes.
    """
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if name in _ABOVE_0 and not value > 0:
            raise OptionError(f"{option} must be above 0, not {value}.")
        if name in _NOT_BELOW_0 and not value >= 0:
            raise OptionError(f"{option} must be 0 or more, not {value}.")
    dropout, test_fold = options.get("dropout", 0.0), options.get("test_fold")
    if not 0 <= dropout < 1:
        raise OptionError(f"--dropout must be at least 0 and below 1, not {dropout}.")
    if test_fold is not None and not 1 <= test_fold <= 10:
        raise OptionError(f"--test-fold takes 1 to 10, or None to leave none out, not {test_fold}.")
    if options.get("freeze") and not options.get("init"):
        raise OptionError(
            "--freeze features would leave random weights as they are; name with --init a model to"
            " start from, or leave out --freeze."
        )
    if options.get("tensorboard") and find_spec("tensorboard") is None:
        raise OptionError(
            "TensorBoard is not installed; run pip install tensorboard, or leave out --tensorboard."
        )


def log_name(monitor: Monitor) -> str:
    """Return the name of a validation score in ``history.csv``, such as ``val_macro_f1``."""
    return "val_" + monitor.replace("-", "_")
