"""`GET /v1/destinations`: how each destination is doing, and what its provider can do."""

from typing import Any

from canonical_schema import format_time
from gateway.describing.capabilities import capabilities
from gateway.ledger import QueueDepth
from gateway.service import Gateway
from gateway.times import from_micros, to_micros

__all__ = ["described"]


async def described(gateway: Gateway) -> list[dict[str, Any]]:
    """Return every configured destination: mode, health, queue, last error, declared capabilities."""
    depths = await gateway.ledger.depth()
    now = to_micros(gateway.clock.now())
    made: list[dict[str, Any]] = []
    for name, destination in gateway.catalogue.destinations.items():
        lane, depth = gateway.lanes.get(name), depths.get(name, QueueDepth())
        one: dict[str, Any] = {
            "name": name,
            "provider": destination.provider,
            "mode": destination.mode,
            "required": destination.required,
            "health": "off" if lane is None else _health(lane.pace.refused, lane.pace.faults),
            "queue": {
                "ready": depth.ready,
                "sending": depth.sending,
                "blocked": depth.blocked,
                "oldest_seconds": 0 if depth.oldest is None else max(0, (now - depth.oldest) // 1_000_000),
            },
            "capabilities": capabilities(destination.adapter.spec, destination.adapter.door),
        }
        for field, since in (("oldest_at", depth.oldest), ("deadline", depth.deadline)):
            if since is not None:
                one["queue"][field] = format_time(from_micros(since))
        if lane is not None:
            for field, when in (
                ("last_success_at", lane.health.last_success_at),
                ("last_error_at", lane.health.last_error_at),
                ("next_attempt_at", lane.pace.not_before),
            ):
                if when is not None:
                    one[field] = format_time(when)
            if (key := gateway.key(name)) is not None:
                one["credentials"] = {"using": key}
            one["breaker"] = lane.pace.breaker
            one["window"] = int(lane.pace.window)
            if lane.health.last_error is not None:
                one["last_error"] = lane.health.last_error
        made.append(one)
    return made


def _health(blocked: bool, failures: int) -> str:
    return "blocked" if blocked else "failing" if failures else "ok"
