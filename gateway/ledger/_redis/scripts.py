"""The scripts that run in the server: each is `common.lua` and a file of its own, known by its digest."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Literal

__all__ = ["Script", "script"]

Manner = Literal["", "allow-oom", "no-writes"]

# What lets work go must go on where there is no room: it is what makes room. What takes work in must not.
_MANNERS: dict[str, Manner] = {
    "record": "",
    "keep": "",
    "intend": "allow-oom",
    "settle": "allow-oom",
    "confirm": "allow-oom",
    "hold": "allow-oom",
    "release": "allow-oom",
    "route": "",
    "trim": "allow-oom",
    "forget": "allow-oom",
    "erase": "allow-oom",
    "unname": "allow-oom",
    "begin": "allow-oom",
    "skip": "allow-oom",
    "put": "",
    "beat": "allow-oom",
    "lease": "allow-oom",
    "spend": "allow-oom",
    "stand": "allow-oom",
    "take": "no-writes",
    "walk": "no-writes",
    "look": "no-writes",
    "depth": "no-writes",
    "bodies": "no-writes",
    "due": "no-writes",
    "documents": "no-writes",
    "overdue": "no-writes",
    "trimmable": "no-writes",
}


@dataclass(frozen=True, slots=True)
class Script:
    """One script."""

    name: str
    text: bytes
    sha: str
    writes: bool


@cache
def script(name: str) -> Script:
    """Return a script by the name of its file."""
    manner = _MANNERS[name]
    here = files("gateway.ledger._redis")
    flags = f" flags={manner}" if manner else ""
    body = "\n".join(here.joinpath(f"{part}.lua").read_text("utf-8") for part in ("common", name))
    text = f"#!lua{flags}\n{body}".encode()
    return Script(name, text, sha1(text, usedforsecurity=False).hexdigest(), manner != "no-writes")
