"""What is read back beside all requests: deliveries in doubt, soon and at night, and what was queued only."""

from gateway.reconciling.confirming import Confirming
from gateway.reconciling.finding import Finding
from gateway.reconciling.receipts import Receipts
from gateway.service import Gateway

__all__ = ["read_back"]


def read_back(gateway: Gateway) -> None:
    """Have it done for as long as the gateway delivers."""
    confirming = Confirming(gateway)
    gateway.chore("read back", confirming.step)
    gateway.chore("receipts", Receipts(gateway, confirming).step)
    gateway.doubts.wake = gateway.chore("find", Finding(gateway, confirming).step).wake
