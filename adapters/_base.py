"""What every adapter is: facts, and one pure function. Discovery is by folder and by entry point."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import ClassVar, Generic, Self, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec

from adapters._facts import Dedupe, QuantityRule
from adapters._models import Binding, Link, Settings
from adapters._spec import Door, ProviderSpec
from adapters._values import JsonValue, Request, Row, Usage
from canonical_schema import plain

__all__ = ["Adapter", "encode_row", "provider", "providers"]

S = TypeVar("S", bound=Settings)
B = TypeVar("B", bound=Binding)
L = TypeVar("L", bound=Link)

GROUP = "usage_gateway.adapters"
"""The entry-point group in which others ship their own adapters."""

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Adapter(ABC, Generic[S, B, L]):
    """One provider, as one destination has it configured."""

    spec: ClassVar[ProviderSpec]
    """What is known about the provider."""
    Settings: ClassVar[type[Settings]]
    """What an operator writes about it. A setting named `profile` chooses the door, by its name in `spec.doors`."""
    by_place: ClassVar[bool] = False
    """Whether `encode` puts an event's values in places that depend on the names and types of its properties alone.

    It then looks at no key, time, quantity or text but by `wire_time` and `wire_quantity`, and rows of alike events
    are made from one answer. Off, it is asked for every row.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @cached_property
    def door(self) -> Door:
        """The endpoint that these settings choose."""
        profile = getattr(self.settings, "profile", next(iter(self.spec.doors)))
        return self.spec.doors[profile]

    @cached_property
    def base_url(self) -> str:
        """Where requests go, without a slash at the end."""
        return (self.settings.base_url or self.spec.base_url).rstrip("/")

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """What must never be seen."""
        keys = (self.settings.api_key, self.settings.previous_api_key)
        return tuple(key.get_secret_value() for key in keys if key is not None)

    @cached_property
    def credentials(self) -> tuple[Mapping[str, str], ...]:
        """The headers that carry each key that may be right, the one of `request` first."""
        return tuple(self.spec.auth.headers(key) for key in self.secrets)

    @cached_property
    def dedupe(self) -> Dedupe | None:
        """How repeats are told, with the window that the settings give."""
        dedupe = self.door.dedupe
        if dedupe is None or dedupe.setting is None:
            return dedupe
        window: timedelta = getattr(self.settings, dedupe.setting)
        return replace(dedupe, window=window, setting=None)

    @cached_property
    def quantity(self) -> QuantityRule:
        """Which quantities can be sent, with what the settings allow."""
        rule = self.door.quantity
        if rule.negative is not None and getattr(self.settings, rule.negative):
            return replace(rule, minimum=None if rule.maximum is None else -rule.maximum, negative=None)
        return rule

    @cached_property
    def allows_absolute(self) -> bool:
        """Whether an event with `kind: absolute` may be sent."""
        return self.door.absolute is not None and bool(getattr(self.settings, self.door.absolute))

    @abstractmethod
    def encode(self, usage: Usage[B, L]) -> Row:
        """Say one event in the provider's words. Pure: no clock, no rounding, no defaults of its own."""

    def take_back(self, theirs: str, reason: str) -> Row:
        """Say that a stored row is taken back, for the door of a `TakeBack`. `theirs` is the provider's id of the row.

        Raises NotImplementedError where the provider has no such door.
        """
        raise NotImplementedError(f"{self.spec.title} takes nothing back")

    def through(self, door: Door) -> Self:
        """Return the same destination, by another of its provider's doors."""
        other = type(self)(self.settings)
        other.door = door
        return other

    def request(self, rows: list[bytes]) -> Request:
        """Frame encoded rows as the one request that carries them.

        `rows` is what `encode_row` gave, at most `door.max_rows`; for a door of single rows, one.
        """
        if self.door.rows == "one":
            (row,) = rows
            return self.framed(row)
        return self.framed(b",".join(rows))

    def framed(self, rows: bytes) -> Request:
        """Frame rows as `request` does, with the commas between them."""
        path = self.door.path
        match self.door.rows:
            case "one":
                path, body = _placed(self.door.path, rows)
            case "list":
                body = b"[%b]" % rows
            case (under,):
                body = b'{"%b":[%b]}' % (under.encode(), rows)
        return Request(method=self.door.method, url=self.base_url + path, headers=self._headers, body=body)

    def reading(
        self, path: str, query: Mapping[str, str | int] | None = None, body: JsonValue | None = None
    ) -> Request:
        """Frame a read for an ask: a GET, or a POST where the provider takes its filters in a body."""
        url = self.base_url + path + (f"?{urlencode(query)}" if query else "")
        if body is None:
            return Request(method="GET", url=url, headers={**self.credentials[0], "accept": "application/json"})
        return Request(method="POST", url=url, headers=self._headers, body=_ENCODER.encode(body))

    @cached_property
    def _headers(self) -> Mapping[str, str]:
        """The headers of every request with a body."""
        return {**self.credentials[0], "content-type": "application/json", "accept": "application/json"}

    def wire_quantity(self, quantity: Decimal) -> Decimal | int | str:
        """Return a quantity as the door takes it: exact, as a whole number, a JSON number or a string."""
        if self.door.quantity.as_string:
            return plain(quantity)
        return int(quantity) if quantity == quantity.to_integral_value() else quantity

    def wire_time(self, instant: datetime) -> int | str:
        """Return an instant as the door takes it."""
        if self.door.time.style == "epoch_ms":
            return (instant - _EPOCH) // timedelta(milliseconds=1)
        fine = "microseconds" if instant.microsecond % 1000 else "milliseconds" if instant.microsecond else "seconds"
        return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=fine) + "Z"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _placed(path: str, body: bytes) -> tuple[str, bytes]:
    """Return path and body with those members of the row moved into the path that it names."""
    names = _NAMED.findall(path)
    if not names:
        return path, body
    row = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name in names:
        path = path.replace(f"{{{name}}}", quote(msgspec.json.decode(row.pop(name), type=str), safe=""))
    return path, _ENCODER.encode(row)


_NAMED = re.compile(r"\{(\w+)\}")


def encode_row(row: Row) -> bytes:
    """Return a row as JSON on one line, UTF-8 unescaped, every digit kept."""
    return _ENCODER.encode(row)


AnyAdapter = Adapter[Settings, Binding, Link]


@cache
def providers() -> Mapping[str, type[AnyAdapter]]:
    """Return every adapter that can be found, by provider name: those of this folder, then entry points.

    Raises ValueError where two claim one name.
    """
    found: dict[str, type[AnyAdapter]] = {}
    package = import_module("adapters")
    modules = [
        import_module(f"adapters.{module.name}")
        for module in iter_modules(package.__path__)
        if not module.name.startswith("_")
    ]
    classes: list[object] = [thing for module in modules for thing in vars(module).values()]
    classes += [point.load() for point in entry_points(group=GROUP)]
    for thing in classes:
        if isinstance(thing, type) and issubclass(thing, Adapter) and "spec" in thing.__dict__:
            adapter = cast("type[AnyAdapter]", thing)
            name = adapter.spec.name
            if found.setdefault(name, adapter) is not adapter:
                raise ValueError(f"two adapters claim the provider name {name!r}")
    return dict(sorted(found.items()))


def provider(name: str) -> type[AnyAdapter]:
    """Return one adapter. Raises KeyError where there is none of that name."""
    return providers()[name]
