"""A customer is forgotten in the ledger and in the archive, or whoever asked is told what is left to do."""

from datetime import timedelta
from pathlib import Path

from tests.gateway.conftest import House, MovableClock, event
from tests.gateway.test_retention import archived, erase, keeping, kept


async def test_an_archive_that_cannot_be_changed_is_told_and_the_customer_is_forgotten_once_it_can(
    house: House, clock: MovableClock, tmp_path: Path
) -> None:
    async with house(keeping(tmp_path)) as asking:
        await asking.one(event())
        clock.ahead = timedelta(days=2)
        await kept(asking)
        segment, away = tmp_path / "archive" / "segment-000001.ndjson.zst", tmp_path / "away"
        segment.rename(away)
        answer = await erase(asking)
        problem = answer.json()
        assert (503, "ledger_unavailable") == (answer.status_code, problem["code"])
        assert "segment-000001.ndjson.zst" in problem["detail"]
        assert problem["detail"].endswith("ask again once it can be changed")
        assert int(answer.headers["retry-after"]) > 0

        away.rename(segment)
        assert 1 == (await erase(asking)).json()["archived"]
        assert "acme" not in str(archived(tmp_path))
