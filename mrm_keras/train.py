"""Command that trains MRM-Nets on a store, one per fold."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_prep.commands import run_command, takes_options
from ecg_keras.training.settings import Run, Settings, Validation

if TYPE_CHECKING:
    import numpy as np

    from data_prep.store import Store
    from ecg_keras.model.contract import Contract

Fusion = Literal["mutual", "add", "concat", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class MRMNet:
    """The network and its losses.

    Attributes:
        fusion: mutual is MRM-Net; add and concat fuse by addition and concatenation (Table V),
            low and high use one branch alone (Table VI).
        input_length: samples at 100 Hz; longer records are cut, shorter ones upsampled.
        low_channels: channels of the low-resolution branch.
        high_channels: channels of the high-resolution branch.
        alpha: weight of the mutual loss between the branches' first features (eq. 7).
        beta: weight of the mutual loss between their features after attention.
        gamma: weight of the mutual loss between their outputs.
        temperature: divides the features before the mutual losses' softmax.
        flatten: order in which the mutual losses flatten features; channel by channel in the
            paper.
        dropout: fraction of features dropped in training, 0 to 1.
    """

    fusion: Fusion = "mutual"
    input_length: int = 1000
    low_channels: int = 128
    high_channels: int = 256
    alpha: float = 0.01
    beta: float = 0.01
    gamma: float = 0.1
    temperature: float = 4.0
    flatten: Literal["channel", "time"] = "channel"
    dropout: float = 0.2

    def contract(self, store: "Store", task: str, train: "np.ndarray") -> "Contract":
        """Return the contract, standardised by the training records."""
        from mrm_keras.model import fitted_contract

        return fitted_contract(store, train, task=task, input_length=self.input_length)

    def compiled_model(self, contract: "Contract", settings: Settings) -> Any:
        """Build and compile the network for a contract."""
        from mrm_keras.model import build_model, compile_model

        model = build_model(
            num_classes=len(contract.class_names), contract=contract, **asdict(self)
        )
        return compile_model(
            model, learning_rate=settings.learning_rate, jit_compile=settings.jit_compile
        )


VALIDATION = Validation(folds=("9",), test_fold=10)
NETWORK = MRMNet()
NETWORKS = {"MRM-Net": NETWORK}
TRAINING = Settings(epochs=100)


@takes_options
def main(
    *,
    run: Run,
    validation: Validation = VALIDATION,
    network: MRMNet = NETWORK,
    training: Settings = TRAINING,
) -> None:
    """Train MRM-Net on a store, one model per validation fold.

    Network, losses, batch size and optimiser are the paper's by default.  Two things differ: the
    paper trains for 100 epochs and does not say which epoch it keeps; here training stops when
    the validation score has not improved for PATIENCE epochs, and the best epoch is kept.  The
    default score is macro-F1, which is noisy with many rare classes, such as the 71 statements of
    PTB-XL; our published tables use --monitor macro-auc.

    Each fold k gets a folder OUT/fold_k with best.keras (the epoch with the best validation
    score), validation.npz, history.csv, learning_curves.png and args.json.
    """
    from ecg_keras.training.fit import train_folds

    train_folds(run, validation, network, training)


def command() -> None:
    """Run ``mrm-train``."""
    run_command(main)


if __name__ == "__main__":
    command()
