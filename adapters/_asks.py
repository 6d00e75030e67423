"""Questions that a provider can be asked. Generators, so free of I/O.

An ask yields requests and is sent what came back, a reply or a fault, one at a time, until it returns its answer. An
adapter has the method that asks or it has not; none has a default that pretends. What the answers of a door are worth
stands in its declaration.
"""

from collections.abc import Generator
from typing import Protocol, TypeVar, runtime_checkable

from adapters._values import Fault, Reply, Request

__all__ = ["Ask", "CanProbe"]

T = TypeVar("T")
Ask = Generator[Request, Reply | Fault, T]
"""Yields requests, is sent what came back, returns the answer. Raises nothing for what a provider says."""


@runtime_checkable
class CanProbe(Protocol):
    """Can ask something that changes nothing, to hear whether the provider answers; `Door.probe` has the source."""

    def probe(self) -> Ask[Reply | Fault]:
        """Ask with one request, and return what came back as it came: a refusal is an answer, too."""
        ...
