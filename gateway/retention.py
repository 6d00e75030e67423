"""Retention: full records are archived and trimmed when they are old, ids are forgotten, customers erased on demand."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar

import msgspec
import structlog

from canonical_schema import Event, fingerprint, format_time
from gateway.archive import Archive, ArchiveUnusable, Draft, Segment
from gateway.chain import correction_id
from gateway.configuration.sections import Retention
from gateway.ledger import Document, Erasure, Ledger, Snapshot, snapshot_of, split_ref
from gateway.merge import View
from gateway.times import Clock, from_micros, to_micros

__all__ = ["FORGOTTEN", "Keeper"]

log = structlog.get_logger()

T = TypeVar("T")

FORGOTTEN = "forgotten"
"""Kind of the document that says before which instant of receipt ids may be forgotten; its name is `ids`."""
INTERVAL = timedelta(hours=1)
"""Between two rounds."""
RETRY = timedelta(minutes=5)
"""After the archive could not be written."""
PAUSE = timedelta(milliseconds=200)
"""Between two steps of a round: others have their turns."""
SEGMENT = 20_000
"""Events after which a segment is full."""
ERASING = "erasing"
"""Kind of the documents that say whom the process that has the archive is to take out of it."""
LOOK = 100
"""Batches that are looked at, and trimmed, in one go."""


class Keeper:
    """Keeps the ledger small, a step at a time."""

    def __init__(self, ledger: Ledger, retention: Retention, clock: Clock) -> None:
        self._ledger = ledger
        self._retention = retention
        self._clock = clock
        self._archive: Archive | None = None
        self._after = 0
        self._busy = asyncio.Lock()

    async def step(self) -> datetime:
        """Archive and trim some of what is old, or forget some ids; return when to go on."""
        async with self._busy:
            now = self._clock.now()
            try:
                more = await self._trim(now) if self._trims else False
            except (ArchiveUnusable, OSError) as error:
                log.error("archive.failed", error=str(error), hint="nothing is trimmed until it works again")
                return now + RETRY
            if not more and (ids := self._retention.ids) is not None:
                # Never before the record: what is not trimmed is not forgotten either.
                before = to_micros(now - max(ids, self._retention.events))
                more = bool(await self._ledger.forget(before, LOOK))
                if more:
                    body = msgspec.json.encode(before)
                    await self._ledger.keep([Document(kind=FORGOTTEN, tenant="", name="ids", body=body)])
            return now + (PAUSE if more else INTERVAL)

    async def close(self) -> None:
        """Let go of the archive."""
        async with self._busy:
            if self._archive is not None:
                await _ended(self._archive.close)
                self._archive = None

    async def erase(self, erasure: Erasure) -> int | None:
        """Take a customer out of everything that was archived; return how many events that concerned.

        `None` where another process has the archive: it does that soon.
        """
        if self._retention.archive is None:
            return 0
        if not self._ledger.leads:
            body = msgspec.json.encode((erasure.tenant, erasure.customer))
            await self._ledger.keep([Document(kind=ERASING, tenant="", name=erasure.alias, body=body)])
            return None
        return await self._erase(erasure)

    async def catch_up(self) -> None:
        """Take those customers out of the archive whom other processes were asked to forget."""
        if self._retention.archive is None:
            return
        for one in await self._ledger.documents(ERASING, "", None, LOOK):
            tenant, customer = msgspec.json.decode(one.body or b"", type=tuple[str, str])
            key = await self._ledger.secret("pseudonym")
            await self._erase(Erasure(tenant=tenant, customer=customer, key=key))
            await self._ledger.keep([msgspec.structs.replace(one, body=None)])

    async def _erase(self, erasure: Erasure) -> int:
        async with self._busy:
            archive, found = await self._opened(), 0
            for segment in list(archive.segments):
                found += await _ended(_erased, archive, segment, erasure)
            return found

    @property
    def _trims(self) -> bool:
        return self._retention.archive is not None or self._retention.trim == "always"

    async def _opened(self) -> Archive:
        if self._archive is None:
            assert self._retention.archive is not None
            name = (await self._ledger.secret("ledger")).hex()[:16]
            archive = Archive(self._retention.archive, name)
            try:
                await _ended(archive.open)
            except BaseException:
                archive.close()
                raise
            self._archive = archive
        return self._archive

    async def _trim(self, now: datetime) -> bool:
        """Archive and trim what fills a segment; return whether there may be more."""
        archive = None if self._retention.archive is None else await self._opened()
        before = to_micros(now - self._retention.events)
        bound = self._retention.letters
        letters = None if bound is None else to_micros(now - max(bound, self._retention.events))
        prints: dict[int, bytes] = {}
        again: dict[str, dict[int, tuple[bytes, bytes]]] = {}
        received: list[int] = []
        draft: Draft | None = None
        events, after = 0, self._after
        try:
            while events < SEGMENT:
                found, on = await self._ledger.trimmable(before, letters, after, LOOK)
                for batch in found:  # one at a time: each may be ten thousands of events
                    snapshot = await snapshot_of(self._ledger, batch)
                    if snapshot is None or await self._outlived(snapshot, prints) or await self._awaited(snapshot):
                        continue
                    printed = await _ended(_printed, snapshot)
                    came = from_micros(snapshot.received)
                    segment = None if archive is None else archive.where(snapshot.batch, came)
                    if segment is not None:  # archived by a process that died before it could trim
                        digest = await _ended(_digest, _lines(snapshot))
                        again.setdefault(segment.name, {})[snapshot.batch] = printed, digest
                        continue
                    if archive is not None:
                        draft = draft or archive.draft()
                        await _ended(draft.add, _lines(snapshot))
                    prints[snapshot.batch] = printed
                    received.append(snapshot.received)
                    events += len(snapshot.events)
                    if events >= SEGMENT:
                        on = batch
                        break
                if on is None:
                    after = 0
                    break
                after = on
            segment = None
            if archive is not None and draft is not None:
                first, last = (format_time(from_micros(edge(received))) for edge in (min, max))
                segment = await _ended(archive.take, draft, prints, (first, last))
        except BaseException:
            if draft is not None:
                draft.drop()
            raise
        name = None if segment is None else segment.name
        changed = await self._trimmed(prints, name, letters)
        await self._trimmed_again(archive, again, letters)
        if archive is not None and segment is not None and changed:
            # Somebody decided a letter meanwhile: it goes on, and is archived when it has ended.
            await _ended(_without, archive, segment, changed)
        if events:
            log.info("ledger.trimmed", events=events, batches=len(prints) - len(changed), segment=name)
        self._after = after
        return after != 0

    async def _outlived(self, snapshot: Snapshot, going: Collection[int]) -> bool:
        """Return whether a batch corrects what is kept for something else: what that says is not known without it."""
        originals = {event.corrects.of for event in snapshot.events if event.corrects is not None}
        for original in originals:
            ref = await self._ledger.find(snapshot.tenant, original)
            batch = None if ref is None else split_ref(ref)[0]
            if batch is None or batch == snapshot.batch or batch in going:
                continue
            kept = await snapshot_of(self._ledger, batch)
            if kept is not None and not (kept.remains is not None and kept.remains.trimmed):
                return True
        return False

    async def _awaited(self, snapshot: Snapshot) -> bool:
        """Return whether a correction of something in a batch has not ended: without what it corrects it cannot go."""
        ids, number = [event.id for event in snapshot.events if event.corrects is None], 1
        while ids:
            refs = await self._ledger.refs(snapshot.tenant, [correction_id(one, number) for one in ids])
            for batch, index in map(split_ref, refs.values()):
                held = await snapshot_of(self._ledger, batch)
                if held is not None and not all(code.status.final for code in View(held).codes(index).values()):
                    return True
            ids = [one for one in ids if correction_id(one, number) in refs]
            number += 1
        return False

    async def _trimmed_again(
        self, archive: Archive | None, known: Mapping[str, Mapping[int, tuple[bytes, bytes]]], letters: int | None
    ) -> None:
        """Trim what an earlier round archived and did not trim: by segment and batch, prints and digest of the records.

        Whatever is not as it was then, since somebody retried a letter, say, is archived anew by the next round.
        """
        if archive is None:
            return
        for segment in [one for one in archive.segments if one.name in known]:
            batches = known[segment.name]
            stale = await _ended(_stale, archive, segment, {batch: digest for batch, (_, digest) in batches.items()})
            if stale:
                await _ended(_without, archive, segment, stale)
            prints = {batch: printed for batch, (printed, _) in batches.items() if batch not in stale}
            await self._trimmed(prints, segment.name, letters)

    async def _trimmed(self, prints: Mapping[int, bytes], segment: str | None, letters: int | None) -> set[int]:
        """Trim, a little at a time: nobody waits long for the writer. Return what is not settled any more."""
        left: set[int] = set()
        batches = sorted(prints)
        for first in range(0, len(batches), LOOK):
            some = {batch: prints[batch] for batch in batches[first : first + LOOK]}
            left.update(await self._ledger.trim(some, segment, letters))
        return left


async def _ended(work: Callable[..., T], *given: Any) -> T:
    """Do something in a thread. Whoever is told to stop meanwhile waits until it has ended: it is not broken off, and
    nobody else is to take the archive before."""
    doing = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        doing.exception()  # nobody else hears of it
        raise


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def _printed(snapshot: Snapshot) -> bytes:
    return b"".join(map(fingerprint, snapshot.events))


def _lines(snapshot: Snapshot) -> list[bytes]:
    """Return the full record of each event of a batch as a line of JSON."""
    view = View(snapshot)
    placed = {"tenant": snapshot.tenant, "batch": snapshot.batch}
    return [_ENCODER.encode({**placed, "place": n, **view.detail(n)}) for n in range(len(snapshot.events))]


def _digest(lines: Iterable[bytes]) -> bytes:
    return hashlib.blake2b(b"\n".join(lines), digest_size=16).digest()


def _stale(archive: Archive, segment: Segment, digests: Mapping[int, bytes]) -> set[int]:
    """Return the batches whose records in a segment are not those that the digests are of."""
    by_batch = groupby(archive.read(segment), lambda line: int(msgspec.json.decode(line)["batch"]))
    kept = {batch: _digest(lines) for batch, lines in by_batch if batch in digests}
    return {batch for batch, digest in digests.items() if kept.get(batch) != digest}


def _without(archive: Archive, segment: Segment, batches: set[int]) -> None:
    """Take batches out of a segment again."""

    def kept(line: bytes) -> bytes | None:
        return None if msgspec.json.decode(line)["batch"] in batches else line

    still = [batch for first, last in segment.batches for batch in range(first, last + 1) if batch not in batches]
    archive.rewrite(segment, kept, batches=[(batch, batch) for batch in still])


def _erased(archive: Archive, segment: Segment, erasure: Erasure) -> int:
    """Take a customer out of a segment, where one is in it; return how many events were."""
    wanted, found = b'"customer":' + msgspec.json.encode(erasure.customer), 0

    def change(line: bytes) -> bytes:
        nonlocal found
        record: dict[str, Any] | None = msgspec.json.decode(line) if wanted in line else None
        if record is None or record["tenant"] != erasure.tenant or record["event"]["customer"] != erasure.customer:
            return line
        found += 1
        return _ENCODER.encode(_forgotten(record, erasure))

    if not any(wanted in line for line in archive.read(segment)):
        return 0
    made = archive.rewrite(segment, change)
    if found:
        archive.note(made, erased=segment.erased + found)
    return found


def _forgotten(record: dict[str, Any], erasure: Erasure) -> dict[str, Any]:
    """Return a record without its customer: what was measured, and how it ended, stays."""
    event = record["event"]
    left = erasure.of(Event(id="", customer="", meter="", subscription=event.get("subscription")))
    event["customer"] = left.customer
    if left.subscription is not None:
        event["subscription"] = left.subscription
    if "corrects" in event:
        event["corrects"]["reason"] = erasure.told(event["corrects"]["reason"])
    for name in ("source", "properties"):
        event.pop(name, None)
    for delivery in record["deliveries"].values():
        for told in (delivery, *delivery["history"], *delivery.get("parts", {}).values()):
            told.pop("provider_event_id", None)
            if "error" in told:
                told["error"] = {name: told["error"][name] for name in ("code", "retryable") if name in told["error"]}
                told["error"]["message"] = "erased with the customer it may name"
    return {**record, "erased": True}
