"""What a run of the benchmark shares, and how turns become figures."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.fakes import FastProviders
from bench.handle import Child
from bench.load import Run, closed

__all__ = ["Bench", "Figure", "Goal", "Sample", "percentile", "posted", "ratio"]


@dataclass(frozen=True)
class Sample:
    """One turn."""

    events: int
    seconds: float
    cpu: float
    """Processor seconds of the process under test, all its threads."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cost(self) -> float:
        """Processor microseconds an event."""
        return self.cpu / self.events * 1e6


@dataclass(frozen=True)
class Goal:
    """What a number is held to."""

    sense: Literal[">=", "<="]
    bound: float
    unit: str = "x"

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:,g} {self.unit}"

    def met(self, value: float) -> bool:
        """Say whether a number keeps it."""
        return value >= self.bound if self.sense == ">=" else value <= self.bound


@dataclass
class Figure:
    """One line of the result: medians over the turns."""

    section: str
    what: str
    rate: float | None = None
    """Events a second."""
    cost: float | None = None
    """Processor microseconds an event."""
    against: str = ""
    ratio: float | None = None
    """Median of the ratios within each turn, by the clock."""
    cpu_ratio: float | None = None
    """The same by processor time, which other work disturbs less."""
    goal: Goal | None = None
    value: float | None = None
    """What the goal is about, where that is not `ratio`."""
    note: str = ""
    turns: list[Sample] = field(default_factory=list[Sample])

    @property
    def judged(self) -> float | None:
        """The number that is held against the goal."""
        return self.ratio if self.value is None else self.value


@dataclass
class Bench:
    """One run."""

    quick: bool
    providers: FastProviders
    folder: Path
    """For ledgers; removed at the end."""
    figures: list[Figure] = field(default_factory=list[Figure])
    _sets: int = 0

    def pick(self, quick: int, full: int) -> int:
        """Return the one of two counts that this run takes."""
        return quick if self.quick else full

    def prefix(self) -> str:
        """Return a prefix for a set of events that no other set has."""
        self._sets += 1
        return f"s{self._sets:x}"

    def ledger(self) -> Path:
        """Return a path for a new ledger."""
        return self.folder / f"{self.prefix()}.db"

    def add(
        self,
        section: str,
        what: str,
        turns: Sequence[Sample],
        *,
        against: str = "",
        base: Sequence[Sample] = (),
        goal: Goal | None = None,
        value: float | None = None,
        note: str = "",
    ) -> Figure:
        """Keep the figure of some turns, held against those of a baseline, turn by turn."""
        figure = Figure(
            section=section,
            what=what,
            rate=statistics.median(turn.rate for turn in turns),
            cost=statistics.median(turn.cost for turn in turns),
            against=against,
            ratio=ratio([turn.rate for turn in turns], [turn.rate for turn in base]) if base else None,
            cpu_ratio=ratio([turn.cost for turn in base], [turn.cost for turn in turns]) if base else None,
            goal=goal,
            value=value,
            note=note,
            turns=list(turns),
        )
        self.figures.append(figure)
        return figure


def ratio(upper: Iterable[float], lower: Iterable[float]) -> float:
    """Return the median of the ratios within each turn."""
    return statistics.median(one / max(other, 1e-9) for one, other in zip(upper, lower, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def posted(child: Child, requests: Sequence[bytes], events: int, connections: int) -> tuple[Sample, Run]:
    """Send requests to a service as fast as it answers. Raises RuntimeError unless it takes every event."""
    before = await child.cpu()
    run = await closed(child.port, requests, connections, patience=120)
    run.require(202)
    return Sample(events, run.seconds, await child.cpu() - before), run
