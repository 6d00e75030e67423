"""Several processes that serve one socket: started, told what the parent is told, started again when they end."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import structlog

from gateway.cli._out import Exit

__all__ = ["supervised"]

log = structlog.get_logger()

BRIEF = 5.0
"""Seconds: where none lasted longer, one that fails fails again, and the service ends with what it said."""
PAUSE = 2.0
"""Seconds before one is started again that failed so soon where others lasted: its ledger may be away."""

_HEARD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def supervised(workers: int, serve: Callable[[int], int], reread: Callable[[], None]) -> int:
    """Run `serve` in so many processes until told to stop; return how it ended.

    A worker that ends by itself is started again, and then is what this process is: `reread` is called here at each
    SIGHUP before the workers hear it. Call it before there are threads or an event loop.
    """
    return _Supervisor(serve, reread).run(workers)


class _Supervisor:
    def __init__(self, serve: Callable[[int], int], reread: Callable[[], None]) -> None:
        self._serve = serve
        self._reread = reread
        self._began: dict[int, tuple[int, float]] = {}
        """By process: which worker it is, and since when."""
        self._told: int | None = None
        self._worst = 0
        self._lasted = False
        """Whether some worker did its work for a while."""

    def run(self, workers: int) -> int:
        # Signals are taken one by one, where all workers are known: one that came between a worker's end and its
        # successor's start would reach neither.
        signal.signal(signal.SIGCHLD, _woken)  # what is ignored wakes nobody
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        for index in range(workers):
            self._start(index)
        while self._began:
            heard = signal.sigwait(_HEARD)
            if heard == signal.SIGCHLD:
                self._look()
            else:
                self._tell(heard)
        return self._worst if self._worst or self._told != signal.SIGINT else Exit.INTERRUPTED

    def _look(self) -> None:
        """See which workers have ended, and start those again that nobody told to."""
        for process in tuple(self._began):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                self._ended(*self._began.pop(process), os.waitstatus_to_exitcode(status))

    def _ended(self, index: int, began: float, code: int) -> None:
        if self._told is not None:
            self._worst = max(self._worst, code)  # one that a signal ended, ours or another, has nothing to say
            return
        log.error("worker.ended", worker=index, code=code)
        now = time.monotonic()
        self._lasted = self._lasted or any(now - since >= BRIEF for since in (began, *self._since()))
        if code <= 0 or now - began >= BRIEF:
            self._start(index)
        elif self._lasted:
            self._start(index, PAUSE)
        else:
            self._worst = code
            self._tell(signal.SIGTERM)

    def _since(self) -> list[float]:
        return [since for _, since in self._began.values()]

    def _start(self, index: int, pause: float = 0) -> None:
        process = os.fork()
        if process:
            self._began[process] = index, time.monotonic() + pause
            return
        code = 1
        try:
            for one in _HEARD:
                signal.signal(one, signal.SIG_DFL)
            # A SIGHUP is kept for whoever hears it once the worker is there: as it begins it would end it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD - {signal.SIGHUP})
            if sys.platform == "linux":  # a worker does not outlive the one who watches it
                ctypes.CDLL(None).prctl(1, signal.SIGTERM)
            time.sleep(pause)
            code = self._serve(index)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _tell(self, sig: int) -> None:
        if sig == signal.SIGHUP:
            self._reread()
        else:
            self._told = sig
        for process in self._began:  # one that has ended is still there until it is looked for
            os.kill(process, sig)


def _woken(_: int, __: FrameType | None) -> None:
    """Do nothing: the signal is waited for."""
