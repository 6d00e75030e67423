"""The configuration file as a JSON Schema, for editors. References are welcome wherever a plain value is."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import cast

from pydantic import BaseModel, TypeAdapter

from adapters import Binding, Door, ProviderSpec, Settings, providers
from adapters._models import Duration, format_duration
from gateway.configuration import Configuration, Destination, Meter
from gateway.configuration.bindings import from_property
from gateway.configuration.routes import Route

__all__ = ["json_schema"]

Schema = dict[str, object]

_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{", "description": "A reference: ${NAME} or ${file:PATH}."}
_PROPERTY: Schema = {
    "type": "object",
    "description": "Taken from this property of the event.",
    "properties": {"property": {"type": "string", "minLength": 1}},
    "required": ["property"],
    "additionalProperties": False,
}
_EMPTY: Schema = {"type": "null"}
_DURATION = TypeAdapter[timedelta](Duration).json_schema()["pattern"]
_PLAIN = {"string", "number", "integer", "boolean"}


def json_schema() -> Schema:
    """Return the schema of the file, draft 2020-12.

    What depends on a provider is there once for each: settings hang on `provider`; bindings and links, which
    name only their destination, may be those of any.
    """
    specs = [adapter.spec for adapter in providers().values()]
    schema = _of(Configuration, without={"destinations", "meters", "customers", "routes"})
    members = cast("Schema", schema["properties"])
    members["destinations"] = _mapping(
        {"oneOf": [_destination(adapter.spec, adapter.Settings) for adapter in providers().values()]},
        "Where events go, by a name of your own.",
    )
    members["meters"] = _mapping({"anyOf": [_meter(specs), _EMPTY]}, "What is measured, by the name that events have.")
    members["customers"] = _mapping(
        _mapping(_rows([_link(title, door) for title, door in _doors(specs)])),
        "How each destination names a customer, by the customer's id in events.",
    )
    members["routes"] = {
        "type": ["array", "null"],
        "items": _of(Route),
        "description": "Which events a destination takes. One that no route names takes everything.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Usage Gateway"}


def _doors(specs: Iterable[ProviderSpec]) -> list[tuple[str, Door]]:
    return [(spec.title, door) for spec in specs for door in spec.doors.values()]


def _destination(spec: ProviderSpec, settings: type[Settings]) -> Schema:
    schema = _of(Destination, without={"name", "settings"})
    members = cast("Schema", schema["properties"])
    members["provider"] = {"const": spec.name, "description": f"{spec.title}. {' '.join(spec.cautions)}".strip()}
    members["settings"] = typed = _of(settings)
    base_url = cast("dict[str, Schema]", typed["properties"])["base_url"]
    base_url["default"] = spec.base_url
    return {**schema, "title": spec.title, "required": ["provider", "settings"]}


def _meter(specs: Iterable[ProviderSpec]) -> Schema:
    schema = _of(Meter, without={"bindings"})
    bindings = [_binding(title, door) for title, door in _doors(specs)]
    description = Meter.model_fields["bindings"].description or ""
    cast("Schema", schema["properties"])["bindings"] = _mapping(_rows([*bindings, _EMPTY]), description)
    return schema


def _binding(title: str, door: Door) -> Schema:
    schema = _of(door.binding)
    members = cast("dict[str, Schema]", schema["properties"])
    for name in members:
        if from_property(door.binding, name):
            members[name] = {"anyOf": [members[name], _PROPERTY], **_described(door.binding, name)}
    return {**schema, "title": f"{title}: {door.path}"}


def _link(title: str, door: Door) -> Schema:
    return {**_of(door.link), "title": f"{title}: {door.path}"}


def _described(model: type[Binding], name: str) -> Schema:
    description = model.model_fields[name].description
    return {} if description is None else {"description": description}


def _mapping(values: Schema, description: str | None = None) -> Schema:
    schema: Schema = {"type": ["object", "null"], "additionalProperties": values}
    return schema if description is None else {**schema, "description": description}


def _rows(kinds: list[Schema]) -> Schema:
    """Return the schema of one row, or of a list of rows."""
    return {"anyOf": [*kinds, {"type": "array", "minItems": 1, "items": {"anyOf": kinds}}]}


def _of(model: type[BaseModel], *, without: Iterable[str] = ()) -> Schema:
    """Return a model's schema with its definitions put in place, without some members, open to references."""
    schema = model.model_json_schema(by_alias=True)
    definitions = cast("dict[str, Schema]", schema.pop("$defs", {}))
    members = {
        name: _opened(member, definitions) for name, member in schema["properties"].items() if name not in without
    }
    return {**schema, "properties": members}


def _opened(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the schema of a member such that a reference may stand for any plain value."""
    if isinstance(name := schema.get("$ref"), str):
        schema = definitions[name.rpartition("/")[2]]
    schema = {key: value for key, value in schema.items() if key != "title"}
    if isinstance(members := schema.get("properties"), dict):
        inner = cast("dict[str, Schema]", members)
        return {**schema, "properties": {key: _opened(value, definitions) for key, value in inner.items()}}
    if isinstance(items := schema.get("items"), dict):
        return {**schema, "items": _opened(cast("Schema", items), definitions)}
    spans = [schema, *cast("list[Schema]", schema.get("anyOf", []))]
    if any(one.get("pattern") == _DURATION for one in spans) and isinstance(default := schema.get("default"), str):
        schema["default"] = format_duration(TypeAdapter(timedelta).validate_python(default))
    if isinstance(kinds := schema.get("anyOf"), list):
        return {**schema, "anyOf": [*cast("list[Schema]", kinds), _REFERENCE]}
    said = {key: schema.pop(key) for key in ("description", "default") if key in schema}
    if schema.get("type") not in _PLAIN or schema == {"type": "string"}:
        return {**said, **schema}
    return {**said, "anyOf": [schema, _REFERENCE]}
