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

log = structlog.get_logger("gateway.serve")

BRIEF = 5.0
"""Seconds: a worker that fails sooner fails again, and the service ends with what it said."""


def supervised(workers: int, serve: Callable[[int], int]) -> int:
    """Run `serve` in so many processes until told to stop; return how it ended.

    A worker that ends by itself is started again. Call it before there are threads or an event loop.
    """
    return _Supervisor(serve).run(workers)


class _Supervisor:
    def __init__(self, serve: Callable[[int], int]) -> None:
        self._serve = serve
        self._began: dict[int, tuple[int, float]] = {}
        """By process: which worker it is, and since when."""
        self._told: int | None = None

    def run(self, workers: int) -> int:
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, self._hear)
        for index in range(workers):
            self._start(index)
        worst = 0
        while self._began:
            process, status = os.waitpid(-1, 0)
            if process not in self._began:
                continue
            index, began = self._began.pop(process)
            code = os.waitstatus_to_exitcode(status)
            if self._told is not None:
                worst = max(worst, code)  # one that a signal ended, ours or another, has nothing to say
                continue
            log.error("worker.ended", worker=index, code=code)
            if code > 0 and time.monotonic() - began < BRIEF:
                worst = code
                self._hear(signal.SIGTERM, None)
            else:
                self._start(index)
        return worst if worst or self._told != signal.SIGINT else Exit.INTERRUPTED

    def _start(self, index: int) -> None:
        process = os.fork()
        if process:
            self._began[process] = index, time.monotonic()
            return
        code = 1
        try:
            for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(one, signal.SIG_DFL)
            if sys.platform == "linux":  # a worker does not outlive the one who watches it
                ctypes.CDLL(None).prctl(1, signal.SIGTERM)
            code = self._serve(index)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _hear(self, sig: int, _: FrameType | None) -> None:
        if sig != signal.SIGHUP:
            self._told = sig
        for process in self._began:
            os.kill(process, sig)
