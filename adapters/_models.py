"""Base models of what an operator writes about a provider: settings, bindings, links."""

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

__all__ = ["Binding", "Duration", "Link", "Settings", "parse_duration"]

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(value: object) -> object:
    """Return a duration written `200ms`, `1s`, `15m`, `24h` or `7d` as a timedelta; other types as they are."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", value)
    if match is None:
        raise ValueError(f"{value!r} is no duration: write 200ms, 1s, 15m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


Duration = Annotated[timedelta, BeforeValidator(parse_duration, json_schema_input_type=str)]
"""A span of time, written `200ms`, `1s`, `15m`, `24h`, `7d`."""


class Settings(BaseModel):
    """What every provider needs: a key, and perhaps another address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: SecretStr = Field(min_length=1, description="The vendor's API key.")
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="Another address than the vendor's own: a sandbox, a self-hosted server, a simulator.",
    )


class _Named(BaseModel):
    """A model of which exactly one field is a name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        given = [name for name in self.names if getattr(self, name) is not None]
        if self.names and len(given) != 1:
            wanted = self.names[0] if len(self.names) == 1 else f"exactly one of {', '.join(self.names)}"
            raise ValueError(f"give {wanted}" + (f", not {' and '.join(given)}" if given else ""))
        return self


class Binding(_Named):
    """How a provider names a meter. Subclasses add the provider's fields; any of them may come from a property."""

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
    since: AwareDatetime | None = Field(
        default=None, alias="from", description="Only for events at or after this instant."
    )
    until: AwareDatetime | None = Field(default=None, description="Only for events before this instant.")

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("`from` must be before `until`")
        return self
