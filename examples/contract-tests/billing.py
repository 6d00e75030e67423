"""A product's own billing code, as many have it: httpx, two vendors, a few retries. No gateway in sight."""

from collections.abc import Callable
from datetime import UTC, datetime

import httpx

FLEXPRICE = "https://us.api.flexprice.io/v1/events/bulk"
FLOWGLAD = "https://app.flowglad.com/api/v1/usage-events/bulk"
ATTEMPTS = 4


class Refused(Exception):
    """The vendor will not take this, however often it is sent."""


def report_call(event_id: str, customer: str, tokens: int, at: datetime, pause: Callable[[float], None]) -> None:
    """Report one call to Flexprice. Id and time are fixed before the first attempt: together they tell repeats."""
    event = {
        "event_id": event_id,
        "event_name": "llm_call",
        "external_customer_id": customer,
        "timestamp": at.astimezone(UTC).isoformat(),
        "properties": {"quantity": str(tokens)},
    }
    _send(FLEXPRICE, {"x-api-key": "fp_key"}, {"events": [event]}, pause)


def report_seats(event_id: str, subscription: str, seats: int, pause: Callable[[float], None]) -> bool:
    """Report seats to Flowglad. Returns whether they are new: it leaves out what it had before."""
    event = {"transactionId": event_id, "subscriptionId": subscription, "priceSlug": "seats", "amount": seats}
    answer = _send(FLOWGLAD, {"authorization": "Bearer fg_key"}, {"usageEvents": [event]}, pause)
    return bool(answer.json()["usageEvents"])


def _send(url: str, headers: dict[str, str], body: object, pause: Callable[[float], None]) -> httpx.Response:
    for attempt in range(ATTEMPTS):
        wait = 2.0**attempt
        try:
            answer = httpx.post(url, json=body, headers=headers, timeout=10)
        except httpx.TransportError:
            pause(wait)
            continue
        if answer.is_success:
            return answer
        if answer.status_code != 429 and answer.status_code < 500:
            raise Refused(f"{answer.status_code}: {answer.text}")
        pause(float(answer.headers.get("retry-after", wait)))
    raise TimeoutError(f"{url} did not take it in {ATTEMPTS} attempts")
