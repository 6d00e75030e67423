"""Events of 248 bytes with five properties, and the bodies that carry them; made before anything is timed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

__all__ = ["BYTES", "CUSTOMERS", "bodies", "customer", "event_id", "identities", "texts"]

BYTES = 248
CUSTOMERS = 50

_TEXT = (
    '{{"id":"{id}","customer":"{customer}","meter":"api_calls","quantity":{quantity},"timestamp":"{second}.{ms:03d}Z",'
    '"properties":{{"region":"eu-west-1","model":"medium-7","cached":true,"status":200,"route":"{route}"}}}}'
)


def customer(number: int) -> str:
    """Return the sender's id of a customer."""
    return f"customer_{number % CUSTOMERS:04d}"


def event_id(prefix: str, number: int) -> str:
    """Return the id of an event of a set: six letters of a prefix, then its number."""
    return f"evt_{prefix:_<6}{number:09d}"


def identities(prefix: str, count: int) -> set[bytes]:
    """Return the ids of a whole set, as they stand on the wire."""
    return {event_id(prefix, number).encode() for number in range(count)}


def texts(prefix: str, count: int) -> Iterator[str]:
    """Yield events as JSON, each with an id of its own."""
    base = datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(minutes=10)
    seconds = [(base - timedelta(seconds=each)).isoformat() for each in range(60)]
    shape = {"customer": customer(0), "quantity": 10, "second": seconds[0], "ms": 0}
    route = "/v1/answers".ljust(BYTES - len(_TEXT.format(id=event_id(prefix, 0), route="", **shape)), "x")
    for number in range(count):
        yield _TEXT.format(
            id=event_id(prefix, number),
            customer=customer(number),
            quantity=10 + number % 90,
            second=seconds[number % 60],
            ms=number % 1000,
            route=route,
        )


def bodies(prefix: str, count: int, size: int) -> list[bytes]:
    """Return JSON bodies of `size` events each, `count` events in all; of one event each, the bare event."""
    events = list(texts(prefix, count))
    if size == 1:
        return [event.encode() for event in events]
    return [("[" + ",".join(events[at : at + size]) + "]").encode() for at in range(0, count, size)]
