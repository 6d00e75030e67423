"""Rows of alike events, filled in at the places that an adapter puts its values in.

`Adapter.encode` stays the only one that knows a provider's words. One that declares `by_place` is asked once for
each shape of event, with stand-ins for the values; its answer with the stand-ins cut out is a stencil. It is
asked a second time with other stand-ins, and both must agree; the first events of each stencil are encoded in
both ways. Whatever is not plain (several quantities, absolute values, refusals, odd ids) is left to `render`.

Stencils are filled a batch at a time, from its columns: one call makes the rows of all events that look alike.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain

from adapters import AnyAdapter, Binding, Link, Measure, Usage, encode_row
from adapters._facts import TimeRule
from adapters._values import Scalar
from canonical_schema import Event
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.lanes.columns import Columns, Shape, columns_of, escaped, kinds_of, picked
from gateway.lanes.rendering import Refused, Turned, encoded, link_of, render
from gateway.ledger import Part

__all__ = ["Stencils"]

CHECKED = 3
"""How many events of a stencil are encoded in both ways."""
MOST = 4096
"""Shapes and links that are remembered; then it begins anew."""

_MS, _S, _US = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Naming = tuple[Link, object, str]
"""A link, what all links of its kind have in common, and the name that sets it apart."""


class _Stencil:
    """The text around the values of a shape, and which of them come where."""

    def __init__(self, text: str, order: tuple[int, ...]) -> None:
        self._fill = text.__mod__
        self._order = order
        self.unchecked = CHECKED

    def filled(self, columns: Sequence[Sequence[str]]) -> list[bytes]:
        """Return the rows of as many events as the columns have places."""
        return [row.encode() for row in map(self._fill, zip(*[columns[number] for number in self._order], strict=True))]


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
        self._not_in_key = "ugw_", *door.key.forbidden
        self._key = None if door.key.pattern is None else re.compile(door.key.pattern).fullmatch
        self._bindings: dict[str, Binding | None] = {}
        self._links: dict[int, _Naming] = {}
        self._defaults: dict[str, Link] = {}
        self._stencils: dict[object, _Stencil | None] = {}

    def rows(
        self, tenant: str, events: Sequence[Event], receipts: Sequence[datetime], now: datetime
    ) -> Sequence[bytes | None]:
        """Return the one row of each plain event, as `encoded(render(...))` would; `None`: that one has to be asked.

        `receipts` tells when each event was received.
        """
        made: list[bytes | None] = [None] * len(events)
        if not self._usable or tenant != DEFAULT_TENANT:
            return made
        columns = columns_of(events)
        for shape in columns.shapes:
            binding = self._binding(shape.meter)
            if binding is None:
                continue
            fitting = self._fitting(columns, shape.places, receipts, now)
            for places, naming, names in self._named(tenant, columns, fitting, receipts):
                rows = self._filled(tenant, columns, shape, binding, places, naming, names, receipts, now)
                if len(rows) == len(events):
                    return rows
                for place, row in zip(places, rows, strict=False):
                    made[place] = row
        return made

    def _filled(
        self,
        tenant: str,
        columns: Columns,
        shape: Shape,
        binding: Binding,
        places: Sequence[int],
        naming: _Naming,
        names: Sequence[str],
        receipts: Sequence[datetime],
        now: datetime,
    ) -> list[bytes]:
        """Return the rows of events that share a stencil; none where it does not hold for one of the first."""
        key = (shape.about, naming[1])
        try:
            stencil = self._stencils[key]
        except KeyError:
            stencil = self._cut(key, binding, naming[0], columns.events[places[0]])
        if stencil is None:
            return []
        size = len(columns.events)
        ids = picked(columns.ids, places, size)
        values = shape.values
        if len(places) < len(shape.places):
            at = {place: number for number, place in enumerate(shape.places)}
            values = [[column[at[place]] for place in places] for column in values]
        rows = stencil.filled(
            [
                ids,
                ids,
                picked(columns.customer_texts, places, size),
                self._times(columns, places, receipts),
                picked(columns.numbers, places, size),
                names,
                *values,
            ]
        )
        for place, row in zip(places[: stencil.unchecked], rows, strict=False):
            if not self._bears_out(tenant, columns.events[place], row, receipts[place], now):
                self._stencils[key] = None
                return []
            stencil.unchecked -= 1
        return rows

    def _bears_out(self, tenant: str, event: Event, row: bytes, received: datetime, now: datetime) -> bool:
        try:
            made = render(self._catalogue, self._destination, tenant, event, received, now)
        except Exception:  # noqa: BLE001  it stumbles over the event: whoever asks for that one alone, tells
            return False
        return not isinstance(made, Turned) and encoded(made) == [Part("", event.id, row)]

    def _times(self, columns: Columns, places: Sequence[int], receipts: Sequence[datetime]) -> Sequence[str]:
        """Return the times of events as the provider takes them."""
        time = self._time
        assert time is not None
        times, written = columns.times, columns.written
        if columns.span is not None and len(places) == len(times):
            if time is _micros or (time is _millis and columns.in_ms):
                return columns.fine
            if time is _epoch_ms and columns.in_ms:
                return columns.epoch_ms
            return [*map(time, times, written)]  # type: ignore[arg-type]
        return [
            time(when, written[place])
            if (when := times[place]) is not None
            else time(receipts[place], receipts[place].isoformat())
            for place in places
        ]

    def _fitting(
        self, columns: Columns, places: Sequence[int], receipts: Sequence[datetime], now: datetime
    ) -> Sequence[int]:
        """Return the places of events whose id, quantity and time the provider takes as they are."""
        key, rule = self._adapter.door.key, self._adapter.quantity
        low, high = columns.bounds
        if (
            columns.longest_id > key.max_length
            or any(text in columns.all_ids for text in self._not_in_key)
            or (self._key is not None and not all(map(self._key, columns.ids)))
        ):
            places = [place for place in places if self._fits_key(columns.ids[place])]
        if (
            columns.decimals > rule.places
            or (rule.digits is not None and columns.digits > rule.digits)
            or (rule.minimum is not None and low < rule.minimum)
            or (rule.maximum is not None and high > rule.maximum)
        ):
            places = [place for place in places if self._fits_quantity(columns, place)]
        span = columns.span
        if self._holds or span is None or not all(self._in_time(when, now) for when in span):
            places = [place for place in places if self._may_leave(columns.times[place] or receipts[place], now)]
        return places

    def _fits_key(self, one: str) -> bool:
        return (
            len(one) <= self._adapter.door.key.max_length
            and not any(text in one for text in self._not_in_key)
            and (self._key is None or self._key(one) is not None)
        )

    def _fits_quantity(self, columns: Columns, place: int) -> bool:
        rule, text, quantity = self._adapter.quantity, columns.numbers[place], columns.quantities[place]
        known = Decimal(1) if quantity is None else quantity
        return (
            ("." not in text or len(text) - text.index(".") - 1 <= rule.places)
            and (rule.digits is None or len(text) <= rule.digits)
            and (rule.minimum is None or known >= rule.minimum)
            and (rule.maximum is None or known <= rule.maximum)
        )

    def _may_leave(self, when: datetime, now: datetime) -> bool:
        if not self._in_time(when, now):
            return False
        return not self._holds or self._catalogue.held(self._destination, DEFAULT_TENANT, when) is None

    def _in_time(self, when: datetime, now: datetime) -> bool:
        past, future = self._adapter.door.time.past, self._adapter.door.time.future
        return (past is None or now - when <= past) and (future is None or when - now <= future)

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

    def _named(
        self, tenant: str, columns: Columns, places: Sequence[int], receipts: Sequence[datetime]
    ) -> Iterable[tuple[Sequence[int], _Naming, Sequence[str]]]:
        """Put events together whose customers are named in the same way, with the names; without one they are left."""
        customers = picked(columns.customers, places, len(columns.events))
        first = dict(zip(customers, places, strict=True))
        known: dict[str, _Naming | None] = {}
        for customer, place in first.items():
            rows = self._catalogue.links(self._destination, tenant, customer)
            plain = not rows or (len(rows) == 1 and rows[0].unconditional)
            known[customer] = self._naming(tenant, columns, place, receipts) if plain else None
        kinds = {None if naming is None else naming[1] for naming in known.values()}
        if len(kinds) == 1 and None not in kinds:
            texts = {customer: naming[2] for customer, naming in known.items() if naming is not None}
            return [(places, next(filter(None, known.values())), [texts[customer] for customer in customers])]
        alike: dict[object, tuple[list[int], _Naming, list[str]]] = {}
        for customer, place in zip(customers, places, strict=True):  # it depends on the event, or there is none
            naming = known[customer] or self._naming(tenant, columns, place, receipts)
            if naming is not None:
                some, _, texts_ = alike.setdefault(naming[1], ([], naming, []))
                some.append(place)
                texts_.append(naming[2])
        return alike.values()

    def _naming(self, tenant: str, columns: Columns, place: int, receipts: Sequence[datetime]) -> _Naming | None:
        event = columns.events[place]
        when = event.timestamp or receipts[place]
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
        made = self._links[id(link)] = (link, (type(link), named, repr(others)), escaped(getattr(link, named)))
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
        _, values = kinds_of([(value,) for value in properties.values()])
        time = self._time(when, when.isoformat())
        stand_ins = [key, event_id, customer, time, str(quantity), theirs, *chain.from_iterable(values)]
        longest = sorted(map(re.escape, stand_ins), key=len, reverse=True)
        text = encode_row(self._adapter.encode(usage)).decode()
        pieces = re.split(f"({'|'.join(longest)})", text)
        around = "%s".join(piece.replace("%", "%%") for piece in pieces[::2])
        return around, tuple(stand_ins.index(piece) for piece in pieces[1::2])


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
