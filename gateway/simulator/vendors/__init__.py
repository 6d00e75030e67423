"""What each vendor does that its declaration leaves out, a room for each: how it refuses, and what it can be asked.

Nothing here is needed to send or to settle. A provider without a room has plain manners, and no pages to read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapters import Reply, Row
from gateway.simulator.manners import Manners, answer
from gateway.simulator.members import Unreadable
from gateway.simulator.reads import ReadRequest
from gateway.simulator.vendors import flexprice, flowglad, paygentic, wingback

__all__ = ["manners", "read"]


@dataclass(frozen=True, slots=True)
class _Vendor:
    manners: Manners
    read: Callable[[ReadRequest], Reply | None]
    refusal: Callable[[Unreadable], Row]


_VENDORS: Mapping[str, _Vendor] = {
    "flexprice": _Vendor(flexprice.MANNERS, flexprice.read, flexprice.refusal),
    "flowglad": _Vendor(flowglad.MANNERS, flowglad.read, flowglad.refusal),
    "paygentic": _Vendor(paygentic.MANNERS, paygentic.read, paygentic.refusal),
    "wingback": _Vendor(wingback.MANNERS, wingback.read, wingback.refusal),
}


def manners(provider: str) -> Manners:
    """Return a vendor's manners."""
    vendor = _VENDORS.get(provider)
    return Manners() if vendor is None else vendor.manners


def read(provider: str, request: ReadRequest) -> Reply | None:
    """Answer a read, or return `None` where the vendor has no such page. What cannot be read is a 400, as theirs is."""
    vendor = _VENDORS.get(provider)
    if vendor is None:
        return None
    try:
        return vendor.read(request)
    except Unreadable as error:
        return answer(400, vendor.refusal(error))
