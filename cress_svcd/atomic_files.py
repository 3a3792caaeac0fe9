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
_MOST_LEVELS = 100  # of lists and mappings within each other, in YAML
_MOST_REPEATED = 100_000  # values that aliases add in YAML
_TOO_DEEP = "too many levels of lists and mappings within each other"
_LARGEST = 1e300  # of numbers in JSON; to go on computing with it
_MOST_BITS = 4096  # of a whole number in YAML
_QUOTED = 60  # characters of what a message quotes
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


def require_text(path: str | os.PathLike) -> str:
    """As :func:`read_text`.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        return read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason})") from None


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


class StrictLoader(yaml.SafeLoader):
    """yaml's safe loader, with a yaml.MarkedYAMLError for what it lets pass or trips over.

    A key that stands twice in one mapping (yaml keeps the last one and says nothing of the others);
    a number or a date that Python has no value for; a file of a few lines that aliases make huge,
    endless, or deeper than Python can follow.
    """

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._level = 0
        # Of each node that is complete, by its id: how many nodes and levels aliases make of it.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        self._level += 1
        self._refuse(self._level > _MOST_LEVELS, _TOO_DEEP, event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(event, yaml.AliasEvent):
            self._refuse(
                id(node) not in self._sizes, f"*{event.anchor} stands within itself", event
            )
            return node
        children = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [each for pair in children for each in pair]
        sizes = [self._sizes[id(child)] for child in children]
        count = 1 + sum(nodes for nodes, _ in sizes)
        levels = 1 + max((levels for _, levels in sizes), default=0)
        self._sizes[id(node)] = count, levels
        self._refuse(levels > _MOST_LEVELS, _TOO_DEEP, event)
        much = count > len(self._sizes) + _MOST_REPEATED
        self._refuse(much, "its aliases (*name) stand for millions of values", event)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
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
                    f"the key {_shortly(key.value)!r} stands twice in one mapping, first in line "
                    f"{seen[name].line + 1}, which would be lost; leave one of them",
                    key.start_mark,
                )
            seen[name] = key.start_mark
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if not isinstance(value, int) or value.bit_length() <= _MOST_BITS:
                return value
            raise ValueError("Python would not print it")
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError):
            kind, value = node.tag.rpartition(":")[2], _shortly(str(node.value))
            kind = {"int": "number", "float": "number", "timestamp": "date"}.get(kind, kind)
            problem = f"{value!r} is no {kind}; write it in quotes where it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def _refuse(self, wrong: bool, problem: str, event: yaml.Event) -> None:
        if wrong:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


def _shortly(text: str) -> str:
    """The beginning of a text that a message quotes."""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def parse_yaml(
    text: str, where: str | os.PathLike, loader: type[StrictLoader] = StrictLoader
) -> Any:
    """What the YAML ``text`` says.

    Args:
        where: the file or option that it stands in, for messages.
        loader: what makes values of it.
    Raises:
        ConfigError: it is not YAML, or what :class:`StrictLoader` refuses; with the line.
    """
    try:
        return yaml.load(text, loader)
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        code = error.character if isinstance(error.character, int) else ord(error.character)
        problem = f"the character U+{code:04X} is not allowed in it"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
    raise ConfigError(f"{where}{line}: is not valid YAML: {problem}")


def parse_json(text: str, where: str | os.PathLike, line: int = 0) -> Any:
    """What the JSON ``text`` says.

    Args:
        where: the file that it stands in, for messages.
        line: of that file, if the text is one line of several; 0: the text is the whole.
    Raises:
        ConfigError: it is not JSON, has a key twice in one object, a number of thousands of digits,
            or more levels than can be followed; with the line.
    """
    place = f"{where}:{line}" if line else f"{where}"
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = place if line else f"{where}:{error.lineno}"
        problem = error.msg
    except RecursionError:
        problem = _TOO_DEEP
    except ValueError as error:
        problem = str(error).partition(";")[0]
    raise ConfigError(f"{place}: is not JSON ({problem})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shortly(twice)!r} stands twice in one object")
    return found


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST


def read_json(path: str | os.PathLike) -> Any:
    """The JSON in a file.

    Raises:
        ConfigError: it cannot be read, is no text, or is not JSON, see :func:`parse_json`.
    """
    return parse_json(require_text(path), path)


def read_yaml(
    path: str | os.PathLike, expected: str, loader: type[StrictLoader] = StrictLoader
) -> dict:
    """Read keys and values.

    Args:
        path: YAML file.
        expected: what should have been there, for messages.
        loader: what makes values of it.
    Raises:
        ConfigError: the file is missing, not YAML (see :func:`parse_yaml`, with the line), or holds
            something else than keys and values.
    """
    try:
        content = parse_yaml(read_text(path), path, loader)
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
