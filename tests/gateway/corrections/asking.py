"""What is asked of a whole gateway about corrections, and what its four vendors bill then."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.gateway.conftest import CONTRACT, Asking

__all__ = ["ask", "billed", "corrected", "statuses"]

BILLED = {
    "flowglad": ("sub_acme", "api_calls"),
    "paygentic": ("cus_acme", "bm_calls"),
    "flexprice": ("acme", "api_call"),
    "wingback": (CONTRACT, "API_CALLS"),
}


def billed(asking: Asking) -> dict[str, Decimal]:
    """Return what each vendor bills for the one customer and meter."""
    return {name: asking.vendors[name].billed().get(where, Decimal(0)) for name, where in BILLED.items()}


async def ask(asking: Asking, path: str, **body: Any) -> tuple[int, Any]:
    answer = await asking.client.post(path, json={"reason": "a meter ran twice", **body})
    return answer.status_code, answer.json()


async def corrected(asking: Asking, event_id: str, what: str = "void", **body: Any) -> Any:
    status, answer = await ask(asking, f"/v1/events/{event_id}/{what}", **body)
    assert 200 == status, answer
    return answer


def statuses(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one["status"] for name, one in answer["deliveries"].items()}
