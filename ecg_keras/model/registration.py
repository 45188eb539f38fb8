"""Registers the layers of all networks with Keras, so that Keras itself can open their files."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from ecg_keras.model.networks import announced


def register_networks() -> None:
    """Import the layers of every announced network; warn if a package fails to import."""
    for module in sorted(set(announced().values())):
        try:
            import_module(module)
        except Exception as error:  # A third-party package can fail in any way.
            warnings.warn(
                f"the networks of {module} cannot be opened, because importing it failed:"
                f" {error}; update or uninstall the package.",
                stacklevel=2,
            )


def register_with_keras() -> None:
    """Register the networks now if Keras is already imported, otherwise as soon as it is."""
    if "keras" in sys.modules:
        _register_unless_importing()
    else:
        # Just before the finder that would find Keras, after any that others put first.
        sys.meta_path.insert(sys.meta_path.index(PathFinder), _AfterKeras())


def _register_unless_importing() -> None:
    """Register, unless Keras or our backend is still being imported: that would be circular.

    A model module that imports Keras registers its own layers; ``ecg_keras.load_model`` registers
    the others.
    """
    if not any(_importing(sys.modules.get(name)) for name in ("keras", "ecg_keras.model.backend")):
        register_networks()


def _importing(module: ModuleType | None) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _AfterKeras(MetaPathFinder):
    """Finds ``keras`` once, and registers the networks after its module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if not _importing(sys.modules.get("ecg_keras.model.backend")):
                register_networks()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
