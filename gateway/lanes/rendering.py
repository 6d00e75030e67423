"""From an event to a provider's rows, or to the reason why there are none. The same for sending and explaining."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact
from hashlib import sha256
from itertools import count

import msgspec
from pydantic import ValidationError

from adapters import AnyAdapter, Binding, Door, Link, Measure, QuantityRule, Row, Usage, encode_row
from adapters._facts import KeyRule
from canonical_schema import ErrorCode, ErrorItem, Event, Kind
from gateway.catalogue import DEFAULT_TENANT, Catalogue
from gateway.configuration.bindings import BindingRow, Unbindable
from gateway.ledger import Code, Part

__all__ = ["Refused", "Turned", "check_period", "encoded", "link_of", "render", "usages"]

_EXACT = Context(prec=200, traps=[Inexact])
_DERIVED = re.compile(r"ugw_[0-9a-f]{32}").fullmatch
"""An id that looks like one of our keys is not sent as it is: it might be another event's."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Turned(msgspec.Struct, frozen=True):
    """An event that is not sent to a destination, and why. Nothing was stored there."""

    code: Code
    error: ErrorItem | None = None


class Refused(Exception):
    """Raised when a destination cannot take an event as it is."""

    def __init__(self, code: ErrorCode, message: str, status: Code = Code.REJECTED) -> None:
        super().__init__(message)
        self.turned = Turned(status, ErrorItem(code=code, message=message, retryable=status is Code.BLOCKED))


def render(
    catalogue: Catalogue, destination: str, tenant: str, event: Event, received: datetime, now: datetime
) -> list[tuple[str, str, Row | None]] | Turned:
    """Return the rows of one event at one destination: part name, key, row.

    A part without a row is an additive zero that the provider refuses. Adapters never round: what a
    provider cannot hold is turned away here, before batching, with the reason.
    """
    adapter = catalogue.destinations[destination].adapter
    try:
        made = _usages(catalogue, adapter, destination, tenant, event, received, now)
    except Refused as refused:
        return refused.turned
    if all(usage is None for _, _, usage in made):
        return Turned(Code.ZERO)
    return [(name, key, None if usage is None else adapter.encode(usage)) for name, key, usage in made]


def usages(
    catalogue: Catalogue, destination: str, tenant: str, event: Event, received: datetime, *, nameless: bool = False
) -> list[tuple[str, str, Usage[Binding, Link] | None]] | Turned:
    """Return what the rows of one event say, as `render` would; whether they may go today is not asked.

    `nameless`: where nothing says any more how the destination names the customer, the link is an empty one.
    """
    adapter = catalogue.destinations[destination].adapter
    try:
        return _usages(catalogue, adapter, destination, tenant, event, received, None, nameless=nameless)
    except Refused as refused:
        return refused.turned


def encoded(rows: Sequence[tuple[str, str, Row | None]]) -> list[Part]:
    """Return rendered rows as the ledger keeps them: bytes that are sent again unchanged."""
    return [
        Part(name, key, b"", Code.ZERO) if row is None else Part(name, key, encode_row(row)) for name, key, row in rows
    ]


def _usages(
    catalogue: Catalogue,
    adapter: AnyAdapter,
    destination: str,
    tenant: str,
    event: Event,
    received: datetime,
    now: datetime | None,
    *,
    nameless: bool = False,
) -> list[tuple[str, str, Usage[Binding, Link] | None]]:
    door, meter = adapter.door, catalogue.meter(event.meter)
    rows = catalogue.rows(destination, event.meter)
    if meter is None or not rows:
        raise Refused(ErrorCode.UNKNOWN_METER, f"meters.{event.meter} has no binding for {destination}", Code.BLOCKED)
    if meter.aggregation not in door.aggregations:
        raise Refused(
            ErrorCode.UNSUPPORTED,
            f"{adapter.spec.title} cannot aggregate by {meter.aggregation}: leave this meter out of {destination}",
        )
    absolute = event.kind is Kind.ABSOLUTE
    if absolute and not adapter.allows_absolute:
        hint = f": set destinations.{destination}.settings.{door.absolute}" if door.absolute else ""
        raise Refused(ErrorCode.UNSUPPORTED, f"{adapter.spec.title} takes no absolute usage here{hint}")
    when = event.timestamp or received
    if now is not None:
        _check_time(adapter, door, when, received, now)
        check_period(catalogue, destination, tenant, when)
    try:
        link = link_of(catalogue, adapter, destination, tenant, event, when)
    except Refused:
        if not nameless:
            raise
        link = Link()
    measures = _measures(rows, event)
    groups = _grouped(door, measures)
    by_row = meter.aggregation == "count" and door.counts == "rows"
    several = len(rows) > 1 and not (door.several_measures and len(groups) == 1)
    names = _part_names([group[0].name for group in groups]) if several else [""]
    made: list[tuple[str, str, Usage[Binding, Link] | None]] = []
    for name, group in zip(names, groups, strict=True):
        kept = [one for one in group if one.quantity or absolute or (door.zero == "sent" and not by_row)]
        key = _key(tenant, event.id, name, door.key)
        if not kept:
            made.append((name, key, None))
            continue
        for measure in kept:
            _check_quantity(adapter, measure)
            if by_row and measure.quantity != 1:
                raise Refused(
                    ErrorCode.QUANTITY_NOT_REPRESENTABLE,
                    f"{_quantity_path(measure.name)}: {adapter.spec.title} counts each event as 1, whatever it says:"
                    " leave the quantity out, or have the meter be a sum, here and there",
                )
        usage = Usage(
            key=key,
            event_id=event.id,
            customer=event.customer,
            meter=event.meter,
            timestamp=_floored(when, door.time.resolution),
            measures=tuple(kept),
            link=link,
            absolute=absolute,
            source=event.source,
            properties=event.properties,
        )
        made.append((name, key, usage))
    return made


def check_period(catalogue: Catalogue, destination: str, tenant: str, when: datetime) -> None:
    """Raise Refused where an instant falls in a closed period, and the destination holds what is late."""
    if (period := catalogue.held(destination, tenant, when)) is not None:
        message = f"period {period} is closed, and {destination} holds late usage: set late to send to let it go"
        raise Refused(ErrorCode.OUTSIDE_TIME_WINDOW, message, Code.BLOCKED)


def _check_time(adapter: AnyAdapter, door: Door, when: datetime, received: datetime, now: datetime) -> None:
    past, future = door.time.past, door.time.future
    if past is not None and now - when > past:
        title = adapter.spec.title
        if received - when > past:
            raise Refused(ErrorCode.OUTSIDE_TIME_WINDOW, f"{title} takes nothing older than {past}")
        message = f"{title} takes nothing older than {past}, and the event waited too long"
        raise Refused(ErrorCode.EXPIRED, message, Code.DEAD)
    if future is not None and when - now > future:
        message = f"{adapter.spec.title} takes nothing more than {future} ahead"
        raise Refused(ErrorCode.OUTSIDE_TIME_WINDOW, message)


def link_of(
    catalogue: Catalogue, adapter: AnyAdapter, destination: str, tenant: str, event: Event, when: datetime
) -> Link:
    """Return how a destination names an event's customer. Raises Refused where nothing does that fits."""
    link = catalogue.link(destination, tenant, event, when)
    if link is not None:
        return link
    model = adapter.door.link
    if model.default is not None:
        try:
            return model.model_validate(model.completed({}, event.customer))
        except ValidationError:
            message = (
                f"the customer's id does not fit {adapter.spec.title}'s {model.default}: add a link for {destination}"
            )
            raise Refused(ErrorCode.UNMAPPED_CUSTOMER, message, Code.BLOCKED) from None
    why = catalogue.unlinked(destination, tenant, event.customer)
    if why is None:
        why = f"add one with {' or '.join(model.names)}"
    message = f"no link names this customer at {destination}: {why}"
    raise Refused(ErrorCode.UNMAPPED_CUSTOMER, message, Code.BLOCKED)


def _measures(rows: Sequence[BindingRow], event: Event) -> list[list[Measure[Binding]]]:
    """Return the measures of each binding row that the event has something for."""
    made: list[list[Measure[Binding]]] = []
    for row in rows:
        names = row.takes()
        if event.quantities is None:
            if names:
                continue
            present = {"": Decimal(1) if event.quantity is None else event.quantity}
        else:
            present = {name: event.quantities[name] for name in names if name in event.quantities}
        if not present:
            continue
        try:
            binding = row.bind(event.properties)
        except Unbindable as error:
            raise Refused(ErrorCode.UNSUPPORTED, str(error)) from None
        made.append(
            [
                Measure(name=name, quantity=_scaled(name, quantity, row.scale), binding=binding)
                for name, quantity in present.items()
            ]
        )
    if not made:
        wanted = sorted({name for row in rows for name in row.takes()})
        given = (
            "the plain quantity" if event.quantities is None else "quantities " + ", ".join(sorted(event.quantities))
        )
        takes = "quantities " + ", ".join(wanted) if wanted else "the plain quantity"
        raise Refused(ErrorCode.UNSUPPORTED, f"the event gives {given}, and the binding takes {takes}")
    return made


def _scaled(name: str, quantity: Decimal, scale: Decimal) -> Decimal:
    try:
        return _EXACT.multiply(quantity, scale)
    except Inexact:
        message = f"{_quantity_path(name)} (after scale {scale}): has more digits than can be kept exactly"
        raise Refused(ErrorCode.QUANTITY_NOT_REPRESENTABLE, message) from None


def _quantity_path(name: str) -> str:
    return f"quantities.{name}" if name else "quantity"


def _grouped(door: Door, measures: list[list[Measure[Binding]]]) -> list[list[Measure[Binding]]]:
    """Put measures in one row where the door takes several and the bindings agree."""
    if not door.several_measures:
        return measures
    groups: dict[object, list[Measure[Binding]]] = {}
    for row in measures:
        groups.setdefault(row[0].binding.together(), []).extend(row)
    return list(groups.values())


def _part_names(names: list[str]) -> list[str]:
    """Name parts by their quantity; a second part of the same quantity gets a number."""
    taken = {name or "quantity" for name in names}
    made: list[str] = []
    for name in names:
        first = name or "quantity"
        numbered = (f"{first}-{number}" for number in count(2))
        made.append(first if first not in made else next(name for name in numbered if name not in taken))
        taken.add(made[-1])
    return made


def _key(tenant: str, event_id: str, part: str, rule: KeyRule) -> str:
    """Return the key that the provider sees: the id where it fits, else one derived from all that makes it unique."""
    if (
        tenant == DEFAULT_TENANT
        and not part
        and len(event_id) <= rule.max_length
        and not any(text in event_id for text in rule.forbidden)
        and not _DERIVED(event_id)
        and (rule.pattern is None or re.fullmatch(rule.pattern, event_id))
    ):
        return event_id
    return "ugw_" + sha256(f"{tenant}\0{event_id}\0{part}".encode()).hexdigest()[:32]


def _check_quantity(adapter: AnyAdapter, measure: Measure[Binding]) -> None:
    problem = _misfit(measure.quantity, adapter.quantity)
    if problem is not None:
        scaled = "" if measure.binding.scale == 1 else f" (after scale {measure.binding.scale})"
        message = f"{_quantity_path(measure.name)}{scaled}: {adapter.spec.title} takes {problem}"
        raise Refused(ErrorCode.QUANTITY_NOT_REPRESENTABLE, message)


def _misfit(quantity: Decimal, rule: QuantityRule) -> str | None:
    """Return what the rule asks that the quantity does not keep."""
    _, digits, exponent = quantity.normalize(_EXACT).as_tuple()
    assert isinstance(exponent, int)
    if -exponent > rule.places:
        return "whole numbers only" if rule.places == 0 else f"at most {rule.places} decimal places"
    if rule.minimum is not None and quantity < rule.minimum:
        return f"nothing below {rule.minimum:f}"
    if rule.maximum is not None and quantity > rule.maximum:
        return f"nothing above {rule.maximum:f}"
    if rule.digits is not None and len(digits) > rule.digits:
        return f"at most {rule.digits} significant digits"
    return None


def _floored(when: datetime, resolution: timedelta) -> datetime:
    return when - (when - _EPOCH) % resolution
