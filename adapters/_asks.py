"""Questions that some providers can be asked: are we welcome, is this row there. Generators, so free of I/O.

An ask yields requests and is sent what came back, a reply or a fault, one at a time, until it returns its
answer. An adapter has the method or it has not; none has a default that pretends. What a door's answers are
worth stands in its declaration: `Door.probe` and `Door.lookup`.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar, runtime_checkable

from adapters._spec import Fault, Reply, Request, Row

__all__ = ["Ask", "CanFind", "CanProbe", "Found", "Health", "Presence", "Sought", "Welcome", "health_of"]

T = TypeVar("T")
Ask = Generator[Request, Reply | Fault, T]
"""Yields requests, is sent what came back, returns the answer. Raises nothing for what a provider says."""


class Welcome(StrEnum):
    """What a provider makes of us."""

    GOOD = "good"
    """It answers, and takes our credentials."""
    REFUSED = "refused"
    """It answers, and does not: an operator must act."""
    TROUBLE = "trouble"
    """No answer that tells: a fault, 429, 5xx, garbage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a probe found."""

    welcome: Welcome
    message: str
    """A sentence for people; never a secret or a customer's data."""
    status: int | None = None
    """The HTTP status, where there was an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A row that may be stored, and what helps to look for it."""

    key: str
    """The key that the provider was given."""
    row: Row = field(repr=False)
    """As it was sent."""
    since: datetime
    """When the first request that may have stored it began."""


class Presence(StrEnum):
    """What a look at the provider says about a row."""

    PRESENT = "present"
    ABSENT = "absent"
    """The provider was read to the end of where the row would be, and it is not there."""
    UNTOLD = "untold"
    """Faults, answers that cannot be read, or more to read than one look may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of looking for a row."""

    presence: Presence
    evidence: str
    """What was read and what it said, for people; never a customer's data."""
    provider_event_id: str | None = None


@runtime_checkable
class CanProbe(Protocol):
    """Can ask, harmlessly, whether the credentials are good."""

    def probe(self) -> Ask[Health]:
        """Ask with a read that changes nothing."""
        ...


@runtime_checkable
class CanFind(Protocol):
    """Can look up a row by the key that it was sent under."""

    def find(self, sought: Sought) -> Ask[Found]:
        """Look for one row. Absence is claimed only where every page that could hold it was read."""
        ...


def health_of(answer: Reply | Fault) -> Health:
    """Judge the answer to a harmless read by its status alone; a 2xx without JSON is not the provider speaking."""
    if isinstance(answer, Fault):
        return Health(welcome=Welcome.TROUBLE, message=f"no answer: {answer.name}")
    status = answer.status
    if 200 <= status < 300 and answer.json is not None:
        return Health(welcome=Welcome.GOOD, message="the provider takes our credentials", status=status)
    if status in {401, 402, 403, 407}:
        message = "the provider refused our credentials: check api_key, and that it is for this base_url"
        return Health(welcome=Welcome.REFUSED, message=message, status=status)
    if status in {404, 405, 410}:
        message = "nothing answers this read at this address: check base_url"
        return Health(welcome=Welcome.REFUSED, message=message, status=status)
    return Health(welcome=Welcome.TROUBLE, message="the provider's answer does not tell", status=status)
