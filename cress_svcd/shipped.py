"""Files that come with the project: found from a wheel, an editable install and a bare --user-dir.

In a checkout they stand next to the package, in a wheel inside it (``setup.py`` puts them there).
"""

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

# Kind of file → its folder in a checkout; in a wheel it is ``cress_svcd/shipped_files/KIND``.
FOLDERS = {
    "quant": "configs/quant",
    "train": "configs/train",
    "recipes": "scripts/recipes",
    "demo": "scripts/demo",
}
# Of these kinds, files that others include and that are nothing by themselves.
PARTS = {"recipes": ("steps",)}


def shipped_folder(kind: str) -> Path:
    """The folder with the files of ``kind``: quant, train or recipes.  It may be missing."""
    installed = _PACKAGE / "shipped_files"
    return installed / kind if installed.is_dir() else _PACKAGE.parent / FOLDERS[kind]


def shipped_files(kind: str) -> dict[str, Path]:
    """The YAML files of ``kind`` by name, without those in folders below."""
    files = sorted(shipped_folder(kind).glob("*.yaml"), key=lambda file: file.stem)
    return {path.stem: path for path in files if not path.name.startswith(".")}


def shipped_names(kind: str) -> list[str]:
    """Names of the files of ``kind`` that can be used as they are."""
    return [name for name in shipped_files(kind) if name not in PARTS.get(kind, ())]


def file_or_shipped(name: str | Path, kind: str) -> Path:
    """The file ``name``; where there is none, the shipped one of that name if there is such, or the
    one that has this path in a checkout."""
    path = Path(name)
    if path.is_file():
        return path
    if path.parent == Path(FOLDERS[kind]) and (shipped_folder(kind) / path.name).is_file():
        return shipped_folder(kind) / path.name
    return shipped_files(kind).get(str(name), path)


def describe_missing(name: str | Path, kind: str) -> str:
    """Of a name that :func:`file_or_shipped` finds nothing for: what comes close to it, or all."""
    known = shipped_names(kind)
    close = difflib.get_close_matches(Path(name).name.removesuffix(".yaml"), known)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = f"there are {', '.join(known) or f'none: {shipped_folder(kind)} is missing'}"
    return f"{name}: no such file, and nothing of that name comes with the project; {hint}"
