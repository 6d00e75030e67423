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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_worker_that_ends_while_all_are_told_to_stop_keeps_nobody() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([sys.executable, "-c", TIMES], env=env, capture_output=True, text=True, timeout=50)
    assert str([0] * 8) == ended.stdout.splitlines()[-1], ended.stderr
