"""From a YAML file to a configuration. Whatever is wrong is said with its key and line, all of it at once.

Scalars stay what was written: a number with a point is a decimal with those digits, times and durations are
text until a model reads them, and only `true` and `false` are booleans, so that `mode: off` is a mode.
What `${NAME}` or `${file:PATH}` stood for is text, and is never shown.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import cast

import yaml
from pydantic import ValidationError

from gateway.configuration import Configuration
from gateway.configuration.findings import Place
from gateway.errors import ConfigurationError

__all__ = ["load", "loads"]

_FAST = getattr(yaml, "CSafeLoader", None)
"""Absent where PyYAML was built without libyaml."""
_ODD = "\t!"
"""Tabs and tags, of which libyaml has opinions of its own."""
DEEP = 100
"""Collections in one another up to which a file is read fast."""
EACH = 10
"""Values that a file may stand for, for each of its characters: more come of aliases of aliases only."""
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_PLAIN = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")}
_REFERENCE = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?:file:(?P<file>[^}]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}|(?P<bad>\$\{)"
)


def load(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Return the configuration in a file. `${file:PATH}` is found from the file's own folder.

    Raises ConfigurationError, with one line for everything that is wrong.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    return loads(text, environ, source=str(path), folder=path.parent)


def loads(
    text: str, environ: Mapping[str, str], *, source: str = "configuration", folder: Path | None = None
) -> Configuration:
    """Return the configuration in a text. `${file:PATH}` is found from `folder`, or the working directory.

    Raises ConfigurationError, with one line for everything that is wrong.
    """
    reader = _Reader(environ, folder or Path())
    data = reader.read(text)
    configuration = None
    if isinstance(data, dict):
        try:
            configuration = Configuration.model_validate(data)
        except ValidationError as error:
            found = [(detail["loc"], detail["msg"]) for detail in error.errors(include_url=False, include_input=False)]
            reader.note(found)
    if configuration is None or reader.findings:
        lines = sorted(dict.fromkeys(reader.findings), key=lambda finding: finding[0])
        raise ConfigurationError("\n".join(f"{source}:{line}: {says}" for line, says in lines))
    return configuration


class _Countless(Exception):
    """Raised where a file stands for far more than is written in it."""


@dataclass(frozen=True, slots=True)
class _Replaced:
    written: str
    values: tuple[str, ...] = field(repr=False)
    """What must not be seen: the whole text, then what was put into it."""


class _Reader:
    """Turns nodes into plain data, and remembers where everything stood and what was put in."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.findings: list[tuple[int, str]] = []
        self._environ = environ
        self._folder = folder
        self._lines: dict[Place, int] = {(): 1}
        self._replaced: dict[Place, _Replaced] = {}
        self._failed: set[Place] = set()
        self._open: list[yaml.Node] = []
        self._left = 0
        """Values that may still come."""

    def read(self, text: str) -> object:
        """Return the file's data; what cannot be read is noted, and `None`."""
        self._left = EACH * len(text)
        try:
            return self._top(_composed(text))
        except yaml.MarkedYAMLError as error:
            self._note_syntax(error, text)
        except yaml.reader.ReaderError as error:
            self.findings.append(
                (text.count("\n", 0, error.position) + 1, "holds a character that YAML does not allow")
            )
        except RecursionError:
            self.findings.append((1, "is nested too deeply"))
        except _Countless:
            self.findings.append((1, "has aliases of aliases that stand for too many values: write fewer"))
        return None

    def _top(self, node: yaml.Node | None) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._value(node, ())
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"):
            self.findings.append((1, "is empty: write destinations and meters, as config.example.yaml does"))
        else:
            self.findings.append((_line(node), "should be a mapping at the top: listen, destinations, meters, ..."))
        return None

    def note(self, findings: list[tuple[Place, str]]) -> None:
        """Note what the models found, without what was put in, and not of a place that could not be read."""
        for place, says in findings:
            if place not in self._failed or says.startswith("unknown key"):
                self._say(place, self._masked(place, says))

    def _say(self, place: Place, says: str) -> None:
        known = next(place[:end] for end in range(len(place), -1, -1) if place[:end] in self._lines)
        self.findings.append((self._lines[known], f"{_path(place)}: {says}" if place else says))

    def _fail(self, place: Place, says: str) -> None:
        """Note what cannot be read at all; what the models say of the place is then beside the point."""
        self._failed.add(place)
        self._say(place, says)

    def _masked(self, place: Place, says: str) -> str:
        for where, replaced in self._replaced.items():
            if where[: len(place)] == place or place[: len(where)] == where:
                for value in filter(None, replaced.values):
                    says = _without(value, replaced.written, says)
        return says

    def _note_syntax(self, error: yaml.MarkedYAMLError, text: str) -> None:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        # The parser quotes names from the file here, and a secret that wanted quotes of its own can look like one.
        problem = re.sub(r"(alias|anchor|tag handle) .*", r"\1", error.problem or "cannot be read")
        lines = text.splitlines()
        hint = ' (write "${NAME}" in quotes)' if line <= len(lines) and "${" in lines[line - 1] else ""
        self.findings.append((line, f"is no valid YAML: {problem}{hint}"))

    def _value(self, node: yaml.Node, place: Place) -> object:
        self._lines.setdefault(place, _line(node))
        self._count()
        if self._inside(node):
            self._fail(place, "refers to itself")
            return None
        self._open.append(node)
        try:
            match node:
                case yaml.MappingNode() if node.tag == _TAG + "map":
                    return self._mapping(node, place)
                case yaml.SequenceNode() if node.tag == _TAG + "seq":
                    return [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
                case yaml.ScalarNode() if node.tag in _PLAIN:
                    return self._scalar(node, place)
                case _:
                    self._fail(place, "has a tag that is not supported")
                    return None
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        made: dict[str, object] = {}
        for key, value in self._members(node, place):
            at = (*place, key.value)
            self._lines[at] = _line(key)
            made[key.value] = self._value(value, at)
        return made

    def _members(self, node: yaml.MappingNode, place: Place) -> Iterable[tuple[yaml.ScalarNode, yaml.Node]]:
        """Return the members of a mapping, each once: its own, then those merged by `<<` that it has not."""
        members: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif not isinstance(key, yaml.ScalarNode):
                self._say(place, "has a key that is no text")
            elif key.value in members:
                first = _line(members[key.value][0])
                path = _path((*place, key.value))
                self.findings.append((_line(key), f"{path}: is there twice, first in line {first}"))
            else:
                members[key.value] = (key, value)
        for other in merged:
            if not isinstance(other, yaml.MappingNode) or self._inside(other):
                self._say(place, "`<<` needs another mapping")
                continue
            self._count()
            self._open.append(other)
            for key, value in self._members(other, place):
                members.setdefault(key.value, (key, value))
            self._open.pop()
        return members.values()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Countless

    def _inside(self, node: yaml.Node) -> bool:
        return any(node is outer for outer in self._open)

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> object:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}.get(text.lower(), text)
            case "int" if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,38})", text):
                return int(text)
            case "float":
                try:
                    return Decimal(text)
                except InvalidOperation:
                    return text
            case _:
                return self._substituted(text, place)

    def _substituted(self, text: str, place: Place) -> str:
        put_in: list[str] = []
        failed: list[str] = []

        def put(reference: re.Match[str]) -> str:
            if reference["escaped"]:
                return "${"
            try:
                put_in.append(self._looked_up(reference))
            except LookupError as error:
                failed.append(str(error.args[0]))
                return ""
            return put_in[-1]

        whole = _REFERENCE.sub(put, text)
        for says in failed:
            self._fail(place, says)
        if put_in:
            self._replaced[place] = _Replaced(text, (whole, *put_in))
        return whole

    def _looked_up(self, reference: re.Match[str]) -> str:
        """Return what a reference stands for. Raises LookupError with the sentence for the operator."""
        if name := reference["name"]:
            if name not in self._environ:
                raise LookupError(f"the environment variable {name} is not set")
            return self._environ[name]
        if not reference["file"]:
            raise LookupError("holds a ${ that is no reference: write ${NAME}, ${file:PATH}, or $${ for the text ${")
        path = self._folder / reference["file"]
        try:
            return path.read_text("utf-8").removesuffix("\n")
        except OSError as error:
            raise LookupError(f"the file {path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise LookupError(f"the file {path!s} cannot be read: it holds no UTF-8 text") from None


def _composed(text: str) -> yaml.Node | None:
    """Return the nodes of a file: by libyaml, seven times as fast, where that takes it. Raises YAMLError.

    It would end the process where a file is nested a hundred thousand deep, so that is looked at before; and what is
    wrong is said in the other's words.
    """
    if _FAST is not None and not any(odd in text for odd in _ODD):
        with contextlib.suppress(yaml.YAMLError):
            depth = 0
            for event in cast("Iterator[yaml.Event]", yaml.parse(text, Loader=_FAST)):  # type: ignore[reportUnknownMemberType]
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > DEEP:
                    break
            else:
                return _FAST(text).get_single_node()
    return yaml.SafeLoader(text).get_single_node()


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _without(value: str, written: str, says: str) -> str:
    """Return a sentence without a value; a very short one is looked for between other characters only."""
    seen = "|".join(re.escape(form) for form in sorted({value, repr(value)[1:-1]}, key=len, reverse=True))
    pattern = f"(?:{seen})" if len(value) > 3 else rf"(?<!\w)(?:{seen})(?!\w)"
    return re.sub(pattern, lambda _: written, says)


def _path(place: Place) -> str:
    """Return a place as it is said: `auth.keys[0].name`."""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step if step.isprintable() else repr(step)}" for step in place
    )
    return "".join(steps).removeprefix(".")
