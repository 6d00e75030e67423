"""What every command shares: where words go, how it ends, and the options that all have."""

import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter, validators
from rich.console import Console
from rich.text import Text

__all__ = ["CommandFailed", "ConfigFile", "Exit", "Json", "complain", "hint", "machine", "people", "say"]

Json = Annotated[bool, Parameter("--json", negative="", help="Machine output on standard output.")]
ConfigFile = Annotated[
    Path,
    Parameter("--config", validator=validators.Path(exists=True, dir_okay=False), help="The configuration, as YAML."),
]

_ENCODER = msgspec.json.Encoder(decimal_format="string")


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DIFFERENT = 3
    PARTIAL = 4
    INTERRUPTED = 130


class CommandFailed(Exception):
    """Raised to end a command with one clear message."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def people() -> Console:
    """Return the console that people read: standard error, as wide as it is, 120 where nobody can tell."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=120)


def say(message: str, style: str | None = None) -> None:
    """Tell people something. Nothing in it is taken for markup."""
    people().print(Text(message, style=style or ""), soft_wrap=True)


def hint(message: str) -> None:
    """Tell people something beside the point, quietly."""
    say(message, "dim")


def complain(message: str) -> None:
    """Tell people what went wrong, a line for each finding."""
    for line in message.splitlines() or [""]:
        people().print(Text("usage-gateway: ", style="red") + Text(line), soft_wrap=True)


def machine(body: object) -> None:
    """Write one JSON document, and a line end, to standard output."""
    sys.stdout.write(_ENCODER.encode(body).decode() + "\n")
    sys.stdout.flush()
