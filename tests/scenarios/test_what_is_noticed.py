"""Faults that are planted one by one: each is noticed by what `test_whatever_happens` holds after every step."""

import contextlib
from collections.abc import Callable, Generator
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import pytest

from adapters import Link
from canonical_schema import Event, Quantities
from gateway.catalogue import Catalogue
from gateway.lanes.verdict import Next
from gateway.ledger import Code, SqliteLedger, _events
from tests.gateway.ledger.conftest import SqliteStore
from tests.scenarios.hasty import HastyLedger
from tests.scenarios.operated import OnAServer, Operated
from tests.scenarios.setups import Setup
from tests.scenarios.whole import Whole

T = TypeVar("T", bound=Whole)
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


@pytest.fixture
def operated() -> Generator[Operated]:
    with _opened(Operated()) as machine:
        yield machine


@contextlib.contextmanager
def _opened(machine: T) -> Generator[T]:
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


def test_a_restore_that_puts_nothing_in_doubt(operated: Operated, plant: Plant) -> None:
    plant("gateway.lanes.restored.LOST_ANSWER", 0)
    operated.back_up()
    operated.send([3], then="work")
    operated.restore()
    operated.work()
    with pytest.raises(AssertionError, match="wingback bills twice"):
        operated.everything_fits()


def test_a_backup_whose_open_deliveries_are_in_no_doubt(operated: Operated, plant: Plant) -> None:
    plant("gateway.ledger._restored.LOST_ANSWER", 0)
    operated.send([3])
    operated.back_up()
    operated.work()
    operated.restore()
    with pytest.raises(AssertionError, match="bills 3 of e0"):
        operated.everything_fits()


def test_a_customer_who_is_forgotten_and_sent_all_the_same(operated: Operated, plant: Plant) -> None:
    plant("gateway.ledger._keeping._leave", lambda *_: None)
    operated.send([3])
    operated.forget("acme", abandon=True)
    operated.work()
    with pytest.raises(AssertionError, match="flexprice bills erased_"):
        operated.everything_fits()


def test_reading_back_that_takes_for_there_what_is_not(operated: Operated, plant: Plant) -> None:
    plant("gateway.reconciling.confirming.shows", lambda *_: True)
    operated.send([3], ("paygentic", "reset_before"), "begin")
    operated.lose_power()
    for _ in range(3):
        operated.pass_time(600)
    operated.work()
    operated.everything_fits()
    operated.read_back("paygentic")
    with pytest.raises(AssertionError, match="paygentic bills 0 of e0"):
        operated.everything_fits()


def test_a_link_of_another_customer(operated: Operated, plant: Plant) -> None:
    kept = Catalogue.link

    def other(self: Catalogue, destination: str, tenant: str, event: Event, when: datetime) -> Link | None:
        return kept(self, destination, tenant, msgspec.structs.replace(event, customer="globex"), when)

    plant("gateway.catalogue.Catalogue.link", other)
    operated.send([3], then="work")
    with pytest.raises(AssertionError, match=r"bills \w+ for e0 of acme"):
        operated.everything_fits()
