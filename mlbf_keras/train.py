"""Command that trains MLBF-Nets on a store, one per fold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_prep.commands import run_command, takes_options
from data_prep.errors import OptionError
from ecg_keras.training.settings import Run, Settings, Validation

if TYPE_CHECKING:
    import numpy as np

    from data_prep.store import Store
    from ecg_keras.model.contract import Contract


@dataclass(frozen=True, kw_only=True)
class MLBFNet:
    """The network and its loss.

    Attributes:
        network: mlbf-net, or branchnet for one branch with all leads (Table IV).
        input_length: samples at 250 Hz; longer records are cut, shorter ones padded with zeros.
        filters: number of filters of every convolution.
        gru_units: of each direction of the GRU.
        dropout: fraction of features dropped in training, 0 to 1.
        auxiliary_heads: give each lead its own head and loss; --no-auxiliary-heads is the
            single-loss network (Table V).
        loss_weight: lambda, the weight of the leads' losses (eq. 10).
        single_label: one label per record; --no-single-label, our extension, gives each class its
            own probability.
    """

    network: Literal["mlbf-net", "branchnet"] = "mlbf-net"
    input_length: int = 15000
    filters: int = 12
    gru_units: int = 12
    dropout: float = 0.2
    auxiliary_heads: bool = True
    loss_weight: float = 1.0
    single_label: bool = True

    def __post_init__(self) -> None:
        """Check the network's name: any other would train MLBF-Net."""
        if self.network not in ("mlbf-net", "branchnet"):
            raise OptionError(
                f"there is no network {self.network!r}; choose mlbf-net or branchnet."
            )

    def contract(self, store: "Store", task: str, train: "np.ndarray") -> "Contract":
        """Return the contract: 250 Hz, padded, not standardised."""
        from ecg_keras.model.contract import Contract
        from mlbf_keras.model import SAMPLING_RATE

        return Contract(
            network="BranchNet" if self.network == "branchnet" else "MLBF-Net",
            task=task,
            class_names=store.class_names(task),
            sampling_rate=SAMPLING_RATE,
            input_length=self.input_length,
            fit="pad",
            single_label=self.single_label,
        )

    def compiled_model(self, contract: "Contract", settings: Settings) -> Any:
        """Build and compile the network for a contract."""
        from mlbf_keras.model import build_branchnet, build_model, compile_model

        sizes: dict[str, Any] = {
            "num_classes": len(contract.class_names),
            "input_length": self.input_length,
            "filters": self.filters,
            "gru_units": self.gru_units,
            "dropout": self.dropout,
            "single_label": self.single_label,
            "contract": contract,
        }
        if self.network == "branchnet":
            model = build_branchnet(**sizes)
        else:
            model = build_model(auxiliary_heads=self.auxiliary_heads, **sizes)
        return compile_model(
            model,
            learning_rate=settings.learning_rate,
            loss_weight=self.loss_weight,
            jit_compile=settings.jit_compile,
        )


VALIDATION = Validation(folds=("1",), test_fold=None)
NETWORK = MLBFNet()
NETWORKS = {"MLBF-Net": NETWORK, "BranchNet": MLBFNet(network="branchnet")}
TRAINING = Settings(epochs=500)


@takes_options
def main(
    *,
    run: Run,
    validation: Validation = VALIDATION,
    network: MLBFNet = NETWORK,
    training: Settings = TRAINING,
) -> None:
    """Train MLBF-Net on a store, one model per validation fold.

    The defaults are the paper's; its ensemble of ten is --folds all.  Each fold k gets a folder
    OUT/fold_k with best.keras (the epoch with the best validation score), validation.npz,
    history.csv, learning_curves.png and args.json.
    """
    from ecg_keras.training.fit import train_folds

    train_folds(run, validation, network, training)


def command() -> None:
    """Run ``mlbf-train``."""
    run_command(main)


if __name__ == "__main__":
    command()
