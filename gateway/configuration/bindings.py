"""One row of a meter's binding: built once, or anew for each event where a field comes from a property."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, cast

from pydantic import ValidationError

from adapters import Binding
from gateway.configuration.findings import Findings, checked, failure
from gateway.errors import GatewayError

__all__ = ["BindingRow", "Unbindable", "from_property"]

_STAND_IN = "1"
"""For a value that only an event brings: good text and a good number. Where it does not fit, nothing is said."""


class Unbindable(GatewayError):
    """Raised when an event's properties do not give what its binding takes from them. Never shows a value."""

    def __init__(self, field: str, property: str, problem: str) -> None:  # noqa: A002
        super().__init__(f"{field} comes from the event's property {property!r}, which {problem}")
        self.field = field
        self.property = property


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRow:
    """How one row of a destination names a meter. Made by `read`."""

    quantity: str | None
    """Which of the event's `quantities` the row takes; `None`: the plain quantity."""
    scale: Decimal
    """The provider's unit: quantity x scale."""
    properties: Mapping[str, str] = field(default_factory=dict[str, str])
    """Which fields come from which property; empty: the row is the same for every event."""
    _known: Binding
    """The whole binding; where some fields come from properties, unvalidated and without them."""
    _given: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def names(self) -> object:
        """All that what it makes of an event depends on, beside the event."""
        known = self._known.model_dump(mode="json", exclude_defaults=True)
        return [self.quantity, str(self.scale), sorted(self.properties.items()), known, sorted(self._given)]

    @classmethod
    def read(cls, model: type[Binding], given: object, meter: str) -> "BindingRow":
        """Return a row as it was configured for a meter; our own name for it where none is given.

        Raises ValidationError, in the configuration's words, with everything that can be seen without an event.
        """
        if given is not None and not isinstance(given, Mapping):
            raise failure(((), "should be a mapping, or a list of mappings"))
        named = model.completed(cast("Mapping[str, object]", given or {}), meter)
        taken = _taken(model, named)
        fixed = {name: value for name, value in named.items() if name not in taken}
        if not taken:
            whole = checked(model, fixed)
            return cls(quantity=whole.quantity, scale=whole.scale, _known=whole)
        _check_known(model, fixed, taken)
        plain = Binding.model_validate({name: fixed[name] for name in Binding.model_fields.keys() & fixed.keys()})
        known = model.model_construct(**cast("dict[str, Any]", fixed))
        return cls(quantity=plain.quantity, scale=plain.scale, properties=taken, _known=known, _given=fixed)

    def takes(self) -> tuple[str, ...]:
        """Return the names of the quantities that the row carries; empty: the plain quantity."""
        return self._known.takes()

    def fixed(self) -> dict[str, object]:
        """Return the fields that are the same for every event."""
        given = ((name, getattr(self._known, name, None)) for name in type(self._known).model_fields)
        return {name: value for name, value in given if value is not None and name not in self.properties}

    @property
    def readable(self) -> Binding | None:
        """The binding without what events bring; `None`: they bring the very name."""
        return None if set(self.properties) & set(self._known.names) else self._known

    def bind(self, properties: Mapping[str, object]) -> Binding:
        """Return the binding for an event with these properties.

        Raises Unbindable when a property is absent, or its value does not fit the field.
        """
        if not self.properties:
            return self._known
        for name, wanted in self.properties.items():
            if wanted not in properties:
                raise Unbindable(name, wanted, "is missing")
        taken = {name: properties[wanted] for name, wanted in self.properties.items()}
        try:
            return type(self._known).model_validate({**self._given, **taken})
        except ValidationError as error:
            blamed = [str(detail["loc"][0]) for detail in error.errors() if detail["loc"]]
        name = next((name for name in blamed if name in taken), next(iter(taken)))
        raise Unbindable(name, self.properties[name], "does not fit")


@cache
def from_property(model: type[Binding], name: str) -> bool:
    """Return whether a field of a binding may come from a property: a provider's own, of a plain type."""
    if name in Binding.model_fields or name not in model.model_fields:
        return False
    schema = model.model_json_schema(by_alias=False)["properties"][name]
    return any(kind.get("type") in {"string", "number", "integer", "boolean"} for kind in schema.get("anyOf", [schema]))


def _taken(model: type[Binding], named: Mapping[str, object]) -> dict[str, str]:
    """Return which fields name a property. Raises ValidationError where one tries and cannot."""
    taken: dict[str, str] = {}
    findings = Findings()
    for name, value in named.items():
        if not isinstance(value, Mapping):
            continue
        given = cast("Mapping[object, object]", value)
        wanted = given.get("property")
        if from_property(model, name) and isinstance(wanted, str) and wanted and len(given) == 1:
            taken[name] = wanted
        elif from_property(model, name):
            with findings.at(name):
                raise failure(((), "should be a value, or {property: NAME}"))
        elif name in Binding.model_fields:
            with findings.at(name):
                raise failure(((), "cannot come from a property"))
    if findings:
        raise findings.error()
    return taken


def _check_known(model: type[Binding], fixed: Mapping[str, object], taken: Mapping[str, str]) -> None:
    """Raise ValidationError for what is wrong with a row whatever the properties bring."""
    try:
        checked(model, {**fixed, **dict.fromkeys(taken, _STAND_IN)})
    except ValidationError as error:
        found = [(detail["loc"], detail["msg"]) for detail in error.errors()]
    else:
        return
    if own := [(place, says) for place, says in found if not place or place[0] not in taken]:
        raise failure(*own)
