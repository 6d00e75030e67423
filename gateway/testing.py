"""Billing vendors for your own tests: a pytest plugin with one simulated vendor a fixture.

Installed with the distribution, so there is nothing to import. While a fixture is in use, whatever httpx client
talks to that vendor's real address reaches the simulator; any other address is refused by respx.

    def test_a_lost_answer_is_sent_again(simulated_flexprice):
        simulated_flexprice.fail("lost_answer")
        report_usage("acme", 12)
        assert simulated_flexprice.billed() == {("acme", "api_call"): 12}

Each is a `gateway.simulator.SimulatedProvider`: `.fail(name)`, `.refuse(key)`, `.stored`, `.billed()`, `.calls`.
Every pytest run loads this module, so it imports nothing but pytest until a fixture is used.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gateway.simulator import SimulatedProvider

__all__ = ["simulated_flexprice", "simulated_flowglad", "simulated_paygentic", "simulated_wingback"]


@pytest.fixture
def simulated_flowglad() -> "Generator[SimulatedProvider, None, None]":
    """Flowglad: whole batches, repeats of a transactionId at one meter left out of the answer."""
    with _mounted("flowglad") as provider:
        yield provider


@pytest.fixture
def simulated_paygentic() -> "Generator[SimulatedProvider, None, None]":
    """Paygentic: single events, or batches with a list of failures; repeats by idempotencyKey."""
    with _mounted("paygentic") as provider:
        yield provider


@pytest.fixture
def simulated_flexprice() -> "Generator[SimulatedProvider, None, None]":
    """Flexprice: queued batches; the newest copy of an event_id with its timestamp is billed."""
    with _mounted("flexprice") as provider:
        yield provider


@pytest.fixture
def simulated_wingback() -> "Generator[SimulatedProvider, None, None]":
    """Wingback: additive rows without any idempotency: what is sent twice is billed twice."""
    with _mounted("wingback") as provider:
        yield provider


@contextmanager
def _mounted(name: str) -> "Generator[SimulatedProvider, None, None]":
    try:
        import respx
    except ImportError:
        pytest.fail(f"simulated_{name} needs respx: pip install 'usage-gateway[testing]'", pytrace=False)
    from urllib.parse import urlsplit

    from gateway.simulator import SimulatedProvider

    provider = SimulatedProvider(name)
    address = urlsplit(provider.spec.base_url)
    with respx.mock(assert_all_called=False) as router:
        router.route(scheme=address.scheme, host=address.hostname).mock(side_effect=provider.answer)
        yield provider
