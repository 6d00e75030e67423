"""The parts of a configuration that stand for themselves: where to listen, whom to trust, how much, how long."""

import re
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator

from adapters._models import Duration
from gateway.configuration.findings import Section, failure
from gateway.configuration.keys import Key
from gateway.errors import ConfigurationError
from gateway.ledger._redis.address import Address

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
        default="sqlite:///usage-gateway.db",
        repr=False,
        description="`sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:6379/0`,"
        " `redis+sentinel://host:26379,host:26379/master-name/0` or `redis+cluster://host:6379,host:6379`;"
        " `rediss` for TLS.",
    )
    user: str | None = Field(default=None, min_length=1, description="On a Redis server that has users.")
    password: SecretStr | None = Field(default=None, min_length=1, description="Of the Redis server.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Copies of a Redis server that a write waits for. Absent: 1 with sentinels or a cluster, else 0.",
    )
    ca_file: Path | None = Field(default=None, description="Whom to trust over TLS. Absent: whom the machine trusts.")
    cert_file: Path | None = Field(default=None, description="Our certificate, where the Redis server wants one.")
    key_file: Path | None = Field(default=None, description="The key of our certificate.")

    @field_validator("url")
    @classmethod
    def _supported(cls, url: str) -> str:
        if url.startswith("redis"):
            Address.read(url)
        elif not re.fullmatch(r"sqlite:///[^?#]*[^?#/]", url) or url == "sqlite:///:memory:":
            raise ValueError(
                "should be a file or a Redis server: write sqlite:///relative.db, sqlite:////absolute.db or"
                " redis://host:6379/0"
            )
        return url

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        named = {"user", "password", "replicas", "ca_file", "cert_file", "key_file"} & self.model_fields_set
        unused = sorted(name for name in named if getattr(self, name) is not None)
        address = self.address
        if address is None and unused:
            raise failure(((unused[0],), "is for a Redis server, and the ledger is a file: leave the key out"))
        if address is not None and not address.tls and (files := [name for name in unused if name.endswith("_file")]):
            raise failure(((files[0],), "is for TLS: write rediss:// in the url"))
        return self

    @property
    def path(self) -> Path:
        """The file, found from the working directory. Raises ConfigurationError where there is none."""
        if self.address is not None:
            raise ConfigurationError("ledger.url: names a Redis server, and this is for a ledger in a file")
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def address(self) -> Address | None:
        """The Redis server, `None` for a file."""
        if not self.url.startswith("redis"):
            return None
        address = Address.read(self.url)
        password = address.password if self.password is None else self.password.get_secret_value()
        return replace(address, user=self.user or address.user, password=password)

    @property
    def shown(self) -> str:
        """The url for people: without user and password."""
        return self.url if (address := self.address) is None else str(address)


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
    read_back: Span | None = Field(
        default=timedelta(days=1),
        description="How often usage is read back to settle deliveries in doubt, from midnight UTC on. Where a vendor"
        " can be asked for single ones it is also soon after they were parked. Null: never.",
    )
    confirm_receipts: bool = Field(
        default=False,
        description="Read back as often what vendors have only queued, too, and show it as confirmed once it is there:"
        " it takes as many requests as all of that usage has pages.",
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
