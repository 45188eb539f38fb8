import csv
import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest

from data_prep import files
from data_prep.errors import OptionError
from data_prep.files import (
    is_file,
    locked,
    opened,
    read_json,
    write_csv,
    written_as_one,
    written_whole,
)


def test_a_complete_file_takes_its_name_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a" / "best.keras"
    with written_whole(path) as part:
        part.write_text("whole")
        assert part.parent == path.parent and part.suffix == ".keras" and part != path
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "device"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    """As root, ecg-build --out /dev/null would replace the device for all programs."""
    path = tmp_path / "s.h5"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if kind == "device" else tmp_path / "nowhere")
    with pytest.raises(OSError, match="not a regular file"), written_whole(path) as part:
        part.write_text("whole")
    assert os.listdir(tmp_path) == ["s.h5"] and not is_file(path)


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
def test_what_stood_there_stays_when_writing_fails(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "history.csv"
    path.write_text("before")
    with pytest.raises(kind), written_whole(path) as part:
        part.write_text("half of")
        raise kind
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "a.csv"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with written_whole(tmp_path / "a.csv") as part:
            part.write_text(text)
    assert (tmp_path / "a.csv").read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 1


def test_it_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name before the block is left, so that a power cut leaves the old file or the new."""
    path, done, rename = tmp_path / "a.csv", [], os.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def replace(source: Path, target: Path) -> None:
        done.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with written_whole(path) as part:
        part.write_text("whole")
    assert done == [part.name, "renamed", tmp_path.name]


def test_a_file_larger_than_the_shell_allows_is_named(tmp_path: Path) -> None:
    """What the system says of a write names no file."""
    path, (soft, hard) = tmp_path / "a.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as caught, written_whole(path) as part:
            part.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "run" / "fold_1", doing="trained"):
        (tmp_path / "run" / "fold_1").mkdir()
    assert os.listdir(tmp_path / "run") == ["fold_1"]


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / ".s.h5.lock").mkdir()
    with pytest.raises(OSError) as caught, locked(tmp_path / "s.h5", doing="built"):
        raise AssertionError("it was locked")
    assert str(caught.value.filename).endswith(".s.h5.lock")


def test_a_lock_that_names_nobody_still_holds(tmp_path: Path) -> None:
    with locked(tmp_path / "s.h5", doing="built"):
        (tmp_path / ".s.h5.lock").write_text("")
        with pytest.raises(OptionError, match=r"s\.h5 .* another process"):
            with locked(tmp_path / "s.h5", doing="built"):
                pass


def test_only_regular_files_within_bounds_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / name)
        with pytest.raises(OSError, match="not a regular file"):
            opened(tmp_path / "link")
        assert not is_file(tmp_path / "link")
    with pytest.raises(OSError, match="more than 4 bytes"):
        opened(tmp_path / "a", most=4)
    with opened(tmp_path / "a", most=5) as file:
        assert file.read() == b"12345"
    assert not is_file(tmp_path / ("a" * 300)) and not is_file(tmp_path / "a\0b")


def test_only_small_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deeply"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        read_json(path)


def test_tables_run_no_formulas(tmp_path: Path) -> None:
    row = ["=1+2", "+cmd", "-x", "@sum", "＝1", "\t=1", "-0.5", "+1e3", -2.0, -3, "a=1", "-nan"]
    row += ["\udce4", "a\x1b[2J\n"]
    write_csv(tmp_path / "new" / "a.csv", ["=a", "b"], [row])
    with open(tmp_path / "new" / "a.csv", newline="") as file:
        header, read = csv.reader(file)
    assert header == ["'=a", "b"]
    assert read[:6] == ["'=1+2", "'+cmd", "'-x", "'@sum", "'＝1", "\\t=1"]
    assert read[6:12] == ["-0.5", "+1e3", "-2.0", "-3", "a=1", "-nan"]
    assert read[12:] == ["\\udce4", "a\\x1b[2J\\n"]


NAMES = ("answers.csv", "*_roc.png")


def written(folder: Path, **texts: str) -> None:
    with written_as_one(folder, names=NAMES) as part:
        for name, text in texts.items():
            (part / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """Also on systems where two folders cannot swap their names."""
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    out = tmp_path / "new" / "out"
    written(out, answers__csv="first", a_roc__png="first")
    (out / "notes.txt").write_text("mine")
    written(out, answers__csv="second")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "answers.csv": "second",
        "notes.txt": "mine",
    }
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, renames: int) -> None:
    out = tmp_path / "out"
    written(out, answers__csv="first")
    (out / "notes.txt").write_text("mine")
    # As a killed process leaves them: half of a new folder, and the old one under another name.
    (tmp_path / ".out.part").mkdir()
    for name in ("answers.csv", "answers.part.csv", "a_roc.part.png"):
        (tmp_path / ".out.part" / name).write_text("half")
    if renames:
        out.rename(tmp_path / ".out.old")
    with pytest.raises(ZeroDivisionError), written_as_one(out, names=NAMES) as part:
        assert not list(part.iterdir())
        raise ZeroDivisionError
    assert (out / "answers.csv").read_text() == "first"
    assert (out / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(out)) == ["answers.csv", "notes.txt"]
    assert list(tmp_path.iterdir()) == [out]


def test_two_at_once_never_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with written_as_one(out, names=NAMES) as part:
        (part / "answers.csv").write_text("first")
        with pytest.raises(OptionError, match="is being written by process"):
            written(out, answers__csv="second")
    assert (out / "answers.csv").read_text() == "first"
