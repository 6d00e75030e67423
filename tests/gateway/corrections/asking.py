"""What is asked of a whole gateway about corrections, and what its four vendors bill then."""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    """Correct an event, after asking what that would do: it does just that."""
    path, ids = f"/v1/events/{event_id}/{what}", await known(asking, event_id)
    before = await taken_back(asking, ids)
    _, foreseen = await ask(asking, path, **{**body, "dry_run": True})
    status, answer = await ask(asking, path, **body)
    assert 200 == status, answer
    if "dry_run" in body or answer["replayed"]:
        return answer
    after = await taken_back(asking, ids)
    assert foreseen["deliveries"].keys() == answer["deliveries"].keys()
    for name, one in foreseen["deliveries"].items():
        does, told = one["does"], answer["deliveries"][name]
        if does == "waits" or (told["status"] == "pending" and told["shadow"]):  # how that ends is not waited for
            continue
        assert told["status"] in BECOMES.get(does, {"accepted", "unknown"}), (name, one, told)
        if told["status"] == "rejected":
            assert one["error"]["code"] == told["error"]["code"]
        assert (after[name] > before[name]) is (does == "taken back" or "taken_back" in one), (name, one)
    return answer


BECOMES = {
    "nothing": {"filtered"},
    "taken back": {"filtered"},
    "unsupported": {"rejected"},
    "rejected": {"rejected"},
    "blocked": {"blocked"},
}
"""What a correction is, once it did what was foreseen; anything else is sent."""


async def known(asking: Asking, event_id: str) -> list[str]:
    """Return the id of an event, and those of its corrections."""
    return [event_id, *(one["id"] for one in (await asking.get(f"/v1/events/{event_id}")).get("corrections", ()))]


async def taken_back(asking: Asking, ids: Sequence[str]) -> Counter[str]:
    """Return how many of some events were taken back, by destination."""
    found = [(await asking.get(f"/v1/events/{one}"))["deliveries"] for one in ids]
    return Counter(name for some in found for name, one in some.items() if one.get("reason") == "voided")


def statuses(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one["status"] for name, one in answer["deliveries"].items()}
