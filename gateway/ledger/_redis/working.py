"""Work: taken, about to be sent, settled, held and let go."""

import asyncio
import contextlib
import os
import time
from array import array
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import msgspec

from canonical_schema import ErrorItem
from gateway.errors import LedgerUnavailable
from gateway.ledger._kept import AuditRow
from gateway.ledger._model import AttemptRow, Change, Code, Moved, Portion, Rendered, Work, WorkState, some_of
from gateway.ledger._redis.base import numbers, pairs, together
from gateway.ledger._redis.keeping import audited
from gateway.ledger._redis.layout import (
    OWNER,
    PARTITIONS,
    STATES,
    index_member,
    pack_head,
    pack_rendered,
    pack_runs,
    split_member,
    unpack_runs,
)
from gateway.ledger._redis.link import LONG, Link
from gateway.ledger._redis.telling import AT_ONCE, Telling
from gateway.ledger._rows import pack_attempt, pack_error, pack_parts

__all__ = ["Working"]

Argument = bytes | str | int
LAG = 2_000_000
"""Microseconds for which work that is due is left to the process that brought it."""
SOON = 0.5
"""Seconds after which it is first looked whether an intent that was lost was written down after all."""
REMEMBERED = 600.0
"""Seconds after which an intent that was lost is certainly nowhere on its way any more."""
_PAST = b"".join(STATES[state] for state in (WorkState.READY, WorkState.BLOCKED, WorkState.HELD, WorkState.WAITING))


class Working(Telling):
    """Groups of deliveries on their way."""

    async def take(self, destination: str, now: int, limit: int) -> Sequence[Work]:
        self._guard()
        if destination in self._alone and not self._owners.leads:
            return []
        mine = self._mine(destination)

        def ask(link: Link) -> Awaitable[list[bytes]]:
            return link.run("take", destination, now, limit, *mine)

        if destination in self._alone:  # the next in order may be where nobody answers
            answers = await self._everywhere(ask)
        else:
            answers, _ = await self._reached(f"take {destination}", ask)
        taken: list[Work] = []
        room = limit
        for work, _ in sorted(await self._told(answers), key=_urgency):
            if room <= 0:
                break
            if len(work.members) > room:
                work.members, work.events = work.members[:room], work.events[:room]
                work.parts = None if work.parts is None else work.parts[:room]
            room -= len(work.members)
            taken.append(work)
        return taken

    async def overdue(self, destination: str, now: int, limit: int) -> tuple[Sequence[Work], int | None]:
        answers, _ = await self._reached(
            f"overdue {destination}", lambda link: link.run("overdue", destination, _PAST, limit + 1)
        )
        works = [work for work, _ in sorted(await self._told(answers), key=_urgency)]
        past = [work for work in works[:limit] if work.group.deadline is not None and work.group.deadline < now]
        return past, works[len(past)].group.deadline if len(past) < len(works) else None

    async def next_due(self, destination: str) -> int | None:
        now, mine = time.time_ns() // 1000, self._mine(destination)
        answers, all_of_it = await self._reached(
            f"due {destination}", lambda link: link.run("due", destination, now, *mine)
        )
        soonest = min((int(found) for found in answers if found), default=None)
        if all_of_it and self._owners.share[1] == 1 and not self._owners.lost:
            return soonest
        # Nobody is told of what others bring, of what is out of reach, of what is taken back: look now and then.
        again = now + LAG // 2
        return again if soonest is None else min(soonest, again)

    async def intend(self, portions: Sequence[Portion], now: int) -> Sequence[int]:
        self._guard()
        by_partition: dict[int, list[int]] = {}
        for place, portion in enumerate(portions):
            by_partition.setdefault(portion.work.batch % PARTITIONS, []).append(place)

        intent = self._owners.intent()
        found: dict[int, int] = {}

        async def write() -> list[int]:
            for partition, places in by_partition.items():
                arguments = [one for place in places for one in _intent(portions[place], now, intent)]
                answer = await self._opened()[partition].run(
                    "intend", os.urandom(8), partition, len(places), *arguments
                )
                found.update(zip(places, numbers(answer), strict=True))
            return [found[place] for place in range(len(portions))]

        try:
            return await self._whole(write())
        except BaseException as error:
            if found or not isinstance(error, Moved):  # where it was written down before, that is not sent either
                self._owners.lose(intent)
            raise

    async def _keep_taking_back(self) -> None:
        """Take back what was lost, soon at first: it may have been written down late."""
        pause = SOON
        while True:
            await self._owners.missing.wait()
            self._owners.missing.clear()
            while self._owners.lost:
                await asyncio.sleep(pause)
                again = not await self._take_back() or self._owners.missing.is_set()
                self._owners.missing.clear()
                pause = SOON if again else min(2 * pause, self._owners.lease / 6)

    async def _take_back(self) -> bool:
        """Make ready again what was to be sent, was perhaps written down, and was never sent.

        Returns whether that could be looked at everywhere.
        """
        lost, began = self._owners.lost, time.monotonic()
        sending, reached = STATES[WorkState.SENDING], 0
        for link in self._opened():
            with contextlib.suppress(LedgerUnavailable, Moved):
                fields: list[bytes] = await link.ask("HKEYS", ":n")
                for name in [field[1:].decode() for field in fields if field[:1] == sending]:
                    async for answer in self._pages(name, sending, [link]):
                        changes = [_unsent(work) for work, owner in await self._told([answer]) if owner in lost]
                        if changes:
                            await self.settle(changes, [])
                reached += 1
        if whole := reached == len(self._opened()):
            self._owners.forget(began - REMEMBERED)
        return whole

    @property
    def in_line(self) -> bool:
        return len(self._opened()) == 1

    def alone(self, destination: str) -> bool:
        self._alone.add(destination)
        return self._owners.leads

    def _mine(self, destination: str) -> tuple[bytes, int, int, int]:
        """Return whose share to take: this process's, or all of it where it sends alone."""
        share, shares = (0, 1) if destination in self._alone else self._owners.share
        return self._owners.name, share, shares, LAG

    def _guard(self) -> None:
        if self._links and self._owners.fenced:
            raise LedgerUnavailable("this process was not heard of for too long: others may send what it would send")

    async def settle(
        self, changes: Sequence[Change], attempts: Sequence[AttemptRow], audit: Sequence[AuditRow] = ()
    ) -> None:
        links = self._opened()
        partitions = sorted({one.batch % PARTITIONS for one in (*changes, *attempts)}) or [0]
        written = [
            _settlement(
                [one for one in changes if one.batch % PARTITIONS == partition],
                [one for one in attempts if one.batch % PARTITIONS == partition],
                audit if partition == partitions[0] else (),
                self._owners.name,
            )
            for partition in partitions
        ]

        # What a vendor answered must not be forgotten; but of several partitions, one that is gone for long must not
        # hold up the others.
        patience = LONG if len(links) > 1 else max(LONG, self._owners.lease)

        # What was sent ends row by row: the answer for those that can be reached is not lost with one that is gone.
        apart = not audit and not any(change.waiting for change in changes)

        async def write() -> None:
            reached, gone = dict(zip(partitions, written, strict=True)), list[LedgerUnavailable]()
            # What spans partitions is looked at in all of them before any is written.
            for check in (1, 0) if len(partitions) > 1 else (0,):
                for partition, arguments in [*reached.items()]:
                    run = links[partition].run
                    try:
                        numbers(await run("settle", os.urandom(8), partition, check, *arguments, patience=patience))
                    except LedgerUnavailable as error:
                        if not apart:
                            raise
                        gone.append(error)
                        del reached[partition]
            if gone:
                raise gone[0]

        await self._whole(write())

    async def confirm(self, destination: str, batch: int, members: Sequence[int]) -> int:
        link = self._link(batch)
        if link is None:
            return 0
        codes, runs = (int(Code.ACCEPTED_QUEUED), int(Code.ACCEPTED_CONFIRMED)), pack_runs(sorted(members))
        return int(await link.run("confirm", os.urandom(8), batch, destination, *codes, runs, patience=LONG))

    async def pieces(self, batch: int, destination: str) -> Sequence[Work]:
        link = self._link(batch)
        if link is None:
            return []
        held = pairs(await link.ask("HGETALL", f":k:{batch}"))
        answer: list[bytes] = []
        for field in held:
            if field.isdigit():
                head, failure, rendered = held[field], held.get(b"e" + field, b""), held.get(b"p" + field, b"")
                answer += [index_member(int(field), batch), head, failure, rendered]
        found = [work for work, _ in await self._told([answer]) if work.destination == destination]
        return sorted(found, key=lambda work: work.id)

    async def in_state(self, states: Sequence[WorkState], destination: str | None) -> Sequence[tuple[int, str]]:
        fields = [one for answer in await self._everywhere(lambda link: link.ask("HKEYS", ":n")) for one in answer]
        wanted = {STATES[state] for state in states}
        found: set[tuple[int, str]] = set()
        for state, name in {(one[:1], one[1:].decode()) for one in fields}:
            if state in wanted and destination in {None, name}:
                async for answer in self._pages(name, state):
                    found.update((split_member(member)[1], name) for member in answer[::4])
        return sorted(found)

    async def held(self, destination: str, state: WorkState) -> Sequence[Work]:
        found = [one async for page in self._pages(destination, STATES[state]) for one in await self._told([page])]
        living = set[bytes]()
        if state is WorkState.SENDING:  # what others are sending is theirs as long as they live
            await self._beat()  # after that: who came in between is heard of
            living = set(self._owners.living) - {self._owners.name}
        works = [work for work, owner in found if owner[:OWNER] not in living and owner not in self._owners.lost]
        return sorted(works, key=lambda work: work.id)

    async def abandoned(self, destination: str) -> Sequence[Work]:
        sending = STATES[WorkState.SENDING]
        found = [one async for page in self._pages(destination, sending) for one in await self._told([page])]
        await self._beat()  # after that: who came in between is heard of
        return [work for work, owner in found if owner[:OWNER] not in self._owners.living]

    async def walk(self, destination: str, state: WorkState, after: int, limit: int) -> Sequence[Work]:
        answers = await self._everywhere(lambda link: link.run("walk", destination, STATES[state], after, limit))
        works = [work for work, _ in await self._told(answers)]
        return sorted(works, key=lambda work: work.id)[:limit]

    async def hold(self, destination: str, error: ErrorItem) -> Mapping[int, Sequence[int]]:
        held: defaultdict[int, array[int]] = defaultdict(partial(array, "H"))
        failure = pack_error(error) or b""

        async def write(link: Link) -> None:
            more = True
            while more:
                answer = await link.run("hold", os.urandom(8), destination, failure, AT_ONCE, int(Code.BLOCKED))
                for batch, runs in zip(answer[::2], answer[1::2], strict=True):
                    held[int(batch)].extend(unpack_runs(runs))
                more = len(answer) == 2 * AT_ONCE

        await self._whole(together([write(link) for link in self._opened()]))
        return dict(held)

    async def release(self, destination: str, state: WorkState, now: int, pieces: int | None = None) -> int:
        links, due = self._opened(), now.to_bytes(8, "little")

        async def write() -> int:
            released = 0
            for link in links:
                more = True
                while more and (pieces is None or released < pieces):
                    most = AT_ONCE if pieces is None else min(AT_ONCE, pieces - released)
                    codes = int(Code.PENDING), int(Code.RETRYING)
                    done: int = await link.run("release", os.urandom(8), destination, STATES[state], due, most, *codes)
                    released += done
                    more = done == most
            return released

        return await self._whole(write())

    async def _beat(self) -> None:
        raise NotImplementedError


def _intent(portion: Portion, now: int, intent: bytes) -> list[Argument]:
    work = portion.work
    sent = now if work.group.sent is None else work.group.sent
    group = msgspec.structs.replace(work.group, state=WorkState.SENDING, sent=sent, error=None)
    members, parts = _ordered(portion.members, portion.parts)
    head = pack_head(group, intent, work.destination, members)
    return [work.batch, work.id, pack_runs(members), head, pack_rendered(members, parts)]


def _unsent(work: Work) -> Change:
    """Return what becomes of work that was about to be sent and was not: it is ready, as it was."""
    before = work.group
    group = msgspec.structs.replace(before, state=WorkState.READY, sent=before.sent if before.doubt else None)
    return Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=work.members,
        code=Code.RETRYING if before.attempts else Code.PENDING,
        group=group,
        parts=work.parts if before.doubt or before.attempts else None,
    )


def _urgency(told: tuple[Work, bytes]) -> tuple[int, int, int]:
    group = told[0].group
    return 2**62 if group.deadline is None else group.deadline, group.due, told[0].id


def _ordered(members: Sequence[int], parts: Rendered | None) -> tuple[Sequence[int], Rendered | None]:
    """Return members ascending, with their rows."""
    if all(one < other for one, other in pairwise(members)):
        return members, parts
    order = sorted(range(len(members)), key=members.__getitem__)
    return [members[place] for place in order], None if parts is None else some_of(parts, order)


def _settlement(
    changes: Sequence[Change], attempts: Sequence[AttemptRow], audit: Sequence[AuditRow], owner: bytes
) -> list[Argument]:
    """Return what the script writes of one partition's part."""
    leaving: dict[tuple[int, int], list[int]] = {}
    for change in changes:
        leaving.setdefault((change.batch, change.work), []).extend(change.members)
    waiting = {(change.batch, change.work) for change in changes if change.waiting}
    arguments: list[Argument] = [len(leaving)]
    for (batch, work), members in leaving.items():
        arguments += [batch, work, pack_runs(sorted(members)), int((batch, work) in waiting)]
    rows: list[Argument] = []
    arguments.append(len(changes))
    for change in changes:
        members, parts = _ordered(change.members, change.parts)
        arguments += [change.batch, change.destination, pack_runs(members), int(change.code)]
        if change.group is None:
            arguments += [b"", b"", b""]
        else:
            head = pack_head(change.group, owner, change.destination, members)
            arguments += [head, pack_error(change.group.error) or b"", pack_rendered(members, parts)]
        for index, some in zip(members, parts or (), strict=False):
            if len(some) > 1:
                rows += [change.batch, f"{index}:{change.destination}", pack_parts([some]) or b""]
        for index in members if change.anew else ():
            rows += [change.batch, f"{index}:{change.destination}", b""]
    arguments.append(len(attempts))
    for attempt in attempts:
        arguments += [attempt.batch, pack_attempt(attempt)]
    return [*arguments, len(rows) // 3, *rows, *audited(audit)]
