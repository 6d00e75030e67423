"""Whatever is wrong is said once, with what to do about it, and leaves nothing behind."""

import gzip
import json
from typing import Any

import pytest

from gateway.configuration.keys import new_key, sha256
from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Service, event

KEY = new_key()


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("destinations.flowglad.provider", "flowgled", "unknown provider; did you mean flowglad?"),
        ("destinations.flowglad.settings.api_key", "${NOT_SET}", "the environment variable NOT_SET is not set"),
        ("destinations.wingback.settings.base_ulr", "https://x", "unknown key; did you mean base_url?"),
        ("delivery.timeout", "soon", "delivery.timeout: "),
        ("listen.host", "0.0.0.0", "no key is configured: make one with"),
        ("customers.acme.wingback.customer_id", "Customer 7", "customers.acme.wingback.customer_id: "),
        ("ledger.url", "mysql://x", "should be a file or a Redis server"),
    ],
)
def test_a_wrong_configuration_stops_the_start_with_one_line(
    service: Service, where: str, value: str, says: str
) -> None:
    *path, last = where.split(".")
    section: dict[str, Any] = service.configuration
    for name in path:
        section = section[name]
    section[last] = value
    with service.launch() as process:
        assert 0 != process.wait(30)
    told = [line for line in service.log.splitlines() if line.strip()]
    assert 1 == len([line for line in told if says in line]), service.log
    assert "Traceback" not in service.log
    assert "gateway.yaml:" in service.log, "the file and the line are named"


def test_a_wrong_request_is_one_clear_error_and_stores_nothing(
    service: Service, vendors: dict[str, SimulatedProvider]
) -> None:
    service.configuration["auth"] = {"keys": [{"name": "backend", "sha256": sha256(KEY), "scopes": ["admin"]}]}
    service.configuration["intake"] = {"max_bytes": "4KiB", "max_events": 20}
    service.start()
    right = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

    def post(body: bytes, **headers: str) -> tuple[int, str, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = service.client.post("/v1/events", content=body, headers={**right, **named})
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == problem["request_id"]
        return answer.status_code, problem["code"], problem["detail"]

    good = json.dumps(event("e1")).encode()
    for (status, code, says), told in (
        ((400, "invalid_request", "not valid JSON"), post(good[:-1])),
        ((400, "invalid_request", "the batch is empty"), post(b"[]")),
        ((400, "invalid_request", "not valid gzip"), post(good, content_encoding="gzip")),
        ((401, "unauthorized", "Authorization: Bearer ugw_"), post(good, authorization=f"Bearer {new_key()}")),
        ((413, "payload_too_large", "send fewer events at a time"), post(b" " * 5000 + good)),
        (
            (413, "payload_too_large", "raise intake.max_bytes"),
            post(gzip.compress(bytes(10**6)), content_encoding="gzip"),
        ),
        ((413, "payload_too_large", "raise intake.max_events"), post(b"[" + b"{}," * 20 + b"{}]")),
        ((415, "unsupported_media_type", "application/x-ndjson"), post(good, content_type="text/csv")),
    ):
        assert (status, code) == told[:2]
        assert says in told[2]

    wrong: list[dict[str, object]] = [
        {**event("e1"), "quantitty": 1},
        {**event("e2"), "customer": ""},
        event("e3", timestamp="yesterday"),
        event("e4", "1,5"),
        event("e 5"),
        {name: value for name, value in event("e6").items() if name != "meter"},
    ]
    answer = service.client.post("/v1/events", json=wrong, headers=right)
    assert answer.status_code == 422
    assert [
        "quantitty: unknown member, did you mean `quantity`?",
        "customer: must be a string of 1 to 255 characters",
        "timestamp: must be an RFC 3339 time with a zone and at most 9 decimals, like 2026-11-23T11:52:00.5Z",
        'quantity: must be a finite decimal, written like "12.5" or "1e-3"',
        "id: must be a string of 1 to 128 printable ASCII characters without blanks",
        "meter: is required",
    ] == [one["error"]["message"] for one in answer.json()["results"]]

    service.client.headers.update(right)
    assert [] == service.stored()
    assert {0} == {vendor.requests for vendor in vendors.values()}


def test_a_second_gateway_on_one_ledger_does_not_start(service: Service) -> None:
    service.start()
    with service.launch() as process:
        assert 0 != process.wait(30)
    assert "is in use by another gateway process" in service.log
    assert 200 == service.send([event("e1")]).status_code
