"""A gateway over four simulated vendors, asked over its own HTTP API without a socket."""

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
import yaml

from canonical_schema import BatchResult
from gateway.app import create_app
from gateway.configuration.file import loads
from gateway.ledger import SqliteLedger
from gateway.service import Gateway
from gateway.simulator import SimulatedProvider
from gateway.times import SystemClock
from tests.waiting import until

VENDORS = ("flowglad", "paygentic", "flexprice", "wingback")
CONTRACT = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"

Changes = Mapping[str, Any]

CONFIGURATION: dict[str, Any] = {
    "destinations": {
        "flowglad": {"provider": "flowglad", "rate": "none", "settings": {"api_key": "secret-flowglad"}},
        "paygentic": {
            "provider": "paygentic",
            "rate": "none",
            "settings": {"api_key": "secret-paygentic", "profile": "usage-v0", "merchant_id": "org_1"},
        },
        "flexprice": {
            "provider": "flexprice",
            "rate": "none",
            "settings": {"api_key": "secret-flexprice", "allow_amend": True},
        },
        "wingback": {"provider": "wingback", "rate": "none", "settings": {"api_key": "secret-wingback"}},
    },
    "meters": {
        "api_calls": {
            "bindings": {
                "flowglad": {"price_slug": "api_calls"},
                "paygentic": {"billable_metric_id": "bm_calls"},
                "flexprice": {"event_name": "api_call"},
                "wingback": {"feature_slug": "API_CALLS"},
            }
        },
        "jobs": {"bindings": {"flexprice": {}}},
        "logins": {"aggregation": "count", "bindings": {"flexprice": {}, "flowglad": {}}},
        "llm_call": {
            "bindings": {
                "flexprice": {"quantity_properties": {"input": "in", "output": "out"}},
                "flowglad": [
                    {"price_slug": "tokens_in", "quantity": "input"},
                    {"price_slug": "tokens_out", "quantity": "output"},
                ],
            }
        },
    },
    "customers": {
        "acme": {
            "flowglad": {"subscription_id": "sub_acme"},
            "paygentic": {"customer_id": "cus_acme"},
            "wingback": {"customer_id": CONTRACT},
        }
    },
    "delivery": {"retry": {"first": "1ms", "max": "5ms"}},
}


def configured(changes: Changes | None = None) -> str:
    """Return the configuration with changes: mappings are merged, `None` takes a key away."""
    return yaml.safe_dump(_merged(CONFIGURATION, changes or {}), sort_keys=False)


def _merged(base: Changes, changes: Changes) -> dict[str, Any]:
    made = dict(base)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(made.get(key), Mapping):
            made[key] = _merged(made[key], cast("Changes", value))
        else:
            made[key] = value
    return made


def event(event_id: str = "e1", **members: object) -> dict[str, Any]:
    """Return an event that every vendor takes; `None` leaves a member out."""
    made: dict[str, object] = {"id": event_id, "customer": "acme", "meter": "api_calls", "quantity": 3, **members}
    return {name: value for name, value in made.items() if value is not None}


class MovableClock(SystemClock):
    """The machine's clock, some time ahead of it."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Asking:
    """A running gateway, and a client that asks it."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient, vendors: Mapping[str, SimulatedProvider]) -> None:
        self.gateway = gateway
        self.client = client
        self.vendors = vendors

    @property
    def calls(self) -> dict[str, int]:
        """How many requests each vendor got."""
        return {name: vendor.requests for name, vendor in self.vendors.items()}

    async def post(
        self, body: object, *, query: str = "", content_type: str = "application/json", **headers: str
    ) -> httpx.Response:
        """Send a body: bytes as they are, anything else as JSON. `x_request_id` is the header X-Request-Id."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            f"/v1/events{query}", content=content, headers={"content-type": content_type, **named}
        )

    async def send(self, body: object, **named: str) -> BatchResult:
        """Send a body and return the answer, held against the contract."""
        return checked((await self.post(body, **named)).content)

    async def one(self, body: object, **named: str) -> dict[str, Any]:
        """Send one event and return its entry in the answer."""
        (result,) = (await self.send(body, **named))["results"]
        return cast("dict[str, Any]", result)

    async def settled(self, event_id: str) -> None:
        """Return when no delivery of an event is under way."""

        async def settled() -> bool:
            found = (await self.get(f"/v1/events/{event_id}"))["deliveries"]
            return not {"pending", "retrying"}.intersection(one["status"] for one in found.values())

        await until(settled, f"{event_id} does not settle")

    async def routed(self, event_id: str) -> None:
        """Return when an event that had no way was given one, and no delivery of it is under way."""

        async def routed() -> bool:
            return (await self.get(f"/v1/events/{event_id}"))["status"] != "unrouted"

        await until(routed, f"{event_id} is given no way")
        await self.settled(event_id)

    async def get(self, path: str, **headers: str) -> Any:
        """Return the JSON at a path that must be there."""
        answer = await self.client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


# pydantic takes no `typing.TypedDict` on Python 3.11; msgspec holds values against the same types.
_CONTRACT = msgspec.json.Decoder(BatchResult)
_MEMBERS = ["index", "id", "status", "stored", "replayed", "deliveries", "error", "trimmed"]


def checked(body: bytes) -> BatchResult:
    """Return an answer to `POST /v1/events` after holding it against everything that is promised of each."""
    result = _CONTRACT.decode(body)
    raw = json.loads(body)
    assert raw == msgspec.to_builtins(result), "a member that the contract does not know"
    assert list(raw) == ["object", "batch_id", "summary", "results"]
    assert None not in list(_values(raw)), "absent members are omitted, never null"
    statuses = [one["status"] for one in raw["results"]]
    counted = {status: statuses.count(status) for status in set(statuses)}
    assert {status: count for status, count in raw["summary"].items() if count} == counted | {"total": len(statuses)}
    assert [one["index"] for one in raw["results"]] == list(range(len(statuses)))
    for one in raw["results"]:
        assert list(one) == [name for name in _MEMBERS if name in one]
        assert one["stored"] is (one["status"] not in {"invalid", "conflict"})
        assert one["stored"] or not one["deliveries"]
    return result


def _values(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for inner in cast("dict[str, object]", value).values() for leaf in _values(inner)]
    if isinstance(value, list):
        return [leaf for inner in cast("list[object]", value) for leaf in _values(inner)]
    return [value]


House = Callable[..., AbstractAsyncContextManager[Asking]]


@contextlib.asynccontextmanager
async def asked(gateway: Gateway, vendors: dict[str, SimulatedProvider]) -> AsyncGenerator[Asking]:
    """Ask a gateway that was opened, over HTTP, and stop it at the end."""
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield Asking(gateway, client, vendors)
    finally:
        await gateway.stop()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def vendors() -> dict[str, SimulatedProvider]:
    """The four vendors; they outlive a gateway that restarts."""
    return {name: SimulatedProvider(name) for name in VENDORS}


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def house(tmp_path: Path, vendors: dict[str, SimulatedProvider], clock: MovableClock) -> House:
    """Open the gateway, with changes to its configuration; opened again, it finds the ledger that it left."""

    @contextlib.asynccontextmanager
    async def opened(changes: Changes | None = None, *, running: bool = True) -> AsyncGenerator[Asking]:
        configuration = loads(configured(changes), {})
        mounts = {
            name: vendors[one.provider].transport()
            for name, one in configuration.destinations.items()
            if one.provider in vendors
        }
        gateway = Gateway(configuration, SqliteLedger(tmp_path / "ledger.db"), clock=clock, mounts=mounts)
        await (gateway.start() if running else gateway.open())
        async with asked(gateway, vendors) as asking:
            yield asking

    return opened


@pytest.fixture
async def asking(house: House) -> AsyncGenerator[Asking]:
    """A running gateway as it is configured by default."""
    async with house() as asking:
        yield asking
