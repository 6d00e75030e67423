"""Whatever happens in whatever order, from door to vendor: it adds up, nothing is lost, nobody is billed twice."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from gateway.ledger import _events
from gateway.ledger._redis import batches
from tests.scenarios.operated import OnAServer, Operated

EXAMPLES = int(os.environ.get("USAGE_GATEWAY_EXAMPLES", "12"))


@pytest.fixture(autouse=True)
def from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be answered from memory that should be on the disk, or the server."""
    for module in (_events, batches):
        monkeypatch.setattr(module, "CACHED_BYTES", 0)


@pytest.mark.parametrize(("machine", "examples"), [(Operated, EXAMPLES), (OnAServer, EXAMPLES // 3)])
def test_whatever_happens_it_adds_up_and_nothing_is_lost_or_billed_twice(
    machine: type[Operated], examples: int
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
