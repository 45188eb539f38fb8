"""Makes the batches that a network is trained on from a store."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.errors import StoreError
from data_prep.labels import known_first_labels, one_hot
from data_prep.signals import prepare
from data_prep.store import Store
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract

# A container's memory limit, usage and statistics, in bytes: Linux cgroups, versions 2 and 1.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def targets(store: Store, records: np.ndarray, *, task: str, single_label: bool) -> np.ndarray:
    """Return the training targets of records.

    Args:
        store: an open store.
        records: indices of the records.
        task: name of the task.
        single_label: True for only the first label of each record, False for all its labels.

    Returns:
        ``(len(records), classes)`` float32 of 0 and 1.

    Raises:
        StoreError: if ``single_label``, and the first of several labels is unknown.
    """
    labels = store.labels(task)[records]
    if not single_label:
        return labels.astype(np.float32)
    firsts = known_first_labels(labels, store.first_labels(task)[records])
    if firsts is None:
        raise StoreError(
            f"{store.path} holds records with several labels, and which comes first is not known;"
            " build it again with a REFERENCE.csv, or with --several-labels rarest."
        )
    return one_hot(firsts, labels.shape[1]).astype(np.float32)


class StoreBatches(keras.utils.PyDataset):
    """Batches of ``signal, {head: label}`` from a store.

    Signals are prepared for the network (:func:`data_prep.signals.prepare`), except that zero
    padding is added when a batch is made.  All signals are held in memory if they take less than
    half of the available memory; otherwise each is read when needed.

    Training batches are random, as in both papers.  Records must not be grouped by length for
    speed, because batch norm takes its statistics from the batch.

    Args:
        store: an open store; it must stay open.
        records: indices of the records to use.
        contract: the network's contract.
        heads: names of the network's outputs; all get the same labels.
        batch_size: records per batch; the last may have fewer.
        shuffle: draw a new random order each epoch; otherwise keep the given order.
        seed: seed for shuffling; seed and epoch determine the order.
        devices: number of devices that share each batch; the last batch is filled up with the
            first records of the epoch so that the devices get equal shares.

    Raises:
        StoreError: if the store's rate is not the network's, or first labels are missing.
    """

    def __init__(
        self,
        store: Store,
        records: np.ndarray,
        *,
        contract: Contract,
        heads: Sequence[str],
        batch_size: int = 64,
        shuffle: bool = False,
        seed: int = 0,
        devices: int = 1,
    ) -> None:
        # Two threads prepare the next batches while the network computes on this one.
        super().__init__(workers=2, max_queue_size=4)
        if store.fs != contract.sampling_rate:
            raise StoreError(
                f"{store.path} holds signals at {store.fs:g} Hz and the network needs"
                f" {contract.sampling_rate:g} Hz; build a store with"
                f" --rate {contract.sampling_rate:g}."
            )
        self.store = store
        self.records = np.asarray(records)
        self.contract = contract
        self.heads = tuple(heads)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.devices = devices
        self.labels = targets(
            store, self.records, task=contract.task, single_label=contract.single_label
        )
        lengths = np.minimum(store.lengths[self.records], contract.input_length)
        if contract.fit == "stretch":
            lengths = np.full(len(self.records), contract.input_length)
        self.lengths = lengths
        self.num_bytes = int(lengths.sum()) * len(contract.leads) * 4
        self.in_memory = self.num_bytes < _available_memory() // 2
        self._signals = [self._read(i) for i in range(len(self.records))] if self.in_memory else []
        self.epoch = 0
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.records) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return a batch.

        Args:
            index: from 0 to the number of batches - 1.

        Returns:
            Signals ``(batch, input_length, lead)`` float32 in millivolts, and the labels
            ``(batch, classes)`` of each head.
        """
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        shape = (len(chosen), self.contract.input_length, len(self.contract.leads))
        signals = np.zeros(shape, np.float32)
        for row, i in enumerate(chosen):
            signal = self._signals[i] if self.in_memory else self._read(i)
            signals[row, : len(signal)] = signal
        return signals, dict.fromkeys(self.heads, self.labels[chosen])

    def records_of_batch(self, index: int) -> np.ndarray:
        """Return the records in a batch of this epoch.

        Args:
            index: from 0 to the number of batches - 1.

        Returns:
            Their indices in the store, int64.
        """
        return self.records[self._order[index * self.batch_size : (index + 1) * self.batch_size]]

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self.start_epoch(self.epoch + 1)

    def start_epoch(self, epoch: int) -> None:
        """Set the order of an epoch, counted from 0."""
        self.epoch = epoch
        self._order = self._shuffled()

    def _read(self, i: int) -> np.ndarray:
        signal = prepare(
            self.store.signal(self.records[i]),
            fs=self.store.fs,
            target_fs=self.contract.sampling_rate,
            length=self.lengths[i],
            fit=self.contract.fit,
        )
        return self.contract.in_lead_order(signal)

    def _shuffled(self) -> np.ndarray:
        order = np.arange(len(self.records))
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return np.resize(order, -(-len(order) // self.devices) * self.devices)


def _available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of main memory available without swapping; 0 if unknown.

    The page cache counts as available.  In a container, its memory limit is respected.  macOS says
    only how much memory there is, and half of it is taken for available.

    Args:
        root: root of the file system with ``proc`` and ``sys``.
    """
    try:
        available = _entry(root / "proc/meminfo", "MemAvailable:") * 1024
    except (OSError, KeyError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, OSError, ValueError):  # Windows
            return 0
    for limit, use, uses in _CGROUPS:
        folder = root / "sys/fs/cgroup"
        try:
            left = int((folder / limit).read_text()) - int((folder / use).read_text())
            left += _entry(folder / uses, "inactive_file")
        except (OSError, ValueError, KeyError):  # absent, or "max"
            continue
        available = min(available, max(left, 0))
    return available


def _entry(file: Path, name: str) -> int:
    """Read the number after a name, in a file with one name and one number per line."""
    return int(dict(line.split()[:2] for line in file.read_text().splitlines())[name])


def describe(batches: StoreBatches) -> str:
    """Describe the number of records and where they are held."""
    place = "held in memory" if batches.in_memory else "read from disk, as it may not fit in memory"
    return f"{len(batches.records):,} records, {batches.num_bytes / 1e6:,.0f} MB, {place}"
