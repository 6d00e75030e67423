"""One write for what many small requests brought: what comes while a write is on its way shares the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gateway.ledger import AttemptRow, Change, Moved

__all__ = ["Joined", "Write"]

Write = Callable[[Sequence[Change], Sequence[AttemptRow]], Awaitable[None]]


class Joined:
    """Writes as `write` does, and returns when what was given is written, with the others' or without.

    A piece of work whose rows are answered one by one is taken apart once a write, not once a row.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[tuple[Sequence[Change], Sequence[AttemptRow], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, attempts, written))
        if self._task is None or self._task.done():  # a task of its own: a caller may be cancelled, the others wait on
            self._task = asyncio.create_task(self._run())
        await written

    async def _run(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            try:
                await self._write(
                    [one for changes, _, _ in some for one in changes], [one for _, a, _ in some for one in a]
                )
            except Moved as error:
                if len(some) == 1:
                    _tell(some[0][2], error)
                for changes, attempts, written in some if len(some) > 1 else ():
                    await self._alone(changes, attempts, written)
            except Exception as error:  # noqa: BLE001  each caller is told, and decides
                for _, _, written in some:
                    _tell(written, error)
            else:
                for _, _, written in some:
                    _tell(written, None)

    async def _alone(
        self, changes: Sequence[Change], attempts: Sequence[AttemptRow], written: asyncio.Future[None]
    ) -> None:
        """Write what one brought: where a person decided about another's, nothing was written."""
        try:
            await self._write(changes, attempts)
        except Exception as error:  # noqa: BLE001  the caller is told, and decides
            _tell(written, error)
        else:
            _tell(written, None)


def _tell(written: asyncio.Future[None], error: Exception | None) -> None:
    if written.done():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
