"""NumPy's files: what would fill the memory is refused before it does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.npz import read_npz


def test_arrays_are_those_written(tmp_path: Path) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.array(["I", "aVR"])
    written: dict[str, Any] = {"a": a, "b": b, "c": np.array(True)}
    np.savez(tmp_path / "a.npz", **written)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(written)
    for name, array in written.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert len(read_npz(tmp_path / "a.npz", most_values={"b": 2})["a"]) == 0


def test_size_is_bounded(tmp_path: Path) -> None:
    """Of each array and of all together, although the file itself is small."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1000), b=np.zeros(1000))
    assert path.stat().st_size < 1000
    assert len(read_npz(path, most_bytes=16_000)) == 2
    for limits in ({"most_bytes": 15_999}, {"most_values": {"a": 1000, "b": 999}}):
        with pytest.raises(ValueError, match=r"an array of shape \(1000,\) .* is too large"):
            read_npz(path, **limits)
    with pytest.raises(OSError, match="too large"):
        read_npz(path, most_bytes=100)


def test_a_file_of_which_only_some_arrays_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.array(["x" * 251]), b=np.zeros(1))  # 1,004 bytes
    assert len(read_npz(path, most_values={"b": 1})["b"]) == 1
    with pytest.raises(ValueError, match="is too large"):
        read_npz(path, most_values={"a": 1})
    many: dict[str, Any] = {f"a{i}": np.zeros(1) for i in range(101)}
    np.savez(path, **many)
    assert len(read_npz(path)) == 101
    with pytest.raises(ValueError, match="more than 100 arrays"):
        read_npz(path, most_values={"a1": 1})
