"""Command: from a store to trained MRM-Nets, one a fold."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from data_prep.commands import run_command


def main(
    *,
    store: Path,
    out: Path,
    folds: tuple[str, ...] = ("9",),
    test_fold: int | None = 10,
    task: str | None = None,
    fusion: Literal["mutual", "add", "concat", "low", "high"] = "mutual",
    input_length: int = 1000,
    low_channels: int = 128,
    high_channels: int = 256,
    alpha: float = 0.01,
    beta: float = 0.01,
    gamma: float = 0.1,
    temperature: float = 4.0,
    flatten: Literal["channel", "time"] = "channel",
    dropout: float = 0.2,
    epochs: int = 100,
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
    """Train MRM-Net on a store, one model for each validation fold.

    Network, losses, batch size and optimiser are the paper's by default.  Two things are not: the
    paper trains all of its 100 epochs and does not say which it keeps; here training stops when
    the validation score has not improved for PATIENCE epochs, and the best epoch is kept.  That
    score is macro-F1 by default; with many rare classes, such as the 71 statements of PTB-XL,
    macro-F1 is noisy, and --monitor macro-auc is what the published tables here use.

    Each fold k gets a folder OUT/fold_k with best.keras (the epoch of the best validation score),
    validation.npz, history.csv, learning_curves.png and args.json.

    Args:
        store: made by ecg-build, at 100 Hz.
        out: folder of the run, such as runs/ptbxl.
        folds: each validates one model that is trained on the others; numbers, or all for an
            ensemble.
        test_fold: kept out of training and validation, for scoring; None keeps none out.
        task: whose labels, such as superdiagnostic; by default the only task of the store.
        fusion: mutual is MRM-Net; add and concat fuse by addition and concatenation (Table V),
            low and high use one branch alone (Table VI).
        input_length: samples at 100 Hz; longer records are cut, shorter ones resampled up.
        low_channels: channels of the low-resolution branch.
        high_channels: channels of the high-resolution branch.
        alpha: weight of the mutual loss between the branches' first features (eq. 7).
        beta: weight of the mutual loss between their features after attention.
        gamma: weight of the mutual loss between their answers.
        temperature: by which features are divided before the mutual losses' softmax.
        flatten: order in which the mutual losses flatten features; channel by channel in the
            paper.
        dropout: share of features dropped in training, 0 to 1.
        epochs: at most this many.
        batch_size: records a step.
        learning_rate: Adam's, fixed.
        patience: epochs without a better validation score after which training stops.
        monitor: the validation score that decides which epoch is kept; macro-auc for many rare
            classes.
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
    from mrm_keras.model import build_model, compile_model, fitted_contract

    with Store(store) as opened:
        task = opened.resolve_task(task)

        def compiled_model(contract: Contract) -> Any:
            model = build_model(
                num_classes=len(contract.class_names),
                input_length=input_length,
                low_channels=low_channels,
                high_channels=high_channels,
                alpha=alpha,
                beta=beta,
                gamma=gamma,
                temperature=temperature,
                flatten=flatten,
                fusion=fusion,
                dropout=dropout,
                contract=contract,
            )
            return compile_model(model, learning_rate=learning_rate, jit_compile=jit_compile)

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
            contract_for=partial(fitted_contract, opened, task=task, input_length=input_length),
            compiled_model=compiled_model,
            options=options,
            resume=resume,
        )


def command() -> None:
    """Run ``mrm-train``."""
    run_command(main)


if __name__ == "__main__":
    command()
