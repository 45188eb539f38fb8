"""Command ``python -m benchmarks.leaderboard``: a network trained as on the PTB-XL leaderboard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.commands import run_command
from data_prep.errors import OptionError
from data_prep.signals import prepare
from data_prep.store import Store
from ecg_keras.evaluation.scores import macro_auc
from ecg_keras.model.backend import keras
from ecg_keras.training.callbacks import OneCycle
from mrm_keras.baselines import BUILDERS
from mrm_keras.model import fitted_contract
from mrm_keras.published import BENCHMARK_AUC

LENGTH, CROP, STRIDE = 1000, 250, 125  # samples at 100 Hz
RATE = 0.01


def main(
    *,
    store: Path,
    network: str = "fcn_wang_benchmark",
    task: str = "all",
    epochs: int = 50,
    batch_size: int = 128,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> None:
    """Train a network by the recipe of the PTB-XL benchmark and score it beside its leaderboard.

    Strodthoff 2021 (arXiv 2004.13701) and its code: folds 1 to 8 train; AdamW with weight decay
    0.01 in one cycle up to 0.01; from each record a random crop of 2.5 s an epoch.  The last epoch
    is scored on folds 9 and 10, by the maximum over windows of 2.5 s with half overlap; nothing is
    chosen.  What differs: Adam's momentum is constant, weights begin as in PyTorch, and the store
    is of the release it was built from (the leaderboard's: 1.0.1).  The leaderboard's inception1d
    ends in a pooling of maximum and mean with two linear layers, InceptionTime in mean and one.

    Args:
        store: of PTB-XL at 100 Hz.
        network: a network that MRM-Net is compared with.
        task: of the store.
        epochs: passes over the training records.
        batch_size: crops per step.
        seed: of weights, dropout and crops.
        checkpoint: folder from which an interrupted training resumes, removed at the end; by
            default named after the options.

    Raises:
        OptionError: if the leaderboard does not have the network or the task.
    """
    figures = BENCHMARK_AUC.get(task, {})
    if network not in figures:
        raise OptionError(
            f"the leaderboard has no figure for {network} on {task}; choose --task from"
            f" {', '.join(BENCHMARK_AUC)} and --network from {', '.join(BENCHMARK_AUC['all'])}."
        )
    if checkpoint is None:
        options = map(str, (network, task, epochs, batch_size, seed))
        checkpoint = Path("_".join(["leaderboard", *options]))
    keras.utils.set_random_seed(seed)
    with Store(store) as opened:
        records = opened.records_of(task)
        folds, labels = opened.folds[records], opened.labels(task)[records].astype(np.float32)
        train = folds <= 8
        contract = fitted_contract(
            opened, records[train], network=network, task=task, input_length=LENGTH
        )
        signals = np.stack(
            [
                prepare(opened.signal(i), fs=opened.fs, target_fs=100, length=LENGTH, fit="stretch")
                for i in records
            ]
        )
    contract = replace(contract, input_length=CROP)
    model = BUILDERS[network](num_classes=labels.shape[1], input_length=CROP, contract=contract)
    model.compile(
        keras.optimizers.AdamW(RATE, weight_decay=0.01, beta_2=0.99), loss="binary_crossentropy"
    )
    crops = Crops(signals[train], labels[train], batch_size=batch_size, seed=seed)
    model.fit(
        crops,
        epochs=epochs,
        shuffle=False,
        verbose=2,
        callbacks=[
            OneCycle(RATE, epochs=epochs, steps_per_epoch=len(crops)),
            keras.callbacks.BackupAndRestore(str(checkpoint)),
        ],
    )
    for fold in (9, 10):
        scored = folds == fold
        auc = macro_auc(labels[scored], windowed(model, signals[scored]))
        print(f"fold {fold}: macro-AUC {auc:.4f} on {scored.sum():,} records")
    print(f"leaderboard, fold 10: {figures[network]:.4f}")


class Crops(keras.utils.PyDataset):
    """A random crop of each record an epoch, in random order.

    Args:
        signals: ``(record, LENGTH, 12)``, millivolts.
        labels: ``(record, class)``, 0 or 1.
        batch_size: crops in a batch; the last incomplete one is left out.
        seed: of the crops and their order.
    """

    def __init__(
        self, signals: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.signals = signals
        self.labels = labels
        self.batch_size = batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Draw anew."""
        self.order = self.random.permutation(len(self.signals))
        self.starts = self.random.integers(0, LENGTH - CROP + 1, len(self.signals))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.signals) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the crops ``(batch, CROP, 12)`` and labels of a batch."""
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        crops = [self.signals[row, self.starts[row] : self.starts[row] + CROP] for row in rows]
        return np.stack(crops), self.labels[rows]


def windowed(model: Any, signals: np.ndarray) -> np.ndarray:
    """Return each class' largest probability over all windows.

    Args:
        model: of ``(batch, CROP, 12)``.
        signals: ``(record, LENGTH, 12)``, millivolts.

    Returns:
        ``(record, class)``.
    """
    return np.max(
        [
            model.predict(signals[:, start : start + CROP], batch_size=256, verbose=0)["diagnosis"]
            for start in range(0, LENGTH - CROP + 1, STRIDE)
        ],
        axis=0,
    )


if __name__ == "__main__":
    run_command(main)
