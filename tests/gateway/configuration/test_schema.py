"""The JSON Schema of the file: it takes what the loader takes, and refuses what editors should underline."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters import providers
from gateway.configuration.schema import json_schema

SCHEMA: dict[str, Any] = json_schema()
EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None),
    "boolean": bool,
}  # fmt: skip


def faults(schema: dict[str, Any], value: Any, at: str = "") -> list[str]:
    """Return where a value breaks a schema: as much of draft 2020-12 as the file's schema uses."""
    if "const" in schema and value != schema["const"]:
        return [f"{at}: const"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: enum"]
    for word, enough in (("anyOf", lambda count: count >= 1), ("oneOf", lambda count: count == 1)):
        kinds = schema.get(word)
        if kinds and not enough(sum(not faults(kind, value, at) for kind in kinds)):
            return [f"{at}: {word}"]
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or value is not True) for kind in wanted
    ):
        return [f"{at}: type"]
    if isinstance(value, str) and not (
        len(value) >= schema.get("minLength", 0) and re.search(schema.get("pattern", ""), value)
    ):
        return [f"{at}: text"]
    if isinstance(value, list):
        few = [f"{at}: items"] if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99) else []
        return few + [
            fault
            for index, item in enumerate(value)
            for fault in faults(schema.get("items", {}), item, f"{at}[{index}]")
        ]
    if isinstance(value, dict):
        members, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        found = [f"{at}.{name}: missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = members.get(name, others)
            found += [f"{at}.{name}: unknown"] if inner is False else faults(inner, item, f"{at}.{name}")
        return found
    return []


def of(text: str) -> list[str]:
    return faults(SCHEMA, yaml.safe_load(text))


def words(schema: Any) -> set[str]:
    """Return every keyword and every named member of a schema."""
    if isinstance(schema, list):
        return {word for each in schema for word in words(each)}
    if not isinstance(schema, dict):
        return set()
    return set(schema) | {word for each in schema.values() for word in words(each)}


def test_it_says_which_draft_it_is_and_is_plain_json() -> None:
    assert "https://json-schema.org/draft/2020-12/schema" == SCHEMA["$schema"]
    assert SCHEMA == json.loads(json.dumps(SCHEMA))
    assert not {"$ref", "$defs", "gt"} & words(SCHEMA)


def test_the_example_fits_and_every_key_of_it_is_known() -> None:
    assert [] == of(EXAMPLE.read_text("utf-8"))


def test_every_default_fits_its_own_schema() -> None:
    def wrong(schema: Any, at: str) -> list[str]:
        if isinstance(schema, list):
            return [each for index, inner in enumerate(schema) for each in wrong(inner, f"{at}[{index}]")]
        if not isinstance(schema, dict):
            return []
        own = faults(schema, schema["default"], at) if {"default", "anyOf"} <= schema.keys() else []
        return own + [
            each for name, inner in schema.items() if name != "default" for each in wrong(inner, f"{at}.{name}")
        ]

    assert [] == wrong(SCHEMA, "")


@pytest.mark.parametrize("name", providers())
def test_every_setting_of_every_provider_is_described(name: str) -> None:
    kinds = SCHEMA["properties"]["destinations"]["additionalProperties"]["oneOf"]
    (kind,) = [kind for kind in kinds if kind["properties"]["provider"]["const"] == name]
    settings = kind["properties"]["settings"]["properties"]
    assert set(providers()[name].Settings.model_fields) == set(settings)
    assert [] == [setting for setting, schema in settings.items() if not schema.get("description")]
    assert providers()[name].spec.base_url == settings["base_url"]["default"]


SETTINGS = "settings: {api_key: '${KEY}'}"


@pytest.mark.parametrize(
    "text",
    [
        "listen: {host: '${HOST}', port: '${PORT}'}",
        "intake: {ack: '${ACK}', max_events: '${file:/n}', max_bytes: 32MiB}",
        "delivery: {timeout: '${T}', retry: {first: 200ms}}",
        "auth: {keys: [{name: '${N}', sha256: '${H}', scopes: ['${S}']}]}",
        f"destinations: {{one: {{provider: flexprice, required: '${{R}}', mode: 'off', {SETTINGS}}}}}",
        "destinations: {one: {provider: paygentic, settings: {api_key: k, profile: '${P}', merchant_id: '${M}'}}}",
        "meters: {a: , b: {}, c: {bindings: {one: , two: {}}}}",
        "meters: {a: {bindings: {one: {event_name: e, scale: 0.5}, two: [{price_id: p}, {price_slug: '${P}'}]}}}",
        "meters: {a: {bindings: {one: {billable_metric_id: b, price: {property: p}}}}}",
        "meters: {a: {bindings: {one: {event_name: {property: p}, quantity_properties: {a: b}}}}}",
        "customers: {a: {one: {subscription_id: '${S}', from: '2026-12-01T00:00:00Z'}, two: [{subscription: eu}]}}",
        "routes: []",
        "destinations: {one: {provider: flexprice, group: g, settings: {api_key: k}}}",
        "routes: [{destination: a, meters: [m], except: [c], percent: 12.5, from: '2026-12-01T00:00:00Z'}]",
        "routes: [{destination: a, customers: [c]}, {destination: a, percent: 10-100, until: '${T}'}]",
    ],
)
def test_what_the_loader_takes_fits(text: str) -> None:
    assert [] == of(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("listn: {}", [".listn: unknown"]),
        ("listen: {port: 70000, prot: 1}", [".listen.prot: unknown"]),
        ("intake: {ack: some}", [".intake.ack: anyOf"]),
        ("delivery: {timeout: 30}", [".delivery.timeout: anyOf"]),
        ("auth: {keys: [{name: a}]}", [".auth.keys[0].sha256: missing", ".auth.keys[0].scopes: missing"]),
        ("destinations: {one: {provider: acme, settings: {api_key: k}}}", [".destinations.one: oneOf"]),
        (
            "destinations: {one: {provider: flexprice, settings: {api_key: k, profile: events}}}",
            [".destinations.one: oneOf"],
        ),
        ("destinations: {one: {provider: flexprice, name: n, settings: {api_key: k}}}", [".destinations.one: oneOf"]),
        ("meters: {a: {bindings: {one: {prise: 1}}}}", [".meters.a: anyOf"]),
        ("meters: {a: {bindings: {one: {scale: {property: p}}}}}", [".meters.a: anyOf"]),
        ("customers: {a: {one: {sub: 1}}}", [".customers.a.one: anyOf"]),
        ("routes: [{destination: a, mode: on}]", [".routes[0].mode: anyOf"]),
        ("routes: [{meters: [m]}]", [".routes[0].destination: missing"]),
    ],
)
def test_what_the_loader_refuses_does_not_fit(text: str, found: list[str]) -> None:
    assert found == of(text)
