"""How a simulated vendor takes a row back as a whole: by the door that is declared for it, and its own id."""

import re
from typing import NamedTuple

import msgspec

from adapters import Door, ProviderSpec, TakeBack

__all__ = ["Withdrawal", "withdrawal"]

_ID = re.compile(r"[a-z]+_(.+)", re.DOTALL)
"""The simulators' own ids: a prefix before the key of the row."""


class Withdrawal(NamedTuple):
    """A request to take a row back."""

    profile: str
    """The door that took the row."""
    door: Door
    """The door that takes it back."""
    key: str
    theirs: str
    """The vendor's own id of the row."""

    def asked(self, body: bytes) -> bool:
        """Return whether the body says so."""
        try:
            return msgspec.json.decode(body, type=_Asked).refunded
        except msgspec.DecodeError:
            return False


class _Asked(msgspec.Struct):
    refunded: bool
    reason: str


def withdrawal(spec: ProviderSpec, method: str, path: str) -> Withdrawal | None:
    """Return what a request takes back, where it is for such a door."""
    for profile, door in spec.doors.items():
        way = door.corrections
        if not isinstance(way, TakeBack) or way.door.method != method:
            continue
        pattern = re.escape(way.door.path).replace(r"\{id\}", "([^/]+)")
        found = re.fullmatch(pattern, path)
        theirs = None if found is None else _ID.fullmatch(found[1])
        if theirs is not None:
            return Withdrawal(profile, way.door, theirs[1], theirs[0])
    return None
