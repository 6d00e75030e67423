"""A configuration held against what stands in the vendors' accounts: bindings that name nothing, or the wrong thing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, cast

from adapters._facts import Aggregation
from adapters._inventory import RemoteMeter
from gateway.configuration import Configuration
from gateway.configuration.bindings import BindingRow

__all__ = ["Finding", "held_against"]


class Finding(NamedTuple):
    """One binding that would not bill as it says."""

    at: str
    """The key in the configuration."""
    weight: Literal["error", "warning"]
    message: str


def held_against(configuration: Configuration, destination: str, there: Sequence[RemoteMeter]) -> Iterator[Finding]:
    """Yield what is wrong with a destination's bindings, given every meter of the vendor's account."""
    title = configuration.destinations[destination].adapter.spec.title
    for name, meter in configuration.meters.items():
        for place, row in enumerate(meter.bindings.get(destination, ())):
            at = f"meters.{name}.bindings.{destination}" + (f"[{place}]" if place else "")
            if (binding := row.readable) is None:
                continue  # its name comes with each event
            named = {field: value for field, value in row.fixed().items() if field in binding.names}
            found = [one for one in there if any(one.binding.get(field) == value for field, value in named.items())]
            if not found:
                what = " or ".join(f"{field} {value!r}" for field, value in named.items())
                yield Finding(at, "error", f"{title} has no {what}: usage sent there would bill nothing")
                continue
            # Several of theirs may read one event: it is held against the one that it fits best.
            yield from min((list(_compared(at, title, meter.aggregation, row, one)) for one in found), key=len)


def _compared(at: str, title: str, aggregation: Aggregation, row: BindingRow, theirs: RemoteMeter) -> Iterator[Finding]:
    if theirs.aggregation is not None and not _agree(aggregation, theirs.aggregation):
        yield Finding(at, "error", f"the meter is a {aggregation}, and {title} adds it up by {theirs.aggregation}")
    places = set(_texts(row.fixed()))
    for field, wanted in theirs.quantity.items():
        if wanted not in places and theirs.aggregation != "count":
            ours = row.fixed().get(field)
            yield Finding(at, "error", f"{title} takes the quantity from {wanted!r}, and {field} is {ours!r}")
    if theirs.caution:
        yield Finding(at, "warning", f"at {title} {theirs.caution}")


def _texts(value: object) -> Iterator[str]:
    """Yield every text of a binding: one row may put several quantities in several places."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, object]", value).values():
            yield from _texts(inner)


def _agree(ours: Aggregation, theirs: Aggregation) -> bool:
    """Return whether the vendor's figure is ours: a sum of ones is a count, and a count of anything else is no sum."""
    return ours == theirs or (ours == "count" and theirs == "sum")
