"""What happened in the demo: all answers as one, what needs attention, and whether the vendors' bills add up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from adapters import Binding
from canonical_schema import (
    BatchResult,
    DeliveryResult,
    DeliveryStatus,
    ErrorCode,
    ErrorItem,
    Event,
    EventResult,
    EventStatus,
    InvalidEvent,
    read_event,
)
from gateway.configuration import Configuration
from gateway.configuration.bindings import BindingRow
from gateway.demo.world import named
from gateway.merge import batch_result
from gateway.simulator import SimulatedProvider

__all__ = ["Concern", "Figure", "merged", "needs_attention", "settled"]


def merged(answers: Sequence[BatchResult]) -> BatchResult:
    """Return the answers to several requests as one, with indexes that go on. The batch is named after the first."""
    results: list[EventResult] = []
    for answer in answers:
        for one in answer["results"]:
            again = one.copy()
            again["index"] = len(results)
            results.append(again)
    return batch_result(answers[0]["batch_id"], results)


@dataclass(slots=True, kw_only=True)
class Concern:
    """Something that somebody must look at."""

    where: str
    """A destination, or `gateway`."""
    status: str
    code: ErrorCode
    why: str
    what_to_do: str
    events: list[str] = field(default_factory=list[str])
    """Ids; a running number of the batch where an event had none."""


def needs_attention(result: BatchResult) -> list[Concern]:
    """Return what needs attention: the same thing once, with all its events; what waits for a decision first."""
    found: dict[tuple[str, str, str], Concern] = {}
    for one in result["results"]:
        for where, status, error in _troubles(one):
            concern = found.setdefault(
                (where, status, error["message"]),
                Concern(
                    where=where,
                    status=status,
                    code=error["code"],
                    why=error["message"],
                    what_to_do=_what_to_do(status, error),
                ),
            )
            concern.events.append(one.get("id", f"#{one['index']}"))
    return sorted(found.values(), key=lambda one: (_ORDER.index(one.status) if one.status in _ORDER else 9, one.code))


_ORDER = ("unknown", "blocked", "unrouted", "rejected", "dead", "invalid", "conflict")


def _troubles(one: EventResult) -> Iterator[tuple[str, str, ErrorItem]]:
    if "error" in one:
        yield "gateway", one["status"], one["error"]
    if one["status"] is EventStatus.UNROUTED:
        yield "gateway", one["status"], ErrorItem(code=ErrorCode.UNKNOWN_METER, message="meter: not in the catalogue")
    for name, delivery in one["deliveries"].items():
        if not delivery["status"].success and delivery["status"] is not DeliveryStatus.FILTERED:
            yield name, delivery["status"], _why(delivery)


def _why(delivery: DeliveryResult) -> ErrorItem:
    found = [delivery.get("error"), *(part.get("error") for part in delivery.get("parts", {}).values())]
    waits = ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message="no answer yet")
    return next((error for error in found if error is not None), waits)


def _what_to_do(status: str, error: ErrorItem) -> str:
    match status:
        case EventStatus.CONFLICT:
            return "sender: if it is another event, send it under an id of its own"
        case EventStatus.INVALID:
            return "sender: keep it, mend it, send it again"
        case EventStatus.UNROUTED:
            return "operator: add the meter, and it goes on by itself"
        case DeliveryStatus.UNKNOWN:
            return "operator: look at the vendor, then resolve it: accepted, resend or abandon"
        case DeliveryStatus.BLOCKED:
            return "operator: add the link, and it goes on by itself"
        case DeliveryStatus.REJECTED if error["code"] == ErrorCode.QUANTITY_NOT_REPRESENTABLE:
            return "operator: nothing was sent there; leave it, or mend the binding and retry"
        case DeliveryStatus.REJECTED | DeliveryStatus.DEAD:
            return "operator: nothing is stored there; mend it at the vendor or in the configuration, then retry"
        case _:
            return "nobody: the gateway goes on"


@dataclass(slots=True, kw_only=True)
class Figure:
    """One measure at one vendor, in the vendor's unit."""

    destination: str
    meter: str
    """The vendor's name of it."""
    delivered: Decimal = Decimal(0)
    """What the gateway says is there."""
    doubtful: Decimal = Decimal(0)
    """What the gateway says may be there."""
    billed: Decimal = Decimal(0)
    """What the simulated vendor would bill, for customers that it knows."""
    dropped: Decimal = Decimal(0)
    """What the vendor took for customers that it does not know, and will not bill."""

    @property
    def adds_up(self) -> bool:
        """Whether the vendor has exactly what was delivered, and of the doubtful no more than was sent."""
        return self.delivered <= self.billed + self.dropped <= self.delivered + self.doubtful


def settled(
    configuration: Configuration, lines: Sequence[bytes], result: BatchResult, vendors: Iterable[SimulatedProvider]
) -> list[Figure]:
    """Return what was sent and what would be billed, by destination and the vendor's meter."""
    figures: dict[tuple[str, str], Figure] = {}

    def figure(destination: str, meter: str) -> Figure:
        return figures.setdefault((destination, meter), Figure(destination=destination, meter=meter))

    for line, one in zip(lines, result["results"], strict=True):
        event = _event(line)
        if event is None or not one["stored"] or one["replayed"]:
            continue
        for destination, delivery in one["deliveries"].items():
            rows = configuration.meters[event.meter].bindings.get(destination, ())
            for part, meter, quantity in _measures(rows, event):
                status = delivery.get("parts", {}).get(part, delivery)["status"]
                _count(figure(destination, meter), status, quantity)
    for vendor in vendors:
        for row in vendor.stored:
            unknown = vendor.known_customers is not None and row.customer not in vendor.known_customers
            for charge in row.charges if unknown else ():
                figure(vendor.name, charge.name).dropped += charge.quantity
        for (_, meter), quantity in vendor.billed().items():
            figure(vendor.name, meter).billed += quantity
    return sorted(figures.values(), key=lambda one: list(configuration.destinations).index(one.destination))


def _event(line: bytes) -> Event | None:
    try:
        return read_event(line)
    except InvalidEvent:
        return None


def _count(figure: Figure, status: DeliveryStatus, quantity: Decimal) -> None:
    if status.success:
        figure.delivered += quantity
    elif status is DeliveryStatus.UNKNOWN:
        figure.doubtful += quantity


def _measures(rows: Sequence[BindingRow], event: Event) -> Iterator[tuple[str, str, Decimal]]:
    """Yield every number that an event has for a destination: part, the vendor's meter, the vendor's quantity."""
    given: Mapping[str, Decimal] = event.quantities or {"": Decimal(1) if event.quantity is None else event.quantity}
    for row in rows:
        binding = row.bind(event.properties)
        for name in row.takes() or ("",):
            if name in given:
                yield name, _billed_as(binding, name), given[name] * row.scale


def _billed_as(binding: Binding, measure: str) -> str:
    properties: Mapping[str, str] | None = getattr(binding, "quantity_properties", None)
    return named(binding) if properties is None else f"{named(binding)}.{properties[measure]}"
