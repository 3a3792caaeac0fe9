"""Importing torch and fairseq in half of the time, for a command that a person waits for.

When fairseq is imported it imports scikit-learn, SciPy and TensorBoard as well, for a task, a
criterion and an option that no command of ours uses, and it has hydra take apart the options of
everything that it knows, for programs that are configured by hydra.  It has no switch for either,
and more than half of the time before the first word of a translation went there.

Within :func:`quick_imports` fairseq gets stand-ins, which import the real module when they are used
after all, and hydra takes options apart when it is first asked for any.  Trainings import all as
ever: nothing here concerns them.
"""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# What is deferred, and where fairseq imports it:
DEFERRED = (
    "scipy.stats",  # criterions/sentence_prediction.py
    "sklearn",  # tasks/audio_classification.py
    "sklearn.metrics",  # criterions/sentence_prediction.py
    "torch.utils.tensorboard",  # logging/progress_bar.py, for --tensorboard-logdir
)


class StandIn(ModuleType):
    """A module of which every name is a :class:`Deferred`."""

    def __getattr__(self, name: str) -> "Deferred":
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return Deferred(self.__name__, name)


class Deferred:
    """A name of a module, which is imported when the name is called or asked for an attribute.

    Raises:
        ImportError: then, where there is no such module or name.
    """

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def _real(self) -> Any:
        module = importlib.import_module(self._module)
        if hasattr(module, self._name):
            return getattr(module, self._name)
        return importlib.import_module(f"{self._module}.{self._name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Context in which fairseq, unless it is there, is imported without what it needs later."""
    with contextlib.ExitStack() as stack:
        if "fairseq" not in sys.modules:
            for context in (without_collections, stand_ins, options_stored_later):
                stack.enter_context(context())
        yield


def import_models() -> None:
    """Import fairseq and our models so, for a command that imports parts of them next."""
    with quick_imports():
        importlib.import_module("cress_svcd.models")


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Context without garbage collections; what was made in it is never looked at again.

    Imports make half a million objects, and all of them stay: to go through them again and again
    took a fourth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Context in which importing one of DEFERRED gives a stand-in; afterwards, the real one."""
    given = {name: StandIn(name) for name in DEFERRED if name not in sys.modules}
    sys.modules.update(given)
    try:
        yield
    finally:
        for name, module in given.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextlib.contextmanager
def options_stored_later() -> Iterator[None]:
    """Context in which hydra keeps options for later; it stores them when it is asked for any."""
    from hydra.core.config_store import ConfigStore

    kept: list[tuple[Any, dict[str, Any]]] = []
    store = ConfigStore.store

    def keep(self: ConfigStore, *args: Any, **kwargs: Any) -> None:
        kept.append(((self, *args), kwargs))

    def storing_first(read: Any) -> Any:
        def read_all(self: ConfigStore, path: str) -> Any:
            while kept:
                args, kwargs = kept.pop(0)
                store(*args, **kwargs)
            return read(self, path)

        return read_all

    ConfigStore.store = keep
    for name in ("load", "get_type", "list"):
        setattr(ConfigStore, name, storing_first(getattr(ConfigStore, name)))
    try:
        yield
    finally:
        ConfigStore.store = store
