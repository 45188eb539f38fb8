"""Files that are either complete or absent, and are written by one process at a time."""

import csv
import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.errors import OptionError
from data_prep.names import shown

# Disk or quota full, file larger than the system or the shell allows, disk failure: the system
# does not say which file was being written.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


MOST_BYTES = 2**30
"""Size limit of a recording or table, in bytes, also after decompression."""

MOST_VALUES = 2**26
"""Limit on the samples of all signals of a recording: twelve leads, an hour at 1500 Hz."""


def is_file(path: Path) -> bool:
    """Whether this is a regular file or a link to one; False if no file can have this name."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def opened(path: Path, *, most: int = MOST_BYTES) -> BinaryIO:
    """Open a regular file for reading.

    Reading a pipe would wait for a writer, and reading a device might never end.

    Args:
        path: of the file, or of a link to it.
        most: largest allowed size, bytes.

    Raises:
        OSError: if it cannot be read, is not a regular file, or is larger.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    # If it has become a pipe in the meantime, opening does not wait either.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _WITHOUT_WAITING))
    state = os.fstat(file.fileno())
    if stat.S_ISREG(state.st_mode) and state.st_size <= most:
        return file
    file.close()
    raise OSError(errno.EFBIG, f"it is too large: more than {most} bytes", str(path))


def read_json(path: Path) -> Any:
    """Read a small JSON file, such as the settings of a training.

    Args:
        path: of the file.

    Raises:
        OSError: if it cannot be read, is not a regular file, or is larger than 64 MB.
        ValueError: if it is not JSON in UTF-8, or nested too deeply.
    """
    with opened(path, most=2**26) as file:
        try:
            return json.loads(file.read())
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write to, and rename it to ``path`` at the end.

    The data are flushed to disk before the renaming, so that even a power failure leaves either
    the old file or the new one.

    Args:
        path: the file to make; its folder is created.

    Raises:
        OSError: if ``path`` is a folder, pipe, device or broken link, or cannot be written.

    Yields:
        ``path`` with ``.part`` before its suffix (``best.part.keras``), for libraries that check
        the suffix; removed if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    for each in (path, part):  # a device would be replaced, and a pipe would wait for a reader
        if os.path.lexists(each) and not is_file(each):
            raise OSError(errno.EINVAL, "it is not a regular file", str(each))
    try:
        yield part
        _flush_to_disk(part)
        os.replace(part, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        if error.errno in _DISK_ERRORS and not error.filename:
            # To the user, an exhausted quota is a full disk.
            number = errno.ENOSPC if error.errno == errno.EDQUOT else error.errno
            raise OSError(number, error.strerror, str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, so that they survive a power failure."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some shared folders cannot flush the names in a folder
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write :func:`csv_text` to a file in UTF-8; characters it cannot encode become escapes.

    Args:
        path: of the table; its folder is created.
        header: names of the columns.
        rows: of cells.
    """
    with written_whole(path) as part:
        part.write_bytes(csv_text(header, rows).encode(errors="backslashreplace"))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table so that spreadsheet programs show it as it is.

    They run text that begins with =, +, - or @ as a formula, so an apostrophe is put before it.
    Numbers stay as they are; control characters and line breaks become escapes.

    Args:
        header: names of the columns.
        rows: of cells; None is an empty one.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(cell) for cell in header])
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


_FORMULAS = tuple("=+-@＝＋－＠")  # in East Asian locales, also the full-width characters


def _harmless(cell: object) -> object:
    text = shown(str(cell)) if cell is not None else ""
    if text == "-" or not text.startswith(_FORMULAS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


@contextmanager
def locked(path: Path, *, doing: str) -> Iterator[None]:
    """Keep other processes from writing the same file or folder.

    The operating system releases the lock when its process ends, even if it is killed.  A hidden
    file ``.NAME.lock`` that a killed process leaves beside ``path`` locks nothing.  File systems
    without locks, such as some network drives, are written without one.

    Args:
        path: the file or folder to write; its parent folder is created.
        doing: the participle for the error in the other process, such as ``"trained"``.

    Raises:
        OptionError: if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        holder = "another process"
        with suppress(OSError):
            holder = file.read_text(errors="replace") or holder
        raise OptionError(
            f"{path} is being {doing} by {holder}; wait until that ends, or choose another --out."
        ) from None
    except OSError as error:
        if error.filename:  # it cannot be created; an error without a file name means no locks
            raise
    try:
        with suppress(OSError):  # on Windows, a locked file cannot be written to
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):  # on Windows, releasing removes it
            file.unlink()
        lock.release()
        if is_new and not any(path.parent.iterdir()):
            path.parent.rmdir()


@contextmanager
def written_as_one(
    folder: Path, *, names: Sequence[str], inputs: Sequence[Path] = ()
) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` to write to, which replaces ``folder`` at the end.

    The results of an earlier run are replaced all at once; until then, and if the block raises or
    the process is killed, the folder is unchanged.  Files that do not match ``names`` are kept.
    Other processes cannot write to the same folder meanwhile.

    Args:
        folder: to create or replace.
        names: patterns of the files and folders that a run may write, such as ``"*.png"``.
        inputs: files that the run reads; none may be in the folder.

    Yields:
        ``.NAME.part`` beside the folder.

    Raises:
        OptionError: if the folder is a file, holds an input, or is or holds the current folder, or
            if another process is writing to it.
    """
    place = Path(os.path.realpath(folder))
    if os.path.lexists(place) and not place.is_dir():
        raise OptionError(f"{folder} is a file, not a folder; give another place with --out.")
    if place == Path.cwd() or place in Path.cwd().parents:
        raise OptionError(
            f"--out {folder} is the folder you are in, or one above it; give a folder of its own,"
            " such as --out answers."
        )
    for path in inputs:
        read = Path(os.path.realpath(path))
        if place in (read, *read.parents):
            raise OptionError(
                f"--out {folder} holds {path}, which is read; give a folder of its own, such as"
                f" --out {folder / 'out'}."
            )
    if os.path.ismount(place):
        raise OptionError(
            f"--out {folder} is where a disk is mounted, which cannot be replaced; give a folder in"
            f" it, such as --out {folder / 'out'}."
        )
    part, old = (place.with_name(f".{place.name}.{ending}") for ending in ("part", "old"))
    with locked(place, doing="written"):
        if old.exists() and not place.exists():  # killed between two renames
            os.replace(old, place)
        for left in (part, old):
            _clear(left, place, names)
        part.mkdir()
        try:
            yield part
            if not place.exists():
                os.replace(part, place)
            elif not _exchange(part, place):
                os.replace(place, old)
                os.replace(part, place)
            _flush_to_disk(place.parent)
        finally:
            for left in (part, old):
                _clear(left, place, names)


def _clear(left: Path, place: Path, names: Sequence[str]) -> None:
    """Remove a folder that is no longer needed, after moving the user's own files to ``place``."""
    if not left.is_dir():
        return
    for entry in left.iterdir():
        whole = entry.name.replace(".part", "")  # of a file that was being written
        ours = any(fnmatch(whole, name) for name in names)
        if not ours and place.is_dir() and not (place / entry.name).exists():
            os.replace(entry, place / entry.name)
    shutil.rmtree(left)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders atomically; False if the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename(current, os.fsencode(one), current, os.fsencode(other), exchange) == 0


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; the file is read in blocks.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
