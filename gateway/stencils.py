"""Rows of alike events, filled in at the places that an adapter puts its values in.

`Adapter.encode` stays the only one that knows a provider's words. One that declares `by_place` is asked once for
each shape of event, with stand-ins for the values; its answer with the stand-ins cut out is a stencil. It is
asked a second time with other stand-ins, and both must agree; the first events of each stencil are encoded in
both ways. Whatever is not plain (several quantities, absolute values, refusals, odd ids) is left to `render`.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter

import msgspec

from adapters import AnyAdapter, Binding, Link, Measure, Usage, encode_row
from adapters._spec import QuantityRule, Scalar, TimeRule
from canonical_schema import Event, Kind
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.ledger import Part
from gateway.rendering import Refused, Turned, encoded, link_of, render

__all__ = ["Stencils"]

CHECKED = 3
"""How many events of a stencil are encoded in both ways."""
EVENTS = 8192
"""Events of which something is remembered, until the last lane had them."""
MOST = 4096
"""Shapes and links that are remembered; then it begins anew."""

_PLAIN = re.compile(r"[ !#-\[\]-~]*").fullmatch
"""Text that stands in JSON as it is."""
_DECIMAL = re.compile(r"\d+\.\d*[1-9]", re.ASCII).fullmatch
_MS, _S, _US = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_escaped = msgspec.json.encode

_Naming = tuple[Link, object, str]
"""A link, what all links of its kind have in common, and the name that sets it apart."""


class _Facts(msgspec.Struct, frozen=True, gc=False):
    """What is the same of an event at every destination."""

    shape: tuple[str | None, ...]
    """Meter, source, types and names of the properties."""
    plain: bool
    """Whether it is of the kind that a stencil is for."""
    customer: str
    written: str | None
    """When it was, where it says so; `None`: it has the time of its receipt."""
    values: list[str]


_known: dict[int, tuple[Event, _Facts]] = {}
"""By identity: the ledger hands the same event to every lane, one soon after the other."""


def _facts(event: Event) -> _Facts:
    known = _known.get(id(event))
    if known is not None and known[0] is event:
        return known[1]
    if len(_known) >= EVENTS:
        _known.clear()
    kinds, values = _properties(event.properties)
    when = event.timestamp
    made = _Facts(
        shape=(event.meter, event.source, kinds, *event.properties),
        plain=(
            kinds != "?"
            and event.kind is Kind.DELTA
            and event.quantities is None
            and event.corrects is None
            and _PLAIN(event.id) is not None
            and (when is None or when.tzinfo is UTC)
        ),
        customer=_text(event.customer),
        written=None if when is None else when.isoformat(),
        values=values,
    )
    _known[id(event)] = (event, made)
    return made


class _Stencil:
    """The text around the values of a shape, and which of them come where."""

    def __init__(self, text: str, order: tuple[int, ...]) -> None:
        self.text = text
        self.values: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*order)
        self.unchecked = CHECKED


class Stencils:
    """The stencils of one destination, in one generation of the configuration."""

    def __init__(self, catalogue: Catalogue, destination: str) -> None:
        self._catalogue = catalogue
        self._destination = destination
        self._adapter = catalogue.destinations[destination].adapter
        self._holds = catalogue.destinations[destination].late != "send"
        door = self._adapter.door
        self._time = _writer_of(door.time)
        kind = type(self._adapter)
        self._usable = (
            kind.by_place
            and self._time is not None
            and kind.wire_time is AnyAdapter.wire_time
            and kind.wire_quantity is AnyAdapter.wire_quantity
        )
        self._no_key = re.compile("|".join(("ugw_", *map(re.escape, door.key.forbidden)))).search
        self._key = None if door.key.pattern is None else re.compile(door.key.pattern).fullmatch
        self._bindings: dict[str, Binding | None] = {}
        self._links: dict[int, _Naming] = {}
        self._defaults: dict[str, Link] = {}
        self._stencils: dict[object, _Stencil | None] = {}

    def parts(self, tenant: str, event: Event, received: datetime, now: datetime) -> list[Part] | None:
        """Return the one row of a plain event, as `encoded(render(...))` would; `None`: that one has to be asked."""
        if not self._usable or tenant != DEFAULT_TENANT:
            return None
        facts = _facts(event)
        if not facts.plain:
            return None
        binding = self._binding(event.meter)
        quantity = "1" if event.quantity is None else _quantity(event.quantity, self._adapter.quantity)
        key, door = event.id, self._adapter.door
        if binding is None or quantity is None or len(key) > door.key.max_length:
            return None
        if self._no_key(key) is not None or (self._key is not None and self._key(key) is None):
            return None
        when = event.timestamp or received
        if not self._in_time(when, now):
            return None
        if self._holds and self._catalogue.held(self._destination, tenant, when) is not None:
            return None
        naming = self._naming(tenant, event, when)
        if naming is None or self._time is None:
            return None
        shape = (facts.shape, naming[1])
        try:
            stencil = self._stencils[shape]
        except KeyError:
            stencil = self._cut(shape, binding, naming[0], event)
        if stencil is None:
            return None
        time = self._time(when, facts.written or when.isoformat())
        filled = (key, key, facts.customer, time, quantity, naming[2], *facts.values)
        row = (stencil.text % stencil.values(filled)).encode()
        if stencil.unchecked:
            made = render(self._catalogue, self._destination, tenant, event, received, now)
            if isinstance(made, Turned) or encoded(made) != [Part("", key, row)]:
                self._stencils[shape] = None
                return None
            stencil.unchecked -= 1
        return [Part("", key, row)]

    def _binding(self, meter: str) -> Binding | None:
        """Return how the destination names a meter, where it does so in one plain way."""
        if meter not in self._bindings:
            rows, known = self._catalogue.rows(self._destination, meter), self._catalogue.meter(meter)
            plain = (
                known is not None
                and len(rows) == 1
                and not (rows[0].properties or rows[0].takes())
                and rows[0].scale == 1
                and known.aggregation in self._adapter.door.aggregations
            )
            if not plain and known is None:
                return None  # names that senders invent must not fill the memory
            self._bindings[meter] = rows[0].bind({}) if plain else None
        return self._bindings[meter]

    def _in_time(self, when: datetime, now: datetime) -> bool:
        past, future = self._adapter.door.time.past, self._adapter.door.time.future
        return (past is None or now - when <= past) and (future is None or when - now <= future)

    def _naming(self, tenant: str, event: Event, when: datetime) -> _Naming | None:
        link = self._catalogue.link(self._destination, tenant, event, when)
        if link is None and (link := self._defaults.get(event.customer)) is None:
            try:
                link = link_of(self._catalogue, self._adapter, self._destination, tenant, event, when)
            except Refused:
                return None
            if len(self._defaults) >= MOST:
                self._defaults.clear()
            self._defaults[event.customer] = link
        known = self._links.get(id(link))
        if known is not None and known[0] is link:
            return known
        named = next((name for name in link.names if getattr(link, name) is not None), None)
        if named is None:
            return None
        others = tuple((name, value) for name, value in link if name != named)
        if len(self._links) >= MOST:
            self._links.clear()
        made = self._links[id(link)] = (link, (type(link), named, repr(others)), _text(getattr(link, named)))
        return made

    def _cut(self, shape: object, binding: Binding, link: Link, event: Event) -> _Stencil | None:
        """Ask the adapter twice, and remember the stencil where both answers agree."""
        if len(self._stencils) >= MOST:
            self._stencils.clear()
        try:
            one, other = (self._asked(binding, link, event, salt) for salt in (1, 2))
        except Exception:  # noqa: BLE001  it stumbles over stand-ins: then it is asked for each event
            one = other = None
        fits = one is not None and one == other and len(one[1]) > 1
        self._stencils[shape] = made = _Stencil(*one) if fits and one is not None else None
        return made

    def _asked(self, binding: Binding, link: Link, event: Event, salt: int) -> tuple[str, tuple[int, ...]]:
        assert self._time is not None
        when = datetime(2100 + salt, 10 + salt, 20 + salt, 11, 12, 13, 141_592, tzinfo=UTC)
        resolution = self._adapter.door.time.resolution
        when -= (when - _EPOCH) % resolution
        properties: dict[str, Scalar] = {}
        for place, (name, value) in enumerate(event.properties.items()):
            number = 7_000_000_003_000 + 1000 * salt + place
            match value:
                case bool():
                    properties[name] = value
                case int():
                    properties[name] = number
                case Decimal():
                    properties[name] = Decimal(f"{number}.25")
                case str():
                    properties[name] = f"zq{number}qz"
        named = next(name for name in link.names if getattr(link, name) is not None)
        key, event_id, customer, theirs = (f"zq{salt}{word}{salt}qz" for word in ("key", "id", "who", "link"))
        quantity = Decimal(4_000_000_019 + salt)
        usage = Usage(
            key=key,
            event_id=event_id,
            customer=customer,
            meter=event.meter,
            timestamp=when,
            measures=(Measure(name="", quantity=quantity, binding=binding),),
            link=link.model_copy(update={named: theirs}),
            source=event.source,
            properties=properties,
        )
        _, values = _properties(properties)
        time = self._time(when, when.isoformat())
        stand_ins = [key, event_id, customer, time, str(quantity), theirs, *values]
        longest = sorted(map(re.escape, stand_ins), key=len, reverse=True)
        text = encode_row(self._adapter.encode(usage)).decode()
        pieces = re.split(f"({'|'.join(longest)})", text)
        around = "%s".join(piece.replace("%", "%%") for piece in pieces[::2])
        return around, tuple(stand_ins.index(piece) for piece in pieces[1::2])


def _quantity(quantity: Decimal, rule: QuantityRule) -> str | None:
    """Return a quantity that is written in one way only and fits the rule; `None`: that has to be looked at."""
    text = str(quantity)
    places = 0
    if not text.isdigit():
        if _DECIMAL(text) is None:
            return None
        places = len(text) - text.index(".") - 1
    if (
        text == "0"
        or places > rule.places
        or (rule.digits is not None and len(text) > rule.digits)
        or (rule.minimum is not None and quantity < rule.minimum)
        or (rule.maximum is not None and quantity > rule.maximum)
    ):
        return None
    return text


def _text(value: str) -> str:
    return value if _PLAIN(value) is not None else _escaped(value)[1:-1].decode()


def _properties(properties: dict[str, Scalar]) -> tuple[str, list[str]]:
    """Return the types of properties, a letter each, and the texts of those that are put in places.

    A boolean is told by its letter. `?`: there is a number that has several spellings.
    """
    kinds = ""
    texts: list[str] = []
    for value in properties.values():
        kind = type(value)
        if kind is str:
            kinds += "s"
            texts.append(value if _PLAIN(value) is not None else _text(value))  # type: ignore[arg-type]
        elif kind is bool:
            kinds += "t" if value else "f"
        elif kind is int and len(text := str(value)) < 18:
            kinds += "i"
            texts.append(text)
        elif kind is Decimal and "E" not in (text := str(value)):
            kinds += "d"
            texts.append(text)
        else:
            return "?", texts
    return kinds, texts


def _writer_of(rule: TimeRule) -> Callable[[datetime, str], str] | None:
    """Return how UTC instants are floored and written, as `Adapter.wire_time` does it; `None`: in no way known here.

    It is given the instant and that in ISO 8601.
    """
    if rule.style == "epoch_ms":
        return _epoch_ms if rule.resolution in {_MS, _US} else None
    return {_US: _micros, _MS: _millis, _S: _seconds}.get(rule.resolution)


def _epoch_ms(when: datetime, _: str) -> str:
    return str((when - _EPOCH) // _MS)


def _micros(when: datetime, text: str) -> str:
    if len(text) == 25 or text[23:26] == "000":
        return _millis(when, text)
    return text[:26] + "Z"


def _millis(_: datetime, text: str) -> str:
    return (text[:19] if len(text) == 25 or text[20:23] == "000" else text[:23]) + "Z"


def _seconds(_: datetime, text: str) -> str:
    return text[:19] + "Z"
