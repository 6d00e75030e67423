"""How one destination's rows are found again: each row of a meter's binding under a label of its own."""

from collections.abc import Mapping
from decimal import Decimal

from adapters import Binding, Unread
from gateway.configuration.bindings import BindingRow

__all__ = ["Label", "Labels", "beside", "labels_of", "part_of"]

Label = tuple[str, str, Decimal]
"""Meter, part and scale of one row of a binding's quantity."""


class Labels:
    """How one destination's rows are found again: a label for each row of each meter's binding."""

    def __init__(self, meters: Mapping[str, tuple[BindingRow, ...]]) -> None:
        self.bindings: dict[str, Binding] = {}
        """By label, what can be read."""
        self.places: dict[tuple[str, str], Label] = {}
        """By label and measure."""
        self.scales: dict[tuple[str, str], Decimal] = {}
        """By meter and part."""
        self.named: dict[str, tuple[object, ...]] = {}
        """By label, the provider's name of it: labels that share one are shown the same rows."""
        self.reads: dict[tuple[str, str], tuple[str, str]] = {}
        """By meter and part, the label and the measure under which it is read."""
        self.unreadable: list[str] = []
        """Meters whose names there come from events, so that nobody can ask for them."""
        self.meters = frozenset(meters)
        for meter, rows in meters.items():
            seen: dict[str, int] = {}
            for number, row in enumerate(rows):
                label = f"{meter}#{number}"
                if (binding := row.readable) is None:
                    self.unreadable.append(meter)
                else:
                    self.bindings[label] = binding
                    self.named[label] = tuple(getattr(binding, name) for name in binding.names)
                for measure in row.takes() or ("",):
                    part = part_of(measure, seen)
                    self.places[label, measure] = (meter, part, row.scale)
                    self.scales[meter, part] = row.scale
                    self.reads[meter, part] = (label, measure)

    def missing(self, found: Mapping[str, Unread], meter: str, part: str) -> Unread | None:
        """Return why one figure could not be read. `found`: what could not, by meter, or by label where a row alone."""
        return found.get(meter) or found.get(self.reads.get((meter, part), ("", ""))[0])


def labels_of(meters: Mapping[str, Mapping[str, tuple[BindingRow, ...]]], name: str) -> Labels:
    """Return the labels of one destination. `meters`: the bindings of each, by destination."""
    return Labels({meter: bound[name] for meter, bound in meters.items() if name in bound})


def beside(labels: Labels, destination: str, meters: Mapping[str, Mapping[str, tuple[BindingRow, ...]]]) -> set[str]:
    """Return the meters that are not compared, and may be listed at a destination under a name that is read."""
    named = set(labels.named.values())
    return {
        meter
        for meter, bound in meters.items()
        if meter not in labels.meters
        for row in bound.get(destination, ())
        if (one := row.readable) is None or tuple(getattr(one, name) for name in one.names) in named
    }


def part_of(measure: str, seen: dict[str, int]) -> str:
    """Return the name of a measure's figure: a second row of one quantity gets a number."""
    seen[measure] = seen.get(measure, 0) + 1
    return measure if seen[measure] == 1 else f"{measure or 'quantity'}-{seen[measure]}"
