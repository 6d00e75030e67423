"""Since when a destination names a meter and a customer as it does: what changes usage must go by the names it had.

What was sent leaves no names behind. A change of the configuration is found when it is taken into use, one of a
customer's links is noted as it is put, or as a vendor that is asked for it answers otherwise than before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import msgspec

from adapters import Link
from canonical_schema import DeliveryStatus
from gateway.configuration import Configuration, Destination
from gateway.configuration.keys import DEFAULT_TENANT
from gateway.errors import ConfigurationError
from gateway.ledger import Document, Ledger
from gateway.times import to_micros

__all__ = ["LOOKED_UP", "RELINKED", "Naming", "Relinked", "moved"]

KIND = "naming"
"""Of the documents: by destination, since when it names what how."""
RELINKED = "relinked"
"""Of the documents: tenant, and as name the customer; since when its links at each destination are other ones."""
LOOKED_UP = "looked up"
"""Of the documents: tenant, and as name the customer; what each destination answered last, and since when."""

LATEST = "named"
"""Of the documents: by destination, a digest of the one of `KIND`, which may be large."""
NEVER = 2**62
"""Since when a destination names something as it does, where others know of another name by now."""

LATER = timedelta(seconds=30)
"""After the grace, until all processes that were told of another configuration go by it."""
PAGE = 1000
"""Documents that are read at once."""

_Since = dict[str, tuple[str, int]]
"""By meter, or customer: a digest of how it is named, and since when."""


class _Names(msgspec.Struct):
    provider: str = ""
    profile: str = ""
    """Which of the provider's doors; empty where it has one, or where nobody noted it."""
    meters: _Since = {}
    customers: _Since = {}


class Relinked(msgspec.Struct, frozen=True):
    """Which customers and meters destinations named otherwise, and until when that may have been."""

    put: Mapping[tuple[str, str], int]
    """By destination and customer."""
    seeded: Mapping[str, Mapping[str, int]]
    """By destination, and by customer as `hidden` has it."""
    hidden: Callable[[str], str]
    metered: Mapping[str, Mapping[str, int]]
    """By destination and meter."""

    def may_have(self, destination: str, customer: str, received: int) -> bool:
        """Return whether what was received at an instant may have been sent under another name than today's."""
        if received <= self.put.get((destination, customer), -1):
            return True
        seeds = self.seeded.get(destination)
        return bool(seeds) and received <= seeds.get(self.hidden(customer), -1)

    def had_metered(self, destination: str, meter: str, sent: int) -> bool:
        """Return whether what was sent at an instant may have gone under another name of its meter than today's."""
        return sent < self.metered.get(destination, {}).get(meter, -1)


class Naming:
    """How one configuration's destinations name things, over one ledger."""

    def __init__(self, configuration: Configuration, ledger: Ledger) -> None:
        self._configuration = configuration
        self._ledger = ledger
        self.names: dict[str, _Names] = {}
        self._marks: dict[str, bytes] = {}
        self._key = b""

    async def take(self, now: datetime, earlier: "Naming | None" = None) -> None:
        """Hold the configuration against the one before, and note what it names otherwise.

        `earlier`: what this process went by until now, whatever others have noted since.
        """
        self._key = await self._ledger.secret(KIND)
        at = to_micros(now)
        # Other processes are told at the same time, and finish what is under way before they read it.
        until = to_micros(now + self._configuration.delivery.grace + LATER) if self._ledger.shared else at
        for name, destination in self._configuration.destinations.items():
            body = await self._ledger.document(KIND, "", name)
            before = None if body is None else msgspec.json.decode(body, type=_Names)
            since = 0 if before is None else at  # of what was named before this was noted, nobody knows better
            made = _Names(
                provider=destination.provider,
                profile=_profile(destination),
                meters=_noted({} if before is None else before.meters, self._meters(name, destination), since, until),
                customers=_noted({} if before is None else before.customers, self._seeds(name), since, until),
            )
            if earlier is not None and self._ledger.shared and (own := earlier.names.get(name)) is not None:
                made.meters = _latest_of(made.meters, own.meters, at)
                made.customers = _latest_of(made.customers, own.customers, at)
            body = msgspec.json.encode(made, order="deterministic")
            self.names[name], mark = made, blake2b(body, digest_size=9).digest()
            self._marks[name] = mark
            if made != before:
                latest = Document(kind=LATEST, tenant="", name=name, body=mark)
                await self._ledger.keep([Document(kind=KIND, tenant="", name=name, body=body), latest])

    async def check(self) -> None:
        """Raise ConfigurationError where a destination is not what the deliveries there were made for.

        What waits would go there in the words of another vendor, or of another of its doors, which would not know it
        for a repeat; and what was delivered to another vendor would count as delivered to this one.
        """
        for name, destination in self._configuration.destinations.items():
            body = await self._ledger.document(KIND, "", name)
            before = _Names() if body is None else msgspec.json.decode(body, type=_Names)
            if before.provider not in {"", destination.provider}:
                now, was = destination.provider, before.provider
                if made := sum((await self._ledger.counts()).get(name, {}).values()):
                    theirs = f"is {now}, and {made:,} deliveries of the ledger are {was}'s"
                    hint = f"give {now} a name of its own, and keep {name} with mode: off until nothing waits"
                    raise ConfigurationError(f"destinations.{name}: {theirs}: {hint}")
            elif before.profile not in {"", _profile(destination)}:
                now, was = _profile(destination), before.profile
                if wait := await self._undecided(name):
                    theirs = f"is {now}, and {wait:,} deliveries that wait, or are unknown, were made for {was}"
                    hint = f"give {now} a name of its own, or keep {was} until they are settled"
                    raise ConfigurationError(f"destinations.{name}.settings.profile: {theirs}: {hint}")

    async def _undecided(self, destination: str) -> int:
        counts = (await self._ledger.counts()).get(destination, {})
        return sum(count for status, count in counts.items() if not status.final or status is DeliveryStatus.UNKNOWN)

    async def since(self, destination: str, tenant: str, customer: str, meter: str) -> int:
        """Return since when a destination names both as it does, in microseconds; 0: as far as is known, always."""
        names, hidden = self.names.get(destination, _Names()), self._hidden(customer)
        named, metered = names.meters.get(meter, ("", 0))
        linked, seeded = names.customers.get(hidden, ("", 0))
        latest = await self._latest(destination)
        if latest is not None and (
            latest.meters.get(meter, (named, 0))[0] != named or latest.customers.get(hidden, (linked, 0))[0] != linked
        ):
            return NEVER
        if latest is not None:  # the same names, and others went by those before for longer than this one knows
            metered = max(metered, latest.meters.get(meter, ("", 0))[1])
            seeded = max(seeded, latest.customers.get(hidden, ("", 0))[1])
        body = await self._ledger.document(RELINKED, tenant, customer)
        put: Mapping[str, int] = {} if body is None else msgspec.json.decode(body, type=dict[str, int])
        body = await self._ledger.document(LOOKED_UP, tenant, customer)
        found: _Since = {} if body is None else msgspec.json.decode(body, type=_Since)
        _, answered = found.get(destination, ("", 0))
        return max(metered, seeded, put.get(destination, 0), answered)

    def meter_since(self, destination: str, meter: str) -> int:
        """Return since when a destination names a meter as it does, in microseconds; 0: as far as is known, always."""
        return self.names.get(destination, _Names()).meters.get(meter, ("", 0))[1]

    async def _latest(self, destination: str) -> _Names | None:
        """Return how a destination names things by the configuration that was read last; `None`: by this one."""
        mark = await self._ledger.document(LATEST, "", destination) if self._ledger.shared else None
        if mark is None or mark == self._marks.get(destination):
            return None
        body = await self._ledger.document(KIND, "", destination)
        return None if body is None else msgspec.json.decode(body, type=_Names)

    async def relinked(self, tenant: str, after: int) -> Relinked:
        """Return what has other names since some time after an instant; what came to have its first is among it."""
        put: dict[tuple[str, str], int] = {}
        for kind, since_of in ((RELINKED, _put_since), (LOOKED_UP, _answered_since)):
            last: str | None = None
            while page := await self._ledger.documents(kind, tenant, last, PAGE):
                last = page[-1].name
                for one in page:
                    for destination, at in since_of(one.body or b"{}"):
                        if at > after:
                            key = destination, one.name
                            put[key] = max(at, put.get(key, 0))
        seeded = {
            name: {hidden: at for hidden, (_, at) in names.customers.items() if at > after}
            for name, names in self.names.items()
            if tenant == DEFAULT_TENANT
        }
        metered = {
            name: {meter: at for meter, (_, at) in names.meters.items() if at > after}
            for name, names in self.names.items()
        }
        return Relinked(put, seeded, self._hidden, metered)

    async def answered(
        self,
        destination: str,
        tenant: str,
        customer: str,
        rows: Sequence[Link],
        *,
        other: bool,
        now: datetime,
        until: datetime,
    ) -> None:
        """Note a vendor's answer to how it names a customer, and since when nobody goes by another one.

        `other`: this process did until now, whatever others have noted; they do until `until` at the latest.
        """
        body = await self._ledger.document(LOOKED_UP, tenant, customer)
        found: _Since = {} if body is None else msgspec.json.decode(body, type=_Since)
        digest = _digest([row.model_dump(mode="json", exclude_none=True) for row in rows])
        before = found.get(destination)
        if before is not None and before[0] == digest and not other:
            return
        found[destination] = digest, to_micros(now if before is None else until)
        document = Document(kind=LOOKED_UP, tenant=tenant, name=customer, body=msgspec.json.encode(found))
        await self._ledger.keep([document])

    def _meters(self, name: str, destination: Destination) -> Iterable[tuple[str, str]]:
        settings = destination.settings.model_dump(mode="json")  # of secrets that shows nothing
        place = [destination.provider, *(settings.get(key) for key in _WHERE)]
        for meter, configured in self._configuration.meters.items():
            if rows := configured.bindings.get(name):
                yield meter, _digest([place, [row.names for row in rows]])

    def _seeds(self, name: str) -> Iterable[tuple[str, str]]:
        for customer, links in self._configuration.customers.items():
            if rows := links.get(name):
                said = [row.model_dump(mode="json", exclude_none=True) for row in rows]
                yield self._hidden(customer), _digest(said)

    def _hidden(self, customer: str) -> str:
        return blake2b(customer.encode(), key=self._key, digest_size=9).hexdigest()


_WHERE = ("base_url", "profile", "merchant_id")
"""Settings that say in whose books usage goes; others may change without any row having another name."""


def _put_since(body: bytes) -> Iterable[tuple[str, int]]:
    return msgspec.json.decode(body, type=dict[str, int]).items()


def _answered_since(body: bytes) -> Iterable[tuple[str, int]]:
    return ((destination, at) for destination, (_, at) in msgspec.json.decode(body, type=_Since).items())


def _profile(destination: Destination) -> str:
    return getattr(destination.settings, "profile", "")


def _noted(before: _Since, named: Iterable[tuple[str, str]], since: int, until: int) -> _Since:
    """Return since when each is named as it is; what is named no more is noted, too.

    `until`: at the latest others go by the names before until then.
    """
    made: _Since = {}
    for what, digest in named:
        known = before.get(what)
        if known is not None and known[0] == digest:
            made[what] = known
        else:
            made[what] = digest, since if known is None or known[0] == "" else until
    for what, (digest, at) in before.items():
        if what not in made:
            made[what] = ("", at) if digest == "" else ("", since)
    return made


def _latest_of(made: _Since, own: _Since, now: int) -> _Since:
    """Return since when each is named as it is, where one process went by its own names until now."""
    late = {what for what, (digest, _) in own.items() if digest and made.get(what, (digest,))[0] != digest}
    return {what: (digest, max(at, now) if what in late else at) for what, (digest, at) in made.items()}


def _digest(said: Any) -> str:
    return blake2b(msgspec.json.encode(said, order="deterministic", enc_hook=str), digest_size=9).hexdigest()


def moved(before: Sequence[Link], after: Sequence[Link], now: datetime) -> bool:
    """Return whether other links hold for some usage up to an instant, at any time or of any subscription."""
    rows = (*before, *after)
    times = {None, *(edge for row in rows for edge in (row.since, row.until) if edge is not None and edge <= now)}
    named = {None, *(row.subscription for row in rows)}
    return any(_held(before, when, one) != _held(after, when, one) for when in times for one in named)


def _held(rows: Sequence[Link], when: datetime | None, subscription: str | None) -> Any:
    """Return what a destination calls a customer at an instant; `None`: before all of them."""
    held = [
        row
        for row in rows
        if (row.since is None or (when is not None and row.since <= when))
        and (row.until is None or when is None or when < row.until)
        and row.subscription in {None, subscription}
    ]
    found = max(held, key=lambda row: row.subscription is not None, default=None)
    return None if found is None else found.model_dump(exclude={"since", "until", "subscription"}, exclude_none=True)
