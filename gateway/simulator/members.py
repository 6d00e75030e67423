"""The members of a read, as a simulated vendor understands them: numbers, words and times, or why not."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from canonical_schema import parse_time

__all__ = ["DIGITS", "Unreadable", "instant", "ms", "number", "when", "word"]

DIGITS = re.compile(r"[0-9]{1,20}")


class Unreadable(Exception):
    """Raised for a member of a read that the vendor cannot make sense of."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(f"{member}: {why}")
        self.member = member
        self.why = why


def number(given: object, member: str, least: int = 0, most: int | None = None) -> int:
    """Return a whole number that was sent as one or as text. Raises Unreadable."""
    found = int(given) if isinstance(given, str) and DIGITS.fullmatch(given) else given
    if not isinstance(found, int) or isinstance(found, bool):
        raise Unreadable(member, "must be a whole number")
    if found < least or (most is not None and found > most):
        raise Unreadable(member, f"must be at least {least}" + ("" if most is None else f", and at most {most}"))
    return found


def word(asked: Mapping[str, object], member: str) -> str | None:
    """Return a text; `None` where there is none. Raises Unreadable."""
    given = asked.get(member)
    if given is not None and not isinstance(given, str):
        raise Unreadable(member, "must be a string")
    return given


def when(asked: Mapping[str, object], member: str) -> datetime | None:
    """Return an instant; `None` where there is none. Raises Unreadable."""
    return None if asked.get(member) is None else instant(asked, member)


def instant(asked: Mapping[str, object], member: str) -> datetime:
    """Return an instant that has to be there. Raises Unreadable."""
    given = word(asked, member)
    try:
        return parse_time(given or "")
    except ValueError as error:
        raise Unreadable(member, str(error)) from None


def ms(instant: datetime) -> int:
    """Return milliseconds since 1970."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
