"""Provenance of a result: versions, commit, machine."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_prep import __version__

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn")

FORMS: dict[str, str] = {}
"""Which of several implementations the networks of this process use; each adds its own."""


def provenance() -> dict[str, str | int]:
    """Return versions, commit, implementations and machine, to be saved with a result."""
    return {
        "ecg-keras": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        **_precision(),
        **FORMS,
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": os.cpu_count() or 0,
    }


def _precision() -> dict[str, str]:
    """Whether TensorFlow, if in use, may round to TF32 (GPUs) and uses oneDNN (CPUs)."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return {}
    allowed = tensorflow.config.experimental.tensor_float_32_execution_enabled()
    onednn = {"0": "off", "1": "on"}.get(os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""))
    return {"TF32": "allowed" if allowed else "off", "oneDNN": onednn or "TensorFlow's default"}


def version_of(package: str) -> str:
    """Return the version of a package without importing it, ``"unknown"`` if not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """The commit of the checkout this code runs from, with a plus sign if files were changed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # Fails for a package that is installed inside the checkout of another project.
        _, commit, changes = (
            subprocess.run(
                [*git, *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (
                ("ls-files", "--error-unmatch", Path(__file__).name),
                ("rev-parse", "--short", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changes else "")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
