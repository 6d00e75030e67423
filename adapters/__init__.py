"""What each provider says and hears: one file a provider, data and one pure translation. No I/O."""

from adapters._base import Adapter, AnyAdapter, encode_row, provider, providers
from adapters._models import Binding, Link, Settings
from adapters._settle import settle
from adapters._spec import (
    Dedupe,
    Door,
    Fault,
    FaultKind,
    Measure,
    Outcome,
    ProviderSpec,
    QuantityRule,
    Rate,
    Reply,
    Request,
    Row,
    Rule,
    Sent,
    Source,
    State,
    Usage,
)

__all__ = [
    "Adapter",
    "AnyAdapter",
    "Binding",
    "Dedupe",
    "Door",
    "Fault",
    "FaultKind",
    "Link",
    "Measure",
    "Outcome",
    "ProviderSpec",
    "QuantityRule",
    "Rate",
    "Reply",
    "Request",
    "Row",
    "Rule",
    "Sent",
    "Settings",
    "Source",
    "State",
    "Usage",
    "encode_row",
    "provider",
    "providers",
    "settle",
]
