"""One simulated vendor, made from its declaration: it stores, dedupes, refuses, answers and fails as declared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Lock
from urllib.parse import urlsplit

import httpx

from adapters import Door, Outcome, ProviderSpec, Reply, Row, Sent, State, provider
from adapters._facts import Refusal
from adapters._values import JsonValue
from canonical_schema import ErrorCode
from gateway.simulator.faults import Answer, Armed, Script, When, picks
from gateway.simulator.manners import answer
from gateway.simulator.reading import EPOCH, Flaw, Incoming, Properties, label, lacks_rows, raw_rows, understand
from gateway.simulator.reads import ReadRequest, month_of, queried
from gateway.simulator.transport import SimulatedTransport, respond
from gateway.simulator.vendors import manners, read
from gateway.simulator.withdrawing import Withdrawal, withdrawal
from gateway.simulator.world import Stock, StoredRow

__all__ = ["Call", "SimulatedProvider"]

_CUSTOMER = (ErrorCode.UNKNOWN_SUBSCRIPTION, ErrorCode.UNKNOWN_CUSTOMER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that reached the vendor, or was meant to."""

    at: datetime
    method: str
    path: str
    """After the base URL."""
    status: int | None
    """What was answered. `None`: nothing was."""
    fault: str | None
    """The scripted fault that it met."""
    rows: tuple[Row, ...] = field(repr=False)
    """As they were sent."""


class SimulatedProvider:
    """A stateful double of one vendor.

    `api_key`: the one key that is right; `None`: any. `known_customers` and `known_meters`: `None` knows all.
    `quantity_properties` says, as the vendor's own metrics do, which property holds a meter's quantity; for the
    doors that take properties. `keep=False` only counts (`requests`, `rows_taken`): no memory, so no dedupe.
    """

    def __init__(
        self,
        name: str | ProviderSpec,
        *,
        api_key: str | None = None,
        known_customers: Iterable[str] | None = None,
        known_meters: Iterable[str] | None = None,
        quantity_properties: Mapping[str, Properties] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        keep: bool = True,
    ) -> None:
        self.spec = name if isinstance(name, ProviderSpec) else provider(name).spec
        self.api_key = api_key
        self.clock = clock
        self.keep = keep
        self._manners = manners(self.spec.name)
        self._lock = Lock()
        self._at_first = (
            None if known_customers is None else frozenset(known_customers),
            None if known_meters is None else frozenset(known_meters),
            dict(quantity_properties or {}),
        )
        self.reset()

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.spec.name

    def reset(self) -> None:
        """Forget every row, call, fault and refusal, and know what was known at first."""
        customers, meters, properties = self._at_first
        self.known_customers: set[str] | None = None if customers is None else set(customers)
        self.known_meters: set[str] | None = None if meters is None else set(meters)
        self.quantity_properties: dict[str, Properties] = dict(properties)
        self.calls: list[Call] = []
        self.requests = 0
        self.rows_taken = 0
        self._stock = Stock()
        self.clear()

    def clear(self) -> None:
        """Forget every fault and refusal."""
        self._script = Script()
        self._poison: list[tuple[When, ErrorCode]] = []

    @property
    def stored(self) -> list[StoredRow]:
        """Every row that was taken, in the order of their first copies."""
        return list(self._stock)

    @property
    def faults(self) -> list[Armed]:
        """The faults that still wait."""
        return list(self._script.armed)

    def billed(self) -> dict[tuple[str, str], Decimal]:
        """Return what the vendor would bill, by (customer, meter), among those it knows."""
        return self._stock.billed(self.known_customers, self.known_meters)

    def fail(
        self,
        name: str,
        *,
        times: int | None = 1,
        after: int = 0,
        when: When | None = None,
        stored: bool | None = None,
        status: int | None = None,
        seconds: float | None = None,
        retry_after: float | datetime | None = None,
        code: ErrorCode | str | None = None,
    ) -> None:
        """Meet the next calls with a fault; `FAULTS` has their names and which parameters each takes.

        It lets `after` matching calls pass, then hits `times` of them; `None`: all, until `clear`. `when`: only
        calls with such a row. Several faults queue. Raises ValueError for what does not exist.
        """
        self._script.arm(
            name,
            times=times,
            after=after,
            when=when,
            stored=stored,
            status=status,
            seconds=seconds,
            retry_after=retry_after,
            code=code,
        )

    def refuse(self, when: When, *, code: ErrorCode | str = ErrorCode.PROVIDER_REJECTED) -> None:
        """Refuse some rows for good, in the vendor's words for `code`. Raises ValueError for an unknown code."""
        self._poison.append((when, ErrorCode(code)))

    def transport(self, base_url: str | None = None) -> SimulatedTransport:
        """Return an httpx transport that leads here; `base_url` where the client uses another than the vendor's."""
        return SimulatedTransport(self, base_url)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer an httpx request for the vendor's real address, or raise what httpx would; for respx."""
        return respond(self, request)

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: str = "") -> Answer:
        """Take one request. `path` is what follows the base URL; header names are lower case."""
        with self._lock:
            door = self._door(method, path)
            raw = None if door is None else raw_rows(door[1], body)
            rows = [row for row in raw or () if isinstance(row, Mapping)]
            fault = None
            if self._script.armed:
                labels = [label(door[1], row) for row in rows] if door else []
                fault = self._script.next(rows, labels)
            reply = Reply(status=202)
            taking = withdrawal(self.spec, method, path)
            if taking is not None:
                if fault is None or fault.stores:
                    reply = self._withdraw(taking, headers, body)
            elif fault is None or fault.stores:
                shown = self._shown(method, path, query, headers, body) if door is None else None
                partial = fault if fault and fault.name == "partial" else None
                reply = self._process(door, headers, body, raw, partial) if shown is None else shown
            result = Answer(reply=reply) if fault is None else fault.apply(reply, self._manners)
            self.requests += 1
            if self.keep:
                self.calls.append(
                    Call(
                        at=self.clock(),
                        method=method,
                        path=path,
                        status=None if result.reply is None else result.reply.status,
                        fault=None if fault is None else fault.name,
                        rows=tuple(rows),
                    )
                )
            return result

    def relative(self, url: str, base_url: str | None = None) -> str | None:
        """Return what follows the base URL in an address, without its query; `None` where it is elsewhere."""
        base = urlsplit((base_url or self.spec.base_url).rstrip("/")).path
        path = urlsplit(url).path
        return path[len(base) :] if path.startswith(base + "/") else None

    def _door(self, method: str, path: str) -> tuple[str, Door] | None:
        doors = self.spec.doors.items()
        return next(((name, door) for name, door in doors if (door.method, door.path) == (method, path)), None)

    def _authorized(self, headers: Mapping[str, str]) -> bool:
        ((name, wanted),) = self.spec.auth.headers(self.api_key or "").items()
        given = headers.get(name.lower(), "")
        if self._manners.bare_key and not given.startswith("Bearer "):
            given = f"Bearer {given}"
        if self.api_key is not None:
            return given == wanted
        # Any key, in whatever form the vendor wants it; `wanted` is what stands there without one.
        scheme, space, _ = wanted.partition(" ")
        return given.startswith(scheme + space) and given.strip() not in {scheme, wanted.strip()}

    def tamper(self, how: Callable[[Stock], object]) -> None:
        """Change what the vendor holds behind everybody's back: lose rows, double them, let them be late."""
        with self._lock:
            how(self._stock)

    def _shown(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """Answer a read of what the vendor holds; `None` where it has no such page, or will not show it."""
        if not self._authorized(headers):
            return None
        now = self.clock()
        period = month_of(now)
        request = ReadRequest(
            method=method,
            path=path,
            query=queried(query),
            body=body,
            rows=list(self._stock),
            meters=None if self.known_meters is None else frozenset(self.known_meters),
            known=None if self.known_customers is None else frozenset(self.known_customers),
            properties=self.quantity_properties,
            billed=self._stock.billed(self.known_customers, self.known_meters, period),
            now=now,
            period=period,
        )
        return read(self.name, request)

    def _process(
        self,
        door: tuple[str, Door] | None,
        headers: Mapping[str, str],
        body: bytes,
        raw: Sequence[JsonValue] | None,
        partial: Armed | None,
    ) -> Reply:
        habits = self._manners
        if not self._authorized(headers):
            return habits.unauthorized
        if door is None:
            return habits.not_found
        if habits.not_json is not None and _media_type(headers) != "application/json":
            return habits.not_json
        if len(body) > door[1].max_bytes:
            return habits.too_large
        if raw is None and habits.rowless is not None and lacks_rows(door[1], body):
            return habits.rowless
        if raw is None:
            return habits.unreadable
        if not raw and not habits.empty:
            return habits.too_few or habits.unreadable
        if len(raw) > door[1].max_rows:
            return habits.too_many
        return self._take(*door, raw, partial)

    def _withdraw(self, taking: Withdrawal, headers: Mapping[str, str], body: bytes) -> Reply:
        """Take one row back as a whole, by the vendor's own id of it."""
        if not self._authorized(headers):
            return self._manners.unauthorized
        if not taking.asked(body):
            return self._manners.unreadable
        there = self._stock.withdraw(taking.profile, taking.key)
        row = Sent(key=taking.key, row={"id": taking.theirs})
        missing = Outcome(state=State.REJECTED, code=ErrorCode.NOT_FOUND)
        return taking.door.dialect.render(
            taking.door, [row], {row.key: Outcome(state=State.ACCEPTED) if there else missing}
        )

    def _take(self, profile: str, door: Door, raw: Sequence[JsonValue], partial: Armed | None) -> Reply:
        """Judge every row, store what the vendor would store, and answer."""
        now = self.clock()
        read = [
            understand(
                door, profile, row, self._manners, self.quantity_properties, now, f"row_{self.rows_taken + index}"
            )
            for index, row in enumerate(raw)
        ]
        named = door.dialect.row_by_row
        flawed = {index: found for index, found in enumerate(read) if isinstance(found, list)}
        if flawed:
            refusal = self._unreadable(door, flawed, named=named)
            if refusal is not None:
                return refusal
        sent: list[Sent] = []
        truth: dict[str, Outcome] = {}
        used = set[str]()
        for index, (row, found) in enumerate(zip(raw, read, strict=True)):
            name = found.key if isinstance(found, Incoming) else label(door, row) or f"row_{index}"
            key = name if name not in used else f"{name}#{index}"
            used.add(key)
            sent.append(Sent(key=key, row=self._echoed(door, row, found)))
            refused = self._judge(door, index, found, partial, now)
            truth[key] = refused or Outcome(state=State.ACCEPTED)
        bad = [index for index, row in enumerate(sent) if truth[row.key].state is State.REJECTED]
        keep = len(sent) if named or not bad else 0 if door.refusal is Refusal.WHOLE else bad[0]
        for index, found in enumerate(read[:keep]):
            row = sent[index]
            if isinstance(found, Incoming) and truth[row.key].state is State.ACCEPTED:
                repeat = self._store(profile, door, found, now)
                if repeat is not None and door.dedupe is not None:
                    truth[row.key] = Outcome(state=State.DUPLICATE)
                    sent[index] = Sent(key=row.key, row=repeat.row) if door.dedupe.repeat == "same" else row
        lacking = self._lacking(read[bad[0]]) if bad and not named else None
        return lacking or door.dialect.render(door, sent, truth)

    def _lacking(self, first: Incoming | list[Flaw]) -> Reply | None:
        """Return what the vendor says of the first row that it refuses, where that lacks something which it names."""
        member = str(first[0].path[0]) if isinstance(first, list) else ""
        return self._manners.lacking.get(member)

    def _echoed(self, door: Door, row: JsonValue, found: Incoming | list[Flaw]) -> Row:
        """Return a row as an answer tells of it: a time that was read from something else is told as it was read."""
        shown: Row = row if isinstance(row, Mapping) else {}
        member = door.roles.timestamp
        if not self._manners.coerced or isinstance(found, list) or isinstance(shown.get(member), int):
            return shown
        return {**shown, member: (found.timestamp - EPOCH) // timedelta(milliseconds=1)}

    def _store(self, profile: str, door: Door, found: Incoming, now: datetime) -> StoredRow | None:
        self.rows_taken += 1
        if not self.keep:
            return None
        return self._stock.take(
            StoredRow(
                key=found.key,
                customer=found.customer,
                charges=found.charges,
                timestamp=found.timestamp,
                row=found.row,
                door=profile,
                received=now,
                absolute=found.absolute,
            ),
            door.dedupe,
        )

    def _unreadable(self, door: Door, flawed: Mapping[int, list[Flaw]], *, named: bool) -> Reply | None:
        """Refuse a request for rows that cannot be read, where the vendor then looks at none of its rows."""
        if door.envelope.issues:
            return self._issues(door, flawed)
        flaws = [flaw for found in flawed.values() for flaw in found]
        whole = any(not flaw.path for flaw in flaws) if named else any(not flaw.missing for flaw in flaws)
        return self._manners.unreadable if whole else None

    def _issues(self, door: Door, flawed: Mapping[int, list[Flaw]]) -> Reply:
        under = door.rows[0] if isinstance(door.rows, tuple) else None
        listed: list[Row] = []
        for index, flaws in flawed.items():
            for flaw in flaws:
                path = flaw.path if under is None else (under, index, *flaw.path)
                dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
                where: JsonValue = dotted if self._manners.dotted else list(path)
                listed.append({door.envelope.at: where, "message": flaw.message, "code": "invalid_type"})
        return answer(400, {**self._manners.issues, door.envelope.issues[0]: listed})

    def _judge(
        self, door: Door, index: int, found: Incoming | list[Flaw], partial: Armed | None, now: datetime
    ) -> Outcome | None:
        """Return why a row is refused; `None`: it is not."""
        if isinstance(found, list):
            words = f"{'.'.join(map(str, found[0].path))}: {found[0].message}"
            return Outcome(state=State.REJECTED, code=ErrorCode.PROVIDER_REJECTED, message=words)
        code = next((code for when, code in self._poison if picks(when, found.row, found.key)), None)
        if code is None and partial is not None:
            chosen = index % 2 == 0 if partial.when is None else picks(partial.when, found.row, found.key)
            code = partial.code if chosen else None
        if code is None and self.known_customers is not None and found.customer not in self.known_customers:
            code = _checked(door, _CUSTOMER)
        if code is None and self.known_meters is not None:
            unknown = any(charge.meter not in self.known_meters for charge in found.charges)
            code = _checked(door, (ErrorCode.UNKNOWN_BINDING,)) if unknown else None
        if code is None:
            past, future = door.time.past, door.time.future
            old = past is not None and now - found.timestamp > past
            early = future is not None and found.timestamp - now > future
            code = ErrorCode.OUTSIDE_TIME_WINDOW if old or early else None
        return None if code is None else Outcome(state=State.REJECTED, code=code)


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip()


def _checked(door: Door, codes: Sequence[ErrorCode]) -> ErrorCode | None:
    """Return the code of such a refusal where the vendor has words for it; one without words takes what it does
    not know, and bills nothing for it."""
    return next((rule.error for rule in door.rules if rule.error in codes and rule.says is not None), None)
