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
