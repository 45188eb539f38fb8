"""The wheel holds all that a user needs, and works away from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_commands import SCRIPTS

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it away from here; its dependencies are there already.

    Of a copy of what a container gets: a wheel would take over what earlier builds have left.
    """
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for line in (CHECKOUT / ".dockerignore").read_text().split():
        kept = CHECKOUT / line.removeprefix("!")
        if kept.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(kept, copy / kept.name, ignore=ignored)
        elif kept.is_file():
            shutil.copy(kept, copy)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, copy], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--ignore-installed", "--prefix", folder / "away", wheel],
        check=True,
    )
    return folder / "away"


@pytest.fixture(scope="module")
def installed(prefix: Path) -> Path:
    """The folder of the installed packages."""
    (package,) = prefix.rglob("ecg_keras/__init__.py")
    return package.parents[1]


def run(installed: Path, cwd: Path, *command: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import data_prep, ecg_keras, mlbf_keras, mrm_keras\n"
        "for package in (data_prep, ecg_keras, mlbf_keras, mrm_keras):\n"
        "    print(package.__file__)\n"
        "print(mlbf_keras.build_model(input_length=256, filters=2, gru_units=2).name)\n"
    )
    *files, name = run(installed, tmp_path, sys.executable, "-c", code).split()
    assert all(Path(file).is_relative_to(installed) for file in files)
    assert name == "mlbf_net"
    for package in ("data_prep", "ecg_keras", "mlbf_keras", "mrm_keras"):
        assert (installed / package / "py.typed").is_file()


@pytest.mark.slow
def test_wheel_brings_the_published_models(installed: Path, tmp_path: Path) -> None:
    code = (
        "from ecg_keras.model.pretrained import pretrained_file, pretrained_models\n"
        "for name in pretrained_models():\n"
        "    print(name, pretrained_file(name))\n"
    )
    found = run(installed, tmp_path, sys.executable, "-c", code).splitlines()
    listed = (CHECKOUT / "ecg_keras" / "model" / "pretrained.csv").read_text(encoding="utf-8")
    assert [line.split()[0] for line in found] == [
        line.partition(",")[0] for line in listed.splitlines()[1:]
    ]
    assert not [line for line in found if str(CHECKOUT) in line]


@pytest.mark.slow
@pytest.mark.parametrize("command", SCRIPTS)
def test_wheel_brings_every_command(
    prefix: Path, installed: Path, tmp_path: Path, command: str
) -> None:
    (script,) = prefix.rglob(f"bin/{command}")
    shown = run(installed, tmp_path, sys.executable, script, "--help")
    assert "-h, --help" in shown
