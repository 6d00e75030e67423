"""What an answer says in words: found by path, recognised by rule, cleaned before anyone reads it."""

import re
from collections.abc import Iterator, Mapping, Sequence

from adapters._spec import Door, JsonValue, Outcome, Reply, Row, Rule, Sent, State
from canonical_schema import ErrorCode

__all__ = ["at", "cleaned", "issues", "judge_row", "sentence", "words"]

MAX_WORDS = 300
"""How much of a provider's sentence is kept."""


def at(value: JsonValue | None, path: str) -> Iterator[JsonValue]:
    """Yield what stands at a dotted path: `*` is any member, `[]` after a name walks a list."""
    name, _, rest = path.partition(".")
    walks, name = name.endswith("[]"), name.removesuffix("[]")
    found: list[JsonValue] = []
    if isinstance(value, Mapping):
        found = list(value.values()) if name == "*" else [value[name]] if name in value else []
    elif name == "" and walks and isinstance(value, list):
        found = [value]
    for hit in found:
        inner = hit if walks and isinstance(hit, list) else () if walks else (hit,)
        for item in inner:
            if rest:
                yield from at(item, rest)
            else:
                yield item


def words(door: Door, reply: Reply) -> tuple[str, str | None]:
    """Return the sentence and the code of an error body; an empty sentence where there is none we know."""
    return _first(reply.json, door.envelope.text) or "", _first(reply.json, door.envelope.code)


def issues(door: Door, reply: Reply) -> dict[int | None, str] | None:
    """Return what is wrong with each row, by its position, `None` for a fault that names no row.

    Returns `None` where the answer holds no list of faults.
    """
    listed = [hit for path in door.envelope.issues for hit in at(reply.json, path) if isinstance(hit, list) and hit]
    if not listed:
        return None
    faults: dict[int | None, str] = {}
    for issue in listed[0]:
        where = _index(next(at(issue, door.envelope.at), None))
        faults.setdefault(where, _first(issue, ("message",)) or "")
    return faults


def judge_row(door: Door, text: str, status: int | None) -> Outcome:
    """Give one row that an answer calls failed its outcome: refused for good, unless a rule says otherwise.

    A row whose own status is 5xx may be stored: nobody says that it is not.
    """
    for rule in door.rules:
        if rule.row and rule.text is not None and re.search(rule.text, text):
            return Outcome(state=rule.state, code=rule.error, message=text, status=status)
    if status is not None and status >= 500:
        return Outcome(state=State.UNKNOWN, code=ErrorCode.PROVIDER_UNAVAILABLE, message=text, status=status)
    message = text or "the provider names the row as failed and gives no reason"
    return Outcome(state=State.REJECTED, code=ErrorCode.PROVIDER_REJECTED, message=message, status=status)


def sentence(door: Door, outcome: Outcome, row: Sent, index: int) -> tuple[str, Rule | None]:
    """Return the vendor's own sentence for a refusal, with the rule that reads it; for the simulators."""
    rule = next((rule for rule in door.rules if rule.error is outcome.code and rule.says is not None), None)
    if rule is None or rule.says is None:
        return outcome.message or "Invalid request", None
    named = {
        "customer": _role(row.row, door.roles.customer),
        "meter": _role(row.row, door.roles.meter),
        "index": str(index),
        "key": row.key,
    }
    return re.sub(r"\{(customer|meter|index|key)\}", lambda match: named[match[1]], rule.says), rule


def cleaned(text: str, sent: Sequence[Sent], hide: Sequence[str]) -> str:
    """Return a provider's sentence without our secrets and without any value of the rows it speaks of."""
    text = " ".join(text.split())[: MAX_WORDS * 4]
    values = {value for value in hide if value}
    for row in sent:
        values.update(_leaves(row.row))
    for value in sorted((value for value in values if value in text), key=len, reverse=True):
        edge = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])" if len(value) < 4 else "{}"
        text = re.sub(edge.format(re.escape(value)), "…", text)
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"


def _leaves(value: JsonValue) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool) and str(value):
        yield str(value)


def _first(value: JsonValue | None, paths: Sequence[str]) -> str | None:
    for path in paths:
        for hit in at(value, path):
            if isinstance(hit, str) and hit:
                return hit
    return None


def _index(where: JsonValue | None) -> int | None:
    if isinstance(where, list):
        return next((part for part in where if isinstance(part, int) and not isinstance(part, bool)), None)
    match = re.search(r"(?:^|[.\[])(\d{1,6})(?:[\].]|$)", where) if isinstance(where, str) else None
    return None if match is None else int(match[1])


def _role(row: Row, paths: Sequence[str]) -> str:
    return next((str(hit) for path in paths for hit in at(row, path)), "")
