"""A gateway over two simulated vendors: one that tells repeats, one that does not."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider

CONFIGURATION = """
destinations:
  flowglad: {provider: flowglad, settings: {api_key: flowglad-key}}
  wingback: {provider: wingback, settings: {api_key: wingback-key, allow_absolute: true}}
meters: {api_calls: {}}
customers:
  acme:
    flowglad: {subscription_id: sub_acme}
    wingback: {customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670}
delivery: {retry: {first: 1ms, max: 10ms}}
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Any]:
    vendors = {
        "flowglad": SimulatedProvider("flowglad", known_meters={"api_calls"}),
        "wingback": SimulatedProvider("wingback"),
    }
    configuration = loads(CONFIGURATION, {})
    mounts = {name: vendor.transport() for name, vendor in vendors.items()}
    gateway = Gateway(configuration, SqliteLedger(tmp_path / "ledger.db"), mounts=mounts)
    await gateway.start()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(gateway)), base_url="http://gateway")

    sent: dict[str, dict[str, Any]] = {}

    async def send(event_id: str, **members: Any) -> dict[str, Any]:
        event = sent[event_id] = {"id": event_id, "customer": "acme", "meter": "api_calls", "quantity": 3, **members}
        reply = await client.post("/v1/events", json=event)
        return reply.json()["results"][0]

    async def detail(event_id: str) -> dict[str, Any]:
        return (await client.get(f"/v1/events/{event_id}")).json()

    async def until(event_id: str, destination: str, status: str) -> None:
        """Send the same event again: the answer waits for what is pending, and sends nothing."""
        found = await client.post("/v1/events?ack=all", json=sent[event_id], headers={"prefer": "wait=20"})
        delivery = found.json()["results"][0]["deliveries"][destination]
        assert status == delivery["status"], delivery

    yield SimpleNamespace(
        gateway=gateway, client=client, vendors=vendors, send=send, detail=detail, until=until, path=tmp_path
    )
    await client.aclose()
    await gateway.stop()
