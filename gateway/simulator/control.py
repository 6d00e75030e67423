"""What the control API hears and shows."""

from collections.abc import Sequence
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat

from gateway.simulator.provider import SimulatedProvider
from gateway.simulator.reading import Properties

__all__ = ["FailBody", "KnownBody", "RefuseBody", "described"]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FailBody(_Body):
    """`POST fail`: as `SimulatedProvider.fail`, with `keys` for the rows that it is about."""

    name: str
    times: int | None = 1
    after: int = 0
    keys: tuple[str, ...] | None = None
    stored: bool | None = None
    status: int | None = None
    seconds: FiniteFloat | None = None
    retry_after: FiniteFloat | AwareDatetime | None = None
    code: str | None = None

    def tell(self, provider: SimulatedProvider) -> None:
        """Arm the fault. Raises ValueError for what does not exist."""
        provider.fail(
            self.name,
            times=self.times,
            after=self.after,
            when=self.keys,
            stored=self.stored,
            status=self.status,
            seconds=self.seconds,
            retry_after=self.retry_after,
            code=self.code,
        )


class RefuseBody(_Body):
    """`POST refuse`: rows by key, and why."""

    keys: tuple[str, ...]
    code: str = "provider_rejected"

    def tell(self, provider: SimulatedProvider) -> None:
        """Poison the rows. Raises ValueError for an unknown code."""
        provider.refuse(self.keys, code=self.code)


class KnownBody(_Body):
    """`POST known`: what is given replaces what was known; null knows all."""

    customers: tuple[str, ...] | None = None
    meters: tuple[str, ...] | None = None
    quantity_properties: dict[str, str | tuple[str, ...] | None] | None = None

    def tell(self, provider: SimulatedProvider) -> None:
        """Change what the vendor knows."""
        if "customers" in self.model_fields_set:
            provider.known_customers = None if self.customers is None else set(self.customers)
        if "meters" in self.model_fields_set:
            provider.known_meters = None if self.meters is None else set(self.meters)
        if "quantity_properties" in self.model_fields_set:
            properties: dict[str, Properties] = {**(self.quantity_properties or {})}
            provider.quantity_properties = properties


def described(
    provider: SimulatedProvider, what: Literal["stored", "calls", "billed", "faults"]
) -> Sequence[dict[str, object]]:
    """Return what a vendor holds, as JSON can say it; quantities are strings."""
    match what:
        case "stored":
            return [
                {
                    "key": row.key,
                    "customer": row.customer,
                    "meter": row.meter,
                    "quantities": {charge.name: format(charge.quantity, "f") for charge in row.charges},
                    "timestamp": row.timestamp,
                    "received": row.received,
                    "door": row.door,
                    "copies": row.copies,
                    "row": row.row,
                }
                for row in provider.stored
            ]
        case "calls":
            return [
                {
                    "at": call.at,
                    "method": call.method,
                    "path": call.path,
                    "status": call.status,
                    "fault": call.fault,
                    "rows": call.rows,
                }
                for call in provider.calls
            ]
        case "billed":
            return [
                {"customer": customer, "meter": meter, "quantity": format(quantity, "f")}
                for (customer, meter), quantity in provider.billed().items()
            ]
        case "faults":
            return [{"name": fault.name, "times": fault.times, "after": fault.after} for fault in provider.faults]
