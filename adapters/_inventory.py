"""What stands in a vendor's account: meters that usage can be reported to, and customers. Asks, so free of I/O.

Read to set a gateway up, and to hold a configuration against: a metric that was renamed in the vendor's dashboard is
otherwise revenue that silently becomes zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from adapters._asks import Ask
from adapters._facts import Aggregation
from adapters._readback import Unread, goes_on, listed, next_cursor
from adapters._values import JsonValue, Request

__all__ = [
    "CanListCustomers",
    "CanListMeters",
    "RemoteCustomer",
    "RemoteMeter",
    "by_cursor",
    "by_offset",
    "customers_of",
    "texts_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteMeter:
    """Something at the vendor that usage can be reported to."""

    binding: Mapping[str, str]
    """Every field of the door's binding that it answers to, a meter has one of them: a slug and an id, say."""
    title: str
    aggregation: Aggregation | None = None
    """How the vendor adds it up; `None`: it does not tell, or in a way that we do not know."""
    quantity: Mapping[str, str] = field(default_factory=dict[str, str])
    """The field of the binding that says where the quantity stands, and what the vendor expects there."""
    caution: str = ""
    """Why usage may not be billed, where something says so: archived, free of charge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCustomer:
    """Somebody at the vendor whom usage can be billed to."""

    customer: str
    """By our own id, which the vendor keeps for us."""
    links: tuple[Mapping[str, str], ...]
    """Fields of the door's link; several where a person must choose, none where nothing can be billed."""


@runtime_checkable
class CanListMeters(Protocol):
    """Can list what usage can be reported to."""

    def list_meters(self) -> Ask[tuple[RemoteMeter, ...] | Unread]:
        """Read all of them, or none."""
        ...


@runtime_checkable
class CanListCustomers(Protocol):
    """Can list whom usage can be billed to, by our own ids."""

    def list_customers(self) -> Ask[tuple[RemoteCustomer, ...] | Unread]:
        """Read all of them, or none. Customers without an id of ours are left out."""
        ...


Pages = Ask[list[Mapping[str, JsonValue]] | Unread]


class Reading(Protocol):
    """Frames a read: path, query, body."""

    def __call__(
        self, path: str, query: Mapping[str, str | int] | None = None, body: JsonValue | None = None
    ) -> Request: ...


def by_cursor(reading: Reading, path: str, what: str) -> Pages:
    """Read every page of a listing that gives a cursor to the next: `data` (once `items`), `hasMore`, `nextCursor`."""
    rows: list[Mapping[str, JsonValue]] = []
    cursor: str | None = None
    while True:
        asked = reading(path, {"limit": 100} | ({} if cursor is None else {"cursor": cursor}))
        page = listed((yield asked), what, "data", "items")
        if isinstance(page, Unread):
            return page
        rows += page[0]
        following = next_cursor(page[1], cursor, what)
        if isinstance(following, Unread):
            return following
        if following is None:
            return rows
        cursor = following


def by_offset(
    reading: Reading,
    path: str,
    what: str,
    under: str,
    *,
    query: Mapping[str, str | int] | None = None,
    body: Mapping[str, JsonValue] | None = None,
    limit: int = 100,
) -> Pages:
    """Read every page of a listing by offset, which goes into the body where there is one."""
    rows: list[Mapping[str, JsonValue]] = []
    while True:
        place = {"limit": limit, "offset": len(rows)}
        asked = reading(path, {**(query or {}), **place}) if body is None else reading(path, None, {**body, **place})
        page = listed((yield asked), what, under)
        if isinstance(page, Unread):
            return page
        rows += page[0]
        more = goes_on(len(page[0]), limit, len(rows), page[1], what)
        if isinstance(more, Unread):
            return more
        if not more:
            return rows


def customers_of(
    rows: Sequence[Mapping[str, JsonValue]] | Unread, ours: str, link: Mapping[str, str]
) -> tuple[RemoteCustomer, ...] | Unread:
    """Return the customers that have an id of ours in the member `ours`, or why there are none to read.

    `link` says which members make the link, by its own names for them.
    """
    if isinstance(rows, Unread):
        return rows
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if isinstance(customer := row.get(ours), str) and customer:
            links = found.setdefault(customer, [])
            if (one := texts_of(row, link)) not in links:  # a page may show again what the one before showed
                links.append(one)
    return tuple(RemoteCustomer(customer=customer, links=tuple(links)) for customer, links in found.items())


def texts_of(row: Mapping[str, JsonValue], names: Mapping[str, str]) -> dict[str, str]:
    """Return the members of a row that are texts with something in them, under our names for them."""
    return dict(_texts(row, names))


def _texts(row: Mapping[str, JsonValue], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for ours, theirs in names.items():
        value = row.get(theirs)
        if isinstance(value, str) and value:
            yield ours, value
