"""The configuration in use, told apart from those before it."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256

import msgspec

from gateway.configuration._model import Configuration

__all__ = ["Generation"]


@dataclass(frozen=True)
class Generation:
    """Which configuration is in use, and since when."""

    configuration: Configuration = field(repr=False)
    number: int
    since: datetime

    @cached_property
    def digest(self) -> str:
        """Eight hex digits by which two configurations can be told apart; says nothing of what is in them."""
        # As any: settings and bindings with the members that their providers add.
        dumped = self.configuration.model_dump(serialize_as_any=True, warnings=False)
        return sha256(msgspec.json.encode(dumped, order="deterministic", enc_hook=str)).hexdigest()[:8]
