"""What an answer says in words: found by path, recognised by rule, cleaned before anyone reads it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from http import HTTPStatus

from adapters._facts import Rule
from adapters._spec import Door
from adapters._values import JsonValue, Outcome, Reply, Row, Sent, State
from canonical_schema import ErrorCode

__all__ = ["at", "cleaner", "first", "issues", "judge_row", "sentence", "words"]

MAX_WORDS = 300
"""How much of a provider's sentence is kept."""


def at(value: JsonValue | None, path: str) -> Iterator[JsonValue]:
    """Yield what stands at a dotted path: `*` is any member, `[]` after a name walks a list."""
    name, _, rest = path.partition(".")
    walks, name = name.endswith("[]"), name.removesuffix("[]")
    found: list[JsonValue] = []
    if isinstance(value, Mapping):
        found = list(value.values()) if name == "*" else [value[name]] if name in value else []
    for hit in found:
        inner = hit if walks and isinstance(hit, list) else () if walks else (hit,)
        for item in inner:
            if rest:
                yield from at(item, rest)
            else:
                yield item


def first(value: JsonValue | None, paths: Sequence[str]) -> str | None:
    """Return the first text that is not empty at any of the paths, tried in order."""
    return next((hit for path in paths for hit in at(value, path) if isinstance(hit, str) and hit), None)


def words(door: Door, reply: Reply) -> tuple[str, str | None]:
    """Return the sentence and the code of an error body; an empty sentence where there is none we know.

    The bare name of the status ("Bad Request") is no sentence: any proxy says as much.
    """
    text, code = first(reply.json, door.envelope.text) or "", first(reply.json, door.envelope.code)
    phrase = HTTPStatus(reply.status).phrase.casefold() if reply.status in _STATUSES else ""
    if text.casefold() == phrase and (code is None or code.casefold() == phrase):
        text = ""
    return text, code


_STATUSES = frozenset(HTTPStatus)


def issues(door: Door, reply: Reply) -> dict[int | None, str] | None:
    """Return what is wrong with each row, by its position, `None` for a fault that names no row.

    Returns `None` where the answer holds no list of faults.
    """
    listed = next((hit for path in door.envelope.issues for hit in at(reply.json, path) if isinstance(hit, list)), None)
    if not listed:
        return None
    under = door.rows[0] if isinstance(door.rows, tuple) else None
    faults: dict[int | None, str] = {}
    for issue in listed:
        where = _index(next(at(issue, door.envelope.at), None), under)
        faults.setdefault(where, first(issue, ("message",)) or "")
    return faults


def _index(where: JsonValue | None, under: str | None) -> int | None:
    """Return the position of the row that a fault is about. Other indexes in a path count something else."""
    if isinstance(where, list):
        index = next(iter(where[1:] if where[:1] == [under] else where), None)
        return index if isinstance(index, int) and not isinstance(index, bool) else None
    beginning = r"(?:{})?[.\[]?([0-9]{{1,6}})(?:[\].]|$)".format(re.escape(under or ""))
    match = re.match(beginning, where) if isinstance(where, str) else None
    return None if match is None else int(match[1])


def judge_row(door: Door, text: str, status: int | None, code: str | None = None) -> Outcome:
    """Give one row that an answer calls failed its outcome: refused for good, unless a rule says otherwise.

    A row whose own status is 429 was not taken; one with a status that is no refusal may be stored: nobody says
    that it is not.
    """
    state, error = State.REJECTED, ErrorCode.PROVIDER_REJECTED
    rule = next((rule for rule in door.rules if rule.row and rule.text and re.search(rule.text, text)), None)
    if rule is not None:
        state, error = rule.state, rule.error
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        state, error = State.NOT_STORED, ErrorCode.RATE_LIMITED
    elif status is not None and not 400 <= status < 500:
        state, error = State.UNKNOWN, ErrorCode.PROVIDER_UNAVAILABLE
    message = text or "the provider names the row as failed and gives no reason"
    return Outcome(state=state, code=error, message=message, status=status, provider_code=code)


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


def _role(row: Row, paths: Sequence[str]) -> str:
    return next((str(hit) for path in paths for hit in at(row, path)), "")


def cleaner(sent: Sequence[Sent], hide: Sequence[str]) -> Callable[[str], str]:
    """Return what makes a provider's sentence fit to be read: one short line of printable text.

    It shows none of our secrets and no value of any row of the request: a sentence about one row may quote another.
    """

    @cache
    def values() -> tuple[frozenset[str], list[int]]:
        found = {_one_line(value) for row in sent for value in _leaves(row.row)} | {_one_line(value) for value in hide}
        return frozenset(found - {""}), sorted({len(value) for value in found} - {0}, reverse=True)

    @cache
    def clean(text: str) -> str:
        known, lengths = values()
        cut = len(text) > MAX_WORDS * 4
        text = _one_line(text[: MAX_WORDS * 4])
        # Sentences are short and rows are many: look up the pieces of the sentence, not each value in it.
        pieces = (text[i : i + size] for size in lengths for i in range(len(text) - size + 1))
        for value in [piece for piece in pieces if piece in known]:
            edge = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])" if len(value) < 4 else "{}"
            text = re.sub(edge.format(re.escape(value)), "…", text)
        if cut and lengths:  # the cut may have left the beginning of a value
            text = text[: max(0, len(text) - lengths[0])] + "…"
        return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"

    return clean


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _leaves(value: JsonValue) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
