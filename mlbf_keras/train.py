"""Command: from a store to trained MLBF-Nets, one a fold."""

from pathlib import Path
from typing import Any, Literal

from data_prep.commands import run_command


def main(
    *,
    store: Path,
    out: Path,
    folds: tuple[str, ...] = ("1",),
    test_fold: int | None = None,
    task: str | None = None,
    network: Literal["mlbf-net", "branchnet"] = "mlbf-net",
    input_length: int = 15000,
    filters: int = 12,
    gru_units: int = 12,
    dropout: float = 0.2,
    auxiliary_heads: bool = True,
    loss_weight: float = 1.0,
    epochs: int = 500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    patience: int = 50,
    monitor: Literal["macro-f1", "macro-auc"] = "macro-f1",
    seed: int = 0,
    deterministic: bool = False,
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32",
    jit_compile: bool = False,
    tensorboard: bool = False,
    resume: bool = False,
) -> None:
    """Train MLBF-Net on a store, one model for each validation fold.

    The defaults are the paper's.  Each fold k gets a folder OUT/fold_k with best.keras (the epoch
    of the best validation score), validation.npz, history.csv, learning_curves.png and args.json.

    Args:
        store: made by ecg-build, at 250 Hz.
        out: folder of the run, such as runs/cpsc.
        folds: each validates one model that is trained on the others; numbers, or all for the
            paper's ensemble of ten.
        test_fold: kept out of training and validation, for scoring; by default no fold is.
        task: whose labels; by default the only task of the store.
        network: mlbf-net, or branchnet for one branch with all leads (Table IV).
        input_length: samples at 250 Hz; longer records are cut, shorter ones padded with zeros.
        filters: of every convolution.
        gru_units: of each direction of the GRU.
        dropout: share of features dropped in training, 0 to 1.
        auxiliary_heads: give every lead a head and a loss of its own; --no-auxiliary-heads is
            the single-loss network (Table V).
        loss_weight: lambda, the weight of the leads' losses (eq. 10).
        epochs: at most this many.
        batch_size: records a step.
        learning_rate: Adam's, fixed.
        patience: epochs without a better validation score after which training stops.
        monitor: the validation score that decides which epoch is kept.
        seed: of weights, dropout and order; fold k uses seed + k.
        deterministic: make two runs on one machine give the same numbers, at some cost in time.
        precision: of the computation; weights and answers are float32 always.
        jit_compile: compile the step with XLA; slower on a CPU.
        tensorboard: also write logs for TensorBoard (which must be installed).
        resume: go on with a run that was killed, to the numbers it would have had; finished folds
            stay as they are.
    """
    options = dict(locals())
    from data_prep.store import Store
    from ecg_keras.model.contract import Contract
    from ecg_keras.training.fit import train_folds
    from ecg_keras.training.folds import choose_folds
    from ecg_keras.training.settings import Settings
    from mlbf_keras.model import SAMPLING_RATE, build_branchnet, build_model, compile_model

    with Store(store) as opened:
        task = opened.resolve_task(task)
        contract = Contract(
            network="BranchNet" if network == "branchnet" else "MLBF-Net",
            task=task,
            class_names=opened.class_names(task),
            sampling_rate=SAMPLING_RATE,
            input_length=input_length,
            fit="pad",
            single_label=True,
        )

        def compiled_model(contract: Contract) -> Any:
            widths: dict[str, Any] = {
                "num_classes": len(contract.class_names),
                "input_length": input_length,
                "filters": filters,
                "gru_units": gru_units,
                "dropout": dropout,
                "contract": contract,
            }
            if network == "branchnet":
                model = build_branchnet(**widths)
            else:
                model = build_model(auxiliary_heads=auxiliary_heads, **widths)
            return compile_model(
                model,
                learning_rate=learning_rate,
                loss_weight=loss_weight,
                jit_compile=jit_compile,
            )

        train_folds(
            opened,
            out=out,
            folds=choose_folds(opened, folds, test_fold),
            test_fold=test_fold,
            task=task,
            settings=Settings(
                epochs=epochs,
                batch_size=batch_size,
                patience=patience,
                monitor=monitor,
                seed=seed,
                deterministic=deterministic,
                precision=precision,
                tensorboard=tensorboard,
            ),
            contract_for=lambda train: contract,
            compiled_model=compiled_model,
            options=options,
            resume=resume,
        )


def command() -> None:
    """Run ``mlbf-train``."""
    run_command(main)


if __name__ == "__main__":
    command()
