"""CloudEvents 1.0 in structured JSON: the canonical event in another coat.

| CloudEvents | event |
| --- | --- |
| `subject` | `customer` |
| `type` | `meter` |
| `time` | `timestamp` |
| `source` and `id`, joined by `/` | `id`; hashed where that is not fit to be one |
| `source` | `source` too |
| `data.quantity`, `data.quantities` | `quantity`, `quantities` |
| the rest of `data` | `properties` |

Every other attribute is left alone, and an attribute that is null counts as absent, as the JSON format says.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import hashlib
from collections.abc import Mapping
from typing import cast

import msgspec
from pydantic import ValidationError

from canonical_schema.contract import UsageEvent, explain, is_id, is_writable, load_object, to_event
from canonical_schema.event import Event, InvalidEvent

__all__ = ["read_cloudevent"]

_NAMES = {
    "customer": "subject",
    "meter": "type",
    "timestamp": "time",
    "quantity": "data.quantity",
    "quantities": "data.quantities",
    "properties": "data",
}


def read_cloudevent(raw: bytes | memoryview | msgspec.Raw) -> Event:
    """Return the event in one CloudEvent, or raise InvalidEvent, which names the CloudEvents member."""
    members = load_object(bytes(raw), _identity)
    event_id = _identity(members)
    try:
        return to_event(UsageEvent.model_validate(_usage(members, event_id)))
    except ValidationError as error:
        path, rule = explain(error)
        name, dot, rest = path.partition(".")
        field = f"{_NAMES.get(name, name)}{dot}{rest}"
        raise InvalidEvent(f"{field}: {rule}", field, event_id) from None


def _usage(members: Mapping[str, object], event_id: str | None) -> dict[str, object]:
    """Return the members that `UsageEvent` takes."""
    sent = {name: value for name, value in members.items() if value is not None}

    def refuse(field: str, rule: str) -> InvalidEvent:
        return InvalidEvent(f"{field}: {rule}", field, event_id)

    if sent.get("specversion") != "1.0":
        raise refuse("specversion", 'must be "1.0"' if "specversion" in sent else "is required")
    for name in ("id", "source"):
        if not _is_text(sent.get(name)):
            raise refuse(name, "must be a non-empty string" if name in sent else "is required")
    if "data_base64" in sent:
        raise refuse("data_base64", "is not taken: send `data` as a JSON object")
    data = sent.get("data", {})
    if not isinstance(data, dict):
        raise refuse("data", "must be a JSON object")

    properties = dict(cast("dict[str, object]", data))
    usage: dict[str, object] = {"id": event_id, "source": sent["source"]}
    usage |= {ours: sent[its] for ours, its in _NAMES.items() if its in sent and ours != "properties"}
    usage |= {name: properties.pop(name) for name in ("quantity", "quantities") if name in properties}
    return usage | {"properties": properties}


def _identity(members: Mapping[str, object]) -> str | None:
    """Return the event's id, the same for ever, or `None` where `source` or `id` is no text."""
    source, its_id = members.get("source"), members.get("id")
    if not (_is_text(source) and _is_text(its_id)):
        return None
    joined = f"{source}/{its_id}"
    return joined if is_id(joined) else f"ce_{hashlib.sha256(joined.encode()).hexdigest()}"


def _is_text(value: object) -> bool:
    """Say whether this is a string with something in it that can be written down."""
    return isinstance(value, str) and value != "" and is_writable(value)
