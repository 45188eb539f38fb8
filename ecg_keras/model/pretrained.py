"""Finds the files of pretrained models: in a checkout, in an installation, or by download.

Does not import Keras, so that commands can list the names at once.
"""

import csv
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from data_prep.errors import DownloadError, ModelFileError, OptionError
from data_prep.files import sha256_of

ADDRESS = "ECG_KERAS_PRETRAINED"
"""Environment variable with the URL of the folder that pretrained models are downloaded from."""

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1] / "pretrained"


@dataclass(frozen=True)
class Pretrained:
    """A published model.

    Attributes:
        name: its name, such as ``"mrm-net-ptbxl-all"``.
        sha256: SHA-256 of its file, in hexadecimal.
        description: one line about network, training data, classes and score.
    """

    name: str
    sha256: str
    description: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return file_name(self.name)


def file_name(name: str) -> str:
    """Return the name of the file of a pretrained model, such as ``mrm_net_ptbxl_all.keras``."""
    return name.replace("-", "_") + ".keras"


@cache
def pretrained_models() -> dict[str, Pretrained]:
    """Return all published models by name."""
    with open(_HERE / "pretrained.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: Pretrained(**row) for row in csv.DictReader(file)}


def pretrained_file(name: str, *, address: str | None = None) -> Path:
    """Find the file of a pretrained model, and check that it is the published one.

    It is looked for in the folder ``pretrained`` of a checkout, then in the installed package;
    otherwise it is downloaded once into the user's cache.

    Args:
        name: one of :func:`pretrained_models`.
        address: URL of the folder to download from; by default that in the environment variable
            :data:`ADDRESS`.

    Returns:
        The path of the file.

    Raises:
        OptionError: if there is no pretrained model of that name.
        DownloadError: if it has to be downloaded and cannot be.
        ModelFileError: if the file found is not the published one.
    """
    known = pretrained_models()
    if name not in known:
        raise OptionError(
            f"there is no pretrained model {name!r}; ecg-predict --list-pretrained lists"
            f" {', '.join(known) or 'none yet'}."
        )
    model = known[name]
    path = _local(model.file)
    if path is None:
        return _downloaded(model, address or os.environ.get(ADDRESS, ""))
    if sha256_of(path) != model.sha256:
        raise ModelFileError(
            f"{path} is not the published model {name} (its SHA-256 does not match); restore it, or"
            " remove it so that it is downloaded again."
        )
    return path


def _local(file: str) -> Path | None:
    """Find a file in a checkout or in an installation."""
    if (_CHECKOUT / file).is_file():
        return _CHECKOUT / file
    try:
        installed = files("ecg-keras") or []
    except PackageNotFoundError:
        return None
    found = (Path(str(each.locate())).resolve() for each in installed if each.name == file)
    return next((path for path in found if path.is_file()), None)


def _downloaded(model: Pretrained, address: str) -> Path:
    import pooch
    import requests

    cached = Path(pooch.os_cache("ecg-keras")) / model.file
    if cached.is_file() and sha256_of(cached) == model.sha256:
        return cached
    if not address:
        raise DownloadError(
            f"{model.name} is not part of this installation; set {ADDRESS} to the URL of a folder"
            f" that holds {model.file}."
        )
    url = f"{address.rstrip('/')}/{model.file}"
    try:
        return Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{model.sha256}",
                fname=model.file,
                path=pooch.os_cache("ecg-keras"),
            )
        )
    except requests.RequestException as error:
        reason = getattr(error.response, "status_code", None) or type(error).__name__
        raise DownloadError(
            f"{url} cannot be downloaded ({reason}); check the address and your network."
        ) from error
    except ValueError as error:
        what = (
            f"holds another file than the published model {model.name} (its SHA-256 does not match)"
            if "hash" in str(error)
            else "is not an address of http or https"
        )
        raise DownloadError(f"{url} {what}; give another address in {ADDRESS}.") from error
