"""The shelf of dialects: how providers say what became of each row, and how their simulators say it.

A dialect reads a reply into outcomes by key, or returns `None`: "these are not my words". It never decides
what a refusal means for the peers, whether to resend, or what silence of the whole answer means; the core does.
`render` is the inverse, for the simulators: it answers as the vendor would, given the truth about each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, TypeGuard, cast

import msgspec

from adapters._facts import Rule
from adapters._spec import Door
from adapters._values import JsonValue, Outcome, Reply, Row, Sent, State, Truth
from adapters._words import first, judge_row, sentence
from canonical_schema import ErrorCode

__all__ = ["EchoedRows", "IndexedFailures", "OneVerdict", "TwoLists", "refuse"]

_MULTI_STATUS = 207


@dataclass(frozen=True, slots=True, kw_only=True)
class OneVerdict:
    """One status for the whole request, with an object to go with it (Flexprice, Paygentic events)."""

    row_by_row: ClassVar[bool] = False
    success: int
    says: Row
    """The vendor's body on success."""
    id_at: str | None = None
    """Where a one-row door answers with its own id for the row."""

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        if not self._is_success(reply):
            return None
        theirs = None if self.id_at is None else _text(_member(reply.json, self.id_at))
        accepted = Outcome(state=State.ACCEPTED, status=reply.status, provider_event_id=theirs)
        return {row.key: accepted for row in sent}

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        if not self._is_success(reply):
            return None
        return () if self.id_at is None else [_text(_member(reply.json, self.id_at))] * len(keys)

    def _is_success(self, reply: Reply) -> bool:
        return reply.status == self.success and isinstance(reply.json, Mapping) and not _complains(reply.json)

    def render(self, door: Door, sent: Sequence[Sent], truth: Truth) -> Reply:
        if any(outcome.state is State.REJECTED for outcome in truth.values()):
            return refuse(door, sent, truth)
        body = dict(self.says)
        if self.id_at is not None:
            # A door that takes rows back is given the vendor's own id.
            mine, theirs = f"{door.roles.key}_{sent[0].key}", sent[0].row.get("id")
            body[self.id_at] = theirs if door.roles.key is None else mine
        return _json(self.success, body)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFailures:
    """A bare list of the rows that failed, by position; the others are stored (Wingback).

    A success without a body names nobody; but a 207 is nothing without its body. Outside success an empty list says
    nothing.
    """

    row_by_row: ClassVar[bool] = True
    statuses: tuple[int, ...]
    """Where the list was seen or must be expected; the simulator answers with the first.

    Under any other refusal it tells of the rows that it names, and of no others: they were looked at.
    """
    index: str
    status: str
    """The member that holds a row's own status; one below 300 is a warning about a row that is stored."""
    feedback: str
    """The member that holds what is wrong, by subject; the subject is the vendor's code."""
    text: str
    """Where a subject keeps its words."""
    error: Row
    """What a subject's value holds besides, where it is the fault and not a warning."""

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        expected, success = reply.status in self.statuses, reply.status < 300
        failures: JsonValue | None = () if expected and success and _is_bare(reply) else reply.json
        if not _is_list(failures) or not (failures or success):
            return None
        if not expected and (success or all(_member(failure, self.index) is None for failure in failures)):
            return None
        accepted = Outcome(state=State.ACCEPTED, status=reply.status)
        outcomes = {row.key: accepted for row in sent} if expected else dict[str, Outcome]()
        seen = set[int]()
        for failure in failures:
            index, status = _member(failure, self.index), _member(failure, self.status)
            if not _is_index(index, len(sent)) or index in seen or not _is_index(status, 600):
                return None if expected else {}
            seen.add(index)
            if not 200 <= status < 300:
                outcomes[sent[index].key] = judge_row(door, *self._why(failure, status))
        return outcomes

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        silent = _is_bare(reply) or reply.json == []
        return () if reply.status in self.statuses and silent else None

    def _why(self, failure: JsonValue, status: int) -> tuple[str, int, str | None]:
        """Return the words for a row, its status, and the subject that they are about: faults before warnings."""
        feedback = _member(failure, self.feedback)
        if not isinstance(feedback, Mapping):
            return "", status, None
        said = {subject: text for subject, value in feedback.items() if (text := first(value, (self.text,)))}
        faults = {subject: text for subject, text in said.items() if _holds(feedback[subject], self.error)} or said
        return "; ".join(faults.values()), status, next(iter(faults), None)

    def render(self, door: Door, sent: Sequence[Sent], truth: Truth) -> Reply:
        failures: list[Row] = []
        for index, row in enumerate(sent):
            outcome = truth[row.key]
            if outcome.state is State.REJECTED:
                says, _ = sentence(door, outcome, row, index)
                feedback = {self.feedback: {"error": {**self.error, self.text: says}}}
                failures.append({self.index: index, self.status: 400, **feedback})
        return _json(self.statuses[0], failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoedRows:
    """The rows that are new, echoed; those that were there before are left out (Flowglad)."""

    row_by_row: ClassVar[bool] = False
    success: int
    under: str
    key: str
    id: str

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        rows = _member(reply.json, self.under)
        if reply.status != self.success or not _is_list(rows):
            return None
        outcomes = {row.key: Outcome(state=State.DUPLICATE, status=reply.status) for row in sent}
        for row in rows:
            key = _member(row, self.key)
            if not isinstance(key, str) or key not in outcomes:
                return None
            theirs = _text(_member(row, self.id))
            outcomes[key] = Outcome(state=State.ACCEPTED, status=reply.status, provider_event_id=theirs)
        # What is left out was there before only in an answer that is whole: no error, no row in another's place.
        missing = any(outcome.state is State.DUPLICATE for outcome in outcomes.values())
        odd = _complains(reply.json) or len({_text(_member(row, self.key)) for row in rows}) < len(rows)
        return None if missing and odd else outcomes

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        return _ids(reply, self.under, None, self.key, self.id, keys) if reply.status == self.success else None

    def render(self, door: Door, sent: Sequence[Sent], truth: Truth) -> Reply:
        if any(outcome.state is State.REJECTED for outcome in truth.values()):
            return refuse(door, sent, truth)
        new = [row for row in sent if truth[row.key].state is State.ACCEPTED]
        return _json(self.success, {self.under: [{self.id: f"usage_event_{row.key}", **row.row} for row in new]})


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoLists:
    """A list of what is stored and a list of what is not; a row in neither, or in both, is unknown (Paygentic)."""

    row_by_row: ClassVar[bool] = True
    full: int
    partial: int
    stored: str
    failed: str
    key: str
    id: str
    index: str
    text: str
    also: Row
    """Other members of the vendor's body, as constants."""

    def read(self, door: Door, reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        stored, failed = _member(reply.json, self.stored), _member(reply.json, self.failed)
        if not _is_list(stored) or not _is_list(failed):
            return None
        outcomes: dict[str, Outcome] = {}
        known = {row.key for row in sent}
        for row in stored:
            key = _member(row, self.key)
            if isinstance(key, str) and key in known:
                theirs = _text(_member(row, self.id))
                outcomes[key] = Outcome(state=State.ACCEPTED, status=reply.status, provider_event_id=theirs)
        for failure in failed:
            key = self._failed_key(failure, sent)
            if key is None:
                return None
            before = outcomes.get(key)
            if before is None or before.state is State.REJECTED:
                outcomes[key] = judge_row(door, _text(_member(failure, self.text)) or "", None)
            elif before.state is State.ACCEPTED:
                outcomes[key] = Outcome(
                    state=State.UNKNOWN,
                    code=ErrorCode.PROTOCOL_ERROR,
                    message="the provider lists the row as stored and as failed",
                    status=reply.status,
                )
        return outcomes

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        return _ids(reply, self.stored, self.failed, self.key, self.id, keys)

    def _failed_key(self, failure: JsonValue, sent: Sequence[Sent]) -> str | None:
        key, index = _member(failure, self.key), _member(failure, self.index)
        named = sent[index].key if _is_index(index, len(sent)) else None
        if not isinstance(key, str):
            return named
        if named is not None and named != key:
            return None
        return key if any(row.key == key for row in sent) else None

    def render(self, door: Door, sent: Sequence[Sent], truth: Truth) -> Reply:
        stored: list[Row] = []
        failed: list[Row] = []
        for index, row in enumerate(sent):
            outcome = truth[row.key]
            if outcome.state is State.REJECTED:
                says, _ = sentence(door, outcome, row, index)
                failed.append({self.index: index, self.text: says, self.key: row.row.get(self.key, row.key)})
            else:
                stored.append({self.id: f"usg_{row.key}", **row.row})
        counts = {"total": len(sent), "successful": len(stored), "failed": len(failed)}
        body: Row = {**self.also, self.stored: stored, self.failed: failed, "summary": counts}
        return _json(self.partial if failed else self.full, body)


def refuse(door: Door, sent: Sequence[Sent], truth: Truth) -> Reply:
    """Refuse a whole request as the vendor does: the first bad row decides, in the vendor's words."""
    index, row = next((i, row) for i, row in enumerate(sent) if truth[row.key].state is State.REJECTED)
    says, rule = sentence(door, truth[row.key], row, index)
    status = rule.statuses[0] if isinstance(rule, Rule) else 400
    body = _nested(door.envelope.text[0], says)
    if door.envelope.code and rule is not None and rule.code is not None:
        body = {**body, **_nested(door.envelope.code[0], rule.code)}
    return _json(status, body)


def _json(status: int, body: JsonValue) -> Reply:
    return Reply(status=status, headers={"content-type": "application/json"}, body=_ENCODER.encode(body))


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def _nested(path: str, value: JsonValue) -> Row:
    """Return an object that holds `value` at the dotted path; `*` becomes a member of some name."""
    for name in reversed(path.split(".")):
        value = {"error" if name == "*" else name: value}
    return cast("Row", value)


@cache
def _listing(under: str, failed: str | None, key: str, theirs: str) -> msgspec.json.Decoder[Any]:
    """Return what reads an answer that lists rows; of all else in it nothing is made."""
    row = msgspec.defstruct("Listed", [("key", str), ("id", str | None, None)], rename={"key": key, "id": theirs})
    members: list[Any] = [("rows", list[row])]
    if failed is not None:
        members.append(("failed", list[msgspec.Raw]))
    names = {"rows": under} | ({} if failed is None else {"failed": failed})
    return msgspec.json.Decoder(msgspec.defstruct("Listing", members, rename=names))


def _ids(
    reply: Reply, under: str, failed: str | None, key: str, theirs: str, keys: Sequence[str]
) -> Sequence[str | None] | None:
    """Return the provider's ids of rows that are listed once each, in the order of their keys, and nothing else is.

    `failed` names a list that has to be there, and empty.
    """
    reply.body.decode()  # what is passed over is not looked at, and may be no text
    listing = _listing(under, failed, key, theirs).decode(reply.body)
    if failed is not None and listing.failed:
        return None
    return [*map(_their_id, listing.rows)] if [*map(_key, listing.rows)] == keys else None


_key, _their_id = attrgetter("key"), attrgetter("id")


def _member(value: JsonValue | None, name: str) -> JsonValue | None:
    return value.get(name) if isinstance(value, Mapping) else None


def _complains(value: JsonValue | None) -> bool:
    """Return whether an answer speaks of an error, under whatever status: what it does not name has not succeeded."""
    return any(_member(value, name) for name in ("error", "errors")) or _member(value, "success") is False


def _text(value: JsonValue | None) -> str | None:
    return value if isinstance(value, str) else None


def _is_list(value: JsonValue | None) -> TypeGuard[Sequence[JsonValue]]:
    return isinstance(value, list | tuple)


def _is_bare(reply: Reply) -> bool:
    """Return whether an answer needs no body, and has none. A 207 tells row by row: without a body it is cut short."""
    return reply.status != _MULTI_STATUS and not reply.body.strip()


def _is_index(value: JsonValue | None, length: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


def _holds(value: JsonValue, members: Row) -> bool:
    return isinstance(value, Mapping) and all(value.get(name) == wanted for name, wanted in members.items())
