"""Every vendor stores the batch, and every answer is lost on the way back."""

from collections import Counter

from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import Service, event


def test_what_was_stored_is_billed_once_everywhere(service: Service, vendors: dict[str, SimulatedProvider]) -> None:
    for vendor in vendors.values():
        vendor.fail("lost_answer")
    vendors["paygentic_events"].fail("lost_answer", times=19)  # one event a request, so every request
    service.start()
    sent = [event(f"e{index}", index + 1) for index in range(20)]

    answer = service.send(sent)

    told = {name: Counter(one["deliveries"][name]["status"] for one in answer.json()["results"]) for name in vendors}
    assert {
        "flowglad": {"duplicate": 20},  # tells repeats by leaving them out
        "paygentic": {"accepted": 20},  # answers a repeat as it answered the first
        "paygentic_events": {"accepted": 20},
        "flexprice": {"accepted": 20},
        "wingback": {"unknown": 20},  # cannot tell repeats: parked, never sent again
    } == told
    assert (207, {"unknown"}) == (answer.status_code, {one["status"] for one in answer.json()["results"]})
    assert not [one for one in answer.json()["results"] if one["deliveries"]["flowglad"].get("unexpected")]
    for name, vendor in vendors.items():
        assert [210] == list(vendor.billed().values()), name
        assert 20 == len(vendor.stored), name
    assert 1 == vendors["wingback"].requests
