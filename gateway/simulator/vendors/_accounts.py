"""What stands in several vendors' accounts, made from what they know or have heard of: names, and no prices."""

from collections.abc import Iterable, Iterator, Mapping

from gateway.simulator.reading import Properties

__all__ = ["id_of", "measured"]


def id_of(prefix: str, name: str) -> str:
    """Return the vendor's id of what usage names by one or by another name; what is an id already stays as it is."""
    return name if name.startswith(prefix) else prefix + name


def measured(names: Iterable[str], properties: Mapping[str, Properties]) -> Iterator[tuple[str, str, str | None]]:
    """Give what each metric is called, the events that it reads, and the property that it sums; `None`: it counts."""
    for name in names:
        where = properties.get(name, "quantity")
        fields = (where,) if where is None or isinstance(where, str) else where
        for field in fields:
            yield name if len(fields) == 1 else f"{name}.{field}", name, field
