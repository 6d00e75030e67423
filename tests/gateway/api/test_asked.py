"""What endpoints share: how bodies of events are read, and what is streamed and fails before it has begun."""

import gzip
import json
import threading
from unittest.mock import AsyncMock

import pytest

from gateway import intake
from gateway.errors import LedgerUnavailable
from tests.gateway.conftest import Asking, event


@pytest.mark.parametrize("path", ["/v1/deliveries", "/v1/links/coverage"])
async def test_where_the_ledger_is_away_what_would_be_streamed_is_refused_in_words(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("in_state", "batches_after"):
        monkeypatch.setattr(asking.gateway.ledger, name, AsyncMock(side_effect=LedgerUnavailable("it is away")))
    answer = await asking.client.get(path)
    assert (503, "ledger_unavailable") == (answer.status_code, answer.json()["code"])
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("path", ["/v1/events", "/v1/explain", "/v1/backfills/none/events?first=0&last=true"])
async def test_others_have_their_turns_while_a_body_is_inflated(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    inflating: list[threading.Thread] = []

    class Noted(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            inflating.append(threading.current_thread())
            return super().read(size)

    monkeypatch.setattr(intake.gzip, "GzipFile", Noted)
    body = gzip.compress(json.dumps([event(timestamp="2026-11-23T11:52:00Z")]).encode(), mtime=0)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    await asking.client.post(path, content=body, headers=headers)
    assert inflating
    assert threading.current_thread() not in inflating
