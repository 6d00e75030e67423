"""What is allowed in a configuration and will surprise its operator all the same."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.configuration import Configuration, Destination, Meter
from gateway.configuration.bindings import BindingRow

__all__ = ["Surprise", "surprises"]


class Surprise(NamedTuple):
    """One warning."""

    code: str
    """By which it can be told apart; never changes."""
    at: str
    """The key it is about."""
    message: str


def surprises(configuration: Configuration) -> list[Surprise]:
    """Return everything that will surprise, what costs money first."""
    found = [*_billed_twice(configuration), *_one_for_several(configuration), *_otherwise_billed(configuration)]
    for name, meter in configuration.meters.items():
        found += _meter(configuration, name, meter)
    found += _unlinked(configuration)
    for name, destination in configuration.destinations.items():
        found += _destination(configuration, name, destination)
    if not configuration.meters:
        found.append(Surprise("no_meters", "meters", "there are none: every event will wait as unrouted"))
    if not configuration.auth.keys:
        found.append(
            Surprise("no_keys", "auth.keys", "there are none: everybody on this machine may send, read and repair")
        )
    return found


def _takers(configuration: Configuration, meter: Meter, *modes: str) -> dict[str, Destination]:
    every = configuration.destinations.items()
    return {name: one for name, one in every if name in meter.bindings and one.mode in modes}


def _billed_twice(configuration: Configuration) -> Iterator[Surprise]:
    meters: dict[tuple[str, ...], list[str]] = {}
    for name, meter in configuration.meters.items():
        takers = _takers(configuration, meter, "live")
        alike = {pair for pair in combinations(takers, 2) if _bill_alike(*(takers[one] for one in pair))}
        if together := tuple(one for one in takers if any(one in pair for pair in alike)):
            meters.setdefault(together, []).append(name)
    for together, names in meters.items():
        verb = "is" if len(names) == 1 else "are"
        yield Surprise(
            "billed_by_several",
            "destinations",
            f"{_listed(names)} {verb} billed by {_listed(together)} alike, as all of them are live;"
            " one that only looks on has mode: shadow, and those that bill one after the other have a group",
        )


def _bill_alike(one: Destination, other: Destination) -> bool:
    """Return whether an event can be billed by both: in one group it is billed by one of them."""
    if one.group is not None and one.group == other.group:
        return False
    return not (one.tenants and other.tenants) or bool(set(one.tenants) & set(other.tenants))


def _one_for_several(configuration: Configuration) -> Iterator[Surprise]:
    tenants = {key.tenant for key in configuration.auth.keys}
    for name, one in configuration.destinations.items():
        served = tenants & set(one.tenants) if one.tenants else tenants
        field = one.adapter.door.link.default
        if one.mode != "off" and field is not None and len(served) > 1:
            yield Surprise(
                "customers_of_several_tenants",
                f"destinations.{name}",
                f"takes a customer's own id as {field}, so customers of {_listed(sorted(served))} with one id are one"
                " customer there; give each tenant a destination with tenants",
            )


def _otherwise_billed(configuration: Configuration) -> Iterator[Surprise]:
    for name, meter in configuration.meters.items():
        for destination, rows in meter.bindings.items():
            for field, (code, words) in configuration.destinations[destination].adapter.door.binding.surprising.items():
                if any(_names_by(row, field) for row in rows):
                    yield Surprise(code, f"meters.{name}.bindings.{destination}", f"{field} {words}")


def _names_by(row: BindingRow, field: str) -> bool:
    return field in row.properties or (not row.properties and getattr(row.bind({}), field, None) is not None)


def _meter(configuration: Configuration, name: str, meter: Meter) -> Iterator[Surprise]:
    if configuration.destinations and not _takers(configuration, meter, "live"):
        others = "only shadow destinations take it" if _takers(configuration, meter, "shadow") else "nobody takes it"
        yield Surprise("unrouted_meter", f"meters.{name}", f"{others}: its events will wait as unrouted")
    for destination, one in _takers(configuration, meter, "live", "shadow").items():
        door = one.adapter.door
        if meter.aggregation not in door.aggregations:
            can = _listed(sorted(door.aggregations))
            yield Surprise(
                "aggregation",
                f"meters.{name}.bindings.{destination}",
                f"{one.adapter.spec.title} cannot aggregate by {meter.aggregation}, only by {can}:"
                " every event will be rejected there",
            )


def _unlinked(configuration: Configuration) -> Iterator[Surprise]:
    """Yield who will be blocked for want of a link."""
    needing = [
        name
        for name, one in configuration.destinations.items()
        if one.mode != "off" and one.adapter.door.link.default is None
    ]
    for name in needing:
        fields = " or ".join(configuration.destinations[name].adapter.door.link.names)
        without = [customer for customer, links in configuration.customers.items() if name not in links]
        if not configuration.customers:
            who = "no customer is linked to it: all its events"
        elif without:
            more = f" and {len(without) - 3} more" if len(without) > 3 else ""
            who = f"{', '.join(without[:3])}{more} {'has' if len(without) == 1 else 'have'} no link to it: their events"
        else:
            continue
        yield Surprise("unlinked", f"destinations.{name}", f"{who} will be blocked there; a link names {fields}")


def _destination(configuration: Configuration, name: str, one: Destination) -> Iterator[Surprise]:
    at = f"destinations.{name}"
    if one.mode == "off":
        yield Surprise("off", at, "is switched off: what waits for it stays blocked")
        return
    if configuration.meters and not any(name in meter.bindings for meter in configuration.meters.values()):
        yield Surprise("unused", at, "no meter is bound to it: nothing will be sent there")
    base = urlsplit(one.adapter.base_url)
    if base.scheme == "http" and base.hostname not in {"localhost", "127.0.0.1", "::1"}:
        yield Surprise("plain_http", f"{at}.settings.base_url", "the key goes over the network unencrypted: use https")
    unsure = [source.fact for source in one.adapter.spec.sources if source.grade == "unverified"]
    if unsure:
        yield Surprise(
            "unverified",
            at,
            f"nobody has verified of {one.adapter.spec.title}: {'; '.join(unsure)}. Try it in the vendor's sandbox",
        )


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
