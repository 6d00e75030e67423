"""Whatever is asked of a ledger, in whatever order: it agrees with a model of a few lines. For every backend."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from canonical_schema import ErrorCode, ErrorItem, fingerprint
from gateway.ledger import Change, Code, Group, Ledger, Moved, Plan, Work, WorkState, split_ref
from tests.gateway.ledger.conftest import BACKENDS, TENANT, Store, event, part, rendered, strays

PLANS = [
    Plan(live=("a", "b")),
    Plan(live=("a",), shadow=("s",)),
    Plan(live=("b",), filtered=(("a", Code.NO_BINDING),)),
    Plan(filtered=(("a", Code.NO_BINDING),)),
    Plan(shadow=("a", "s")),
    Plan(live=("a", "b"), windows=(("a", 7),)),
    Plan(),
]
DESTINATIONS = ("a", "b", "s")
ERROR = ErrorItem(code=ErrorCode.FORBIDDEN, message="held", retryable=True)
FATES: dict[Code, WorkState | None] = {
    Code.ACCEPTED: None,
    Code.DUPLICATE: None,
    Code.RETRYING: WorkState.READY,
    Code.PENDING: WorkState.WAITING,
    Code.BLOCKED: WorkState.BLOCKED,
    Code.UNKNOWN: WorkState.UNKNOWN,
    Code.REJECTED: WorkState.REJECTED,
    Code.DEAD: WorkState.DEAD,
}
LETTERS = {WorkState.REJECTED, WorkState.DEAD, WorkState.UNKNOWN}
HELD = {WorkState.HELD, WorkState.BLOCKED, WorkState.WAITING}
WAITING: dict[WorkState | None, str] = {
    WorkState.READY: "ready",
    WorkState.WAITING: "ready",
    WorkState.SENDING: "sending",
    WorkState.HELD: "blocked",
    WorkState.BLOCKED: "blocked",
}
DELIVERIES = set(Code) - {Code.NONE, Code.NO_BINDING, Code.NO_ROUTE}


NEVER = 2**62


@dataclass
class Delivery:
    """What the model knows of one event at one destination."""

    code: Code
    state: WorkState | None = None
    due: int = 0
    attempts: int = 0
    deadline: int = NEVER
    rendered: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """Asks a ledger for anything, and holds it against the model after every step."""

    backend: Callable[[Path], Store]

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.store: Store = self.backend(Path(self.stack.enter_context(tempfile.TemporaryDirectory())))
        self.ledger: Ledger = self.store.ledger()
        self.runner.run(self.ledger.open())
        self.now = 1000
        self.model: dict[tuple[str, int, int], Delivery] = {}
        self.refs: dict[str, tuple[int, int]] = {}
        self.received: dict[int, int] = {}
        self.unrouted: dict[int, set[int]] = {}
        self.sent: list[tuple[Work, int]] = []
        self.settled: list[Change] = []
        self.trimmed: set[int] = set()

    def teardown(self) -> None:
        self.runner.run(self.ledger.close())
        assert [] == self.runner.run(self.store.problems())
        self.stack.close()

    def enqueue(self, batch: int, index: int, plan: Plan) -> None:
        for name in plan.live + plan.shadow:
            known = self.model.get((name, batch, index))
            if known is None or known.code not in DELIVERIES:
                window = dict(plan.windows).get(name)
                closes = NEVER if window is None else self.received[batch] + window
                self.model[name, batch, index] = Delivery(Code.PENDING, WorkState.READY, self.now, deadline=closes)
        for name, code in plan.filtered:
            self.model.setdefault((name, batch, index), Delivery(code))
        if plan.live:
            self.unrouted.get(batch, set()).discard(index)
        else:
            self.unrouted.setdefault(batch, set()).add(index)

    @rule(numbers=st.lists(st.integers(0, 30), min_size=1, max_size=8), plan=st.sampled_from(PLANS))
    def record(self, numbers: list[int], plan: Plan) -> None:
        ids = [f"e{number}" for number in numbers]
        sent = [event(one) for one in ids]
        claims = self.runner.run(self.ledger.record(TENANT, self.now, sent, [plan] * len(ids)))
        for one, claim in zip(ids, claims, strict=True):
            place = split_ref(claim.ref)
            if claim.kind.value == "new":
                assert one not in self.refs
                self.refs[one] = place
                self.received.setdefault(place[0], self.now)
                self.enqueue(*place, plan)
            assert self.refs[one] == place

    @rule(name=st.sampled_from(DESTINATIONS), limit=st.integers(1, 9), data=st.data())
    def take_and_intend(self, name: str, limit: int, data: st.DataObject) -> None:
        works = self.runner.run(self.ledger.take(name, self.now, limit))
        ready = {
            key[1:]: one
            for key, one in self.model.items()
            if key[0] == name and one.state is WorkState.READY and one.due <= self.now
        }
        taken = [(work.batch, index) for work in works for index in work.members]
        assert len(set(taken)) == len(taken) == min(limit, len(ready))
        assert set(taken) <= ready.keys()
        order = [(NEVER if work.group.deadline is None else work.group.deadline, work.group.due) for work in works]
        assert order == sorted(order)
        assert all((one.deadline, one.due) >= order[-1] for place, one in ready.items() if place not in taken)
        portions = [
            rendered(work, data.draw(st.lists(st.sampled_from(work.members), min_size=1, unique=True).map(sorted)))
            for work in works
            if data.draw(st.booleans())
        ]
        held_by = self.runner.run(self.ledger.intend(portions, self.now))
        for portion, number in zip(portions, held_by, strict=True):
            self.sent.append((portion.work, number))
            for index in portion.members:
                one = self.model[name, portion.work.batch, index]
                one.state, one.rendered = WorkState.SENDING, True

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        work, number = data.draw(st.sampled_from(self.sent))
        held = self.runner.run(self.ledger.held(work.destination, WorkState.SENDING))
        members = next((found.members for found in held if found.id == number), [])
        fates = {index: data.draw(st.sampled_from([None, *FATES])) for index in members}
        changes: list[Change] = []
        for code, state in FATES.items():
            chosen = [index for index, fate in fates.items() if fate is code]
            if not chosen:
                continue
            attempts, due = data.draw(st.integers(0, 2)), self.now + data.draw(st.integers(0, 5))
            changes.append(self.change(work, number, chosen, code, state, attempts=attempts, due=due))
            for index in chosen:
                one = self.model[work.destination, work.batch, index]
                one.code, one.state, one.due, one.attempts = code, state, due, attempts
        self.runner.run(self.ledger.settle(changes, []))
        self.settled += changes
        if None not in fates.values():
            self.sent.remove((work, number))

    def change(
        self,
        work: Work,
        number: int,
        members: list[int],
        code: Code,
        state: WorkState | None,
        *,
        attempts: int,
        due: int,
    ) -> Change:
        kept = work.group
        group = None
        if state is not None:
            group = Group(state=state, due=due, attempts=attempts, since=1, error=ERROR, window=kept.window)
            group.deadline = kept.deadline
        parts = None if state is None else [[part(work.batch, index)] for index in members]
        return Change(
            work=number,
            batch=work.batch,
            destination=work.destination,
            members=members,
            code=code,
            group=group,
            parts=parts,
        )

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_what_was_settled(self, data: st.DataObject) -> None:
        with pytest.raises(Moved):
            self.runner.run(self.ledger.settle([data.draw(st.sampled_from(self.settled))], []))

    @rule(name=st.sampled_from(DESTINATIONS))
    def hold(self, name: str) -> None:
        held = self.runner.run(self.ledger.hold(name, ERROR))
        ready = [key[1:] for key, one in self.model.items() if key[0] == name and one.state is WorkState.READY]
        assert sorted(ready) == sorted((batch, index) for batch, members in held.items() for index in members)
        for place in ready:
            one = self.model[name, *place]
            one.code, one.state = Code.BLOCKED, WorkState.HELD

    @rule(name=st.sampled_from(DESTINATIONS), state=st.sampled_from(sorted(HELD)))
    def release(self, name: str, state: WorkState) -> None:
        self.runner.run(self.ledger.release(name, state, self.now))
        for key, one in self.model.items():
            if key[0] == name and one.state is state:
                one.code = Code.RETRYING if one.attempts else Code.PENDING
                one.state, one.due = WorkState.READY, self.now

    @rule(plans=st.lists(st.sampled_from(PLANS), min_size=1, max_size=4))
    def route(self, plans: Sequence[Plan]) -> None:
        # What is routed at once is routed by one configuration: a destination has one window for all of it.
        plans = [msgspec.structs.replace(plan, windows=plans[0].windows) for plan in plans]
        for found in self.runner.run(strays(self.ledger)):
            batch = found.batch
            chosen = {index: plans[place % len(plans)] for place, index in enumerate(found.members)}
            for _ in range(2):
                self.runner.run(self.ledger.route(batch, list(chosen), list(chosen.values()), self.now))
            for index, plan in chosen.items():
                self.enqueue(batch, index, plan)

    @rule(name=st.sampled_from(DESTINATIONS), limit=st.integers(1, 3))
    def overdue(self, name: str, limit: int) -> None:
        past, following = self.runner.run(self.ledger.overdue(name, self.now, limit))
        waits = {
            key[1:]: one.deadline
            for key, one in self.model.items()
            if key[0] == name and one.state in {*HELD, WorkState.READY} and one.deadline < NEVER
        }
        told = {(work.batch, index): work.group.deadline for work in past for index in work.members}
        assert len(past) <= limit
        assert told.items() <= {place: one for place, one in waits.items() if one < self.now}.items()
        left = [one for place, one in waits.items() if place not in told]
        assert following == min(left, default=None)
        assert len(past) == limit or all(one >= self.now for one in left)

    @rule(letters=st.booleans())
    def trim(self, letters: bool) -> None:
        final = {None, *LETTERS} if letters else {None}
        batches = {batch for batch, _ in self.refs.values()} - self.trimmed
        settled = sorted(
            batch
            for batch in batches
            if not self.unrouted.get(batch)
            and all(one.state in final for (_, held, _), one in self.model.items() if held == batch)
        )
        bound = self.now + 1 if letters else None
        found, on = self.runner.run(self.ledger.trimmable(self.now + 1, bound, 0, 1000))
        assert (settled, None) == (list(found), on)
        prints = {
            batch: b"".join(map(fingerprint, shot.events))
            for batch, shot in self.runner.run(self.ledger.snapshots(sorted(batches))).items()
        }
        assert batches.difference(settled) == set(self.runner.run(self.ledger.trim(prints, "000001", bound)))
        self.trimmed.update(settled)
        for (_, batch, _), one in self.model.items():
            if batch in settled:
                one.state, one.rendered = None, False

    @precondition(lambda self: self.trimmed)
    @rule()
    def forget(self) -> None:
        newest = max(batch for batch, _ in self.refs.values())
        gone = {batch for batch in self.trimmed if batch < newest}
        assert len(gone) == self.runner.run(self.ledger.forget(self.now + 1, 1000))
        self.trimmed -= gone
        self.refs = {name: place for name, place in self.refs.items() if place[0] not in gone}
        self.model = {key: one for key, one in self.model.items() if key[1] not in gone}

    @rule(by=st.integers(1, 5))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(abruptly=st.booleans())
    def reopen(self, abruptly: bool) -> None:
        left = self.store.cut() if abruptly else self.store
        self.runner.run(self.ledger.close())
        self.store, self.ledger = left, left.ledger()
        self.runner.run(self.ledger.open())

    @invariant()
    def every_delivery_has_one_status(self) -> None:
        counted = Counter((name, one.code.status) for (name, _, _), one in self.model.items())
        found = self.runner.run(self.ledger.counts())
        assert counted == {(name, status): n for name, some in found.items() for status, n in some.items()}

    @invariant()
    def codes_and_work_agree_with_the_model(self) -> None:
        snapshots = self.runner.run(self.ledger.snapshots(sorted({batch for batch, _ in self.refs.values()})))
        for batch, snapshot in snapshots.items():
            known = [name for name, place in sorted(self.refs.items(), key=lambda one: one[1]) if place[0] == batch]
            assert ([] if batch in self.trimmed else known) == [one.id for one in snapshot.events]
            for track in snapshot.tracks:
                standing = [(index, group) for group, members in track.work for index in members]
                where = {index: group.state for index, group in standing}
                assert len(standing) == len(where), "in two pieces of work"
                for index, byte in enumerate(track.codes):
                    one = self.model.get((track.destination, batch, index), Delivery(Code.NONE))
                    assert (one.code, one.state) == (Code(byte), where.get(index))

    @invariant()
    def rows_stand_with_their_events(self) -> None:
        for name in DESTINATIONS:
            for state in WorkState:
                for work in self.runner.run(self.ledger.held(name, state)):
                    assert [one.id for one in work.events] == [
                        known
                        for index in work.members
                        for known, place in self.refs.items()
                        if place == (work.batch, index)
                    ]
                    rows = None if work.parts is None else [[part(work.batch, index)] for index in work.members]
                    assert rows == work.parts
                    assert all(
                        self.model[name, work.batch, index].rendered is (rows is not None) for index in work.members
                    )

    @invariant()
    def what_waits_is_counted(self) -> None:
        waiting: dict[str, Counter[str]] = {}
        for (name, _, _), one in self.model.items():
            if (kind := WAITING.get(one.state)) is not None:
                waiting.setdefault(name, Counter())[kind] += 1
        found = self.runner.run(self.ledger.depth())
        told = {
            name: {"ready": one.ready, "sending": one.sending, "blocked": one.blocked} for name, one in found.items()
        }
        assert waiting == {name: Counter(one) for name, one in told.items()}

    @invariant()
    def the_unrouted_are_known(self) -> None:
        found = {one.batch: set(one.members) for one in self.runner.run(strays(self.ledger))}
        assert {batch: members for batch, members in self.unrouted.items() if members} == found


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__)
def test_the_ledger_agrees_with_a_plain_model(backend: Callable[[Path], Store]) -> None:
    machine = type("Machine", (LedgerMachine,), {"backend": staticmethod(backend)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
