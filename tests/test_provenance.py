import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import data_prep
from data_prep import provenance


@pytest.fixture(autouse=True)
def git_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of whoever runs the tests nor, in a hook of git's, those of the checkout."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def copy_in(folder: Path) -> ModuleType:
    """Import a copy of the module from another place."""
    folder.mkdir(parents=True)
    path = Path(shutil.copy(provenance.__file__, folder / "provenance.py"))
    spec = importlib.util.spec_from_file_location("provenance_copy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_everything_is_told_and_can_be_written_as_json() -> None:
    found = provenance.provenance()
    assert found["numpy"] == version("numpy")
    assert found["tensorflow"] == version("tensorflow")
    assert found["keras"] == version("keras")
    assert found["ecg-keras"] == data_prep.__version__
    assert isinstance(found["cores"], int) and found["cores"] > 0
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_and_the_form_of_the_convolutions(allowed: bool) -> None:
    import tensorflow as tf

    import mlbf_keras.layers  # noqa: F401
    import mrm_keras.convolution  # noqa: F401

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        found = provenance.provenance()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    assert found["TF32"] == ("allowed" if allowed else "off")
    assert found["MLBF-Net's convolutions"] == (
        "each batch in 4 slices of similar length, 2 outputs at once"
    )
    assert found["MRM-Net's convolutions"] == "by Fourier transform from 16 taps on"


def test_tensorflow_is_not_imported_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    assert "TF32" not in provenance.provenance()
    assert "tensorflow" not in sys.modules


def test_the_commit_of_the_checkout(tmp_path: Path) -> None:
    module = copy_in(tmp_path / "data_prep")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Start")
    commit = git(tmp_path, "rev-parse", "--short", "HEAD")
    assert module.provenance()["commit"] == commit
    (tmp_path / "notes.txt").write_text("not part of the checkout")
    assert module.provenance()["commit"] == commit
    (tmp_path / "data_prep" / "provenance.py").write_text("changed = True\n")
    assert module.provenance()["commit"] == commit + "+"


def test_no_commit_outside_a_checkout(tmp_path: Path) -> None:
    assert copy_in(tmp_path / "site-packages" / "data_prep").provenance()["commit"] == "unknown"


def test_the_commit_of_someone_elses_repository_is_not_ours(tmp_path: Path) -> None:
    """A package installed into an environment inside another project's checkout."""
    (tmp_path / "README").write_text("another project")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-q", "-m", "Start")
    module = copy_in(tmp_path / ".venv" / "site-packages" / "data_prep")
    assert module.provenance()["commit"] == "unknown"


def test_no_commit_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.provenance()["commit"] == "unknown"


def test_unknown_packages_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.provenance()["no-such-package"] == "unknown"
