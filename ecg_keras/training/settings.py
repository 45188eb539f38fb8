"""How to train: the settings that every network shares, and which values they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from data_prep.errors import OptionError

Monitor = Literal["macro-f1", "macro-auc"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclass(frozen=True)
class Settings:
    """How to fit, whatever the network.

    Attributes:
        epochs: at most this many passes over the training records.
        batch_size: records a step.
        patience: epochs without a better validation score after which fitting stops.
        monitor: the validation score that chooses the epoch to keep.
        seed: of weights, dropout and order; fold k uses ``seed + k``.
        deterministic: make two runs on one machine give the same numbers.
        precision: Keras' dtype policy.
        tensorboard: also write logs for TensorBoard.
    """

    epochs: int
    batch_size: int
    patience: int
    monitor: Monitor
    seed: int
    deterministic: bool
    precision: Precision
    tensorboard: bool


_ABOVE_0 = (
    *("epochs", "batch_size", "learning_rate", "input_length", "filters", "gru_units"),
    *("low_channels", "high_channels", "temperature", "widths"),
)
_NOT_BELOW_0 = ("patience", "seed", "loss_weight", "alpha", "beta", "gamma")


def require_sensible(options: Mapping[str, Any]) -> None:
    """Refuse options of a training command with which nothing can be trained.

    Args:
        options: the command's options by name.

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
    if options.get("tensorboard") and find_spec("tensorboard") is None:
        raise OptionError(
            "TensorBoard is not installed; run pip install tensorboard, or leave out --tensorboard."
        )


def log_name(monitor: Monitor) -> str:
    """Return the name of a validation score in ``history.csv``, such as ``val_macro_f1``."""
    return "val_" + monitor.replace("-", "_")
