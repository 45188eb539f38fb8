"""The records read so far, so that a killed build need not read them again.

An HDF5 file is lost if the process that writes it is killed.  The journal is a plain append-only
file: a line of JSON that identifies the build, then one entry per record: the sizes of its two
parts and their CRC-32 (three little-endian uint32), the record's fields as JSON, its signal as
float32.  A truncated entry fails its checksum and is dropped.
"""

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import StoreError
from data_prep.files import is_file
from data_prep.labels import LEADS

_SIZES = struct.Struct("<3I")
_FIRST = b'{"ecg-keras journal": '


class Journal:
    """A file of the records read, in that order; used in a ``with`` block.

    Args:
        path: of the file; it is created if missing, and replaced if it belongs to another build.
        belongs_to: a text that is equal only for the same records with the same options.

    Raises:
        StoreError: if the file exists and is not a journal.

    Attributes:
        count: number of complete entries.
    """

    def __init__(self, path: Path, *, belongs_to: str) -> None:
        self.path = Path(path)
        self.count = 0
        self._head = _FIRST + json.dumps(belongs_to).encode() + b"}\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.path) and not is_file(self.path):
            raise OSError(errno.EINVAL, "it is not a regular file", str(self.path))
        self._file = open(self.path, "a+b")
        try:
            self._file.seek(0)
            start = self._file.read(len(self._head))
            if not start.startswith(_FIRST[: len(start)]):
                raise StoreError(
                    f"{self.path} exists and is not a journal of ecg-build; give another --out,"
                    " or move it."
                )
            if start != self._head:
                self._file.truncate(0)
                self._file.write(self._head)
            end = len(self._head)
            for _, size in self._entries():
                self.count += 1
                end += size
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        """Return the journal itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; it stays."""
        self._file.close()

    def append(self, fields: Mapping[str, Any], signal: np.ndarray | None) -> None:
        """Add an entry.

        Args:
            fields: JSON-serialisable values.
            signal: float32 ``(time, 12)``, or None.
        """
        text = json.dumps({**fields, "signal": signal is not None}).encode()
        samples = b"" if signal is None else signal.astype("<f4").tobytes()
        checksum = zlib.crc32(samples, zlib.crc32(text))
        self._file.write(_SIZES.pack(len(text), len(samples), checksum) + text + samples)
        self.count += 1

    def flush(self) -> None:
        """Flush new entries to the operating system, to survive a kill of this process."""
        self._file.flush()

    def remove(self) -> None:
        """Close the file and remove it."""
        self._file.close()
        self.path.unlink()

    def entries(self) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """Return the entries that were complete when the journal was opened.

        Read them all before adding new ones.
        """
        for entry, _ in self._entries():
            yield entry

    def _entries(self) -> Iterator[tuple[tuple[dict[str, Any], np.ndarray | None], int]]:
        """The complete entries in order, each with its size in bytes."""
        self._file.seek(len(self._head))
        rest = self.path.stat().st_size - len(self._head)
        while len(sizes := self._file.read(_SIZES.size)) == _SIZES.size:
            text_size, signal_size, checksum = _SIZES.unpack(sizes)
            size = _SIZES.size + text_size + signal_size
            rest -= size
            if rest < 0:
                return
            text, samples = self._file.read(text_size), self._file.read(signal_size)
            if zlib.crc32(samples, zlib.crc32(text)) != checksum:
                return
            fields = json.loads(text)
            signal = np.frombuffer(samples, "<f4").reshape(-1, len(LEADS))
            yield (fields, signal.astype(np.float32) if fields.pop("signal") else None), size
