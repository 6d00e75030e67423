"""Scalars as text, for providers whose dimensions and metadata are strings."""

from collections.abc import Mapping
from decimal import Decimal

from adapters._values import Scalar

__all__ = ["texts"]


def texts(properties: Mapping[str, Scalar]) -> dict[str, str]:
    """Return every property as a string: `true`, `12.5`, never an exponent."""
    return {name: _text(value) for name, value in properties.items()}


def _text(value: Scalar) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)
