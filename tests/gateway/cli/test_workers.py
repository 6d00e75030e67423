"""Workers under one process: whoever is told to stop does, also while one of them is started again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = """
import os, signal, time
from gateway.cli._workers import supervised

def serve(index):
    if index == 0:  # it ends in the very moment in which all of them are told to stop
        os.kill(os.getppid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return 0

print([supervised(3, serve, print) for _ in range(8)])
"""

FAILS = """
import os, signal, sys, time
from gateway.cli import _workers

_workers.BRIEF = _workers.PAUSE = 0.1

def serve(index):
    if index == 1:
        time.sleep(60)
    with open(sys.argv[1], "ab+") as begun:
        begun.write(b".")
        times = begun.tell()
    if times == 1:  # it is killed once it has served for a while
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if times < 5:  # the ledger is away
        return 1
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)

print(_workers.supervised(2, serve, print))
"""

BEGINS = """
import os, signal, sys, time
from gateway.cli._workers import supervised

def serve(index):
    with open(sys.argv[1], "ab+") as begun:
        begun.write(b".")
        times = begun.tell()
    if times == 1:
        os.kill(os.getppid(), signal.SIGHUP)
        time.sleep(0.5)  # what a worker needs takes a while to import
    heard = signal.SIGHUP in signal.sigpending()
    os.kill(os.getppid(), signal.SIGTERM)
    return 0 if heard else 1

print(supervised(1, serve, lambda: None))
"""

NEVER = """
from gateway.cli._workers import supervised
print(supervised(2, lambda index: 1, print))
"""

forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")


def said(program: str, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50)
    return (ended.stdout.splitlines() or [ended.stderr])[-1]


@forked
def test_a_worker_that_ends_while_all_are_told_to_stop_keeps_nobody() -> None:
    assert str([0] * 8) == said(TIMES)


@forked
def test_a_worker_that_cannot_begin_again_is_tried_until_it_can_and_ends_nobody_else(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    assert ("0", 5) == (said(FAILS, str(begun)), begun.stat().st_size)


@forked
def test_a_worker_that_begins_keeps_what_it_is_told_until_it_can_hear_it(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    assert ("0", 1) == (said(BEGINS, str(begun)), begun.stat().st_size)


@forked
def test_workers_that_cannot_begin_at_all_end_the_service() -> None:
    assert "1" == said(NEVER)
