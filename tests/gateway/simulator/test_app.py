"""The stand-alone simulators: their paths, their controls, and their faults on a real loopback socket."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import pytest

from adapters import providers
from gateway.simulator import SimulatedProvider, create_app, running, serve_in_thread

ROW = {"event_id": "e1", "event_name": "calls", "external_customer_id": "acme", "properties": {"quantity": "1.50"}}
KEY = {"x-api-key": "k"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def vendors() -> list[SimulatedProvider]:
    return [SimulatedProvider(name) for name in ("flexprice", "flowglad", "paygentic", "wingback")]


@pytest.fixture
async def client(vendors: Sequence[SimulatedProvider]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(vendors))
    async with httpx.AsyncClient(transport=transport, base_url="http://simulators") as client:
        yield client


@pytest.mark.anyio
async def test_each_vendor_has_its_own_paths_behind_its_name(
    client: httpx.AsyncClient, vendors: Sequence[SimulatedProvider]
) -> None:
    for vendor in vendors:
        for door in vendor.spec.doors.values():
            answer = await client.post(f"/{vendor.name}{door.path}", json={})
            assert answer.status_code == 401
            answer = await client.post(f"/{vendor.name}/x{door.path}", json={}, headers=vendor.spec.auth.headers("k"))
            assert answer.status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "key", "body"),
    [
        ("/flexprice/v1/events/bulk", KEY, {"events": [ROW]}),
        ("/flowglad/api/v1/usage-events/bulk", {"authorization": "k"}, {"usageEvents": []}),
    ],
)
async def test_clients_that_know_only_a_host_send_the_whole_path(
    client: httpx.AsyncClient, path: str, key: dict[str, str], body: object
) -> None:
    assert (await client.post(path, json=body, headers=key)).is_success


@pytest.mark.anyio
@pytest.mark.parametrize("endless", [b"1e400", b"Infinity", b"NaN"])
async def test_a_fault_without_end_is_refused(client: httpx.AsyncClient, endless: bytes) -> None:
    body = b'{"name": "throttled", "retry_after": ' + endless + b"}"
    answer = await client.post("/_control/flexprice/fail", content=body)
    assert (422, True) == (answer.status_code, "retry_after" in answer.json()["detail"])


@pytest.mark.anyio
async def test_the_controls_show_what_a_vendor_holds(client: httpx.AsyncClient) -> None:
    await client.post("/flexprice/events/bulk", json={"events": [ROW]}, headers=KEY)
    (stored,) = (await client.get("/_control/flexprice/stored")).json()["data"]
    assert (stored["key"], stored["customer"], stored["meter"], stored["copies"], stored["row"]) == (
        "e1",
        "acme",
        "calls",
        1,
        ROW,
    )
    billed = (await client.get("/_control/flexprice/billed")).json()
    assert billed == {"data": [{"customer": "acme", "meter": "calls", "quantity": "1.50"}]}
    (call,) = (await client.get("/_control/flexprice/calls")).json()["data"]
    assert (call["method"], call["path"], call["status"], call["rows"]) == ("POST", "/events/bulk", 202, [ROW])
    assert (await client.get("/_control/wingback/stored")).json() == {"data": []}


@pytest.mark.anyio
async def test_the_controls_make_a_vendor_fail_refuse_forget_and_know(client: httpx.AsyncClient) -> None:
    async def post() -> httpx.Response:
        return await client.post("/flexprice/events/bulk", json={"events": [ROW]}, headers=KEY)

    async def control(what: str, body: dict[str, Any]) -> None:
        assert (await client.post(f"/_control/flexprice/{what}", json=body)).status_code == 200

    await control("fail", {"name": "throttled", "keys": ["e1"], "retry_after": "2026-11-23T12:00:00Z"})
    answer = await post()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "Mon, 23 Nov 2026 12:00:00 GMT")
    await control("fail", {"name": "throttled", "keys": ["e9"]})
    await control("refuse", {"keys": ["e1"]})
    assert (await post()).status_code == 400
    await control("fail", {"name": "unavailable", "times": None})
    assert (await client.delete("/_control/flexprice/faults")).json() == {"faults": []}
    assert (await post()).status_code == 202
    await control("known", {"customers": ["someone"]})
    await control("known", {"meters": None, "quantity_properties": {"calls": ["a", "b"]}})
    assert (await client.get("/_control/flexprice/billed")).json() == {"data": []}
    await control("reset", {})
    assert (await client.get("/_control/flexprice/calls")).json() == {"data": []}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/_control/stripe/stored", None, 404, "there are: flexprice, flowglad, paygentic, wingback"),
        ("POST", "/_control/stripe/fail", {}, 404, "there is no provider 'stripe'"),
        ("GET", "/_control/flexprice/secrets", None, 404, "stored, calls, billed, faults"),
        ("POST", "/_control/flexprice/explode", {}, 404, "POST fail, refuse, known, reset; DELETE faults"),
        ("POST", "/_control/flexprice/fail", {"name": "tired"}, 422, "There are: crash_after"),
        ("POST", "/_control/flexprice/fail", {"name": "timeout", "status": 500}, 422, "takes no status"),
        ("POST", "/_control/flexprice/fail", {"fault": "timeout"}, 422, "name: Field required; fault: Extra inputs"),
        ("POST", "/_control/flexprice/fail", [1], 422, "body: "),
        ("POST", "/_control/flexprice/refuse", {"keys": ["e1"], "code": "bored"}, 422, "'bored' is not a valid"),
        ("GET", "/stripe/v1", None, 404, "/flexprice, /flowglad, /paygentic, /wingback"),
        ("PUT", "/_control", {}, 405, "/_control"),
    ],
)
async def test_a_wrong_control_call_is_a_problem_that_says_what_exists(
    client: httpx.AsyncClient, method: str, path: str, body: object, status: int, said: str
) -> None:
    answer = await client.request(method, path, json=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert {"type", "title", "status", "detail", "code", "request_id"} == set(problem)
    assert said in problem["detail"]


def test_two_vendors_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="flexprice"):
        create_app([SimulatedProvider("flexprice"), SimulatedProvider("flexprice")])


@pytest.mark.anyio
async def test_the_index_lists_vendors_and_faults(client: httpx.AsyncClient) -> None:
    index = (await client.get("/_control")).json()
    assert index["providers"] == ["flexprice", "flowglad", "paygentic", "wingback"]
    assert index["faults"]["timeout"]["takes"] == ["times", "after", "keys", "stored"]


# On a real socket.


class Naps:
    """A sleep that takes no time, and remembers how long it was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


async def endless(_: float) -> None:
    await anyio.sleep_forever()


async def post_to(url: str, read: float | None = 5.0) -> httpx.Response:
    timeout = httpx.Timeout(5.0, read=read)
    async with httpx.AsyncClient(timeout=timeout) as client:
        return await client.post(f"{url}/flexprice/events/bulk", json={"events": [ROW]}, headers=KEY)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "error", "stored"),
    [
        ("reset_before", httpx.ReadError, 0),
        ("reset_after", httpx.ReadError, 1),
        ("refused", httpx.ReadError, 0),
        ("half_answer", httpx.RemoteProtocolError, 1),
    ],
)
async def test_a_connection_breaks_for_real(fault: str, error: type[Exception], stored: int) -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail(fault)
    async with running([vendor]) as url:
        with pytest.raises(error):
            await post_to(url)
        assert len(vendor.stored) == stored
        assert (await post_to(url)).status_code == 202


@pytest.mark.anyio
async def test_half_an_answer_is_half_of_what_was_announced() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("half_answer")
    async with running([vendor]) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        body = json.dumps({"events": [ROW]}).encode()
        stream = await anyio.connect_tcp(host, int(port))
        async with stream:
            head = f"POST /flexprice/events/bulk HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\ncontent-length: {len(body)}\r\n"
            await stream.send(head.encode() + b"\r\n" + body)
            received = b"".join([chunk async for chunk in stream])
    answered, _, half = received.partition(b"\r\n\r\n")
    whole = b'{"message":"Events accepted for processing"}'
    assert (b"content-length: %d" % len(whole) in answered, half) == (True, whole[: len(whole) // 2])


@pytest.mark.anyio
async def test_a_request_that_is_never_answered_times_out_at_the_client() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("timeout")
    async with running([vendor], sleep=endless) as url:
        with pytest.raises(httpx.ReadTimeout):
            await post_to(url, read=0.01)
    assert len(vendor.stored) == 1


@pytest.mark.anyio
async def test_a_request_that_is_never_answered_ends_at_its_bound() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("timeout", stored=False)
    naps = Naps()
    async with running([vendor], sleep=naps, hang=60.0) as url:
        with pytest.raises(httpx.ReadError):
            await post_to(url)
    assert (naps.asked, vendor.stored) == ([60.0], [])


@pytest.mark.anyio
async def test_a_late_answer_waits_as_long_as_told() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("latency", seconds=2.5)
    naps = Naps()
    async with running([vendor], sleep=naps) as url:
        assert (await post_to(url)).status_code == 202
    assert naps.asked == [2.5]


@pytest.mark.anyio
async def test_stopping_ends_requests_that_would_never_end() -> None:
    vendor = SimulatedProvider("flexprice")
    vendor.fail("timeout")
    ended: list[str] = []

    async def ask(url: str) -> None:
        with pytest.raises(httpx.TransportError) as caught:
            await post_to(url, read=None)
        ended.append(type(caught.value).__name__)

    async with anyio.create_task_group() as group, running([vendor], sleep=endless) as url:
        group.start_soon(ask, url)
        while not vendor.calls:
            await anyio.lowlevel.checkpoint()
    assert ended in (["ReadError"], ["RemoteProtocolError"])


@pytest.mark.anyio
async def test_a_port_that_is_taken_is_an_error() -> None:
    async with running([SimulatedProvider("flexprice")]) as url:
        with pytest.raises(OSError, match="in use"):
            async with running([], port=int(url.rpartition(":")[2])):
                pass


def test_a_program_without_an_event_loop_can_have_simulators() -> None:
    vendors = [SimulatedProvider(name) for name in providers() if name in {"flexprice", "wingback"}]
    with serve_in_thread(vendors) as url, httpx.Client(headers=KEY) as client:
        assert client.post(f"{url}/flexprice/events/bulk", json={"events": [ROW]}).status_code == 202
        with pytest.raises(OSError, match="in use"), serve_in_thread(vendors, port=int(url.rpartition(":")[2])):
            pass
    assert vendors[0].billed() != {}
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
