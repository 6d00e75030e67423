"""Questions that a provider can be asked. Generators, so free of I/O.

An ask yields requests and is sent what came back, a reply or a fault, one at a time, until it returns its answer. An
adapter has the method that asks or it has not; none has a default that pretends. What the answers of a door are worth
stands in its declaration.
"""

from collections.abc import Generator
from typing import TypeVar

from adapters._spec import Fault, Reply, Request

__all__ = ["Ask"]

T = TypeVar("T")
Ask = Generator[Request, Reply | Fault, T]
"""Yields requests, is sent what came back, returns the answer. Raises nothing for what a provider says."""
