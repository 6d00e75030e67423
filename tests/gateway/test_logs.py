"""Logs, errors and problems: one line a request and one an attempt, and never a word of anybody's data."""

import asyncio
import io
import json
import logging
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog

from adapters import State
from gateway import logs
from gateway.accepting import Accepting
from gateway.configuration.keys import sha256
from gateway.simulator import FAULTS
from gateway.transport import Mounted
from tests.gateway.conftest import Asking, House, event

KEY = "ugw_MARKERgatewaykey"
SECRET = "MARKERvendorkey"
MARKED: dict[str, Any] = {
    "customer": "MARKERcustomer",
    "subscription": "MARKERsubscription",
    "source": "MARKERsource",
    "properties": {"region": "MARKERvalue", "size": 987654321.123},
}
SUB, CUS, CONTRACT = "sub_MARKER", "cus_MARKER", "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"
MARKERS = ("MARKER", "987654321", CONTRACT)

MARKED_HOUSE: dict[str, Any] = {
    "auth": {"keys": [{"name": "backend", "sha256": sha256(KEY), "scopes": ["events:write", "events:read"]}]},
    "destinations": {
        name: {"settings": {"api_key": SECRET}} for name in ("flowglad", "paygentic", "flexprice", "wingback")
    },
    "customers": {
        "MARKERcustomer": {
            "flowglad": {"subscription_id": SUB},
            "paygentic": {"customer_id": CUS},
            "wingback": {"customer_id": CONTRACT},
        }
    },
}


@pytest.fixture
def lines() -> Generator[io.StringIO]:
    """Everything that is logged while a test runs."""
    stream = io.StringIO()
    before, level = logging.root.handlers[:], logging.root.level
    logs.configure(stream, logging.DEBUG)
    yield stream
    structlog.reset_defaults()
    logging.root.handlers[:] = before
    logging.root.setLevel(level)


def read(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def clean(text: str) -> bool:
    """Tell whether nothing of the sender's or the operator's secrets is in a text."""
    return not [marker for marker in MARKERS if marker in text]


async def send(asking: Asking, body: object, path: str = "/v1/events?ack=required") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "prefer": "wait=0.2"}
    return await asking.client.post(path, content=content, headers=headers)


async def test_a_request_leaves_one_line_and_an_attempt_one(house: House, lines: io.StringIO) -> None:
    async with house(MARKED_HOUSE) as asking:
        await asking.post([event(**MARKED), event("e2", **MARKED)], authorization=f"Bearer {KEY}", x_request_id="r1")
    found = read(lines)
    (request,) = [line for line in found if line["event"] == "request.done"]
    assert {"method": "POST", "path": "/v1/events", "status": 200, "key": "backend", "request_id": "r1"} == {
        name: request[name] for name in ("method", "path", "status", "key", "request_id")
    }
    attempts = [line for line in found if line["event"] == "attempt.settled"]
    assert dict.fromkeys(asking.vendors, (2, 2)) == {
        line["destination"]: (line["rows"], line["accepted"]) for line in attempts
    }
    assert 1 == len({tuple(sorted(line)) for line in attempts}), "the same keys every time"
    assert clean(lines.getvalue())


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_no_fault_of_a_vendor_brings_data_into_a_log_or_an_error(
    house: House, lines: io.StringIO, fault: str
) -> None:
    async with house({**MARKED_HOUSE, "delivery": {"retry": {"first": "1h", "max": "1h"}}}) as asking:
        for vendor in asking.vendors.values():
            vendor.fail(fault, times=None)
        answer = await send(asking, [event("e1", **MARKED), event("e2", **{**MARKED, "customer": "MARKERother"})])
        assert answer.status_code in {200, 202, 207}
        assert clean(answer.text)
        told = await asking.client.get("/v1/destinations", headers={"authorization": f"Bearer {KEY}"})
        assert clean(told.text)
    assert clean(lines.getvalue())


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 422, 429, 500, 503])
async def test_a_vendor_that_echoes_everything_back_is_not_believed_in_a_log(
    house: House, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with house({**MARKED_HOUSE, "delivery": {"retry": {"first": "1h", "max": "1h"}}}) as asking:

        def echo(request: httpx.Request) -> httpx.Response:
            said = f"{request.content.decode()} {dict(request.headers)}"
            body = {"message": said, "error": said, "code": "bad", "feedback": {"x": {"value": said}}, "detail": said}
            return httpx.Response(status, json=body)

        for lane in asking.gateway.lanes.values():
            monkeypatch.setattr(lane._shipper._transport, "_end", Mounted(httpx.MockTransport(echo), 30))
        answer = await send(asking, [event(**MARKED)])
        assert clean(answer.text)
        found = await asking.client.get("/v1/destinations", headers={"authorization": f"Bearer {KEY}"})
        assert clean(found.text)
    assert clean(lines.getvalue())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/events", b'{"id": "e1", "customer": "MARKER", "MARKER": '),
        ("/v1/events", b'[{"id": "e1", "customer": {"MARKER": 1}}]'),
        ("/v1/events", b'[{"id": "MARKER MARKER", "customer": "MARKER"}]'),
        ("/v1/events", b'[{"id": "e1", "customer": "a", "meter": "m", "quantity": "MARKER", "timestamp": "MARKER"}]'),
        ("/v1/events", b'[{"id": "e1", "customer": "a", "meter": "m", "properties": {"a": ["MARKER"]}}]'),
        ("/v1/explain", b'{"id": "e1", "customer": "MARKER", "meter": "m", "quantity": 1, "kind": "MARKER"}'),
        ("/v1/customers/MARKER", b"{}"),
        ("/v1/events/MARKER", b"{}"),
        ("/MARKER", b"{}"),
    ],
)
async def test_what_is_refused_is_not_repeated(house: House, lines: io.StringIO, path: str, body: bytes) -> None:
    async with house(MARKED_HOUSE) as asking:
        answer = await send(asking, body, path)
        assert clean(answer.text)
    assert clean(lines.getvalue())
    assert "request.done" in lines.getvalue()


async def test_a_conflict_names_members_and_no_values(house: House, lines: io.StringIO) -> None:
    async with house(MARKED_HOUSE) as asking:
        await send(asking, event(**MARKED))
        answer = await send(asking, event())
        assert clean(answer.text)
        assert ["customer", "subscription", "source", "properties"] == answer.json()["results"][0]["error"]["fields"]
    assert clean(lines.getvalue())


@pytest.mark.parametrize("path", ["/v1/events/MARKERid", "/v1/destinations/MARKER", "/v1/customers/MARKER", "/MARKER"])
async def test_a_path_is_logged_without_what_it_names(house: House, lines: io.StringIO, path: str) -> None:
    async with house(running=False) as asking:
        await asking.client.get(path)
    (done,) = read(lines)
    assert {"/v1/events/{id}", "/v1/destinations/{name}", "/v1/customers/{customer}", "unknown"} >= {done["path"]}
    assert clean(lines.getvalue())


async def test_a_fault_of_ours_is_named_with_its_place_and_has_its_line(
    asking: Asking, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("MARKER")

    monkeypatch.setattr(Accepting, "accept", broken)
    answer = await asking.post(event())
    failed, done = read(lines)
    assert (500, True) == (answer.status_code, clean(answer.text))
    assert ("request.failed", "KeyError") == (failed["event"], failed["error"])
    assert failed["where"].startswith("test_logs.py:")
    assert ("request.done", 500) == (done["event"], done["status"])
    assert clean(lines.getvalue())


async def test_a_lane_that_fails_says_what_kind_of_fault_it_was(
    asking: Asking, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("MARKER")

    monkeypatch.setattr(asking.gateway.lanes["wingback"]._shipper, "_judge", broken)
    await asking.post(event(), prefer="wait=0.2")
    assert clean(lines.getvalue())
    assert "ValueError" in lines.getvalue()


class Secretive:
    """Something whose `repr` does not show what it holds."""

    held = "MARKER"

    def __repr__(self) -> str:
        return "<Secretive>"


@dataclass(repr=False)
class Key(Secretive):
    held: str = "MARKER"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a\nb", "a\nb"),
        ("\u00e9", "\u00e9"),
        ("\u2028\ud800", "\u2028\ud800"),
        (2**70, 2**70),
        (-0.5, -0.5),
        (None, None),
        (True, True),
        (State.NOT_STORED, "not_stored"),
        ([1, "\u00e9"], [1, "\u00e9"]),
        (Secretive(), "<Secretive>"),
        (Key(), "<Secretive>"),
        ({"deep": Key()}, {"deep": "<Secretive>"}),
    ],
    ids=repr,
)
def test_a_line_is_ascii_with_what_is_told_first_and_when_last(lines: io.StringIO, value: object, told: object) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().warning("it.happened", rows=3, value=value)
    (line,) = lines.getvalue().splitlines()
    assert line.isascii()
    stamp = json.loads(line)["timestamp"]
    said = {"rows": 3, "value": told, "event": "it.happened", "request_id": "r1", "level": "warning"}
    assert list({**said, "timestamp": stamp}.items()) == list(json.loads(line).items())
    assert abs(datetime.now(UTC) - datetime.fromisoformat(stamp)) < timedelta(minutes=1)


def test_a_line_goes_to_the_stream_of_the_last_configuration(lines: io.StringIO) -> None:
    log, other = structlog.get_logger(), io.StringIO()
    log.info("first")
    logs.configure(other, logging.WARNING)
    log.info("not.told")
    log.warning("second")
    with structlog.testing.capture_logs() as captured:
        log.info("not.told")
        log.error("third")
    assert (["first"], ["second"]) == ([line["event"] for line in read(lines)], [line["event"] for line in read(other)])
    assert [{"event": "third", "log_level": "error"}] == captured


def test_a_librarys_words_are_told_and_what_it_puts_into_them_is_not(lines: io.StringIO) -> None:
    library = logging.getLogger("aiohttp.client")
    library.warning("Can not load cookies: %s", "MARKER")
    library.warning(f"Can not load {'MARKER'}")
    try:
        raise RuntimeError("MARKER")
    except RuntimeError:
        library.exception("it failed with MARKER")
    library.info("MARKER %s", "MARKER")
    logging.getLogger("gateway.ledger").error("ledger.flush_failed: %s", "disk is full")
    logging.getLogger("uvicorn.error").error(OSError(98, "address in use"))
    assert ["Can not load cookies: %s", "(not shown)", "RuntimeError", "ledger.flush_failed: disk is full"] == [
        line["message"] for line in read(lines)[:4]
    ]
    assert "address in use" in read(lines)[4]["message"]
    assert clean(lines.getvalue())


async def test_a_task_that_nobody_waited_for_is_named_only(lines: io.StringIO) -> None:
    async def broken() -> None:
        raise RuntimeError("MARKER")

    task = asyncio.ensure_future(broken())
    await asyncio.sleep(0)
    asyncio.get_running_loop().default_exception_handler(
        {"message": "Task exception was never retrieved", "exception": task.exception(), "future": task}
    )
    assert ["RuntimeError"] == [line["message"] for line in read(lines)]
