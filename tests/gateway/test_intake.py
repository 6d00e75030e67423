"""Bodies of every form become events, or the one sentence that says why not."""

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from canonical_schema import Event
from gateway.catalogue import Catalogue
from gateway.configuration.file import loads
from gateway.errors import RequestRefused
from gateway.intake import MEMBERS, SLICE, Bad, admit, decoded, parse, parse_in_slices
from tests.gateway.conftest import configured, event

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MARK = b"\xef\xbb\xbf"

CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "7",
    "source": "billing",
    "type": "api_calls",
    "subject": "acme",
    "data": {"quantity": 3, "region": "eu"},
}


def ids(found: list[Event | Bad]) -> list[str | None]:
    return [one.id if isinstance(one, Event) else one.event_id for one in found]


def lines(*events: object) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in events)


@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (lines(event("a")), "application/json", ["a"]),
        (lines([event("a"), event("b")]), "application/json", ["a", "b"]),
        (lines({"events": [event("a"), event("b")]}), "application/json", ["a", "b"]),
        (b'\r\n { "events" :\t[] }\n', "application/json", None),
        (lines(event("a")), "Application/JSON; charset=utf-8", ["a"]),
        (lines(event("a"), event("b")) + b"\r\n\r\n", "application/x-ndjson", ["a", "b"]),
        (lines(CLOUD), "application/cloudevents+json; charset=UTF-8", ["billing/7"]),
        (lines([CLOUD, {**CLOUD, "id": "8"}]), "application/cloudevents-batch+json", ["billing/7", "billing/8"]),
    ],
)
def test_every_form_of_a_body_is_taken(body: bytes, kind: str, expected: list[str] | None, mark: bytes) -> None:
    if expected is None:
        with pytest.raises(RequestRefused, match="empty"):
            parse(mark + body, kind, 10)
        return
    assert expected == ids(parse(mark + body, kind, 10))


def test_a_bad_line_of_ndjson_is_invalid_at_its_index_and_spoils_no_other() -> None:
    found = parse(lines(event("a")) + b'\n{"id": "b", \nnonsense\n' + lines(event("c")), "application/x-ndjson", 10)
    assert ["a", None, None, "c"] == ids(found)
    assert [Event, Bad, Bad, Event] == [type(one) for one in found]


def test_one_bad_event_of_an_array_spoils_no_other() -> None:
    found = parse(lines([event("a"), 7, event("b", quantity="NaN"), [], event("c")]), "application/json", 10)
    assert ["a", None, "b", None, "c"] == ids(found)


@pytest.mark.parametrize("deep", [b"[" * 200_000, b'{"a":' * 200_000, b'{"events":[' + b"[" * 200_000])
def test_a_body_nested_without_end_is_refused_and_not_a_crash(deep: bytes) -> None:
    with pytest.raises(RequestRefused, match=r"nested too deeply|not valid JSON") as caught:
        parse(deep, "application/json", 10)
    assert (400, "invalid_request") == (caught.value.status, caught.value.code)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "must be a JSON object or array of events"),
        (b"7", "must be a JSON object or array of events"),
        (b"[]", "the batch is empty: send at least one event"),
        (b'{"events": []}', "the batch is empty: send at least one event"),
        (b"[{]", "the body is not valid JSON: "),
        (b'[{"id": "a"}', "the body is not valid JSON: "),
        (b'[{"quantity": NaN}]', "the body is not valid JSON: "),
        (b'{"events": {}}', "'events' must be an array of events"),
        (b'{"events": null}', "'events' must be an array of events"),
        (b'{"events": [], "extra": 1, "more": 2}', "unknown member 'extra' beside 'events': leave it out"),
        (b'{"events": [{}], "events": [{}]}', "'events' appears more than once: send one array"),
        (b'{"events": [{"id": "lost"}], "events": [{}]}', "'events' appears more than once: send one array"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_as_a_whole(body: bytes, says: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        parse(body, "application/json", 10)
    assert (400, "invalid_request") == (caught.value.status, caught.value.code)
    assert says in caught.value.detail


def test_a_batch_named_events_is_not_mistaken_for_a_cloudevent() -> None:
    (found,) = parse(lines({"events": [event()]}), "application/cloudevents+json", 10)
    assert isinstance(found, Bad)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "application/jsonp"])
def test_another_content_type_is_named_with_those_that_are_taken(kind: str) -> None:
    with pytest.raises(RequestRefused, match="application/x-ndjson") as caught:
        parse(lines(event()), kind, 10)
    assert 415 == caught.value.status


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_too_many_events_are_too_large(kind: str) -> None:
    body = lines(*[event()] * 3) if kind.endswith("ndjson") else lines([event()] * 3)
    with pytest.raises(RequestRefused, match="3 events are more than 2: send fewer at a time") as caught:
        parse(body, kind, 2)
    assert (413, "payload_too_large") == (caught.value.status, caught.value.code)


def test_gzip_is_undone() -> None:
    assert b"[1]" == decoded(gzip.compress(b"[1]", mtime=0), "gzip", 100)
    assert b"[1]" == decoded(gzip.compress(b"[", mtime=0) + gzip.compress(b"1]", mtime=0), "x-gzip", 3)
    assert b"[1]" == decoded(b"[1]", "identity", 100)


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(b"[1]" * 99, mtime=0)[:-12], gzip.compress(b"[1]", mtime=0) + b"tail", b""]
)
def test_broken_gzip_is_refused(body: bytes) -> None:
    if body == b"":
        assert b"" == decoded(body, "gzip", 10)  # nothing at all is nothing at all; parsing refuses it
        return
    with pytest.raises(RequestRefused, match="not valid gzip") as caught:
        decoded(body, "gzip", 1000)
    assert 400 == caught.value.status


def test_a_gzip_bomb_is_stopped_at_the_limit() -> None:
    bomb = gzip.compress(bytes(20_000_000), mtime=0)
    with pytest.raises(RequestRefused, match="larger than 1000 bytes decoded") as caught:
        decoded(bomb, "gzip", 1000)
    assert 413 == caught.value.status


def test_a_gzip_body_of_countless_members_is_not_opened() -> None:
    empty = gzip.compress(b"", mtime=0)
    assert b"[1]" == decoded(empty * (MEMBERS - 1) + gzip.compress(b"[1]", mtime=0), "gzip", 10)
    with pytest.raises(RequestRefused, match="more than 1000 gzip members: compress it as one") as caught:
        decoded(empty * (MEMBERS + 1), "gzip", 10)
    assert 400 == caught.value.status


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(RequestRefused, match="send gzip, or none") as caught:
        decoded(b"", encoding, 10)
    assert 415 == caught.value.status


async def turns_during(work: Callable[[], Any]) -> int:
    """Return how often somebody else had the event loop while something worked."""
    turns, working = 0, asyncio.ensure_future(work())
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_ten_thousand_events_are_parsed_in_slices() -> None:
    body = lines([event(f"e{index}") for index in range(10_000)])
    assert 10_000 // SLICE <= await turns_during(lambda: parse_in_slices(body, "application/json", 10_000))


@pytest.mark.parametrize(
    ("changes", "sent", "code", "field"),
    [
        ({}, event(timestamp="2026-11-23T12:05:00.000001Z"), "invalid_event", "timestamp"),
        ({}, event(timestamp="2026-10-19T11:59:59.999999Z"), "invalid_event", "timestamp"),
        ({}, event(quantity=None), "invalid_event", "quantity"),
        ({}, event(meter="nobody", quantity=None), "invalid_event", "quantity"),
        ({"intake": {"unknown_meter": "refuse"}}, event(meter="nobody"), "unknown_meter", "meter"),
        ({}, event(timestamp="2026-11-23T12:05:00Z"), None, None),
        ({}, event(timestamp="2026-10-19T12:00:00Z"), None, None),
        ({}, event(meter="nobody"), None, None),
        ({}, event(meter="logins", quantity=None), None, None),
        ({}, event(quantity="-0.5"), None, None),
        ({}, event(quantity=0), None, None),
    ],
)
def test_an_event_is_held_against_clock_horizon_and_catalogue(
    changes: dict[str, Any], sent: dict[str, Any], code: str | None, field: str | None
) -> None:
    configuration = loads(configured(changes), {})
    read = parse(lines(sent), "application/json", 1)
    horizon = configuration.retention.events
    (found,) = admit(read, Catalogue(configuration), configuration.intake, NOW, horizon)
    said = (found.error["code"], found.error.get("field")) if isinstance(found, Bad) else (None, None)
    assert (code, field) == said


@pytest.mark.parametrize(
    ("horizon", "words"),
    [(timedelta(days=35), "35 days"), (timedelta(hours=36), "36 hours"), (timedelta(seconds=90), "90 seconds")],
)
def test_an_old_timestamp_is_told_the_horizon(horizon: timedelta, words: str) -> None:
    configuration = loads(configured(), {})
    read = parse(lines(event(timestamp="2020-01-01T00:00:00Z")), "application/json", 1)
    (found,) = admit(read, Catalogue(configuration), configuration.intake, NOW, horizon)
    assert isinstance(found, Bad)
    assert f"older than the {words} for which ids are remembered" in found.error["message"]


HALF = '{"id": "cut", "customer": "acme", "meter": "api_calls", "quantity": 1, "properties": {"title": "\\ud83d"}}'


@pytest.mark.parametrize("form", ["{}", "[{}]", '{{"events": [{}]}}', '[{{"id": "n1"}}, {}, {{"id": "n2\\\\ud83d"}}]'])
def test_a_text_that_was_cut_inside_a_character_spoils_its_own_event_alone(form: str) -> None:
    found = parse(form.format(HALF).encode(), "application/json", 10)
    (cut,) = (one for one in found if isinstance(one, Bad) and one.event_id == "cut")
    assert cut.error == {
        "code": "invalid_event",
        "message": "properties.title: must be Unicode: it holds half of a surrogate pair",
        "field": "properties.title",
    }


def test_whole_characters_beside_one_that_was_cut_stay_as_they_were_sent() -> None:
    whole = event(customer="\U0001f600 acme", properties={"title": "\\ud800"})
    found = parse(f"[{HALF}, {json.dumps(whole)}]".encode(), "application/json", 10)
    sent = found[1]
    assert isinstance(sent, Event)
    assert ("\U0001f600 acme", {"title": "\\ud800"}) == (sent.customer, sent.properties)


@pytest.mark.parametrize("body", [b'["\\ud8"]', b'[{"id": "\\ud800"]', b'["\\ud800', b'{"a": \\ud800}'])
def test_what_is_no_json_beside_half_of_a_character_is_still_none(body: bytes) -> None:
    with pytest.raises(RequestRefused, match="the body is not valid JSON"):
        parse(body, "application/json", 10)
