"""Which installed package provides a network, by its name in the contract.

A package announces its networks in the entry-point group ``ecg_keras.networks``, one line each,
such as ``MRM-Net = mrm_keras.model``: the module that registers the network's layers once it is
imported.  Beside it, the package may have

- ``PACKAGE.plain`` with ``PLAIN``, for export,
- ``PACKAGE.explain`` with ``Explainer``, for explanations.
"""

from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType

GROUP = "ecg_keras.networks"


def announced() -> dict[str, str]:
    """Return the module of each announced network, by the network's name."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def part(network: str, name: str) -> ModuleType | None:
    """Import a part of the package that provides a network.

    Args:
        network: its name in the contract.
        name: of the part, such as ``"plain"`` or ``"explain"``.

    Returns:
        The module; None if no installed package announces the network, or it has no such part.
    """
    module = announced().get(network)
    if module is None:
        return None
    package = module.partition(".")[0]
    if not hasattr(import_module(package), "__path__"):  # a single file has no parts
        return None
    dotted = f"{package}.{name}"
    return import_module(dotted) if find_spec(dotted) else None
