"""What nobody means is refused in words."""

from urllib.parse import unquote

import httpx
import pytest

from gateway.cli._asking import ask, in_path
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
        ("POST", "/v1/customers//erase", '{"reason": "x"}'),
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


@pytest.mark.parametrize("lost", [httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteTimeout])
def test_a_lost_answer_is_not_told_as_a_gateway_that_is_not_there(
    lost: type[httpx.TransportError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(*_: object, **__: object) -> httpx.Response:
        raise lost("")

    monkeypatch.setattr(httpx, "request", request)
    with pytest.raises(CommandFailed, match=f"{lost.__name__}.*what was asked may be done: look"):
        ask("http://gateway", None, "POST", "/v1/corrections", {})


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "ä b?#%2F", "1.5"])
def test_whatever_a_name_is_made_of_it_is_one_part_of_a_path(name: str) -> None:
    raw = httpx.URL(f"http://gateway/v1/events/{in_path(name)}/void").raw_path.decode()
    assert ("", "v1", "events", name, "void") == tuple(map(unquote, raw.split("/")))
