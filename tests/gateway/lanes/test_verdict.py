"""The money rules: nothing that may be stored is called refused, or is sent again where it would be billed twice."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapters import Dedupe, Outcome, State
from canonical_schema import DeliveryStatus, ErrorCode, worst
from gateway.configuration.sections import Retry
from gateway.lanes.verdict import Next, backoff, combined, may_resend, next_step
from gateway.ledger import LOST_ANSWER, NO_DOUBT, REFUSED_BATCH, Code, Group, Part, WorkState
from gateway.times import from_micros, to_micros
from tests.gateway.clocks import START

RETRY = Retry()
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FOR_EVER = Dedupe(window=None)
FOR_A_DAY = Dedupe(window=DAY)

codes = st.sampled_from(ErrorCode)
waits = st.none() | st.timedeltas(timedelta(0), DAY)
doubts = st.sampled_from([NO_DOUBT, REFUSED_BATCH, LOST_ANSWER])
dedupes = st.sampled_from([None, FOR_EVER, FOR_A_DAY])
outcomes = st.sampled_from(State).flatmap(
    lambda state: st.builds(
        Outcome,
        state=st.just(state),
        code=st.none() if state in {State.ACCEPTED, State.DUPLICATE} else codes,
        may_be_stored=st.just(value=True) if state is State.UNKNOWN else st.booleans(),
        retry_after=waits,
    )
)


def group(
    *, doubt: int = NO_DOUBT, attempts: int = 1, age: timedelta = timedelta(0), sent: timedelta | None = None
) -> Group:
    """Return a group recorded `age` ago, that was first sent `sent` ago."""
    return Group(
        state=WorkState.SENDING,
        due=0,
        attempts=attempts,
        doubt=doubt,
        since=to_micros(START - age),
        sent=to_micros(START - (sent or timedelta(0))),
    )


def follows(outcome: Outcome, before: Group, dedupe: Dedupe | None = FOR_EVER, jitter: float = 1.0) -> Next:
    return next_step(
        outcome, before, dedupe=dedupe, queued=False, retry=RETRY, now=START, jitter=lambda ceiling: ceiling * jitter
    )


def failed(state: State, **members: object) -> Outcome:
    return Outcome(state=state, code=ErrorCode.PROVIDER_REJECTED, **members)  # type: ignore[arg-type]


groups = st.builds(
    group,
    doubt=doubts,
    attempts=st.integers(1, 30),
    age=st.timedeltas(timedelta(0), 30 * DAY),
    sent=st.timedeltas(timedelta(0), 3 * DAY),
)


@given(outcomes, groups, dedupes, st.floats(0, 1))
def test_every_outcome_has_one_next_step(outcome: Outcome, before: Group, dedupe: Dedupe | None, jitter: float) -> None:
    following = follows(outcome, before, dedupe, jitter)
    assert (following.code is Code.RETRYING) is (following.wait is not None)
    assert following.code not in {Code.NONE, Code.PENDING, Code.NO_BINDING, Code.NO_ROUTE, Code.ZERO}


@given(outcomes, groups, dedupes)
def test_what_may_be_stored_by_a_lost_answer_never_ends_as_refused_or_dead(
    outcome: Outcome, before: Group, dedupe: Dedupe | None
) -> None:
    assume(before.doubt == LOST_ANSWER or outcome.state is State.UNKNOWN)
    following = follows(outcome, before, dedupe)
    assert following.code not in {Code.REJECTED, Code.DEAD}
    if following.code in {Code.RETRYING, Code.BLOCKED, Code.UNKNOWN}:
        assert LOST_ANSWER == following.doubt, "doubt is sticky"


@given(st.lists(outcomes, min_size=1, max_size=8), dedupes, st.lists(st.timedeltas(timedelta(0), DAY), min_size=8))
def test_along_any_path_doubt_is_kept_and_nothing_is_sent_again_in_doubt_without_leave(
    path: list[Outcome], dedupe: Dedupe | None, pauses: list[timedelta]
) -> None:
    before, now, lost = Group(state=WorkState.SENDING, due=0, since=to_micros(START)), START, False
    for outcome, pause in zip(path, pauses, strict=False):
        before.attempts += 1
        before.sent = before.sent or to_micros(now)
        following = next_step(outcome, before, dedupe=dedupe, queued=False, retry=RETRY, now=now, jitter=lambda _: 0.0)
        lost = lost or outcome.state is State.UNKNOWN
        if lost:
            assert following.code not in {Code.REJECTED, Code.DEAD}
        if following.code is not Code.RETRYING:
            return
        if following.doubt:
            assert may_resend(dedupe, before, now)
        assert following.doubt >= before.doubt
        before = msgspec.structs.replace(before, doubt=following.doubt, sent=before.sent if following.doubt else None)
        now += pause


@given(groups, dedupes, st.sampled_from([State.NOT_STORED, State.REJECTED, State.REFUSED, State.BLOCKED]))
def test_what_never_left_never_becomes_unknown(before: Group, dedupe: Dedupe | None, state: State) -> None:
    assume(before.doubt == NO_DOUBT)
    following = follows(failed(state), before, dedupe)
    assert (True, NO_DOUBT) == (following.code is not Code.UNKNOWN, following.doubt)


@given(groups)
def test_nothing_in_doubt_is_sent_again_where_repeats_are_billed(before: Group) -> None:
    for outcome in (failed(State.UNKNOWN), failed(State.NOT_STORED, may_be_stored=True)):
        assert Code.UNKNOWN is follows(outcome, before, None).code
    assume(before.doubt)
    assert Code.UNKNOWN is follows(failed(State.NOT_STORED), before, None).code


@pytest.mark.parametrize(
    ("ago", "open_"),
    [
        (timedelta(0), True),
        (DAY - timedelta(minutes=6), True),
        (DAY - timedelta(minutes=5), False),
        (DAY, False),
        (2 * DAY, False),
    ],
)
def test_a_window_closes_before_its_end_for_a_repeat_has_to_arrive(ago: timedelta, open_: bool) -> None:
    before = group(doubt=LOST_ANSWER, sent=ago)
    assert open_ is may_resend(FOR_A_DAY, before, START)
    assert (Code.RETRYING if open_ else Code.UNKNOWN) is follows(failed(State.UNKNOWN), before, FOR_A_DAY).code


@pytest.mark.parametrize(("ahead", "open_"), [(timedelta(minutes=1), True), (timedelta(minutes=1, seconds=1), False)])
def test_an_age_that_cannot_be_told_is_none_to_go_by(ahead: timedelta, open_: bool) -> None:
    assert open_ is may_resend(FOR_A_DAY, group(doubt=LOST_ANSWER, sent=-ahead), START)
    assert may_resend(Dedupe(window=None), group(doubt=LOST_ANSWER, sent=-ahead), START)


def test_a_short_window_is_not_eaten_by_the_margin() -> None:
    minute = Dedupe(window=timedelta(minutes=1))
    assert may_resend(minute, group(sent=timedelta(seconds=50)), START)
    assert not may_resend(minute, group(sent=timedelta(seconds=55)), START)


@given(groups)
def test_giving_up_needs_attempts_and_time(before: Group) -> None:
    following = follows(failed(State.NOT_STORED), msgspec.structs.replace(before, doubt=NO_DOUBT))
    spent = before.attempts >= RETRY.attempts and START - RETRY.give_up >= from_micros(before.since)
    assert (Code.DEAD if spent else Code.RETRYING) is following.code


def test_giving_up_in_doubt_parks() -> None:
    spent = group(attempts=RETRY.attempts, age=RETRY.give_up, doubt=LOST_ANSWER)
    assert Code.UNKNOWN is follows(failed(State.NOT_STORED), spent).code
    assert Code.RETRYING is follows(failed(State.NOT_STORED), group(attempts=RETRY.attempts - 1, age=9 * DAY)).code
    assert Code.RETRYING is follows(failed(State.NOT_STORED), group(attempts=99, age=RETRY.give_up - HOUR)).code


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_full_jitter_stays_below_a_doubling_ceiling(attempts: int, drawn: float) -> None:
    ceiling = min(RETRY.max.total_seconds(), RETRY.first.total_seconds() * 2 ** min(attempts - 1, 40))
    asked: list[float] = []

    def jitter(most: float) -> float:
        asked.append(most)
        return most * drawn

    wait = backoff(RETRY, attempts, jitter)
    assert [ceiling] == asked
    assert timedelta(0) <= wait <= timedelta(seconds=ceiling)


@given(st.timedeltas(timedelta(0), DAY), st.integers(1, 20), st.floats(0, 1))
def test_the_servers_word_is_a_floor(said: timedelta, attempts: int, drawn: float) -> None:
    following = follows(failed(State.NOT_STORED, retry_after=said), group(attempts=attempts), jitter=drawn)
    assert following.wait == max(said, backoff(RETRY, attempts, lambda ceiling: ceiling * drawn))


@pytest.mark.parametrize("doubt", [NO_DOUBT, REFUSED_BATCH, LOST_ANSWER])
def test_a_duplicate_is_a_delivery_and_unexpected_only_without_an_earlier_doubt(doubt: int) -> None:
    expected = Code.DUPLICATE if doubt else Code.DUPLICATE_UNEXPECTED
    assert expected is follows(Outcome(state=State.DUPLICATE), group(doubt=doubt)).code
    assert Code.ACCEPTED is follows(Outcome(state=State.ACCEPTED), group(doubt=doubt)).code


def test_a_refusal_alone_settles_the_doubt_of_a_refused_batch_and_not_that_of_a_lost_answer() -> None:
    assert Code.REJECTED is follows(failed(State.REJECTED), group(doubt=REFUSED_BATCH)).code
    parked = follows(failed(State.REJECTED), group(doubt=LOST_ANSWER))
    assert Code.UNKNOWN is parked.code
    assert parked.error is not None
    assert "may have stored it" in parked.error["message"]


@pytest.mark.parametrize("code", [ErrorCode.OUTSIDE_TIME_WINDOW, ErrorCode.EXPIRED])
def test_a_refusal_for_its_age_does_not_settle_whether_an_earlier_batch_stored_it(code: ErrorCode) -> None:
    late = Outcome(state=State.REJECTED, code=code)
    assert Code.UNKNOWN is follows(late, group(doubt=REFUSED_BATCH)).code
    assert Code.REJECTED is follows(late, group()).code


def test_a_row_too_large_by_itself_does_not_settle_whether_an_earlier_batch_stored_it() -> None:
    refused = failed(State.REJECTED, reduce=True)
    assert Code.UNKNOWN is follows(refused, group(doubt=REFUSED_BATCH)).code
    assert Code.REJECTED is follows(refused, group(doubt=NO_DOUBT)).code


def test_a_queued_receipt_is_told() -> None:
    accepted = Outcome(state=State.ACCEPTED, provider_event_id="p1")
    following = next_step(
        accepted, group(), dedupe=None, queued=True, retry=RETRY, now=START, jitter=lambda ceiling: ceiling
    )
    assert (Code.ACCEPTED_QUEUED, "p1") == (following.code, following.provider_event_id)


# A delivery of several rows.


def rows(*codes: Code) -> list[Part]:
    return [Part(f"p{index}", f"k{index}", b"{}", code) for index, code in enumerate(codes)]


def verdicts(**following: Next) -> dict[str, Next]:
    return following


ended = st.sampled_from([Code.ACCEPTED, Code.DUPLICATE, Code.REJECTED, Code.UNKNOWN, Code.DEAD])
going = st.sampled_from([Code.RETRYING, Code.BLOCKED, Code.PENDING])


@given(st.lists(ended | going, min_size=2, max_size=5))
def test_a_delivery_goes_on_while_a_row_does_and_else_is_its_worst_row(codes: list[Code]) -> None:
    parts = rows(*[Code.PENDING] * len(codes))
    found = {
        part.key: Next(code=code, doubt=LOST_ANSWER if code is Code.UNKNOWN else NO_DOUBT)
        for part, code in zip(parts, codes, strict=True)
    }
    following = combined(parts, found)
    alive = [code for code in codes if code in {Code.RETRYING, Code.BLOCKED, Code.PENDING}]
    assert [Code.PENDING if code in alive else code for code in codes] == [part.code for part in parts]
    if alive:
        assert following.code in alive
        assert Code.BLOCKED not in alive or following.code is Code.BLOCKED
    else:
        assert worst(code.status for code in codes) is following.code.status
        assert (following.code is Code.UNKNOWN) is (following.doubt == LOST_ANSWER)


def test_a_row_that_never_left_goes_on_without_the_doubt_of_its_parked_sibling() -> None:
    parts = rows(Code.PENDING, Code.PENDING)
    wait = timedelta(seconds=3)
    following = combined(
        parts,
        verdicts(k0=Next(code=Code.UNKNOWN, doubt=LOST_ANSWER), k1=Next(code=Code.RETRYING, doubt=NO_DOUBT, wait=wait)),
    )
    assert (Code.RETRYING, NO_DOUBT, wait) == (following.code, following.doubt, following.wait)
    assert [Code.UNKNOWN, Code.PENDING] == [part.code for part in parts]
    at_last = combined(parts, verdicts(k1=Next(code=Code.ACCEPTED, doubt=NO_DOUBT)))
    assert (Code.UNKNOWN, LOST_ANSWER) == (at_last.code, at_last.doubt)


def test_a_row_with_nothing_to_tell_does_not_count() -> None:
    parts = rows(Code.ZERO, Code.PENDING)
    following = combined(parts, verdicts(k1=Next(code=Code.ACCEPTED, doubt=NO_DOUBT, provider_event_id="p")))
    assert (DeliveryStatus.ACCEPTED, "p") == (following.code.status, parts[1].provider_event_id)
