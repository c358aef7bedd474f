"""The embedded default: a grounded world drawn by code, and a tiny policy that can learn it on a laptop.

Importing this package lets `AutoProcessor.from_pretrained` load a toy checkpoint, whichever is imported first. It
stays light: transformers (seconds of import) is not loaded here, the registration happens when its table exists.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TABLE = "transformers.models.auto.processing_auto"


def _register() -> None:
    from sayo.toyworld.processor import register

    register()


class _RegisterAfterImport(MetaPathFinder):
    """Registers the toy processors right after transformers has made its table of processors."""

    def find_spec(self, fullname: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register
        return spec


if _TABLE in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterImport())
