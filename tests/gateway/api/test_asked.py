"""What endpoints share: what is streamed, and fails before it has begun."""

from unittest.mock import AsyncMock

import pytest

from gateway.errors import LedgerUnavailable
from tests.gateway.conftest import Asking


@pytest.mark.parametrize("path", ["/v1/deliveries", "/v1/links/coverage"])
async def test_where_the_ledger_is_away_what_would_be_streamed_is_refused_in_words(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("in_state", "batches_after"):
        monkeypatch.setattr(asking.gateway.ledger, name, AsyncMock(side_effect=LedgerUnavailable("it is away")))
    answer = await asking.client.get(path)
    assert (503, "ledger_unavailable") == (answer.status_code, answer.json()["code"])
    assert "retry-after" in answer.headers
