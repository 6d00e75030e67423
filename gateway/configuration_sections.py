"""The parts of a configuration that stand for themselves: where to listen, whom to trust, how much, how long."""

import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from adapters._models import Duration
from gateway.configuration_findings import Section, failure
from gateway.keys import Key

__all__ = [
    "Ack",
    "Auth",
    "Delivery",
    "Intake",
    "LedgerSettings",
    "Listen",
    "Retention",
    "Retry",
    "Size",
    "Span",
    "UnknownMeter",
    "parse_size",
]

Ack = Literal["required", "stored", "all"]
UnknownMeter = Literal["store", "refuse"]

_BYTES = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_size(value: object) -> object:
    """Return a size written `32MiB`, `512KiB` or as a plain number as bytes; other types as they are."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,12})(KiB|MiB|GiB|)", value)
    if match is None:
        raise ValueError(f"{value!r} is no size: write 32MiB, 512KiB or a number of bytes")
    return int(match[1]) * _BYTES[match[2]]


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
"""A number of bytes, written `32MiB`, `512KiB` or plain."""


def _some(span: timedelta) -> timedelta:
    if not span:
        raise ValueError("should be longer than nothing")
    return span


Span = Annotated[Duration, AfterValidator(_some)]
"""A duration that is not zero."""


class Listen(Section):
    """Where the service listens."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Anything but loopback needs a key under auth.")
    port: int = Field(default=8080, ge=0, le=65535, description="0: any free port.")

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class LedgerSettings(Section):
    """Where events and deliveries are kept."""

    url: str = Field(
        default="sqlite:///usage-gateway.db", description="`sqlite:///relative.db` or `sqlite:////absolute.db`."
    )

    @field_validator("url")
    @classmethod
    def _supported(cls, url: str) -> str:
        if not re.fullmatch(r"sqlite:///[^?#]*[^?#/]", url) or url == "sqlite:///:memory:":
            raise ValueError("only SQLite files are supported: write sqlite:///relative.db or sqlite:////absolute.db")
        return url

    @property
    def path(self) -> Path:
        """The file; a relative one is found from the working directory."""
        return Path(self.url.removeprefix("sqlite:///"))


class Auth(Section):
    """Who may use the service."""

    keys: tuple[Key, ...] = Field(default=(), description="None: whoever can connect may do everything.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, values in (("name", [key.name for key in self.keys]), ("sha256", [key.sha256 for key in self.keys])):
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise failure((("keys", index, what), f"is that of keys[{values.index(value)}] already"))
        return self


class Intake(Section):
    """What is taken in, and what an answer waits for."""

    ack: Ack = Field(default="required", description="What an answer waits for where the request does not say.")
    unknown_meter: UnknownMeter = Field(
        default="store", description="`store`: kept as unrouted until there is a way. `refuse`: invalid."
    )
    max_events: int = Field(default=10_000, ge=1, le=65_536, description="In one request.")
    max_bytes: Size = Field(default=32 * 2**20, ge=1, description="Of one request, decoded.")
    max_queue: int = Field(
        default=10_000_000, ge=1, description="Deliveries that may wait; above it the door answers 503."
    )


class Retry(Section):
    """How often and how long a delivery is tried. It is given up when both `attempts` and `give_up` are spent."""

    first: Span = Field(default=timedelta(seconds=1), description="The first pause; each later one is up to twice it.")
    max: Span = Field(default=timedelta(minutes=15), description="The longest pause, and the breaker's.")
    give_up: Span = Field(default=timedelta(days=7), description="Not given up before this time has passed.")
    attempts: int = Field(default=10, ge=1, description="Not given up before this many attempts.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.first > self.max:
            raise failure((("first",), "should not be longer than retry.max"))
        return self


class Delivery(Section):
    """How events are sent on, to each destination."""

    max_in_flight: int = Field(default=8, ge=1, description="Requests at a time, to one destination.")
    timeout: Span = Field(default=timedelta(seconds=30), description="Of one request.")
    grace: Span = Field(
        default=timedelta(seconds=30),
        description="How long a gateway that is told to stop lets requests in flight finish.",
    )
    retry: Retry = Retry()


class Retention(Section):
    """How long things are kept."""

    events: Span = Field(
        default=timedelta(days=35), description="Full records. What is settled by then is archived and trimmed."
    )
    archive: Path | None = Field(
        default=None, description="The folder for records that leave the ledger. Absent: there is no archive."
    )
    trim: Literal["archived", "always"] = Field(
        default="archived",
        description="`archived`: a full record is dropped only once it is in the archive; without one, never."
        " `always`: also without an archive.",
    )
    letters: Span | None = Field(
        default=None,
        description="After this rejected, dead and unknown deliveries count as settled, and can be repaired no longer."
        " Absent: their records stay until somebody decides.",
    )
    ids: Span | None = Field(
        default=timedelta(days=400),
        description="How long the id of a trimmed event is known, so that a repeat is one. null: for ever.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("letters", "ids"):
            span: timedelta | None = getattr(self, name)
            if span is not None and span < self.events:
                raise failure(((name,), "should not be shorter than retention.events"))
        return self
