"""The wheel holds all that a user needs, and works away from the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "ecg-build",
    "ecg-download",
    "ecg-evaluate",
    "ecg-synthetic",
    "mlbf-export",
    "mlbf-predict",
    "mlbf-reproduce",
    "mlbf-train",
    "mrm-export",
    "mrm-predict",
    "mrm-train",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it as pip does; its dependencies are there already."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, CHECKOUT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


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
@pytest.mark.parametrize("command", COMMANDS)
def test_wheel_brings_every_command(installed: Path, tmp_path: Path, command: str) -> None:
    shown = run(installed, tmp_path, sys.executable, installed / "bin" / command, "--help")
    assert f"{command} [-h]" in shown.splitlines()[0]
