"""The faults that a simulated vendor can be told to have, by name, and the script that says when."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from math import ceil
from typing import Literal

from adapters import Reply, Row
from canonical_schema import ErrorCode
from gateway.simulator.manners import Manners, answer, text

__all__ = ["FAULTS", "Answer", "Armed", "FaultSpec", "How", "Script", "When", "picks"]

When = str | Collection[str] | Callable[[Row], bool]
"""Which rows: a key, several keys, or a predicate on the row as it was sent."""

How = Literal["whole", "half", "reset", "hang", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What comes back from a simulated vendor, and how."""

    reply: Reply | None
    """`None`: no answer comes."""
    how: How = "whole"
    """`half`: the connection ends in the middle. `refused`: it never was. `hang`: nothing ever comes."""
    delay: float = 0.0
    """Seconds before it comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    """One kind of fault."""

    says: str
    """What happens, for people."""
    stores: bool
    """Whether the request is worked on before the fault shows. The script may say otherwise where it takes `stored`."""
    takes: frozenset[str] = frozenset()
    """The parameters that it has beside `times`, `after` and `when`."""
    status: int | None = None
    """The status that it answers with unless told another."""


@dataclass(slots=True, kw_only=True)
class Armed:
    """A fault that waits for its calls."""

    name: str
    times: int | None
    """How many calls it still hits. `None`: every one, until cleared."""
    after: int
    """How many matching calls still pass unharmed."""
    when: When | None = field(repr=False)
    """Only calls with such a row. `None`: any call."""
    stores: bool
    status: int | None
    seconds: float
    retry_after: float | datetime | None
    code: ErrorCode

    def fires(self, rows: Sequence[Row], labels: Sequence[str]) -> bool:
        """Count one call; tell whether this fault is ready for it."""
        if self.when is not None and not any(
            picks(self.when, row, name) for row, name in zip(rows, labels, strict=True)
        ):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        return self.times is None or self.times > 0

    def spend(self) -> None:
        """Use up one of its times."""
        if self.times is not None:
            self.times -= 1

    def apply(self, reply: Reply, habits: Manners) -> Answer:
        """Return what comes back; `reply` is the vendor's own answer, where the request was worked on."""
        status = self.status or 500
        match self.name:
            case "latency":
                return Answer(reply=reply, delay=self.seconds)
            case "timeout":
                return Answer(reply=None, how="hang")
            case "refused":
                return Answer(reply=None, how="refused")
            case "reset_before" | "reset_after":
                return Answer(reply=None, how="reset")
            case "half_answer":
                return Answer(reply=reply, how="half")
            case "unauthorized":
                return Answer(reply=habits.unauthorized)
            case "malformed":
                return Answer(reply=replace(text(status, '{"data": [{"id'), headers=_JSON))
            case "redirect":
                return Answer(reply=text(status, "", {"location": "https://elsewhere.example/login"}))
            case "lost_answer" | "proxy_error":
                return Answer(reply=text(status, _PAGE, kind="html"))
            case "throttled" | "unavailable":
                return Answer(reply=answer(status, {"message": _SAID.get(status, "Unavailable")}, self._wait()))
            case "crash_after" | "wrong_status":
                return Answer(reply=answer(status, {"error": "Something went wrong"}))
            case _:
                return Answer(reply=reply)

    def _wait(self) -> dict[str, str]:
        match self.retry_after:
            case None:
                return {}
            case datetime() as then:
                return {"retry-after": format_datetime(then.astimezone(UTC), usegmt=True)}
            case seconds:
                return {"retry-after": str(ceil(seconds))}


_JSON = {"content-type": "application/json"}
_SAID = {429: "Too many requests"}
_PAGE = "<html><head><title>Error</title></head><body><center><h1>Error</h1></center><hr>proxy</body></html>"

FAULTS: Mapping[str, FaultSpec] = {
    "crash_after": FaultSpec(says="500 after storing", stores=True, status=500),
    "half_answer": FaultSpec(
        says="the connection ends in the middle of the answer", stores=True, takes=frozenset({"stored"})
    ),
    "latency": FaultSpec(says="answers after `seconds`", stores=True, takes=frozenset({"seconds"})),
    "lost_answer": FaultSpec(says="a proxy's 504 after storing", stores=True, status=504),
    "malformed": FaultSpec(
        says="a success whose body is cut JSON", stores=True, takes=frozenset({"stored", "status"}), status=200
    ),
    "partial": FaultSpec(
        says="the rows that `when` picks fail, else every second one, from the first",
        stores=True,
        takes=frozenset({"code"}),
    ),
    "proxy_error": FaultSpec(
        says="a proxy's HTML page: 502, or the `status` given",
        stores=False,
        takes=frozenset({"stored", "status"}),
        status=502,
    ),
    "redirect": FaultSpec(says="points elsewhere", stores=False, takes=frozenset({"status"}), status=307),
    "refused": FaultSpec(
        says="no connection, so nothing left the sender; on a real socket a reset, as the connection is there by then",
        stores=False,
    ),
    "reset_after": FaultSpec(says="the connection is reset after storing", stores=True),
    "reset_before": FaultSpec(says="the connection is reset before storing", stores=False),
    "throttled": FaultSpec(
        says="429, with `retry_after` as seconds or as a date",
        stores=False,
        takes=frozenset({"retry_after"}),
        status=429,
    ),
    "timeout": FaultSpec(says="takes the request and never answers", stores=True, takes=frozenset({"stored"})),
    "unauthorized": FaultSpec(says="the vendor's words for a wrong key", stores=False),
    "unavailable": FaultSpec(
        says="503, or the `status` given", stores=False, takes=frozenset({"status", "retry_after"}), status=503
    ),
    "wrong_status": FaultSpec(
        says="an error body under a `status` that makes no sense",
        stores=False,
        takes=frozenset({"stored", "status"}),
        status=418,
    ),
}
"""Every fault, by name."""


def picks(when: When, row: Row, name: str) -> bool:
    """Tell whether a row is meant."""
    if isinstance(when, str):
        return name == when
    return when(row) if callable(when) else name in when


class Script:
    """The faults of one vendor, in the order in which they were armed. Each call has one at most."""

    def __init__(self) -> None:
        self.armed: list[Armed] = []

    def arm(
        self,
        name: str,
        *,
        times: int | None,
        after: int,
        when: When | None,
        stored: bool | None,
        status: int | None,
        seconds: float | None,
        retry_after: float | datetime | None,
        code: ErrorCode | str | None,
    ) -> None:
        """Add a fault. Raises ValueError for a name or a parameter that does not exist, and says which do."""
        spec = FAULTS.get(name)
        if spec is None:
            near = difflib.get_close_matches(name, FAULTS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"there is no fault {name!r}{hint} There are: {', '.join(FAULTS)}")
        given = {"stored": stored, "status": status, "seconds": seconds, "retry_after": retry_after, "code": code}
        wrong = sorted(key for key, value in given.items() if value is not None and key not in spec.takes)
        if wrong:
            takes = ", ".join(["times", "after", "when", *sorted(spec.takes)])
            raise ValueError(f"{name!r} takes no {', '.join(wrong)}; it takes {takes}")
        if (times is not None and times < 1) or after < 0:
            raise ValueError(f"times={times!r}, after={after!r}: times is at least 1, or None; after is at least 0")
        if status is not None and not 200 <= status <= 599:
            raise ValueError(f"status={status!r}: give one from 200 to 599")
        self.armed.append(
            Armed(
                name=name,
                times=times,
                after=after,
                when=when,
                stores=spec.stores if stored is None else stored,
                status=status or spec.status,
                seconds=1.0 if seconds is None else seconds,
                retry_after=retry_after,
                code=ErrorCode(code or ErrorCode.PROVIDER_REJECTED),
            )
        )

    def next(self, rows: Sequence[Row], labels: Sequence[str]) -> Armed | None:
        """Return the fault of one call. All armed faults count the call; the first that is ready has it."""
        ready = [fault for fault in self.armed if fault.fires(rows, labels)]
        if not ready:
            return None
        ready[0].spend()
        self.armed = [fault for fault in self.armed if fault.times is None or fault.times > 0]
        return ready[0]
