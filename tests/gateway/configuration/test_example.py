"""The example configuration: loadable, complete, and telling the truth about defaults."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.configuration import Configuration
from gateway.configuration.file import load
from gateway.configuration.schema import json_schema
from gateway.errors import ConfigurationError

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"
TEXT = EXAMPLE.read_text("utf-8")
NAMED = set(re.findall(r"\$\{([A-Z0-9_]+)\}", re.sub("#.*", "", TEXT)))
ENVIRON = dict.fromkeys(NAMED, "a" * 64)


def test_it_loads_with_only_the_variables_that_it_names() -> None:
    configuration = load(EXAMPLE, ENVIRON)
    assert ["flowglad", "paygentic", "flexprice", "wingback"] == list(configuration.destinations)
    assert {"api_calls": 4, "llm_call": 4} == {
        name: sum(map(len, meter.bindings.values())) for name, meter in configuration.meters.items()
    }


@pytest.mark.parametrize("missing", sorted(NAMED))
def test_each_variable_is_needed_where_it_is_named(missing: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(EXAMPLE, {name: value for name, value in ENVIRON.items() if name != missing})
    (line,) = [number for number, text in enumerate(TEXT.splitlines(), 1) if f"${{{missing}}}" in text]
    assert str(caught.value).startswith(f"{EXAMPLE}:{line}: ")
    assert str(caught.value).endswith(f": the environment variable {missing} is not set")


@pytest.mark.parametrize("section", ["listen", "ledger", "intake", "delivery", "retention"])
def test_what_is_not_about_a_vendor_is_the_default(section: str) -> None:
    assert getattr(Configuration(), section) == getattr(load(EXAMPLE, ENVIRON), section)


def test_it_shows_every_key_but_alternatives() -> None:
    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return {key for each in value for key in keys(each)}
        return set(value) | {key for each in value.values() for key in keys(each)} if isinstance(value, dict) else set()

    def named(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return {key for each in schema for key in named(each)}
        if not isinstance(schema, dict):
            return set()
        own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set[str]()
        return own | {key for each in schema.values() for key in named(each)}

    alternatives = {
        "price_id", "usage_meter_id", "usage_meter_slug", "event_type", "quantity_field", "entitlement_id",
        "external_subject",
    }  # fmt: skip
    assert alternatives == named(json_schema()) - keys(yaml.safe_load(TEXT))
