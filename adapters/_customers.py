"""Looking a customer up at its provider by our own id: an ask, so free of I/O, that claims no more than it read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from adapters._asks import Ask
from adapters._readback import Unread, digits, listed
from adapters._values import Fault, JsonValue, Reply

__all__ = ["CanLookUp", "LookedUp", "Match", "cut_off", "matched", "only_one"]


class Match(StrEnum):
    """What a provider says about a customer of ours."""

    FOUND = "found"
    ABSENT = "absent"
    """It knows none of this id, or none that usage could be billed to."""
    AMBIGUOUS = "ambiguous"
    """There are several: a person must choose."""
    UNTOLD = "untold"
    """No answer that tells: a fault, refused credentials, garbage. Ask again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedUp:
    """What came of looking for a customer."""

    match: Match
    link: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The fields of the door's link, where it was found."""
    message: str = ""
    """For people, where it was not: what is there and what to do. The provider's ids of things, never more."""


@runtime_checkable
class CanLookUp(Protocol):
    """Can find a customer by the id that we know it by."""

    def look_up(self, customer: str) -> Ask[LookedUp]:
        """Look one customer up. Of several none is chosen."""
        ...


def matched(
    answer: Reply | Fault, what: str, *under: str
) -> tuple[Sequence[Mapping[str, JsonValue]], Mapping[str, JsonValue]] | LookedUp:
    """Return the rows of an answer with what is around them, or what it comes to where there are none to read."""
    page = listed(answer, what, *under)
    return LookedUp(match=Match.UNTOLD, message=page.why) if isinstance(page, Unread) else page


def cut_off(rows: Sequence[Mapping[str, JsonValue]], limit: int, around: Mapping[str, JsonValue]) -> LookedUp | None:
    """Return that nothing can be said, where the answer may not show all that match: `around` has what it counts."""
    total = digits(around.get("total"))
    if len(rows) < limit and (total is None or total <= len(rows)):
        return None
    return LookedUp(match=Match.UNTOLD, message="more customers match than one answer holds")


def only_one(field: str, what: str, ids: Sequence[object]) -> LookedUp:
    """Return the one thing that was found under its field of the link, or why none is taken."""
    known = sorted({one for one in ids if isinstance(one, str) and one})
    if not all(isinstance(one, str) and one for one in ids):
        return LookedUp(match=Match.UNTOLD, message=f"the provider lists a {what} without an id")
    match known:
        case [one]:
            return LookedUp(match=Match.FOUND, link={field: one})
        case []:
            return LookedUp(match=Match.ABSENT, message=f"the provider has no {what} for this customer")
        case _:
            listed_ids = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
            message = f"the provider has several ({listed_ids}): put a link with the {field} to bill"
            return LookedUp(match=Match.AMBIGUOUS, message=message)
