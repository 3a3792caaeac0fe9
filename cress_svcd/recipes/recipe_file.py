"""Recipe files: numbered stages of real commands, described in YAML.

A recipe file holds

  name:      short name
  about:     what it does, one sentence
  include:   another recipe file, relative to this one, whose settings, stages and report this one
             takes; settings here replace its own of the same name
  settings:  key → value; later values may use earlier ones as {key}; --set changes them.  A null
             has to be replaced before the setting can be used
  stages:    list of
    name:      short name, unique
    does:      one sentence for people
    commands:  list of argument lists; {key} is replaced by the setting of that name.  A list
               whose only item is "{key}" where the setting is a list is spliced in.  Words that
               are there only with a setting, in settings that are lists as well: an item with the
               keys words, and when or unless as below
    together:  true runs the commands side by side, each with a log of its own, its share of the
               cores, and one of the GPUs.  Where these are fewer, commands run on them at the
               same time by NVIDIA's multi-process service if it can be had, else in turns
    needs:     files that must exist before the stage starts; those outside of the setting out
               are looked for before anything is run
    makes:     files that exist when it has succeeded
    when:      "{key}"; the stage is left out where this is empty, false, no, off, 0 or 0.0
    unless:    "{key}"; the stage is left out where this is anything else
    output:    file that receives what the commands print; with together also a list of files, one
               for each command
    accepts:   a command that fails after printing this has done what it was run for, such as a
               training that is to show how it diverges
    clears:    files and folders to remove before the stage runs again; they stay where the same
               commands were stopped on their way, which take up their work then
    formerly:  commands that made the same, or as good, in an earlier version: what they finished is
             done
             or, with include, of
    use:       the name of a stage there; other keys given next to it replace those of that stage.
             Without the key stages a recipe has all the stages of the one that it includes
  report:    rows of the final table: name, checkpoint, scores (a JSON of 'cress-svcd score', or
             of 'cress-svcd compare' with the name of one of its systems as system); when and
             unless as above

Arguments stay lists throughout: nothing is ever passed through a shell.  They stay as they are
written: no, 0012, 1:30 and 1.10 are text, which YAML would turn into False, 10, 90 and 1.1.
"""

import hashlib
import json
import os
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cress_svcd.atomic_files import StrictLoader, parse_yaml, read_yaml
from cress_svcd.errors import ConfigError

STAGE_KEYS = {
    "name",
    "does",
    "commands",
    "together",
    "needs",
    "makes",
    "when",
    "unless",
    "clears",
    "output",
    "accepts",
    "formerly",
}
RECIPE_KEYS = {"name", "about", "include", "settings", "stages", "report"}


class _AsWritten(StrictLoader):
    """Values of YAML, but what Python would print in another way stays text."""

    def construct_sequence(self, node: yaml.Node, deep: bool = False) -> list:
        """As yaml's, but null in a list of arguments is a word."""
        items = super().construct_sequence(node, deep)
        return [child.value if i is None else i for i, child in zip(items, node.value)]

    def construct_text_or(self, node: yaml.ScalarNode) -> Any:
        """The value, if the text is what Python prints of it."""
        try:
            value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
            is_word = isinstance(value, bool) and node.value.lower() in ("true", "false")
            return value if is_word or str(value) == node.value else node.value
        except (ValueError, OverflowError):  # thousands of digits
            return node.value


for _type in ("bool", "int", "float"):
    _AsWritten.add_constructor(f"tag:yaml.org,2002:{_type}", _AsWritten.construct_text_or)
_AsWritten.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


@dataclass(frozen=True)
class Stage:
    """One stage, all settings filled in.

    What the commands print goes to ``outputs``: none, one, or one for each.  A command whose log
    holds ``accepts`` (if that is not empty) may fail.
    """

    name: str
    does: str
    commands: list[list[str]]
    needs: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    clears: list[str] = field(default_factory=list)
    together: bool = False
    outputs: list[str] = field(default_factory=list)
    accepts: str = ""
    formerly: list[list[str]] = field(default_factory=list)

    def digest(self) -> str:
        """Changes with the commands."""
        return _digest(self.commands)

    def former_digest(self) -> str:
        """That of an earlier version which made the very same."""
        return _digest(self.formerly)


def _digest(commands: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps(commands).encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """A recipe with its settings filled in."""

    name: str
    about: str
    settings: dict[str, Any]
    stages: list[Stage]
    report: list[dict[str, str]]

    @property
    def folder(self) -> Path:
        """Where everything is written: the setting ``out``."""
        return Path(str(self.settings["out"]))

    def logs(self, number: int) -> list[Path]:
        """The log of each command of stage ``number`` (from 1); one of all unless they run
        together."""
        stage = self.stages[number - 1]
        log = self.folder / "logs" / f"{number:02d}-{stage.name}.log"
        if not stage.together:
            return [log] * len(stage.commands)
        return [log.with_stem(f"{log.stem}-{i + 1}") for i in range(len(stage.commands))]


@dataclass
class _Source:
    """What recipe files say, each item with the file that says it."""

    settings: dict[str, tuple[str, Any]]
    stages: list[tuple[str, dict]]
    report: list[tuple[str, dict]]
    name: str = ""
    about: str = ""


def load_recipe(path: str | os.PathLike, changes: dict[str, str] | None = None) -> Recipe:
    """Read a recipe and fill in its settings.

    Args:
        path: YAML file.
        changes: settings to change, as text (parsed as YAML values).
    Raises:
        ConfigError: naming file and key, for anything that is not a recipe.
    """
    source = _read(os.fspath(path))
    settings = _settings(path, source.settings, changes or {})
    if "out" not in settings:
        raise ConfigError(f"{path}: settings: no key out, the folder to write to")
    if isinstance(settings["out"], list | dict) or settings["out"] in (None, ""):
        raise ConfigError(f"{path}: settings: out: expected the folder to write to")
    stages = [_stage(origin, raw, settings) for origin, raw in source.stages]
    stages = [stage for stage in stages if stage is not None]
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: two stages have one name: {names}")
    rows = [
        {key: _fill(origin, value, settings) for key, value in row.items() if key not in _CHOICES}
        for origin, row in source.report
        if _chosen(origin, row, settings)
    ]
    if any("name" not in row for row in rows):
        raise ConfigError(f"{path}: report: each row needs a name")
    return Recipe(source.name or Path(path).stem, source.about, settings, stages, rows)


def _read(path: str, including: tuple[str, ...] = ()) -> _Source:
    """A recipe file with what it includes."""
    content = read_yaml(path, "a recipe (see scripts/recipes)", _AsWritten)
    _check_structure(path, content)
    settings = {key: (path, value) for key, value in (content.get("settings") or {}).items()}
    stages = [(path, stage) for stage in content.get("stages") or []]
    report = [(path, row) for row in content.get("report") or []]
    name, about = content.get("name", ""), content.get("about", "")
    if "include" not in content:
        return _Source(settings, stages, report, name, about)
    included = os.path.join(os.path.dirname(path), content["include"])
    chain = (*including, os.path.realpath(path))
    if os.path.realpath(included) in chain:
        raise ConfigError(f"{path}: include: {included} includes this file in its turn")
    base = _read(included, chain)
    unknown = sorted(set(settings) - set(base.settings))
    if unknown and not stages:
        raise ConfigError(
            f"{path}: settings: {included} has no setting {', '.join(unknown)}; it has "
            f"{', '.join(sorted(base.settings))}"
        )
    return _Source(
        base.settings | settings,
        [_used(path, stage, base, included) for _, stage in stages] or base.stages,
        report or base.report,
        name or base.name,
        about or base.about,
    )


def _used(path: str, stage: dict, base: _Source, included: str) -> tuple[str, dict]:
    """The stage itself, or the one of the included file that it names."""
    if "use" not in stage:
        return path, stage
    for origin, other in base.stages:
        if other["name"] == stage["use"]:
            changes = {key: value for key, value in stage.items() if key != "use"}
            return (path if changes else origin), other | changes
    names = ", ".join(other["name"] for _, other in base.stages)
    raise ConfigError(f"{path}: use: {included} has no stage {stage['use']}; it has {names}")


def _check_structure(path: str, content: dict) -> None:
    """Raises ConfigError for anything that is not built like a recipe."""
    unknown = sorted(set(content) - RECIPE_KEYS)
    if unknown:
        raise ConfigError(
            f"{path}: no recipe has a key {', '.join(map(str, unknown))}; known are "
            f"{', '.join(sorted(RECIPE_KEYS))}"
        )
    if not content.get("stages") and "include" not in content:
        raise ConfigError(f"{path}: no key stages; expected a recipe (see scripts/recipes)")
    if not isinstance(content.get("include", ""), str):
        raise ConfigError(f"{path}: include: expected the name of one recipe file")
    if not isinstance(content.get("settings") or {}, dict):
        raise ConfigError(f"{path}: settings: expected keys and values")
    for key in ("stages", "report"):
        items = content.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ConfigError(f"{path}: {key}: expected a list of keys and values")
    for stage in content.get("stages") or []:
        _check_stage(path, stage, uses="include" in content and "use" in stage)


def _check_stage(path: str, stage: dict, uses: bool) -> None:
    known = STAGE_KEYS | ({"use"} if uses else set())
    unknown = sorted(set(stage) - known)
    if unknown or not (uses or {"name", "commands"} <= set(stage)):
        raise ConfigError(
            f"{path}: stage {stage.get('name', stage)!r}: needs name and commands, and knows "
            f"{', '.join(sorted(known))}" + (f"; found {unknown}" if unknown else "")
        )
    name = stage.get("name", "-")
    if isinstance(name, list | dict) or not str(name).strip(".") or set(str(name)) & {"/", "\0"}:
        raise ConfigError(
            f"{path}: stage {name!r:.80}: expected a name, which files can have as well"
        )
    for key in ("commands", "formerly"):
        commands = stage.get(key, [])
        if not isinstance(commands, list) or not all(
            isinstance(command, list) and command for command in commands
        ):
            raise ConfigError(
                f"{path}: stage {name}: {key}: expected a list of argument lists such as "
                "[[cress-svcd, average, …]]; nothing is passed through a shell"
            )
    for key in ("needs", "makes", "clears"):
        if not isinstance(stage.get(key) or [], list):
            raise ConfigError(f"{path}: stage {name}: {key}: expected a list of files")


def _settings(
    path: str | os.PathLike, defaults: dict[str, tuple[str, Any]], changes: dict[str, str]
) -> dict[str, Any]:
    unknown = sorted(set(changes) - set(defaults))
    if unknown:
        raise ConfigError(
            f"{path}: no setting {', '.join(unknown)}; it has "
            f"{', '.join(sorted(map(str, defaults)))}"
        )
    settings: dict[str, Any] = {}
    for key, (origin, value) in defaults.items():
        if key in changes:
            # Text stays text: to YAML the language "no" is false.
            text = value is None or isinstance(value, str)
            value = changes[key] if text else _parse(path, key, changes[key], value)
        if isinstance(value, str):
            value = _fill(origin, value, settings)
        elif isinstance(value, list):
            value = _filled_words(origin, value, settings)
        settings[key] = value
    return settings


def _parse(path, key: str, text: str, former: Any) -> Any:
    where = f"{path}: setting {key}: {text!r}"
    return parse_yaml(text, where, StrictLoader if isinstance(former, bool) else _AsWritten)


class _Filler(string.Formatter):
    def get_value(self, key, args, kwargs):
        value = super().get_value(key, args, kwargs)
        if value is None:
            raise ConfigError(f"setting {key} has no value: give it one with --set {key}=…")
        return value


def _fill(path, text: Any, settings: dict) -> str:
    """``text`` with each {key} replaced; doubled braces stand for themselves."""
    try:
        return _Filler().vformat(str(text), (), settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {text!r}: {error}") from None
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path}: {text!r}: no setting {error}; it has {', '.join(sorted(settings))}"
        ) from None


def _filled_words(path, items: list, settings: dict) -> list[str]:
    """``items`` filled in; words with ``when`` or ``unless`` that are not chosen are left out."""
    filled: list[str] = []
    for item in items:
        if not isinstance(item, dict):
            filled.append(_fill(path, item, settings))
            continue
        words = item.get("words")
        if not isinstance(words, list) or not {"words"} < set(item) <= {"words", *_CHOICES}:
            raise ConfigError(f"{path}: {item}: expected a word, or words with when or unless")
        if _chosen(path, item, settings):
            filled += _filled_words(path, words, settings)
    return filled


def _filled_list(path, items: list, settings: dict) -> list[str]:
    """``items`` filled in; settings that are lists are spliced in."""
    filled: list[str] = []
    for item in items:
        if isinstance(item, dict):
            filled += _filled_words(path, [item], settings)
            continue
        key = str(item)[1:-1]
        if str(item) == "{" + key + "}" and isinstance(settings.get(key), list):
            filled.extend(settings[key])
        else:
            filled.append(_fill(path, item, settings))
    return filled


_CHOICES = ("when", "unless")
_NOT_SET = ("", "false", "no", "off", "0", "0.0", "[]")


def _chosen(path, raw: dict, settings: dict) -> bool:
    """Whether ``when`` and ``unless`` let a stage, or a row of the report, be there."""
    set_ = {
        key: _fill(path, raw[key], settings).lower() not in _NOT_SET
        for key in _CHOICES
        if key in raw
    }
    return set_.get("when", True) and not set_.get("unless", False)


def _stage(path, raw: dict, settings: dict) -> Stage | None:
    if not _chosen(path, raw, settings):
        return None
    together = str(raw.get("together") or "").lower() not in _NOT_SET
    return Stage(
        name=raw["name"],
        does=_fill(path, raw.get("does", ""), settings),
        commands=[_filled_list(path, command, settings) for command in raw["commands"]],
        needs=_filled_list(path, raw.get("needs") or [], settings),
        makes=_filled_list(path, raw.get("makes") or [], settings),
        clears=_filled_list(path, raw.get("clears") or [], settings),
        together=together,
        outputs=_outputs(path, raw, settings, together),
        accepts=_fill(path, raw.get("accepts", ""), settings),
        formerly=[_filled_list(path, command, settings) for command in raw.get("formerly") or []],
    )


def _outputs(path, raw: dict, settings: dict, together: bool) -> list[str]:
    given = raw.get("output") or ""
    if not isinstance(given, list):
        file = _fill(path, given, settings)
        return [file] if file else []
    outputs, commands = _filled_list(path, given, settings), len(raw["commands"])
    if not together or len(set(outputs) - {""}) != commands:
        raise ConfigError(
            f"{path}: stage {raw['name']}: output: expected one file, or of commands that run "
            f"together a list of as many files as there are commands, {commands}; found {outputs}"
        )
    return outputs
