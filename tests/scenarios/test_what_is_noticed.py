"""Faults that are planted one by one: each is noticed by what `test_whatever_happens` holds after every step."""

import contextlib
from collections.abc import Callable, Generator
from decimal import Decimal
from typing import Any

import pytest

from canonical_schema import Quantities
from gateway.lanes.verdict import Next
from gateway.ledger import Code, SqliteLedger, _events
from tests.gateway.ledger.conftest import SqliteStore
from tests.scenarios.hasty import HastyLedger
from tests.scenarios.setups import Setup
from tests.scenarios.whole import OnAServer, Whole

Plant = Callable[[str, object], None]


class Hasty(Whole):
    """Its gateway acknowledges before it stores."""

    def ledger(self) -> SqliteLedger:
        assert isinstance(self._store, SqliteStore)
        return HastyLedger(self._store.path)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    monkeypatch.setattr(_events, "CACHED_BYTES", 0)
    return monkeypatch.setattr


@pytest.fixture
def whole() -> Generator[Whole]:
    with _opened(Whole()) as machine:
        yield machine


@contextlib.contextmanager
def _opened(machine: Whole) -> Generator[Whole]:
    machine.begin()
    try:
        machine.everything_fits()
        yield machine
    finally:
        machine.close()


def test_without_a_fault_all_of_this_is_fine(whole: Whole, plant: Plant) -> None:
    whole.send([3, 4], ("wingback", "lost_answer"), "work")
    whole.send([5], ("flowglad", "lost_answer"), "begin")
    whole.reload(Setup(renamed=True))
    whole.work()
    whole._runner.run(whole._correct("e2", 7))
    whole.lose_power()
    whole.work()
    whole.everything_fits()


def test_an_answer_before_anything_is_stored(plant: Plant) -> None:
    with _opened(Hasty()) as machine:
        machine.send([3])
        with pytest.raises(AssertionError, match="acknowledged:"):
            machine.everything_fits()


@pytest.mark.parametrize("machine", [Whole, OnAServer])
def test_a_second_request_where_nobody_tells_repeats(machine: type[Whole], plant: Plant) -> None:
    plant("gateway.lanes.verdict.may_resend", lambda *_: True)
    plant("gateway.lanes.preparing.may_resend", lambda *_: True)
    with _opened(machine()) as whole:
        whole.send([3], ("wingback", "lost_answer"), "work")
        with pytest.raises(AssertionError, match="wingback bills twice"):
            whole.everything_fits()


def test_a_server_that_forgets_what_it_wrote_down_last(plant: Plant) -> None:
    with _opened(OnAServer()) as whole:
        whole.send([3])
        plant("tests.gateway.ledger.conftest.RedisStore.cut", lambda store: type(store)(store._folder / "other"))
        whole.lose_power()
        with pytest.raises(AssertionError, match="acknowledged:"):
            whole.everything_fits()


def test_a_row_that_is_rendered_anew_after_it_may_have_arrived(whole: Whole, plant: Plant) -> None:
    plant("gateway.ledger._settling.pack_parts", lambda _: None)
    whole.send([3], ("flowglad", "lost_answer"), "begin")
    whole.reload(Setup(renamed=True))
    whole.work()
    with pytest.raises(AssertionError, match=r"bills twice|with other content"):
        whole.everything_fits()


def test_a_delivery_that_is_put_nowhere(whole: Whole, plant: Plant) -> None:
    plant("gateway.ledger._settling._insert", lambda _, rows: [0] * len(rows))
    whole.send([3], ("flexprice", "unavailable"), "begin")
    whole.begin_to_send("flexprice")
    with pytest.raises(AssertionError, match="with no work"):
        whole.everything_fits()


def test_a_delivery_that_is_called_done_and_never_left(whole: Whole, plant: Plant) -> None:
    def done(*_: Any, **__: Any) -> Next:
        return Next(code=Code.ACCEPTED, doubt=0)

    plant("gateway.lanes.settling.next_step", done)
    whole.send([3], ("flexprice", "refused"), "work")
    with pytest.raises(AssertionError, match="flexprice bills 0 of e0"):
        whole.everything_fits()


def test_a_correction_by_the_whole_amount_and_not_the_difference(whole: Whole, plant: Plant) -> None:
    def wrong(_: Quantities, after: Quantities) -> Quantities:
        return after or {"": Decimal(1)}

    plant("gateway.lanes.correcting.difference", wrong)
    whole.send([3], then="work")
    whole._runner.run(whole._correct("e0", 5))
    whole.work()
    with pytest.raises(AssertionError, match="bills 8 of e0"):
        whole.everything_fits()
