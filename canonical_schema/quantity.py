"""Exact decimals: which ones are taken, and how they are written.

A quantity is a number by JSON's grammar, as a JSON number and as a string alike, so `NaN`, `1_000`, `+1` and
` 1` are none. It fits when, in scientific notation (one digit before the point), it has at most 38 digits and an
exponent of -38 to 38: 1e-38 to 9.99...e38 in size. Trailing zeros do not count as digits, so it is the
value that fits or not, however it is spelled; a zero may be written with up to 75 decimal places.
"""

import re
from decimal import Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow, Subnormal

__all__ = ["InvalidQuantity", "parse_quantity", "plain", "to_quantity"]

NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
"""JSON's grammar of a number, as a regular expression without anchors."""

_NUMBER = re.compile(NUMBER).fullmatch

# A context that traps whatever would change the value decides the limits in one call, and never builds
# the number that a hostile exponent stands for.
_EXACT = Context(prec=38, Emax=38, Emin=-38, clamp=0, traps=[Clamped, Inexact, InvalidOperation, Overflow, Subnormal])


class InvalidQuantity(ValueError):
    """Raised when something is not a quantity; the message says what one is, and never shows the value."""


def parse_quantity(text: str) -> Decimal:
    """Return the exact value of a decimal string, with the digits that were written.

    A negative zero loses its sign; beyond 38 digits trailing zeros are dropped.
    """
    if _NUMBER(text) is None:
        raise InvalidQuantity('must be a finite decimal, written like "12.5" or "1e-3"')
    try:
        return _EXACT.plus(_EXACT.create_decimal(text))
    except DecimalException:
        raise _beyond() from None


def to_quantity(value: object) -> Decimal:
    """Return the exact value of a string, an int or a Decimal.

    A float is refused: it has lost digits already. So is a boolean.
    """
    try:
        if isinstance(value, Decimal):
            if not value.is_finite():
                raise InvalidQuantity("must be a finite decimal")
            return _EXACT.plus(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return _EXACT.create_decimal(value)
    except DecimalException:
        raise _beyond() from None
    if isinstance(value, str):
        return parse_quantity(value)
    raise InvalidQuantity("must be a finite decimal, as a JSON number or a string")


def plain(value: Decimal) -> str:
    """Return every digit in positional notation, without exponent: `0.00001`, never `1E-5`.

    A zero has no sign. Raises InvalidQuantity for what is not finite.
    """
    if not value.is_finite():
        raise InvalidQuantity("must be a finite decimal")
    return format(value.copy_abs() if value.is_zero() else value, "f")


def _beyond() -> InvalidQuantity:
    return InvalidQuantity("must be a finite decimal of at most 38 significant digits, with an exponent of -38 to 38")
