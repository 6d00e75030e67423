"""What the four vendors do that their declarations leave out: bodies of refusals that no dialect reads.

Nothing here is needed to send or to settle. A provider without an entry has plain manners.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from adapters import Reply, Row

__all__ = ["INVALID", "Manners", "Shape", "answer", "manners", "text"]

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(
        status=status, headers={"content-type": "application/json", **(headers or {})}, body=_ENCODER.encode(body)
    )


def text(status: int, body: str, headers: Mapping[str, str] | None = None, kind: str = "plain") -> Reply:
    """Return a reply with a body for people."""
    return Reply(
        status=status, headers={"content-type": f"text/{kind}; charset=utf-8", **(headers or {})}, body=body.encode()
    )


Shape = Literal["object", "string"] | re.Pattern[str]
"""What a member has to be; a pattern: text of that form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a vendor refuses what never reaches its usage logic."""

    unauthorized: Reply = field(default_factory=lambda: answer(401, {"message": "Unauthorized"}))
    not_found: Reply = field(default_factory=lambda: text(404, "Not Found"))
    unreadable: Reply = field(default_factory=lambda: answer(400, {"message": "Invalid JSON in request body"}))
    """For a body that is no JSON, or has another shape than the door's, and no list of faults to say so."""
    rowless: Reply | None = None
    """For a JSON object in which the list of rows is not there, where the vendor tells that apart."""
    too_few: Reply | None = None
    """For a list without rows; absent: as a body that is unreadable."""
    too_many: Reply = field(default_factory=lambda: text(413, "Payload Too Large"))
    """For more rows than the declared bound. Where the vendor states none, ours is kept all the same."""
    too_large: Reply = field(default_factory=lambda: text(413, "Payload Too Large"))
    bare_key: bool = False
    """Whether a key is taken without the word `Bearer`, too."""
    not_json: Reply | None = None
    """For another content type, where the vendor minds."""
    empty: bool = False
    """Whether a list without rows is fine."""
    issues: Row = field(default_factory=dict[str, None])
    """Other members of the body that lists the faults of rows."""
    dotted: bool = False
    """Whether an issue says where as text, `events[3].amount`; else as a list of keys and indexes."""
    optional: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """Roles that a row may leave out, by profile."""
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Members that a row must have beside its roles, by profile."""
    shapes: Mapping[str, Mapping[str, Shape]] = field(default_factory=dict[str, Mapping[str, Shape]])
    """What other members of a row have to be where they are there, by profile."""
    lacking: Mapping[str, Reply] = field(default_factory=dict[str, Reply])
    """For a row that lacks a member, where the vendor names it in words of its own."""
    either: str | None = None
    """Which of several meters an issue is about where not exactly one is given; absent: the first."""
    coerced: bool = False
    """Whether a time in milliseconds is read as JavaScript does: from text too, and null is the year 1970."""
    absolute: str | None = None
    """The member that makes a row state the running value."""


INVALID: Row = {"code": "validation_error", "http_status_code": 400}
"""How Flexprice begins to say that it cannot read something."""


def _unvalidated(model: str, member: str, tag: str) -> Row:
    """Return what Flexprice says of a member that breaks a rule."""
    said = f"Key: '{model}.{member}' Error:Field validation for '{member}' failed on the '{tag}' tag"
    return {**INVALID, "message": "Request validation failed", "details": {member: said}}


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,255}")
_FLOWGLAD: Row = {"code": "BAD_REQUEST", "request_id": "51f7a0c2"}

_MANNERS: Mapping[str, Manners] = {
    "flowglad": Manners(
        bare_key=True,
        unauthorized=text(401, "API key not found or invalid"),
        unreadable=answer(400, {"error": "Invalid JSON in request body", "request_id": "51f7a0c2"}),
        rowless=answer(
            400,
            {
                **_FLOWGLAD,
                "error": [
                    {"path": ["usageEvents"], "message": "Invalid input: expected array", "code": "invalid_type"}
                ],
            },
        ),
        not_json=answer(415, {"error": "Unsupported content-type", "code": "UNSUPPORTED_MEDIA_TYPE"}),
        empty=True,
        either="priceId",
        coerced=True,
        issues=_FLOWGLAD,
        optional={"bulk": frozenset({"timestamp"})},
    ),
    "paygentic": Manners(
        unauthorized=answer(401, {"message": "Unauthorized", "error": "unauthorized"}),
        not_found=answer(404, {"message": "Not found", "error": "not_found"}),
        unreadable=answer(400, {"message": "Bad request", "error": "bad_request"}),
        issues={"message": "Validation failed", "error": "validation_error"},
        dotted=True,
        optional={"events": frozenset({"key", "timestamp"})},
        also={"events": ("source", "data"), "usage-v0": ("merchantId",)},
        shapes={
            "events": {"source": "string", "data": "object", "externalSubject": _NAME, "externalId": _NAME},
            "usage-v0": {"merchantId": "string", "entitlementId": "string", "metadata": "object"},
        },
    ),
    "flexprice": Manners(
        unauthorized=answer(401, {"error": "Unauthorized"}),
        not_found=text(404, "404 page not found"),
        unreadable=answer(400, {**INVALID, "message": "Invalid request payload"}),
        rowless=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "required")),
        too_few=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "min")),
        too_many=answer(400, _unvalidated("BulkIngestEventRequest", "Events", "max")),
        too_large=answer(
            400, {**INVALID, "message": "Request body exceeds the maximum size; split the batch into smaller requests"}
        ),
        optional={"bulk": frozenset({"key", "timestamp"})},
        shapes={"bulk": {"properties": "object", "source": "string", "customer_id": "string"}},
        lacking={
            "event_name": answer(400, _unvalidated("IngestEventRequest", "EventName", "required")),
            "external_customer_id": answer(400, _unvalidated("IngestEventRequest", "ExternalCustomerID", "required")),
        },
    ),
    "wingback": Manners(
        unauthorized=answer(401, {"feedback": {"token": {"type": "error", "value": "Invalid API token"}}}),
        unreadable=answer(400, {"feedback": {"body": {"type": "error", "value": "Invalid request body"}}}),
        empty=True,
        optional={"bulk": frozenset({"key", "timestamp"})},
        absolute="is_absolute",
    ),
}


def manners(provider: str) -> Manners:
    """Return a vendor's manners."""
    return _MANNERS.get(provider) or Manners()
