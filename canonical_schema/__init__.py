"""What clients say and hear: events, statuses, errors, results. No I/O."""

from canonical_schema.errors import ErrorCode, ErrorItem, Problem
from canonical_schema.result import Receipt

__all__ = ["ErrorCode", "ErrorItem", "Problem", "Receipt"]
