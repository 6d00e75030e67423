"""What nobody means is refused in words."""

import httpx
import pytest

from gateway.cli._asking import ask
from gateway.cli._out import CommandFailed
from tests.gateway.conftest import Asking

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/events/e1/correct", "[" * 100_000),
        ("GET", "/v1/periods/0001-01?timezone=Asia/Tokyo", ""),
        ("GET", "/v1/usage?customer=acme&meter=api_calls&from=0001-01-01&to=9999-12-31", ""),
        ("POST", "/v1/reconciliations", '{"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}'),
        ("PUT", "/v1/customers/", '{"links": {"flowglad": [{"subscription_id": "s"}]}}'),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(asking: Asking, method: str, path: str, body: str) -> None:
    answer = await asking.client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert (400, "invalid_request") == (answer.status_code, answer.json()["code"])
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize("body", ["<html>Bad Gateway", "[]", '{"error": "no"}'])
def test_a_proxy_that_answers_in_the_gateways_place_is_named(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "request", lambda *_, **__: httpx.Response(502, text=body))  # type: ignore[misc]
    with pytest.raises(CommandFailed, match="http://proxy: 502"):
        ask("http://proxy", None, "GET", "/v1/backfills")
