"""The other end of a process under test."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.setting import FOUR

__all__ = ["Child", "Failed", "spawned"]


class Failed(Exception):
    """Raised when a process under test could not do what it was told."""


class Child:
    """A process under test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.port = 0
        self.opened: float = 0.0
        """Seconds that opening took: the ledger's, for a service."""

    async def begin(self) -> None:
        """Wait until it is ready."""
        said = await self._heard()
        self.port, self.opened = said.get("port", 0), said.get("seconds", 0.0)

    async def ask(self, what: str, **given: Any) -> Any:
        """Give a command and return its answer. Raises Failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **given}).encode() + b"\n")
        return await self._heard()

    async def cpu(self) -> float:
        """Return the processor seconds of all its threads so far."""
        return (await self.ask("usage"))["cpu"]

    def kill(self) -> None:
        """Stop it where it stands."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """Stop it, in good order where it still listens."""
        try:
            await asyncio.wait_for(self.ask("stop"), 60)
            await asyncio.wait_for(self._process.wait(), 10)
        except (Failed, TimeoutError, OSError):
            self.kill()
            await self._process.wait()

    async def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise Failed("the process under test is gone")
        said = json.loads(line)
        if isinstance(said, dict) and "failed" in said:
            raise Failed(said["failed"])
        return said


@asynccontextmanager
async def spawned(
    role: str,
    url: str,
    *,
    kind: str = "held",
    ledger: Path | str | None = None,
    destinations: Sequence[str] = FOUR,
    in_flight: int | None = None,
    patience: str | None = None,
    serve: bool = True,
    one_by_one: bool = False,
) -> AsyncGenerator[Child]:
    """Run a process under test. `url` is where the providers are."""
    given = {
        "role": role,
        "url": url,
        "kind": kind,
        "ledger": str(ledger or "unused.db"),
        "destinations": list(destinations),
        "in_flight": in_flight,
        "patience": patience,
        "serve": serve,
        "one_by_one": one_by_one,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.child",
        json.dumps(given),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        cwd=Path(__file__).parent.parent,
    )
    child = Child(process)
    try:
        await child.begin()
        yield child
    except BaseException:
        child.kill()  # it may be in the middle of something, and nobody asks for the result
        raise
    finally:
        await child.end()
