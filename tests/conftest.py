"""What several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real records: $ECG_KERAS_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ECG_KERAS_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real records: {folder} is absent (set ECG_KERAS_DATA to their folder)")
    return folder
