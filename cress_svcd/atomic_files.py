"""Files are written whole or not at all; text and YAML are read with clear errors."""

import codecs
import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cress_svcd.errors import ConfigError, OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The four bytes of UTF-32 begin with the two of UTF-16.
_MARKED = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the block succeeds.

    Whatever goes wrong in the block (a full disk, an interrupt), ``path`` keeps its old content
    and the temporary file is removed.  Missing parent folders are made.  A symbolic link stays one:
    the file that it names is replaced.  What is no file (a pipe, a device) cannot be replaced; it
    is yielded itself, and what the block writes has gone whatever happens next.

    Raises:
        OutputError: it is a folder or in one that cannot be written to, its name is too long, or
            the disk is full.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder; name a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        with full_told(path):
            yield path
        return
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = _make_temporary(target)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            raise _unwritable(path, error) from error
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        free = shutil.disk_usage(target.parent).free / 1e6
        raise OutputError(
            f"{path}: {error.strerror}; no file was left half-written, and what was there before "
            f"is unchanged: make room in {target.parent} ({free:,.0f} MB free) or write elsewhere, "
            "and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_told(path: str | os.PathLike) -> Iterator[None]:
    """Context in which a full disk or device under ``path``, where the block writes bit by bit,
    becomes an OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise OutputError(
            f"{path}: {error.strerror}; what was written until then is lost: write elsewhere, and "
            "run the same command again"
        ) from error


def require_writable(folder: str | os.PathLike) -> None:
    """Raise OutputError unless files can be written to ``folder``, or it can be made."""
    folder = os.path.abspath(folder)
    there = folder
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    code = errno.EACCES if os.path.isdir(there) else errno.ENOTDIR
    effective = os.access in os.supports_effective_ids
    if code == errno.ENOTDIR or not os.access(there, os.W_OK | os.X_OK, effective_ids=effective):
        raise _unwritable(Path(folder), OSError(code, os.strerror(code), there))


def refuse_overwriting(
    outputs: Iterable[tuple[str, str | os.PathLike]], inputs: Iterable[str | os.PathLike]
) -> None:
    """Raise ConfigError if what is to be written is a file that is read as well, under whatever
    name: another spelling, a symbolic or a hard link.

    Args:
        outputs: each with the option that names it.
        inputs: files; what is none is passed over.
    """
    read = [path for path in map(os.fspath, inputs) if "\0" not in path and os.path.isfile(path)]
    for option, output in outputs:
        if os.path.isfile(output) and any(os.path.samefile(output, path) for path in read):
            raise ConfigError(f"{option} {output}: is read as well; name another file")


def is_full(error: BaseException) -> bool:
    """Whether an OutputError says that the disk is full, so that others would fail as well."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _NO_SPACE


def _unwritable(path: Path, error: OSError) -> OutputError:
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    remedy = "name a folder that can be written to"
    if error.errno == errno.ENAMETOOLONG:
        what, remedy = f"its name is too long: {error.strerror}", "give it a shorter one"
    return OutputError(f"{path}: cannot be written ({what}); {remedy}")


def _make_temporary(path: Path) -> Path:
    """An empty file next to ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # now rather than after the work: a name that is too long
        try:
            handle, name = _make_file(path.parent, f".{path.name}.")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            handle, name = _make_file(path.parent, ".")
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    # mkstemp makes private files; what we publish follows the user's umask as open() would.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    return Path(name)


def _make_file(folder: Path, prefix: str) -> tuple[int, str]:
    return tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".part")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` in UTF-8, all or nothing; names of files in it keep their bytes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write ``data`` as indented JSON, all or nothing."""
    write_text(path, to_json(data, indent=2) + "\n")


def to_json(data: Any, indent: int | None = None) -> str:
    """``data`` as JSON that UTF-8 can hold: bytes of file names that are no text are escaped."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_text(path: str | os.PathLike, undecodable: str = "strict") -> str:
    """The text of a file: UTF-8, or what its byte-order mark announces, without that mark.

    Line ends become those of Python.

    Args:
        undecodable: what becomes of bytes that are no text, see :func:`codecs.register_error`.
    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    with open(path, "rb") as file:
        content = file.read()
    text = content.decode(announced_encoding(content) or "utf-8", undecodable)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def announced_encoding(content: bytes) -> str | None:
    """What the byte-order mark at the beginning of ``content`` says, if there is one.

    That of UTF-16 or UTF-32 alone, with nothing behind it, is no text.
    """
    for mark, encoding in _MARKED.items():
        if content.startswith(mark) and (len(content) > len(mark) or mark == codecs.BOM_UTF8):
            return encoding
    return None


def write_checkpoint(path: str | os.PathLike, state: dict) -> None:
    """Write tensors and plain data with torch, all or nothing."""
    # Imported here: data is prepared without torch.
    import torch

    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch covers the reason for a failed write with a complaint about its archive.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """yaml's safe loader, which refuses a key that stands twice in one mapping.

    yaml keeps the last one and says nothing of the others.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """As yaml's; raises a yaml.MarkedYAMLError at the second of two equal keys."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.tag, key.value
            if name in seen:
                raise yaml.composer.ComposerError(
                    None,
                    None,
                    f"the key {key.value!r} stands twice in one mapping, first in line "
                    f"{seen[name].line + 1}, which would be lost; leave one of them",
                    key.start_mark,
                )
            seen[name] = key.start_mark
        return node


def parse_yaml(text: str, where: str | os.PathLike) -> Any:
    """What the YAML ``text`` says.

    Args:
        where: the file or option that it stands in, for messages.
    Raises:
        ConfigError: it is not YAML, or has a key twice; with the line.
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}{line}: is not valid YAML: {problem}") from None


def read_yaml(path: str | os.PathLike, expected: str) -> dict:
    """Read keys and values.

    Args:
        path: YAML file.
        expected: what should have been there, for messages.
    Raises:
        ConfigError: the file is missing, not YAML, has a key twice (with the line), or holds
            something else than keys and values.
    """
    try:
        content = parse_yaml(read_text(path), path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected {expected}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text ({error}); expected {expected}") from None
    except ConfigError as error:
        raise ConfigError(f"{error}; expected {expected}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: holds {found} and not keys and values; expected {expected}")
    return content
