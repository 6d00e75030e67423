"""From what is configured to the ledger that it names."""

import ssl
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gateway.configuration.sections import LedgerSettings
from gateway.errors import ConfigurationError, LedgerUnavailable
from gateway.ledger import Ledger, SqliteLedger
from gateway.ledger.check import add_up

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
    """Return the files for TLS. Raises ConfigurationError for one that cannot be read as what it is named."""
    authorities, ours = settings.ca_file, settings.cert_file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except OSError as error:
        raise ConfigurationError(f"ledger.ca_file: {authorities} cannot be used: {error}") from None
    try:
        if ours is not None:
            context.load_cert_chain(ours, settings.key_file, password="")
    except OSError as error:
        files = ours if settings.key_file is None else f"{ours} with {settings.key_file}"
        raise ConfigurationError(f"ledger.cert_file: {files} cannot be used: {error}") from None
    files = {"ssl_ca_certs": authorities, "ssl_certfile": ours, "ssl_keyfile": settings.key_file}
    return {name: str(path) for name, path in files.items() if path is not None}
