"""One HDF5 file of labelled records: its schema, written and read.

The schema, version 1.  Attributes of the file: ``schema`` (``"ecg-keras store"``),
``schema_version``, ``dataset``, ``fs`` (hertz) and ``provenance`` (JSON).  Datasets, N records:

=================  ===========  =============  ==============================================
``signals``        (total, 12)  float32        millivolts, one record after the other, unpadded
``offsets``        (N + 1,)     int64          record i is ``signals[offsets[i]:offsets[i+1]]``
``ids``            (N,)         UTF-8 bytes    names of the records, unique
``patients``       (N,)         UTF-8 bytes    empty if unknown
``sexes``          (N,)         UTF-8 bytes    ``male``, ``female`` or empty
``ages``           (N,)         float32        years, NaN if unknown
``folds``          (N,)         int16          1 to 10
``first_labels``   (N,)         int16          main class, -1 if unknown; if known for several
                                               tasks, (N, tasks), tasks sorted by name
``sources``        (N,)         UTF-8 bytes    the folder that a record came from; absent in
                                               early stores of this version
``labels/TASK``    (N, C)       uint8          1 if a record has the class; its attribute
                                               ``class_names`` (JSON) names the columns
``checksums``      (N,)         uint32         CRC-32 of each record's signal, as little-endian
                                               bytes; absent in early stores of this version
=================  ===========  =============  ==============================================

Every table except ``signals`` has its own CRC-32 in the attribute ``crc32``.
"""

import errno
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep.class_names import require_class_names
from data_prep.errors import LabelError, StoreError
from data_prep.files import is_file, opened, written_whole
from data_prep.labels import LEADS, encode, main_labels
from data_prep.names import require_name, require_record_name
from data_prep.splits import require_patients_apart

SCHEMA = "ecg-keras store"
SCHEMA_VERSION = 1

_MOST_TABLE = 2**28  # bytes of a table other than the signals: a million records, 256 classes
_REBUILD = "build it again with ecg-build"


class _Disk(FileIO):
    """The file that HDF5 writes to, which hides failed writes from HDF5.

    (If HDF5 cannot flush its caches, it cannot close the file and crashes the process at exit.)
    After the first failure nothing more is written, and the ``with`` block raises it at its end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.path = path
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.failure is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return size

    def require_written(self) -> None:
        if self.failure is not None:
            # To the user, an exhausted quota is a full disk.
            number = self.failure.errno
            code = errno.ENOSPC if number in (errno.EDQUOT, errno.ENOSPC) else number
            raise OSError(code, self.failure.strerror, str(self.path)) from self.failure

    def close(self) -> None:
        super().close()
        self.require_written()


class StoreWriter:
    """Writes a store record by record; memory use does not grow with the signals.

    Used in a ``with`` block: the file gets its name if the block ends without an error; if it
    raises or is interrupted, an existing store of that name stays as it was.

    Args:
        path: of the store.
        dataset: ``"cpsc2018"``, ``"ptb-xl"`` or :data:`data_prep.labels.OWN_DATASET`.
        fs: sampling rate of all signals, hertz.
        class_names: for each task its classes, in order.
        provenance: what the store was made from and how; saved as JSON.

    Raises:
        StoreError: if ``path`` is a file of another kind, or the name of a task or class is
            unusable; at the end of the block, if there is no record, a record has no fold, or a
            patient is in several folds.
        OSError: with ``errno.ENOSPC`` if the disk is full.
    """

    def __init__(
        self,
        path: Path,
        *,
        dataset: str,
        fs: float,
        class_names: Mapping[str, Sequence[str]],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.dataset = dataset
        self.fs = float(fs)
        self.class_names = {task: tuple(names) for task, names in class_names.items()}
        if is_file(self.path):
            with opened(self.path, most=2**63) as file:
                if file.read(8) not in (b"\x89HDF\r\n\x1a\n", b""):  # such as a table of labels
                    raise StoreError(
                        f"{self.path} exists and is not a store; give another name, or remove it."
                    )
        for task, names in self.class_names.items():
            self._require(require_name, task, "task")
            self._require(require_class_names, names)
        self.provenance = dict(provenance or {})
        self._ids: dict[str, None] = {}
        self._offsets = [0]
        self._checksums: list[int] = []
        self._rows: list[tuple[str, str, float, str]] = []
        self._folds: list[int] = []
        self._first_labels: dict[str, list[int]] = {task: [] for task in self.class_names}
        self._labels: dict[str, list[np.ndarray]] = {task: [] for task in self.class_names}

    def __enter__(self) -> "StoreWriter":
        """Open a temporary file beside the final path."""
        with ExitStack() as stack:
            part = stack.enter_context(written_whole(self.path))
            self._disk = stack.enter_context(_Disk(part))
            self._file = stack.enter_context(h5py.File(self._disk, "w"))
            self._signals = self._file.create_dataset(
                "signals",
                shape=(0, len(LEADS)),
                maxshape=(None, len(LEADS)),
                chunks=(4096, len(LEADS)),
                dtype=np.float32,
                # Without timestamps, the same records give the same bytes.
                track_times=False,
            )
            self._exit = stack.pop_all()
        return self

    def _require(self, usable: Callable[..., None], *names: Any) -> None:
        try:
            usable(*names)
        except ValueError as error:
            raise StoreError(f"{self.path} cannot hold this: {error}.") from None

    def __len__(self) -> int:
        """Return the number of records so far."""
        return len(self._ids)

    def append(
        self,
        record_id: str,
        signal: np.ndarray,
        *,
        labels: Mapping[str, Sequence[int]],
        first_label: int | Mapping[str, int] = -1,
        fold: int = 0,
        patient: str = "",
        age: float = math.nan,
        sex: str = "",
        source: str = "",
    ) -> None:
        """Add a record.

        Args:
            record_id: its name, not yet in the store.
            signal: ``(time, 12)``, millivolts at the store's rate, all finite.
            labels: for each task the 0-based class indices, possibly none.
            first_label: 0-based main class, -1 if unknown; a mapping gives it by task, and it is
                unknown for tasks not in the mapping.
            fold: 1 to 10; may be left at 0 if :meth:`set_folds` follows.
            patient: the patient's name, empty if unknown.
            age: in years, NaN if unknown.
            sex: ``"male"``, ``"female"``, or empty if unknown.
            source: the folder that the record came from.

        Raises:
            StoreError: if the name is taken or unusable, or the signal is not as stated.
            LabelError: if a task is missing or a label is not one of its classes.
        """
        if record_id in self._ids:
            raise StoreError(f"{self.path} holds {record_id} already; give each record once.")
        self._require(require_record_name, record_id)
        fits = signal.ndim == 2 and len(signal) > 0 and signal.shape[1] == len(LEADS)
        if not fits or not np.isfinite(signal).all():
            raise StoreError(
                f"the signal of {record_id}, of shape {signal.shape}, cannot go into {self.path};"
                f" it must be (time, {len(LEADS)}) with valid samples only."
            )
        for task, names in self.class_names.items():
            if not all(0 <= label < len(names) for label in labels.get(task, (-1,))):
                raise LabelError(
                    f"{record_id} needs labels of the task {task!r} from 0 to {len(names) - 1},"
                    f" not {labels.get(task)}."
                )
        start, stop = self._offsets[-1], self._offsets[-1] + len(signal)
        self._signals.resize(stop, axis=0)
        self._signals[start:stop] = signal
        self._disk.require_written()
        self._offsets.append(stop)
        self._checksums.append(_checksum(signal.astype(np.float32)))
        self._ids[record_id] = None
        self._rows.append((patient, sex, age, source))
        self._folds.append(fold)
        for task, names in self.class_names.items():
            self._labels[task].append(encode(labels[task], len(names)))
            first = first_label.get(task, -1) if isinstance(first_label, Mapping) else first_label
            self._first_labels[task].append(first)

    def labels(self, task: str) -> np.ndarray:
        """Return the labels of the records so far, uint8 ``(records, classes)``."""
        return np.array(self._labels[task], np.uint8).reshape(-1, len(self.class_names[task]))

    def first_labels(self, task: str) -> np.ndarray:
        """Return the first labels of the records so far, int16 ``(records,)``, -1 if unknown."""
        return np.array(self._first_labels[task], np.int16)

    def set_first_labels(self, task: str, first_labels: np.ndarray) -> None:
        """Set the first labels of all records so far.

        Args:
            task: of the labels.
            first_labels: int ``(records,)``, 0-based, -1 if unknown.
        """
        self._first_labels[task] = [int(first) for first in first_labels]

    @property
    def folds(self) -> np.ndarray:
        """The folds of the records so far, int16 ``(records,)``, 0 if they have none yet."""
        return np.array(self._folds, np.int16)

    @property
    def patients(self) -> np.ndarray:
        """The patients of the records so far, str ``(records,)``, empty if unknown."""
        return np.array([row[0] for row in self._rows], np.str_)

    @property
    def sources(self) -> np.ndarray:
        """The sources of the records so far, str ``(records,)``."""
        return np.array([row[3] for row in self._rows], np.str_)

    def set_folds(self, folds: np.ndarray) -> None:
        """Set the folds of all records so far.

        Args:
            folds: int ``(records,)``, 1 to 10.
        """
        self._folds = [int(fold) for fold in folds]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write the tables and rename the file, or remove it after an error."""
        with self._exit:
            if error is not None:
                raise error
            self._write_tables()

    def _write_tables(self) -> None:
        if not self._ids:
            raise StoreError(
                f"{self.path} was not made, because no record is usable; check the source."
            )
        patients, sexes, ages, sources = zip(*self._rows, strict=True)
        if min(self._folds) < 1:
            raise StoreError(f"a record of {self.path} has no fold; set the folds before its end.")
        require_patients_apart(self.folds, np.array(patients))
        first_labels = np.stack([self.first_labels(task) for task in sorted(self.class_names)], 1)
        if (first_labels == first_labels[:, :1]).all():
            first_labels = first_labels[:, 0]
        tables: dict[str, np.ndarray] = {
            "offsets": np.array(self._offsets, np.int64),
            "ids": _encoded(list(self._ids)),
            "patients": _encoded(patients),
            "sexes": _encoded(sexes),
            "ages": np.array(ages, np.float32),
            "sources": _encoded(sources),
            "folds": self.folds,
            "first_labels": first_labels,
            "checksums": np.array(self._checksums, np.uint32),
            **{f"labels/{task}": self.labels(task) for task in self.class_names},
        }
        for name, table in tables.items():
            dataset = self._file.create_dataset(name, data=table, track_times=False)
            dataset.attrs["crc32"] = np.uint32(_checksum(table))
        for task, names in self.class_names.items():
            self._file[f"labels/{task}"].attrs["class_names"] = json.dumps(names)
        # Written last: a file without it is incomplete.
        self._file.attrs["dataset"] = self.dataset
        self._file.attrs["fs"] = self.fs
        self._file.attrs["provenance"] = json.dumps(self.provenance, sort_keys=True)
        self._file.attrs["schema"] = SCHEMA
        self._file.attrs["schema_version"] = SCHEMA_VERSION


class Store:
    """A store opened for reading; can be used in a ``with`` block, which closes it.

    Args:
        path: of the HDF5 file.

    Attributes:
        path: of the file.
        dataset: ``"cpsc2018"``, ``"ptb-xl"`` or :data:`data_prep.labels.OWN_DATASET`.
        fs: sampling rate, hertz.
        tasks: names of its label sets.
        ids: str ``(N,)``.
        lengths: int64 ``(N,)``, samples.
        folds: int16 ``(N,)``, 1 to 10.
        patients: str ``(N,)``, empty if unknown.
        sources: str ``(N,)``, the folder each record came from; empty in early stores.
        ages: float32 ``(N,)``, years, NaN if unknown.
        sexes: str ``(N,)``, ``"male"``, ``"female"`` or empty if unknown.
        checksums: uint32 ``(N,)``, CRC-32 of each signal; None in stores of earlier releases.
        provenance: what the store was made from, and how.

    Raises:
        StoreError: if the file is missing, is not a store, has another schema version, or is
            damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not is_file(self.path):
            raise StoreError(f"{self.path} does not exist as a file; make it with ecg-build.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise StoreError(f"{self.path} is not a readable HDF5 file; {_REBUILD}.") from error
        try:
            self._read_tables()
        except BaseException:
            self._file.close()
            raise

    def _read_tables(self) -> None:
        file = self._file
        with self._broken_as_store_error():
            attributes = dict(file.attrs)
        if attributes.get("schema") != SCHEMA:
            raise StoreError(f"{self.path} is HDF5 but not a store of records; {_REBUILD}.")
        if attributes.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema version {attributes.get('schema_version')}, and this"
                f" release reads version {SCHEMA_VERSION}; {_REBUILD}."
            )
        with self._broken_as_store_error():
            self.dataset = str(attributes["dataset"])
            self.fs = float(attributes["fs"])
            self.provenance: dict[str, Any] = json.loads(attributes["provenance"])
            if not 0 < self.fs < math.inf:
                raise ValueError(f"its rate is {self.fs:g} Hz")
            self.ids = _decoded(_table(file, "ids", "S"))
            self.patients = _decoded(_table(file, "patients", "S"))
            self.sexes = _decoded(_table(file, "sexes", "S"))
            self.ages = _table(file, "ages", "f")
            self.folds = _table(file, "folds", "iu")
            self.sources = np.full(len(self.ids), "")
            if "sources" in file:
                self.sources = _decoded(_table(file, "sources", "S"))
            first_labels = _table(file, "first_labels", "i", ndim=(1, 2))
            self.checksums = _table(file, "checksums", "u") if "checksums" in file else None
            self._offsets = _table(file, "offsets", "i")
            self.lengths: np.ndarray = np.diff(self._offsets)
            self._signals = _dataset(file, "signals")
            labels = _own(file, "labels")
            self._labels: dict[str, np.ndarray] = {
                task: _table(labels, task, "ub", ndim=(2,)) for task in labels
            }
            self._class_names: dict[str, tuple[str, ...]] = {
                task: tuple(_texts(labels[task].attrs["class_names"])) for task in labels
            }
            self.tasks = tuple(self._labels)
            if first_labels.ndim == 2 and first_labels.shape[1] != len(self.tasks):
                raise ValueError("its first labels do not fit its tasks")
            self._first_labels: dict[str, np.ndarray] = {
                task: first_labels[:, i] if first_labels.ndim == 2 else first_labels
                for i, task in enumerate(self.tasks)
            }
            self._require_schema()

    def _require_schema(self) -> None:
        """Reject tables that contradict each other or the schema, whatever their checksums."""
        tables = [self.patients, self.sexes, self.ages, self.folds, self.sources]
        tables += self._first_labels.values()
        tables += [] if self.checksums is None else [self.checksums]
        sizes = {len(table) for table in [*tables, self.lengths, *self._labels.values()]}
        if sizes != {len(self.ids)} or len(self._signals) != self._offsets[-1]:
            raise ValueError("its tables are of different lengths")
        if self._signals.shape[1:] != (len(LEADS),) or self._signals.dtype != np.float32:
            raise ValueError(f"its signals are not float32 of {len(LEADS)} leads")
        if self._offsets[0] != 0 or (self.lengths < 1).any():
            raise ValueError("its offsets do not ascend from 0")
        if len(set(self.ids.tolist())) < len(self.ids):
            raise ValueError("two of its records have one name")
        for name in self.ids.tolist():
            require_record_name(name)
        # Fold 11 holds records used only for training; see mlbf-reproduce.
        if ((self.folds < 1) | (self.folds > 11)).any():
            raise ValueError("its folds are not 1 to 10")
        try:
            require_patients_apart(self.folds, self.patients)
        except StoreError as error:
            raise ValueError(str(error).rstrip(".")) from None
        most = max(map(len, self._class_names.values()), default=0)
        for task, names in self._class_names.items():
            require_name(task, "task")
            require_class_names(names)
            labels, first_labels = self._labels[task], self._first_labels[task]
            if ((first_labels < -1) | (first_labels >= most)).any():
                raise ValueError("its first labels are not among its classes")
            if labels.shape[1] != len(names):
                raise ValueError("its labels do not fit its classes")
            if (labels > 1).any():
                raise ValueError(f"its labels of {task} are not 0 and 1")

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.ids)

    def __enter__(self) -> "Store":
        """Return the store itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; the tables stay readable, the signals do not."""
        self._file.close()

    def resolve_task(self, task: str | None = None) -> str:
        """Check the name of a task, or return the only one.

        Args:
            task: its name; None for the only task of the store.

        Raises:
            StoreError: listing the tasks, if there is no such task or None is ambiguous.
        """
        if task is None and len(self.tasks) == 1:
            return self.tasks[0]
        if task not in self.tasks:
            asked = "holds several tasks" if task is None else f"has no task {task!r}"
            raise StoreError(f"{self.path} {asked}; name one of {', '.join(self.tasks)}.")
        return task

    def class_names(self, task: str | None = None) -> tuple[str, ...]:
        """Return the classes of a task, in the order of the label columns."""
        return self._class_names[self.resolve_task(task)]

    def labels(self, task: str | None = None) -> np.ndarray:
        """Return the labels of a task: uint8 ``(N, C)``, 1 if a record has the class."""
        return self._labels[self.resolve_task(task)]

    def first_labels(self, task: str | None = None) -> np.ndarray:
        """Return the main class: int16 ``(N,)``, 0-based, -1 if unknown."""
        return self._first_labels[self.resolve_task(task)]

    def records_of(self, task: str | None = None, *, single_label: bool = False) -> np.ndarray:
        """Return the records that can be used for a task.

        Args:
            task: its name; None for the only task of the store.
            single_label: leave out records with several labels in unknown order, which a
                single-label network can neither learn from nor be scored on.

        Returns:
            Indices, int64, of the records with at least one label of the task.
        """
        labels = self.labels(task)
        if single_label:
            return np.flatnonzero(main_labels(labels, self.first_labels(task)) >= 0)
        return np.flatnonzero(labels.any(axis=1))

    def signal(self, index: int) -> np.ndarray:
        """Read one record.

        Args:
            index: 0 to N - 1.

        Returns:
            float32 ``(time, 12)``, millivolts at the store's rate.

        Raises:
            StoreError: if the file is damaged there, or the signal changed after it was written.
        """
        with self._broken_as_store_error():
            signal = np.asarray(self._signals[self._offsets[index] : self._offsets[index + 1]])
            if not np.isfinite(signal).all():
                raise ValueError(f"the record {self.ids[index]} has invalid samples")
        if self.checksums is not None and _checksum(signal) != self.checksums[index]:
            raise StoreError(
                f"the record {self.ids[index]} in {self.path} has changed since it was written"
                f" (its checksum differs); copy the store again, or {_REBUILD}."
            )
        return signal

    @contextmanager
    def _broken_as_store_error(self) -> Iterator[None]:
        """Convert the errors by which HDF5 reports damage: the type depends on where it is."""
        try:
            yield
        except (
            *(OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError),
            *(ArithmeticError, MemoryError),
        ) as error:
            raise StoreError(f"{self.path} is broken ({error}); {_REBUILD}.") from error


def _own(group: h5py.Group, name: str) -> Any:
    """An item of a group itself, never a link, which could point into another file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"its {name} is missing or a link to elsewhere")
    return group[name]


def _texts(written: str) -> list[str]:
    """The texts of a JSON list."""
    texts = json.loads(written)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its classes are not a list of names")
    return texts


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset stored completely in the file."""
    dataset = _own(group, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"its {name} is not a dataset, or its values are in another file")
    # Data that were never written take no space and would be read as any number of zeros.
    packed = dataset.id.get_create_plist().get_nfilters()
    if not packed and dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"its {name} has fewer values than it states")
    return dataset


def _table(group: h5py.Group, name: str, kinds: str, *, ndim: tuple[int, ...] = (1,)) -> np.ndarray:
    """Read a whole dataset and verify its type and its checksum, if it has one."""
    dataset = _dataset(group, name)
    if dataset.dtype.kind not in kinds or dataset.ndim not in ndim or dataset.nbytes > _MOST_TABLE:
        raise ValueError(f"its {name} is of type {dataset.dtype} and shape {dataset.shape}")
    table: np.ndarray = dataset[:]
    if dataset.attrs.get("crc32", _checksum(table)) != _checksum(table):
        raise ValueError(f"its table {dataset.name} has changed since it was written")
    return table


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of the values, for any byte order of the machine."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return zlib.crc32(np.ascontiguousarray(little).view(np.uint8).data)


def _encoded(texts: Sequence[str]) -> np.ndarray:
    return np.char.encode(np.array(texts, dtype=np.str_), "utf-8")


def _decoded(texts: np.ndarray) -> np.ndarray:
    return np.char.decode(texts, "utf-8")
