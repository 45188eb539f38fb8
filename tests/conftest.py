"""What several test files share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

# The files that take longest, the longest first.
LONGEST = ("test_notebooks", "test_pipeline", "test_devices", "test_benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist deal out the files in the order below, not those of most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no core is left alone with one at the end."""
    items.sort(key=lambda item: (*LONGEST, item.path.stem).index(item.path.stem))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the tests what takes longer than their few steps."""
    if "tensorflow" in sys.modules:
        leave_graphs_as_traced()


def leave_graphs_as_traced() -> None:
    """Have TensorFlow optimise no graph in this process; those that tests start do as ever."""
    from ecg_keras.model.backend import tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="module")
def graphs_as_in_use() -> Iterator[None]:
    """Have TensorFlow optimise graphs after all: for what the networks are to equal."""
    from ecg_keras.model.backend import tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    leave_graphs_as_traced()


@pytest.fixture(scope="session", autouse=True)
def without_a_proxy_to_this_machine() -> Iterator[None]:
    """The tests' own servers are here, and a proxy elsewhere would not find them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture
def undrawn_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a third of a training of the toy network, and few tests look at the curves."""
    monkeypatch.setattr("ecg_keras.training.fit.plot_learning_curves", lambda *_, **__: Figure())


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """Losses of power are no test's matter but that of ``written_whole``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real records: $ECG_KERAS_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ECG_KERAS_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real records: {folder} is absent (set ECG_KERAS_DATA to their folder)")
    return folder
