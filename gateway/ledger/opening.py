"""From what is configured to the ledger that it names."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gateway.configuration_sections import LedgerSettings
from gateway.errors import LedgerUnavailable
from gateway.ledger._protocol import Ledger
from gateway.ledger.check import add_up
from gateway.ledger.sqlite import SqliteLedger

__all__ = ["ledger_of", "sums_of"]

MARGIN = timedelta(seconds=30)
"""How much longer than a request a process that is not heard of keeps what it sends."""


def ledger_of(settings: LedgerSettings, timeout: timedelta, *, observer: bool = False) -> Ledger:
    """Return the ledger, not yet open. `timeout`: of one request to a vendor. `observer`: it sends nothing."""
    address = settings.address
    if address is None:
        return SqliteLedger(settings.path)
    # Who keeps a file needs no client for a server, which takes a while to import.
    from gateway.ledger.redis import RedisLedger

    usual = 0 if address.shape == "single" else 1
    return RedisLedger(
        address,
        replicas=usual if settings.replicas is None else settings.replicas,
        lease=timeout + MARGIN,
        tls=_tls(settings),
        observer=observer,
    )


async def sums_of(settings: LedgerSettings) -> Mapping[str, Any]:
    """Return what the ledger adds up to. Reads only; on a server nothing should come in or go out meanwhile.

    Raises LedgerUnavailable where there is none.
    """
    if settings.address is None:
        return add_up(settings.path)
    from gateway.ledger.redis import RedisLedger

    ledger = ledger_of(settings, timedelta(0), observer=True)
    if not isinstance(ledger, RedisLedger):
        raise LedgerUnavailable("the ledger cannot be added up")
    await ledger.open()
    try:
        return await ledger.add_up()
    finally:
        await ledger.close()


def _tls(settings: LedgerSettings) -> dict[str, Any]:
    files = {"ssl_ca_certs": settings.ca_file, "ssl_certfile": settings.cert_file, "ssl_keyfile": settings.key_file}
    return {name: str(path) for name, path in files.items() if path is not None}
