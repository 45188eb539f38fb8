"""The settings shared by all training commands, and their allowed values.

Each command takes a :class:`Run`, a :class:`Validation`, the settings of its own network and
:class:`Settings`; every field is a command-line option.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_prep.errors import OptionError

Monitor = Literal["macro-f1", "macro-auc"]
Schedule = Literal["constant", "one-cycle"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
T = TypeVar("T")

BEFORE_OPTIONS: dict[str, Any] = {"single_label": True, "schedule": "constant"}
"""What earlier releases without these options did, if that does not correspond to None."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training reads, and where it writes.

    Attributes:
        store: store made by ecg-build, at the network's sampling rate.
        out: output folder of the run, such as runs/cpsc.
        task: the labels to learn, such as superdiagnostic; may be left out if the store has only
            one task.
        resume: continue an interrupted run, with the same results as an uninterrupted one.
            Finished folds are left unchanged unless more epochs are requested and the learning
            rate is constant.
    """

    store: Path
    out: Path
    task: str | None = None
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The validation folds, and the test fold that is left out.

    Attributes:
        folds: validation folds; for each, one model is trained on the other folds. Numbers, or all
            for an ensemble with one model per fold.
        test_fold: fold used for neither training nor validation; none leaves no fold out.
    """

    folds: tuple[str, ...]
    test_fold: int | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: maximum number of passes over the training records.
        batch_size: records per training step.
        learning_rate: of Adam; the highest if the schedule is one-cycle.
        schedule: constant as in the papers, or one-cycle, which rises to the learning rate over the
            first 30 % of all steps and then falls to zero; it reaches good scores in few epochs,
            but ignores the patience, and epochs cannot be added later.
        patience: stop training after this many epochs without a better validation score.
        monitor: validation score that selects the best epoch; macro-auc is less noisy with many
            rare classes.
        seed: seed for weights, dropout and the order of records; fold k uses seed + k.
        deterministic: make runs on one machine exactly reproducible, at some cost in time.
        precision: precision of the computation; weights and probabilities are always float32.
        jit_compile: compile the training step with XLA; slower on a CPU.
        tensorboard: also write logs for TensorBoard (which must be installed).
        init: start from the weights of this model file, or of the published model of this name,
            which must hold the same network. Its standardisation is always kept, its heads only if
            it has the same classes.
        freeze: features trains only the heads and keeps all other layers as in --init.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
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
    """Return the fields of dataclasses by name, as on the command line and in ``args.json``."""
    return {field.name: getattr(each, field.name) for each in settings for field in fields(each)}


def picked(kind: type[T], options: Mapping[str, Any]) -> T:
    """Make a settings dataclass from those options that are its fields.

    Args:
        kind: the dataclass.
        options: options by name; fields without an option keep their defaults.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names if name in options})


_ABOVE_0 = (
    *("epochs", "batch_size", "learning_rate", "input_length", "filters", "gru_units"),
    *("low_channels", "high_channels", "temperature", "widths"),
)
_NOT_BELOW_0 = (
    *("patience", "seed", "seeds", "loss_weight", "loss_weights"),
    *("alpha", "beta", "gamma", "weights"),
)


def require_sensible(options: Mapping[str, Any]) -> None:
    """Check that options are in their allowed ranges.

    Args:
        options: options by name; those that take several values are tuples.

    Raises:
        OptionError: naming the option and its allowed values.
    """
    for name, values in options.items():
        option = "--" + name.replace("_", "-")
        for value in values if isinstance(values, tuple) else (values,):
            if name in _ABOVE_0 and not value > 0:
                raise OptionError(f"{option} must be above 0, not {value}.")
            if name in _NOT_BELOW_0 and not value >= 0:
                raise OptionError(f"{option} must be 0 or more, not {value}.")
            if name in ("seed", "seeds") and value >= 2**31:
                raise OptionError(f"{option} must be below 2147483648, not {value}.")
    dropout, test_fold = options.get("dropout", 0.0), options.get("test_fold")
    if not 0 <= dropout < 1:
        raise OptionError(f"--dropout must be at least 0 and below 1, not {dropout}.")
    if test_fold is not None and not 1 <= test_fold <= 10:
        raise OptionError(f"--test-fold takes 1 to 10, or none to leave none out, not {test_fold}.")
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
