"""A provider declared: its doors, how they report, what can be corrected there, and all else that is known. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from adapters._facts import (
    Aggregation,
    Auth,
    Dedupe,
    Envelope,
    Grade,
    KeyRule,
    QuantityRule,
    Rate,
    ReadBack,
    Refusal,
    Roles,
    Rule,
    Source,
    TimeRule,
)
from adapters._models import Binding, Link
from adapters._values import Outcome, Reply, Sent, Truth
from canonical_schema import Receipt

__all__ = ["Amend", "CanTakeAll", "Corrections", "Deltas", "Dialect", "Door", "ProviderSpec", "TakeBack"]


class Dialect(Protocol):
    """How a provider reports on the rows of one request."""

    row_by_row: ClassVar[bool]
    """Whether a refusal is of single rows, and those beside them are stored; else it is of the whole request."""

    def read(self, door: "Door", reply: Reply, sent: Sequence[Sent]) -> Mapping[str, Outcome] | None:
        """Return outcomes by key for the rows this reply speaks of, or `None` if it is not understood."""
        ...

    def render(self, door: "Door", sent: Sequence[Sent], truth: Truth) -> Reply:
        """Answer as the vendor would."""
        ...


@runtime_checkable
class CanTakeAll(Protocol):
    """A dialect that can tell, without looking row by row, that every row was taken and is new: what is usual."""

    def took_all(self, reply: Reply, keys: Sequence[str]) -> Sequence[str | None] | None:
        """Return the provider's ids of the rows, none where it gives none; `None` where `read` has to look.

        Asked about successes only. Never says more than `read` would.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend:
    """The row again, under its key and its instant, with another quantity: it takes the first one's place."""

    replaces: frozenset[Aggregation]
    """The aggregations for which another quantity corrects the bill."""
    voids: frozenset[Aggregation]
    """Those for which a quantity of 0 is as good as no row."""
    setting: str | None = None
    """The setting that an operator may switch it off with, or on."""
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Deltas:
    """A further row adds the difference. Downwards only where the door takes negative quantities."""

    aggregations: frozenset[Aggregation]
    down: bool = True
    """Whether a negative quantity lowers the bill; where the door's rule has a setting for negatives, with that."""
    instead: str
    """What is left to do where it cannot be expressed."""
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """A request of its own takes a whole row back; a replacement is then a row under a key of its own.

    The provider finds the row by its own id of it, which is known from the answer to the row, and only from there.
    """

    word: str
    """What the provider calls it: refund, cancel, delete."""
    door: "Door"
    """Where the request goes; its path may name members of the row, which then stand there: `/usage/{id}`."""
    aggregations: frozenset[Aggregation]
    instead: str
    """What is left to do where it cannot be expressed."""
    source: Source


Corrections = Amend | Deltas | TakeBack
"""What a provider lets us do about usage that it has: one of a closed set of ways, with where that was seen.

Where a way does not reach, a correction is refused for that destination, in words that say what is left to do.
A provider that cancels a row by its own id of it (Chargebee's deletion) is a `TakeBack`; one that amends a row in
place an `Amend`; one whose sums take negatives `Deltas`. Cancelling by our key (Stripe's adjustments, Orb's
deprecation) is none of these yet.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One endpoint that takes usage."""

    path: str
    """Appended to the base URL."""
    binding: type[Binding]
    link: type[Link]
    dialect: Dialect
    roles: Roles
    quantity: QuantityRule
    time: TimeRule
    method: str = "POST"
    rows: Literal["list", "one"] | tuple[str] = "list"
    """The body: a bare list, one row, or a list under the key in the tuple."""
    max_rows: int = 1
    max_bytes: int = 4_000_000
    several_measures: bool = False
    """Whether the rows that a binding makes of one event travel as one row."""
    zero: Literal["sent", "refused"] = "sent"
    """Whether an additive zero can be told to the provider; where not, it is filtered."""
    absolute: str | None = None
    """The setting that allows `kind: absolute`; `None`: the provider cannot express it."""
    dedupe: Dedupe | None = None
    """`None`: a repeat is billed again, so a lost answer is never resent."""
    key: KeyRule = KeyRule()
    refusal: Refusal = Refusal.SOME
    receipt: Receipt | None = None
    """`queued` where an acceptance promises only that the row was taken."""
    envelope: Envelope = Envelope(text=("message", "error.message", "error"), code=("code",))
    rules: tuple[Rule, ...] = ()
    rates: tuple[Rate, ...] = ()
    aggregations: frozenset[Aggregation] = frozenset({"sum", "count"})
    """Those that the vendor's meters can express."""
    counts: Literal["quantities", "rows"] = "quantities"
    """What a meter that counts comes to there: the sum of quantities, or how many rows there are, whatever they say."""
    corrections: Corrections | None = None
    """What the vendor lets us do about usage that it has. `None`: nothing that is known."""
    probe: Source | None = None
    """Where the harmless read was seen that tells whether the provider answers; `None`: none is known."""
    read_back: ReadBack | None = None
    """What usage can be read back; `None`: none."""
    inventory: Source | None = None
    """Where it was seen how the vendor lists its meters, and customers by our ids; `None`: it lists no meters."""
    customers: Source | None = None
    """Where looking a customer up by our own id was seen; `None`: it cannot be, or need not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """Everything that is known about one provider."""

    name: str
    title: str
    base_url: str
    auth: Auth
    doors: Mapping[str, Door]
    """By profile; the first is the default."""
    sources: tuple[Source, ...]
    cautions: tuple[str, ...] = ()
    """What an operator should know before trusting this vendor, a sentence each."""

    @property
    def weakest(self) -> Grade:
        """The grade of the least certain fact."""
        order: tuple[Grade, ...] = ("unverified", "docs", "code", "observed")
        return order[min(order.index(source.grade) for source in self.sources)]
