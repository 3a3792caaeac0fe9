"""When the plug-in registers itself with fairseq: as late as can be, and never too late.

fairseq and torch take seconds to import, and ``cress-svcd --help`` shall not wait for them.  So
importing the package does not import them.  It has :mod:`cress_svcd.plugin` imported

- at once, where fairseq has been imported before: it imports its ``--user-dir``;
- after fairseq, where that is imported later;
- before the first module of ours that needs fairseq.  All of ours are then imported in one order,
  whichever is asked for first, and make no circle.
"""

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FAIRSEQ = "fairseq"
PLUGIN = "cress_svcd.plugin"
# Of what the plug-in imports, the packages and modules that import fairseq.
NEED_FAIRSEQ = (
    "cress_svcd.data.config",
    "cress_svcd.data.dataset",
    "cress_svcd.evaluation.bleu_chrf",
    "cress_svcd.inference",
    "cress_svcd.models",
    "cress_svcd.pretraining",
    "cress_svcd.tasks",
    "cress_svcd.training",
)


def register_in_time() -> None:
    """Have the plug-in imported, now or when it is needed."""
    if FAIRSEQ in sys.modules:
        importlib.import_module(PLUGIN)
    else:
        sys.meta_path.insert(0, _Watch())


@contextlib.contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Context after which the root logger is as the program left it.

    Modules of fairseq have it print all that anybody logs, as soon as they are imported, unless the
    program has said before what it wants to see.
    """
    root, taken = logging.getLogger(), logging.NullHandler()
    if root.handlers:
        yield
        return
    root.addHandler(taken)  # with one there, logging.basicConfig does nothing
    try:
        yield
    finally:
        root.removeHandler(taken)


class _Watch:
    """Sees, among the finders of ``sys.meta_path``, the first import that needs the plug-in."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """What the other finders find; its loader registers the plug-in as well."""
        if name != FAIRSEQ and name not in NEED_FAIRSEQ:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader:
    """Loads a module as ``loader`` does, and the plug-in: after fairseq, before any of ours."""

    def __init__(self, loader: Any, watch: _Watch):
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _logging_as_it_was():
            self._load(module)

    def _load(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        if self.watch in sys.meta_path:
            sys.meta_path.remove(self.watch)
        if name == FAIRSEQ:
            self.loader.exec_module(module)
            importlib.import_module(PLUGIN)
            return
        # The plug-in imports this module too, in its own order: that one stays.  Python looks for
        # a module under its name again after it has been loaded.
        del sys.modules[name]
        if importlib.util.find_spec(FAIRSEQ) is not None:
            importlib.import_module(PLUGIN)
        if name not in sys.modules:
            sys.modules[name] = module
            self.loader.exec_module(module)
