"""Names that nobody has given before: random, drawn from the system many at a time."""

import os
from collections import deque

__all__ = ["token"]

_BYTES = 16
_AT_ONCE = 256

_drawn: deque[str] = deque()


def token() -> str:
    """Return 32 hex digits of randomness. To be called from one thread."""
    if not _drawn:
        digits = os.urandom(_BYTES * _AT_ONCE).hex()
        _drawn.extend(digits[at : at + 2 * _BYTES] for at in range(0, len(digits), 2 * _BYTES))
    return _drawn.popleft()
