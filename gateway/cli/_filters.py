"""The filters that commands share which look at or decide about many events."""

from typing import Annotated

from cyclopts import Parameter

__all__ = ["OPTIONS", "Customer", "Destination", "Meter", "Since", "Until", "chosen"]

Destination = Annotated[str | None, Parameter(help="Only what goes to this destination.")]
Customer = Annotated[str | None, Parameter(help="Only events of this customer.")]
Meter = Annotated[str | None, Parameter(help="Only events of this meter.")]
Since = Annotated[str | None, Parameter("--from", help="Only events at or after this instant.")]
Until = Annotated[str | None, Parameter("--to", help="Only events before this instant.")]
OPTIONS = "--status, --destination, --customer, --meter, --from, --to"
"""How they are given, with the status that each command has its own words for."""


def chosen(**filters: str | None) -> dict[str, str]:
    """Return the filters that were given, by the names of the API."""
    names = {"since": "from", "until": "to"}
    return {names.get(name, name): value for name, value in filters.items() if value is not None}
