"""The vendors' bad days, without the vendors: every fixture is a stateful double at the vendor's real address."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from billing import Refused, report_call, report_seats

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def no_pause(_: float) -> None:
    """Tests have no time to wait."""


def test_a_call_is_billed(simulated_flexprice):
    report_call("call_1", "acme", 1200, AT, no_pause)
    assert simulated_flexprice.billed() == {("acme", "llm_call"): Decimal(1200)}


def test_a_lost_answer_is_not_billed_twice(simulated_flexprice):
    simulated_flexprice.fail("lost_answer")
    report_call("call_1", "acme", 1200, AT, no_pause)
    assert [call.status for call in simulated_flexprice.calls] == [504, 202]
    assert simulated_flexprice.billed() == {("acme", "llm_call"): Decimal(1200)}


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "timeout", "half_answer", "refused"])
def test_a_broken_connection_is_not_billed_twice(simulated_flexprice, fault):
    simulated_flexprice.fail(fault, times=2)
    report_call("call_1", "acme", 1200, AT, no_pause)
    assert simulated_flexprice.billed() == {("acme", "llm_call"): Decimal(1200)}


def test_a_throttled_request_waits_as_long_as_the_vendor_says(simulated_flexprice):
    simulated_flexprice.fail("throttled", retry_after=30)
    pauses = []
    report_call("call_1", "acme", 1200, AT, pauses.append)
    assert pauses == [30.0]
    assert len(simulated_flexprice.stored) == 1


def test_seats_that_were_reported_before_are_not_new(simulated_flowglad):
    assert report_seats("seats_1", "sub_1", 5, no_pause)
    assert not report_seats("seats_1", "sub_1", 5, no_pause)
    assert simulated_flowglad.billed() == {("sub_1", "seats"): Decimal(5)}


def test_seats_below_one_are_refused_by_the_vendor(simulated_flowglad):
    with pytest.raises(Refused, match="400"):
        report_seats("seats_1", "sub_1", 0, no_pause)
    assert simulated_flowglad.stored == []


def test_both_vendors_in_one_test(simulated_flexprice, simulated_flowglad):
    report_call("call_1", "acme", 1, AT, no_pause)
    report_seats("seats_1", "sub_1", 1, no_pause)
    assert len(simulated_flexprice.calls) == len(simulated_flowglad.calls) == 1
