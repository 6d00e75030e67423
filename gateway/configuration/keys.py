"""The keys by which clients are known. The configuration holds only their SHA-256."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from gateway.configuration.findings import Section

__all__ = ["DEFAULT_TENANT", "PREFIX", "Key", "Keyring", "Scope", "TenantName", "new_key", "sha256"]

DEFAULT_TENANT = "default"
"""Of a key that names no other."""

PREFIX = "ugw_"
"""How every key starts, so that people and scanners know one where they see it."""

Scope = Literal["events:write", "events:read", "admin"]
TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

_HEX = frozenset("0123456789abcdef")


def new_key() -> str:
    """Return a key that nobody can guess: 256 random bits in 43 URL-safe characters, after the prefix."""
    return PREFIX + secrets.token_urlsafe(32)


def sha256(key: str) -> str:
    """Return what the configuration keeps of a key: 64 lower-case hex digits. Takes any text, never raises."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Key(Section):
    """One client: what its key is known by, and what it may do."""

    name: str = Field(min_length=1, max_length=64, description="Who holds the key; appears in logs.")
    sha256: str = Field(description="Of the whole key, as `usage-gateway keys new` prints it.")
    tenant: TenantName = Field(default=DEFAULT_TENANT, description="Scopes ids, events and links.")
    scopes: frozenset[Scope] = Field(min_length=1, description="What the key may do; `admin` may do everything.")

    @field_validator("sha256")
    @classmethod
    def _digest(cls, given: str) -> str:
        if len(given) != 64 or not _HEX.issuperset(given):
            raise ValueError("should be 64 lower-case hex digits, as `usage-gateway keys new` prints them; not the key")
        return given

    def allows(self, scope: Scope) -> bool:
        """Return whether the holder may do what `scope` names; `admin` may do all of it."""
        return scope in self.scopes or "admin" in self.scopes


class Keyring:
    """All keys that are known."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, presented: str) -> Key | None:
        """Return the key that was presented, if it is known.

        Looks at every key, each in constant time: how long it takes says nothing about how close a guess is.
        """
        digest = sha256(presented)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found
