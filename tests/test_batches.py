import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample as fourier_resample
from toy import CLASSES, FS, toy_contract, toy_signal, write_toy_store

from data_prep.errors import StoreError
from data_prep.labels import LEADS
from data_prep.store import Store
from ecg_keras.model.backend import keras
from ecg_keras.training import batches as module
from ecg_keras.training.batches import StoreBatches, describe, targets

# From 0.5 to 3.4 s at 50 Hz; the contract's input has 2 s.
LENGTHS = tuple(25 + 7 * (i * 11 % 22) for i in range(53))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("store") / "toy.h5"
    with Store(write_toy_store(path, lengths=LENGTHS)) as opened:
        yield opened


def make(store: Store, **options: Any) -> StoreBatches:
    fields: dict[str, Any] = {"contract": toy_contract(), "heads": ("diagnosis",), "batch_size": 8}
    return StoreBatches(store, np.arange(len(store)), **{**fields, **options})


def epoch_of(batches: StoreBatches) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (signals, labels["diagnosis"])
        for signals, labels in map(batches.__getitem__, range(len(batches)))
    ]


def records_in(signals: np.ndarray) -> list[int]:
    """Which record each row is, found by its first sample."""
    known = np.array([toy_signal(25, i % 3, seed=i)[0] for i in range(len(LENGTHS))])
    return [int(np.abs(known - row[0]).sum(axis=1).argmin()) for row in signals]


def test_signals_are_padded_with_zeros_or_cut_at_their_end(store: Store) -> None:
    batches = make(store)
    assert len(batches) == 7
    rows = np.concatenate([signals for signals, _ in epoch_of(batches)])
    assert rows.shape == (53, 100, 12) and rows.dtype == np.float32
    for i, (row, length) in enumerate(zip(rows, LENGTHS, strict=True)):
        kept = min(length, 100)
        np.testing.assert_array_equal(row[:kept], toy_signal(length, i % 3, seed=i)[:kept])
        assert not row[kept:].any()


def test_the_last_batch_is_short(store: Store) -> None:
    sizes = [len(signals) for signals, _ in epoch_of(make(store, shuffle=True))]
    assert sizes == [8] * 6 + [5]


def test_short_records_are_stretched_where_the_network_says_so(store: Store) -> None:
    batches = make(store, contract=toy_contract(fit="stretch"))
    rows = np.concatenate([signals for signals, _ in epoch_of(batches)])
    short = int(np.argmin(LENGTHS))
    signal = toy_signal(LENGTHS[short], short % 3, seed=short).astype(np.float64)
    np.testing.assert_allclose(rows[short], fourier_resample(signal, 100), atol=1e-6)
    assert batches.num_bytes == 53 * 100 * 12 * 4


def test_leads_come_as_the_contract_names_them(store: Store) -> None:
    batches = make(store, contract=toy_contract(leads=("V6", "II")))
    signals, _ = batches[0]
    assert signals.shape == (8, 100, 2)
    expected = toy_signal(LENGTHS[0], 0, seed=0)[:100, [LEADS.index("V6"), LEADS.index("II")]]
    np.testing.assert_array_equal(signals[0, : len(expected)], expected)


def test_every_head_has_the_label_of_its_record(store: Store) -> None:
    batches = make(store, heads=("diagnosis", "low", "high"), shuffle=True, seed=3)
    for index in range(len(batches)):
        signals, labels = batches[index]
        assert list(labels) == ["diagnosis", "low", "high"]
        for label in labels.values():
            assert label.dtype == np.float32
            assert label.argmax(axis=1).tolist() == [i % 3 for i in records_in(signals)]
            np.testing.assert_array_equal(label.sum(axis=1), 1)


def test_every_record_comes_once_an_epoch(store: Store) -> None:
    batches = make(store, shuffle=True)
    for epoch in range(3):
        batches.start_epoch(epoch)
        seen = [i for signals, _ in epoch_of(batches) for i in records_in(signals)]
        assert sorted(seen) == list(range(53))


def test_the_order_is_fixed_by_seed_and_epoch(store: Store) -> None:
    def order(seed: int, epoch: int, *, shuffle: bool = True) -> list[int]:
        batches = make(store, seed=seed, shuffle=shuffle)
        for _ in range(epoch):
            batches.on_epoch_end()
        return [i for signals, _ in epoch_of(batches) for i in records_in(signals)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 2) == order(0, 2)
    distinct = [order(0, 0), order(0, 1), order(0, 2), order(1, 0)]
    assert all(a != b for i, a in enumerate(distinct) for b in distinct[i + 1 :])
    assert order(0, 1, shuffle=False) == list(range(53))


def test_an_epoch_is_a_random_permutation_of_all_records(store: Store) -> None:
    """No matter how long the records are: batch norm sees the batch."""
    batches = make(store, shuffle=True)
    orders = []
    for epoch in range(200):
        batches.start_epoch(epoch)
        orders.append(np.concatenate([batches.records_of_batch(i) for i in range(len(batches))]))
    assert all(sorted(order) == list(range(53)) for order in orders)
    places = np.argsort(orders, axis=1)
    # Each record comes anywhere in an epoch: means within 5 of their standard deviations.
    deviation = np.sqrt((53**2 - 1) / 12 / len(orders))
    assert np.abs(places.mean(axis=0) - 26).max() < 5 * deviation
    # Neighbours of similar length are as rare as chance has them, in place and in batches.
    lengths = np.array(LENGTHS)[np.array(orders)]
    a, b = lengths[:, :-1].ravel(), lengths[:, 1:].ravel()
    assert abs(np.corrcoef(a, b)[0, 1] + 1 / 52) < 5 / np.sqrt(a.size)


def test_lengths_vary_between_batches_as_between_random_ones(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).permutation(np.repeat([20, 30, 40, 100], 64))
    with Store(write_toy_store(tmp_path / "toy.h5", lengths=lengths.tolist())) as store:
        batches = make(store, shuffle=True)
        means = []
        for epoch in range(4):
            batches.start_epoch(epoch)
            means += [lengths[batches.records_of_batch(i)].mean() for i in range(len(batches))]
    # Sorted by length, the means of batches of 8 would vary eight times as much.
    assert np.var(means) == pytest.approx(lengths.var() / 8, rel=0.5)


def test_what_does_not_fit_in_memory_is_read_when_its_turn_comes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make(store, shuffle=True)
    monkeypatch.setattr(module, "_available_memory", lambda: 0)
    read = make(store, shuffle=True)
    assert (kept.in_memory, read.in_memory) == (True, False)
    for (a, x), (b, y) in zip(epoch_of(kept), epoch_of(read), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)
    size = sum(min(length, 100) for length in LENGTHS) * 12 * 4
    assert kept.num_bytes == read.num_bytes == size
    of_all = f"53 records, {size / 1e6:.0f} MB"
    assert describe(kept) == f"{of_all}, held in memory"
    assert describe(read) == f"{of_all}, read from disk, as it may not fit in memory"


@pytest.mark.parametrize(("free", "in_memory"), [(2, False), (2.01, True)])
def test_half_of_the_available_memory_may_be_used(
    store: Store, monkeypatch: pytest.MonkeyPatch, free: float, in_memory: bool
) -> None:
    size = make(store).num_bytes
    monkeypatch.setattr(module, "_available_memory", lambda: int(free * size))
    assert make(store).in_memory is in_memory


MEMINFO = "MemTotal: 8000 kB\nMemFree: 1000 kB\nMemAvailable: 6000 kB\nHugePages_Total: 0\n"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 6000 * 1024),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "inactive_file 0"}, 6144000),
        ({"memory.max": "900", "memory.current": "500", "memory.stat": "inactive_file 0"}, 400),
        ({"memory.max": "900", "memory.current": "800", "memory.stat": "anon 9\ninactive_file 300"},
         400),
        ({"memory.max": "900", "memory.current": "950", "memory.stat": "inactive_file 0"}, 0),
        ({"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "500",
          "memory/memory.stat": "cache 1\ninactive_file 100"}, 500),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "500",
          "memory/memory.stat": "inactive_file 0"}, 6144000),
    ],
)  # fmt: skip
def test_available_memory_is_what_linux_and_the_containers_limit_leave(
    tmp_path: Path, files: dict[str, str], available: int
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert module._available_memory(tmp_path) == available


def test_available_memory_of_this_machine_and_of_one_that_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 1e6 < module._available_memory() < 1e14
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert module._available_memory(tmp_path) == whole // 2
    monkeypatch.delattr(os, "sysconf")
    assert module._available_memory(tmp_path) == 0


def test_fitting_takes_one_order_after_the_other(store: Store) -> None:
    """Keras reads ahead in threads: no batch may come twice, or in another epoch's order."""
    seen: list[list[float]] = []

    class Spy(keras.Model):
        def train_step(self, data: Any) -> dict[str, Any]:
            seen[-1] += np.asarray(data[0])[:, 0, 11].tolist()
            return {"loss": 0.0}

    class NewEpoch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            seen.append([])

    expected = []
    batches = make(store, shuffle=True, seed=5)
    # Keras ends an epoch once more before the first, when it looks at the batches' shapes.
    for epoch in (1, 2, 3):
        batches.start_epoch(epoch)
        expected.append([x for signals, _ in epoch_of(batches) for x in signals[:, 0, 11].tolist()])

    model = Spy()
    model.compile(run_eagerly=True)
    again = make(store, shuffle=True, seed=5)
    model.fit(again, epochs=3, shuffle=False, callbacks=[NewEpoch()], verbose=0)
    assert seen == expected
    assert expected[0] != expected[1]


def test_targets_of_several_labels_and_of_the_first(tmp_path: Path) -> None:
    path = write_toy_store(
        tmp_path / "toy.h5", lengths=(50,) * 10, labels={1: (2, 0), 2: (0, 1)}, first_labels={3: -1}
    )
    with Store(path) as store:
        records = np.array([3, 1, 2])
        several = targets(store, records, task="cpsc2018", single_label=False)
        assert several.dtype == np.float32
        assert several.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
        # The first of several labels; the only one where the first is not written down.
        first = targets(store, records, task="cpsc2018", single_label=True)
        assert first.dtype == np.float32
        assert first.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_an_unknown_first_of_several_labels_is_refused(tmp_path: Path) -> None:
    path = write_toy_store(
        tmp_path / "toy.h5", lengths=(50,) * 10, labels={4: (0, 1)}, first_labels={4: -1}
    )
    with Store(path) as store:
        with pytest.raises(StoreError, match="toy.h5 holds records with several labels.*REFERENCE"):
            make(store)
        assert len(make(store, contract=toy_contract(single_label=False)).labels) == 10


def test_a_store_of_another_rate_is_refused(store: Store) -> None:
    with pytest.raises(
        StoreError, match=r"toy.h5 holds signals at 50 Hz and .* needs 250 Hz; .* --rate 250"
    ):
        make(store, contract=toy_contract(sampling_rate=250.0))
    assert (store.fs, store.class_names()) == (FS, CLASSES)
