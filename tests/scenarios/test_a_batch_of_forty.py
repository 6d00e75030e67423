"""Forty events, of which some are wrong, each in its own way, at four vendors that refuse each in its own way."""

from collections import Counter
from decimal import Decimal

from gateway.simulator import SimulatedProvider
from tests.scenarios.conftest import CONTRACT, Service, event

GOOD = [event(f"good-{index:02}", index + 1) for index in range(34)]
UNLINKED = event("unlinked", customer="nobody")
"""No link names this customer; Flexprice takes our own name for it."""
GHOST = event("ghost", customer="ghost")
"""There is a link, to a customer whom the vendors do not know; Flexprice does not look."""
UNPRICED = event("unpriced", meter="typo")
"""Flowglad has no such price, and does not say which event of the batch it means."""
POISON = event("poison")
"""Flexprice refuses the whole batch for it, and does not say for which event."""
HALF = event("half", "0.5")
"""Flowglad and Paygentic take whole numbers only."""
NAN = event("nan", "NaN")

FORTY = [*GOOD[:5], POISON, *GOOD[5:12], UNLINKED, NAN, *GOOD[12:20], UNPRICED, GHOST, *GOOD[20:27], HALF, *GOOD[27:]]

OK, NO = "accepted", "rejected"
EXPECTED: dict[str, tuple[str, dict[str, str]]] = {
    "unlinked": ("pending", {"flowglad": "blocked", "paygentic": "blocked", "flexprice": OK, "wingback": "blocked"}),
    "ghost": ("partial", {"flowglad": NO, "paygentic": NO, "flexprice": OK, "wingback": NO}),
    "unpriced": ("partial", {"flowglad": NO, "paygentic": OK, "flexprice": OK, "wingback": OK}),
    "poison": ("partial", {"flowglad": OK, "paygentic": OK, "flexprice": NO, "wingback": OK}),
    "half": ("partial", {"flowglad": NO, "paygentic": NO, "flexprice": OK, "wingback": OK}),
    "nan": ("invalid", {}),
}
WHY = {
    ("unlinked", "wingback"): "unmapped_customer",
    ("ghost", "flowglad"): "unknown_subscription",
    ("ghost", "paygentic"): "unknown_customer",
    ("ghost", "wingback"): "unknown_customer",
    ("unpriced", "flowglad"): "unknown_binding",
    ("poison", "flexprice"): "provider_rejected",
    ("half", "flowglad"): "quantity_not_representable",
    ("half", "paygentic"): "quantity_not_representable",
}


def test_every_event_gets_its_own_answer_and_every_good_one_is_billed_once(
    service: Service, vendors: dict[str, SimulatedProvider]
) -> None:
    assert len(FORTY) == 40
    del service.configuration["destinations"]["paygentic_events"]
    del service.configuration["meters"]["api_calls"]["bindings"]["paygentic_events"]
    bindings = dict(service.configuration["meters"]["api_calls"]["bindings"])
    service.configuration["meters"]["typo"] = {"bindings": {**bindings, "flowglad": {"price_slug": "no_such_price"}}}
    vendors["flowglad"].known_customers, vendors["flowglad"].known_meters = {"sub_acme"}, {"api_calls"}
    vendors["paygentic"].known_customers = {"cus_acme"}
    vendors["wingback"].known_customers = {CONTRACT}
    vendors["flexprice"].refuse("poison")
    service.start()

    answer = service.send(FORTY)
    assert answer.status_code == 207
    result = answer.json()

    # Each event, in the order sent, with its status at every destination.
    assert [sent["id"] for sent in FORTY] == [one["id"] for one in result["results"]]
    everywhere = dict.fromkeys(bindings, OK)
    for one in result["results"]:
        status, deliveries = EXPECTED.get(one["id"], ("delivered", everywhere))
        assert status == one["status"], one
        assert deliveries == {name: delivery["status"] for name, delivery in one["deliveries"].items()}, one
    by_id = {one["id"]: one for one in result["results"]}
    for (event_id, destination), code in WHY.items():
        assert code == by_id[event_id]["deliveries"][destination]["error"]["code"]
    counts = Counter(one["status"] for one in result["results"])
    assert {"total": 40, **counts} == {name: count for name, count in result["summary"].items() if count}

    # What each vendor would bill: every event that it was said to have, once, with its quantity.
    quantities = {str(sent["id"]): Decimal(str(sent["quantity"])) for sent in FORTY}
    for name in bindings:
        taken = [
            event_id
            for event_id, one in by_id.items()
            if name in one["deliveries"] and one["deliveries"][name]["status"] == OK
        ]
        assert sorted(taken) == sorted(row.key for row in vendors[name].stored)
        assert sum(quantities[event_id] for event_id in taken) == sum(vendors[name].billed().values())

    # The same again sends nothing, and is told the same.
    calls = {name: vendor.requests for name, vendor in vendors.items()}
    again = service.send(FORTY, wait=1).json()
    for first, second in zip(result["results"], again["results"], strict=True):
        assert {**first, "replayed": first["stored"]} == second
    assert calls == {name: vendor.requests for name, vendor in vendors.items()}

    # Other content under the same ids is refused, event by event.
    changed = service.send([{**sent, "quantity": 99} for sent in FORTY])
    assert changed.status_code == 207, "the one that was never stored is stored now"
    assert {"conflict": 39, "delivered": 1} == Counter(one["status"] for one in changed.json()["results"])
