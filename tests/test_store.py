import errno
import json
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep import store as store_module
from data_prep.errors import LabelError, StoreError
from data_prep.store import SCHEMA_VERSION, Store, StoreWriter, _Disk

CLASSES = {"form": ("NDT", "PVC", "ÄQRS"), "rhythm": ("SR", "AFIB")}


def make_signal(i: int) -> np.ndarray:
    return np.random.default_rng(i).normal(size=(100 + 7 * i, 12)).astype(np.float32)


def write_store(path: Path, num_records: int = 12) -> Path:
    with StoreWriter(
        path, dataset="ptb-xl", fs=100, class_names=CLASSES, provenance={"source": ["made"]}
    ) as writer:
        for i in range(num_records):
            writer.append(
                f"{i:03d}_é",
                make_signal(i),
                labels={"form": [i % 3] if i % 2 else [], "rhythm": [0, 1] if i == 4 else [1]},
                first_label=i % 3 - 1,
                fold=i % 10 + 1,
                patient=f"p{i}",
                age=50.0 + i,
                sex="female" if i % 2 else "",
            )
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with Store(write_store(tmp_path / "s.h5")) as store:
        assert (store.dataset, store.fs, store.tasks) == ("ptb-xl", 100.0, ("form", "rhythm"))
        assert len(store) == 12 and store.path == tmp_path / "s.h5"
        assert store.ids.tolist() == [f"{i:03d}_é" for i in range(12)]
        assert store.patients.tolist() == [f"p{i}" for i in range(12)]
        assert store.sexes.tolist() == ["", "female"] * 6
        np.testing.assert_array_equal(store.ages, np.arange(50, 62, dtype=np.float32))
        np.testing.assert_array_equal(store.folds, [*range(1, 11), 1, 2])
        np.testing.assert_array_equal(store.first_labels("form"), [-1, 0, 1] * 4)
        assert store.folds.dtype == store.first_labels("form").dtype == np.int16
        np.testing.assert_array_equal(store.lengths, 100 + 7 * np.arange(12))
        assert store.provenance == {"source": ["made"]}
        assert store.class_names("form") == ("NDT", "PVC", "ÄQRS")
        assert store.labels("form").dtype == np.uint8
        assert store.labels("form")[[4, 5]].tolist() == [[0, 0, 0], [0, 0, 1]]
        assert store.labels("rhythm")[[4, 5]].tolist() == [[1, 1], [0, 1]]
        np.testing.assert_array_equal(store.records_of("form"), [1, 3, 5, 7, 9, 11])
        for i in (0, 5, 11):
            signal = store.signal(i)
            assert signal.dtype == np.float32
            np.testing.assert_array_equal(signal, make_signal(i))


def test_task_by_name_or_the_only_one(tmp_path: Path) -> None:
    with Store(write_store(tmp_path / "s.h5")) as store:
        assert store.resolve_task("form") == "form"
        with pytest.raises(StoreError, match="several tasks; name one of form, rhythm"):
            store.labels()
        with pytest.raises(StoreError, match="no task 'all'; name one of form, rhythm"):
            store.class_names("all")
    with StoreWriter(tmp_path / "one.h5", dataset="x", fs=1, class_names={"only": ["a"]}) as writer:
        writer.append("r", make_signal(0), labels={"only": [0]}, fold=1)
    with Store(tmp_path / "one.h5") as store:
        assert store.resolve_task() == "only"
        assert store.labels().tolist() == [[1]]
        assert store.class_names() == ("a",)


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_store(tmp_path / "a.h5").read_bytes()
    assert write_store(tmp_path / "b.h5").read_bytes() == first


@pytest.mark.parametrize("names", [{"t": ["a", "A"]}, {"t": ["a\x1b[2J"]}, {"t\n": ["a"]}])
def test_names_that_no_store_takes(tmp_path: Path, names: dict[str, list[str]]) -> None:
    with pytest.raises(StoreError, match=r"s\.h5 cannot hold this: the (class|task) name"):
        StoreWriter(tmp_path / "s.h5", dataset="x", fs=1, class_names=names)


def test_memory_does_not_grow_with_the_signals(tmp_path: Path) -> None:
    import tracemalloc

    signal = np.zeros((20_000, 12), np.float32)  # 0.96 MB
    with StoreWriter(tmp_path / "s.h5", dataset="x", fs=1, class_names={"t": ["a"]}) as writer:
        writer.append("first", signal, labels={"t": [0]}, fold=1)
        tracemalloc.start()
        for i in range(40):
            writer.append(str(i), signal, labels={"t": [0]}, fold=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4e6 < os.path.getsize(tmp_path / "s.h5")


def test_folds_set_at_the_end(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s.h5", dataset="x", fs=1, class_names={"t": "ab"}) as writer:
        for i in range(3):
            writer.append(str(i), make_signal(i), labels={"t": [i % 2]})
        assert len(writer) == 3
        assert writer.labels("t").tolist() == [[1, 0], [0, 1], [1, 0]]
        writer.set_folds(np.array([3, 1, 2]))
    with Store(tmp_path / "s.h5") as store:
        assert store.folds.tolist() == [3, 1, 2]
        assert store.first_labels().tolist() == [-1, -1, -1]
        assert np.isnan(store.ages).all()
        assert store.patients.tolist() == ["", "", ""]


@pytest.mark.parametrize(
    ("records", "error", "trouble"),
    [
        ([], StoreError, "no record is usable"),
        ([{"fold": 0}], StoreError, "has no fold"),
        (
            [{"patient": "p"}, {"record_id": "b", "patient": "p", "fold": 2}],
            StoreError,
            "several folds",
        ),
        ([{}, {}], StoreError, "holds a already"),
        ([{"labels": {"t": [2]}}], LabelError, "from 0 to 1, not"),
        ([{"labels": {"u": [0]}}], LabelError, "not None"),
        ([{"record_id": "a\x1b[2J"}], StoreError, "record name .* control"),
        ([{"record_id": "../a"}], StoreError, "record name .* slashes"),
        ([{"signal": make_signal(0)[:, :11]}], StoreError, r"of shape \(100, 11\)"),
        ([{"signal": make_signal(0) * np.nan}], StoreError, "valid samples only"),
        ([{}], KeyboardInterrupt, None),
    ],
)
def test_what_stood_there_stays(
    tmp_path: Path, records: list[dict[str, Any]], error: type[BaseException], trouble: str | None
) -> None:
    path = write_store(tmp_path / "s.h5")
    before = path.read_bytes()
    usual = {"record_id": "a", "signal": make_signal(0), "labels": {"t": [0]}, "fold": 1}
    with pytest.raises(error, match=trouble):
        with StoreWriter(path, dataset="x", fs=1, class_names={"t": ["a", "b"]}) as writer:
            for changes in records:
                writer.append(**{**usual, **changes})
            if error is KeyboardInterrupt:
                raise error
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.h5"]


class _SmallDisk(FileIO):
    """A disk that takes ``room`` bytes and then reports ``number``."""

    room = 10**9
    number = errno.ENOSPC

    def write(self, data: Any) -> int:
        data = bytes(data)[: type(self).room]
        if not data:
            raise OSError(self.number, os.strerror(self.number))
        type(self).room -= len(data)
        return super().write(data)


def _write_ten_megabytes(path: Path) -> None:
    with StoreWriter(path, dataset="x", fs=1, class_names={"t": ["a", "b"]}) as writer:
        for i in range(10):
            signal = np.ones((20_000, 12), np.float32)
            writer.append(str(i), signal, labels={"t": [0]}, fold=1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 1.0])
def test_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float, number: int
) -> None:
    """At its first bytes, among the signals, and at the very last byte of the tables."""
    path = write_store(tmp_path / "s.h5")
    before = path.read_bytes()
    # In the order of inheritance the small disk comes between ours and FileIO.
    monkeypatch.setattr("data_prep.store._Disk", type("_", (_Disk, _SmallDisk), {}))
    disk: Any = store_module._Disk
    _write_ten_megabytes(tmp_path / "t.h5")
    needed = 10**9 - disk.room
    (tmp_path / "t.h5").unlink()

    monkeypatch.setattr(disk, "room", max(0, int(part * needed) - 1))
    monkeypatch.setattr(disk, "number", number)
    with pytest.raises(OSError) as caught:
        _write_ten_megabytes(path)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.startswith(str(tmp_path / "s"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.h5"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_store(tmp_path / "file" / "s.h5")


def _other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)


def _edited(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return damage


def _with_classes(*names: Any) -> Callable[[Path], None]:
    """Other names of the three classes of form."""
    return _edited(lambda file: file["labels/form"].attrs.update(class_names=json.dumps(names)))


def _replaced(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """A table with other values and without its checksum, as an earlier release wrote it."""

    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            attributes, values = dict(file[name].attrs), file[name][:]
            del file[name]
            file[name] = change(values)
            file[name].attrs.update({k: v for k, v in attributes.items() if k != "crc32"})

    return damage


def _with_record(name: bytes) -> Callable[[Path], None]:
    """Another name of the first record."""
    return _replaced("ids", lambda ids: np.array([name, *ids[1:]]))


def _ids_of_billions(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["ids"]
        file.create_dataset("ids", shape=(10**13,), dtype="S5", chunks=(1000,))


def _signals_never_written(path: Path) -> None:
    with h5py.File(path, "a") as file:
        size = file["signals"].shape
        del file["signals"]
        file.create_dataset("signals", shape=size, dtype=np.float32, chunks=(64, 12))


def _elsewhere(kind: str) -> Callable[[Path], None]:
    """The ids come from another file."""

    def damage(path: Path) -> None:
        other = path.with_name("other.h5")
        with h5py.File(path, "r") as file, h5py.File(other, "w") as copy:
            copy["ids"] = file["ids"][:]
            shape, dtype = copy["ids"].shape, copy["ids"].dtype
        with h5py.File(path, "a") as file:
            del file["ids"]
            if kind == "link":
                file["ids"] = h5py.ExternalLink("other.h5", "ids")
            elif kind == "soft link":
                file["ids"] = h5py.SoftLink("/labels")
            elif kind == "raw":
                size = shape[0] * dtype.itemsize
                external = [("other.h5", 0, size)]
                file.create_dataset("ids", shape=shape, dtype=dtype, external=external)
            else:
                layout = h5py.VirtualLayout(shape, dtype)
                layout[:] = h5py.VirtualSource("absent.h5", "ids", shape=shape)
                file.create_virtual_dataset("ids", layout)

    return damage


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (_replaced("labels/form", lambda labels: labels * 0.5), "form is of type float"),
        (_replaced("labels/form", lambda labels: labels * 2), "form are not 0 and 1"),
        (_replaced("offsets", lambda offsets: offsets[[0, 2, 1, *range(3, 13)]]), "offsets"),
        (_replaced("offsets", lambda offsets: offsets + (offsets == 0)), "offsets"),
        (_replaced("offsets", lambda offsets: offsets * 1.0), "offsets"),
        (_replaced("signals", lambda signals: signals[:, :8]), "12 leads"),
        (_replaced("signals", lambda signals: signals.astype(float)), "float32"),
        (_replaced("ids", lambda ids: ids[[0, *range(11)]]), "one name"),
        *(
            (_with_record(name), "record name")
            for name in (b"a\x1b[2J", b"a\nb", b"../../a", b"a\\b", b"a" * 201, b"")
        ),
        (_with_classes("NDT", "PVC", "a\x1b[31m"), "class name .* control"),
        (_with_classes("NDT", "PVC", "pvc"), "looks like the class 'PVC'"),
        (_with_classes("NDT", "PVC", "Found"), "a column in answers.csv"),
        (_with_classes("NDT", "PVC", 3), "not a list of names"),
        (_edited(lambda file: file.move("labels/form", "labels/\x1b[8m")), "task name .* control"),
        (_replaced("folds", lambda folds: folds + 5), "folds"),
        (_replaced("patients", lambda names: names[[0, *range(11)]]), "in several folds"),
        (_replaced("first_labels", lambda first: first + 9), "first labels"),
        (_ids_of_billions, "ids has fewer values"),
        (_signals_never_written, "signals has fewer values"),
        *((_elsewhere(kind), "ids is") for kind in ("link", "soft link", "raw", "virtual")),
    ],
)
def test_a_store_against_its_schema(
    tmp_path: Path, damage: Callable[[Path], None], trouble: str
) -> None:
    path = write_store(tmp_path / "s.h5")
    damage(path)
    with pytest.raises(StoreError, match=rf"s\.h5 is broken .*{trouble}"):
        Store(path)


def test_invalid_samples_without_checksums(tmp_path: Path) -> None:
    path = write_store(tmp_path / "s.h5")
    with h5py.File(path, "a") as file:
        file["signals"][3, 2] = np.nan
        del file["checksums"]
    with Store(path) as store:
        store.signal(1)
        with pytest.raises(StoreError, match=r"000_é has invalid samples"):
            store.signal(0)


def test_a_pipe_is_no_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.h5")
    with pytest.raises(StoreError, match=r"s\.h5 does not exist as a file"):
        Store(tmp_path / "s.h5")


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is not a readable HDF5 file"),
        (lambda path: path.write_text("Recording,First_label\n"), "is not a readable HDF5 file"),
        (lambda path: path.write_bytes(b""), "is not a readable HDF5 file"),
        (_other_hdf5, "is HDF5 but not a store"),
        (
            _edited(lambda file: file.attrs.update(schema_version=SCHEMA_VERSION + 1)),
            f"has schema version {SCHEMA_VERSION + 1}, and this release reads",
        ),
        (_edited(lambda file: file.pop("folds")), "is broken"),
        (_replaced("ids", lambda ids: ids[:-1]), "is broken"),
        (_edited(lambda file: file["signals"].resize(100, axis=0)), "is broken"),
        (
            _edited(lambda file: file["labels/form"].attrs.update(class_names='["NDT"]')),
            "is broken",
        ),
        (Path.unlink, "does not exist"),
    ],
)
def test_file_that_is_no_store(
    tmp_path: Path, damage: Callable[[Path], object], trouble: str
) -> None:
    path = write_store(tmp_path / "s.h5")
    damage(path)
    with pytest.raises(StoreError, match=rf"s\.h5 {trouble}.*ecg-build"):
        Store(path)


def test_reading_after_closing(tmp_path: Path) -> None:
    with Store(write_store(tmp_path / "s.h5")) as store:
        pass
    with pytest.raises(StoreError, match="is broken"):
        store.signal(0)
