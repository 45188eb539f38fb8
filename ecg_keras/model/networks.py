"""Finds the installed package that provides a network, by the network's name in the contract.

A package announces its networks in the entry-point group ``ecg_keras.networks``, one line each,
such as ``MRM-Net = mrm_keras.model``: the module that registers the network's layers when it is
imported.  The package may also have

- ``PACKAGE.plain`` with ``PLAIN``, for export,
- ``PACKAGE.explain`` with ``Explainer``, for explanations,
- ``PACKAGE.train`` with ``NETWORKS``, the options of each network it trains (see
  :class:`ecg_keras.training.fit.Network`) by name, and ``TRAINING``, its ``Settings``, for
  :class:`ecg_keras.prediction.classifier.ECGClassifier`; the announced module then has
  ``SAMPLING_RATE``.
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
    """Import an optional module of the package that provides a network.

    Args:
        network: name of the network in its contract.
        name: name of the module, ``"plain"``, ``"explain"`` or ``"train"``.

    Returns:
        The module; None if no installed package announces the network, or the package has no such
        module.
    """
    module = announced().get(network)
    if module is None:
        return None
    package = module.partition(".")[0]
    if not hasattr(import_module(package), "__path__"):  # a single-file module
        return None
    dotted = f"{package}.{name}"
    return import_module(dotted) if find_spec(dotted) else None
