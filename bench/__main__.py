"""`python -m bench [--quick] [--only NAME ...]`: run the benchmark, print the table, keep the figures."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from bench.accept import accept, coalesce
from bench.fakes import FastProviders
from bench.flow import drain, end, today
from bench.growth import growth
from bench.handle import Failed
from bench.ids import ids
from bench.isolation import isolation
from bench.measure import Bench
from bench.redis import redis
from bench.report import keep, table
from bench.scaling import scaling

Section = Callable[[Bench], Awaitable[None]]
SECTIONS: dict[str, Section] = {
    section.__name__: section
    for section in (accept, coalesce, drain, end, isolation, today, growth, redis, scaling, ids)
}
RESULTS = Path(__file__).parent / "results"
LONGEST = {True: 150, False: 1800}
"""Seconds that a section may take, quick or not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where a section failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts, in about a minute and a half")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--folder", type=Path, help="where the ledgers are put; a real disk, or flushing costs nothing")
    given = parser.parse_args(arguments)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ledgers-", dir=given.folder or RESULTS) as ledgers:
        return uvloop.run(_run([*(given.only or SECTIONS)], Path(ledgers).resolve(), quick=given.quick))


async def _run(names: Sequence[str], ledgers: Path, *, quick: bool) -> int:
    progress, began, failed = Console(stderr=True), time.monotonic(), False
    providers = FastProviders()
    await providers.open()
    bench = Bench(quick, providers, ledgers)
    try:
        for name in names:
            start = time.monotonic()
            try:
                providers.forget()
                async with asyncio.timeout(LONGEST[quick]):
                    await SECTIONS[name](bench)
            except (Failed, AssertionError, RuntimeError, TimeoutError) as error:
                failed = True
                progress.print(f"{name}: {type(error).__name__}: {error}", style="red", markup=False)
            progress.print(f"{name}: {time.monotonic() - start:.0f} s", style="dim")
    finally:
        await providers.close()
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table(bench.figures))
    kept = keep(bench.figures, RESULTS, quick=quick, seconds=time.monotonic() - began)
    progress.print(f"kept as {kept}", style="dim")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
