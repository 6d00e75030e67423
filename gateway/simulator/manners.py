"""How a vendor answers what no dialect reads: the bodies of its refusals, and what it is lenient about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from adapters import Reply, Row

__all__ = ["Manners", "Shape", "answer", "text"]

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
