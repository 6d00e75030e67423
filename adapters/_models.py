"""Base models of what an operator writes about a provider: settings, bindings, links."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

__all__ = ["Binding", "Duration", "Link", "Settings", "format_duration", "parse_duration"]

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(value: object) -> object:
    """Return a duration written `200ms`, `1s`, `15m`, `24h` or `7d` as a timedelta; a bare number has no unit."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"([0-9]{1,9})(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration: write 200ms, 1s, 15m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def format_duration(span: timedelta) -> str:
    """Return a duration of whole milliseconds as it is written, in the largest unit that says it exactly."""
    for unit, name in reversed(_UNITS.items()):
        if not span % (one := timedelta(**{name: 1})):
            return f"{span // one}{unit}"
    raise ValueError(f"{span!r} has a fraction of a millisecond")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}),
]
"""A span of time, written `200ms`, `1s`, `15m`, `24h`, `7d`."""


def _instant(value: object) -> object:
    """Return what may be an instant. A bare number is none: it would be read as seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)):
        return value
    raise ValueError("should be a time with a zone: 2026-12-01T00:00:00Z")


Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
"""A time with a zone, written as RFC 3339."""


class Settings(BaseModel):
    """What every provider needs: a key, and perhaps another address."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: SecretStr = Field(min_length=1, description="The vendor's API key.")
    previous_api_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="The key before, while the vendor takes both or only it: used where api_key is refused.",
    )
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="Another address than the vendor's own: a sandbox, a self-hosted server, a simulator.",
    )

    @field_validator("api_key", "previous_api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        # Found only when it is sent, it would look like a request that may have arrived.
        if key is not None and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            raise ValueError("holds a line end, or another character that no key has: look at where it comes from")
        return key

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if "@" in url:
            raise ValueError("should hold no credentials: they would be seen with the address")
        if not _host(url):
            raise ValueError("should be an address with a host: https://api.example.com/v1")
        if not _has_a_port(url):
            raise ValueError("should have a port of 1 to 65535")
        return url


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # a bracket that is not closed
        return None


def _has_a_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class _Named(BaseModel):
    """A model of which exactly one field is a name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    names: ClassVar[tuple[str, ...]] = ()
    """The fields of which exactly one is given."""
    default: ClassVar[str | None] = None
    """The one of `names` that takes our own name for the thing where none is given; `None`: one must be given."""

    @classmethod
    def completed(cls, given: Mapping[str, object], ours: str) -> dict[str, object]:
        """Return `given`, with our own name for the thing where nothing names it and there is a default."""
        if cls.default is None or any(given.get(name) is not None for name in cls.names):
            return dict(given)
        return {**given, cls.default: ours}

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """Yield nothing: a name may be a customer's, or come from a property."""
        yield from ()

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        given = [name for name in self.names if getattr(self, name) is not None]
        if self.names and len(given) != 1:
            wanted = self.names[0] if len(self.names) == 1 else f"exactly one of {', '.join(self.names)}"
            raise ValueError(f"give {wanted}" + (f", not {' and '.join(given)}" if given else ""))
        return self


class Binding(_Named):
    """How a provider names a meter. Subclasses add the provider's fields; any of them may come from a property."""

    surprising: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Names that bill otherwise than one would think: the code of a warning, and its words behind the name."""
    several: ClassVar[str | None] = None
    """The field by which one row takes several of an event's quantities; `None`: it takes one."""

    quantity: str | None = Field(
        default=None, description="Which of the event's `quantities` this row takes; absent: the plain quantity."
    )
    scale: Decimal = Field(
        default=Decimal(1), gt=0, description="The provider's unit: quantity x scale, exact or refused."
    )

    def takes(self) -> tuple[str, ...]:
        """Return the names of the quantities that this row carries; empty: the plain quantity."""
        return () if self.quantity is None else (self.quantity,)

    def together(self) -> object:
        """Return what bindings must agree on to travel in one row, at a door that takes several measures."""
        return None


class Link(_Named):
    """How a provider names a customer. Subclasses add the provider's fields.

    Several rows may hold for one customer: by subscription, and by event time (half open).
    """

    subscription: str | None = Field(default=None, description="Only for events with this `subscription`.")
    since: Instant | None = Field(default=None, alias="from", description="Only for events at or after this instant.")
    until: Instant | None = Field(default=None, description="Only for events before this instant.")

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("`from` must be before `until`")
        return self

    @property
    def unconditional(self) -> bool:
        """Whether it holds for every event of the customer."""
        return self.subscription is self.since is self.until is None
