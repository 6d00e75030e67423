"""An answer put together from what looks alike says what its entries say one by one."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import Event, EventResult, EventStatus
from gateway.answering import answered
from gateway.answers import Alike, Answer, Template
from gateway.ledger import Code, Plan, Run, ref_of
from gateway.merge import batch_result

PROVIDERS = {"a": "flexprice", "b": "wingback"}
PLANS = (Plan(live=("a", "b")), Plan(live=("a",), filtered=(("b", Code.NO_ROUTE),)), Plan(shadow=("a",)))
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(
    ids=st.lists(IDS, min_size=1, max_size=600, unique=True), chosen=st.lists(st.integers(0, 2), min_size=1, max_size=3)
)
async def test_what_is_new_is_told_as_its_entries_would_be(ids: list[str], chosen: list[int]) -> None:
    events = [Event(id=one, customer="c", meter="m") for one in ids]
    plans = [PLANS[chosen[place % len(chosen)]] for place in range(len(ids))]
    answer = await answered(events, Run(ref_of(1, 0), len(ids)), plans, {}, Alike(PROVIDERS), 0)
    results = [
        Template(plan, PROVIDERS).result(place, one) for place, (plan, one) in enumerate(zip(plans, ids, strict=True))
    ]
    told = msgspec.json.decode(answer.json())
    assert msgspec.json.decode(msgspec.json.encode(batch_result(told["batch_id"], results))) == told


@given(ended=st.lists(st.sampled_from(EventStatus), min_size=1, max_size=8))
def test_the_status_of_an_answer_follows_from_what_became_of_its_events(ended: list[EventStatus]) -> None:
    answer, counts = Answer(), Counter(ended)
    for place, status in enumerate(ended):
        answer.add(EventResult(index=place, status=status, stored=True, replayed=False, deliveries={}))
    if not counts.keys() - {EventStatus.INVALID, EventStatus.CONFLICT}:
        wanted = 422
    elif not counts.keys() - {EventStatus.DELIVERED}:
        wanted = 200
    else:
        wanted = 202 if not counts.keys() - {EventStatus.DELIVERED, EventStatus.PENDING} else 207
    assert wanted == answer.http_status
