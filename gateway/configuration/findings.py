"""What is wrong with a configuration: one sentence at one place, for its operator. Never the value that was given."""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

__all__ = ["Findings", "Place", "Section", "checked", "failure", "keys_of", "nearest", "saying"]

Place = tuple[str | int, ...]
"""Where in the file: keys, and indexes of lists."""

M = TypeVar("M", bound=BaseModel)

_OURS = "configuration"
_SAYINGS = {
    "missing": "is missing",
    "string_type": "should be text: write it in quotes",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "decimal_type": "should be a number",
    "decimal_parsing": "should be a number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "model_type": "should be a mapping",
    "dict_type": "should be a mapping",
    "mapping_type": "should be a mapping",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "frozen_set_type": "should be a list",
    "timezone_aware": "needs a zone: 2026-12-01T00:00:00Z",
}


def failure(*findings: tuple[Place, str]) -> ValidationError:
    """Return the error that says each finding at its place, wherever pydantic carries it."""
    details = [
        InitErrorDetails(type=PydanticCustomError(_OURS, "{says}", {"says": says}), loc=place, input=None)
        for place, says in findings
    ]
    return ValidationError.from_exception_data("Configuration", details, hide_input=True)


def _polished(model: type[BaseModel], error: ValidationError) -> ValidationError:
    """Return an error of `model` in our words, without the values: unknown keys come with the nearest known one."""
    known, details = keys_of(model), error.errors(include_url=False)
    return failure(*((_without_mark(detail["loc"]), saying(detail, known)) for detail in details))


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model as they are written."""
    return [field.alias or name for name, field in model.model_fields.items() if not field.exclude]


def checked(model: type[M], given: object) -> M:
    """Return `given` as a model of an adapter. Raises ValidationError in our words."""
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as error:
        refusal = _polished(model, error)
    raise refusal


def nearest(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence about a name that nobody knows."""
    known = list(known)
    if close := get_close_matches(name, known, n=1):
        return f"unknown {what}; did you mean {close[0]}?"
    return f"unknown {what}; known are {', '.join(known)}" if known else f"unknown {what}; there is none"


class Section(BaseModel):
    """A part of the configuration. Nothing written under its key is the same as no key."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, given: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if given is None:
            given = {}
        if isinstance(given, dict):
            members = cast("dict[object, object]", given)
            known = {field.alias or name for name, field in cls.model_fields.items()}
            given = {key: value for key, value in members.items() if value is not None or key not in known}
        try:
            return handler(given)
        except ValidationError as error:
            refusal = _polished(cls, error)
        raise refusal


class Findings:
    """What was found so far, in the order in which it was found."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, str]] = []

    @contextmanager
    def at(self, *place: str | int) -> Generator[None]:
        """Note what is raised inside as found at or below `place`, and go on after it."""
        try:
            yield
        except ValidationError as error:
            self._found += [((*place, *detail["loc"]), detail["msg"]) for detail in error.errors(include_url=False)]

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> ValidationError:
        """Return everything found as one error."""
        return failure(*self._found)


def _without_mark(place: Place) -> Place:
    """Return a place without the mark by which pydantic says that the key itself is wrong."""
    return place[:-1] if place[-1:] == ("[key]",) else place


def saying(detail: ErrorDetails, known: Iterable[str], what: str = "key") -> str:
    """Return what pydantic found in our words, without the value. `known`: keys that may be, `what` they are called."""
    kind, place = detail["type"], detail["loc"]
    if kind == _OURS:
        return detail["msg"]
    if kind == "extra_forbidden":
        return nearest(what, str(place[0]), known) if len(place) == 1 else f"unknown {what}"
    if kind in {"too_short", "string_too_short"} and detail.get("ctx", {}).get("min_length") == 1:
        return "should not be empty"
    return _SAYINGS.get(kind) or re.sub(r"^(Value error, |[A-Z]\w+ (?=should ))", "", detail["msg"])
