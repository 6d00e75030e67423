"""The shapes and words of an answer are the ones that the public face promises."""

from canonical_schema import ErrorCode, EventStatus, Summary
from canonical_schema import __all__ as offered


def test_a_summary_counts_every_status_and_the_total() -> None:
    assert {"total", *EventStatus} == set(Summary.__annotations__)


def test_the_error_codes_are_these() -> None:
    promised = (
        "invalid_event invalid_request not_found method_not_allowed unsupported_media_type payload_too_large "
        "ledger_unavailable unknown_meter unmapped_customer unknown_customer unknown_subscription unknown_binding "
        "quantity_not_representable outside_time_window unsupported conflict unauthorized forbidden rate_limited "
        "provider_unavailable timeout protocol_error provider_rejected expired"
    )
    assert promised.split() == [code.value for code in ErrorCode]


def test_the_package_offers_each_name_once() -> None:
    assert sorted(set(offered)) == sorted(offered)
