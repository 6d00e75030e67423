"""Looking a customer up: what each provider's answer comes to, and that of several none is chosen."""

import json
from typing import Any

import pytest

from adapters import AnyAdapter, Fault, FaultKind, Reply, provider
from adapters._customers import CanLookUp, LookedUp, Match

CONTRACT = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"
PAYGENTIC = {"profile": "usage-v0", "merchant_id": "org_1"}


def adapter(name: str, **settings: Any) -> AnyAdapter:
    made = provider(name)
    return made(made.Settings.model_validate({"api_key": "secret", **settings}))


FLOWGLAD, WINGBACK, PAYGENTIC_V0 = adapter("flowglad"), adapter("wingback"), adapter("paygentic", **PAYGENTIC)


def asked(one: AnyAdapter, customer: str, answer: Reply | Fault) -> tuple[str, LookedUp]:
    """Return the address that is asked, and what the answer comes to."""
    assert isinstance(one, CanLookUp)
    looking = one.look_up(customer)
    request = next(looking)
    assert "GET" == request.method
    try:
        looking.send(answer)
    except StopIteration as ended:
        return request.url.removeprefix(one.base_url), ended.value
    raise AssertionError("it asks more than once")


def said(status: int, body: Any) -> Reply:
    return Reply(status=status, body=json.dumps(body).encode())


def current(*ids: str, status: str = "active") -> list[dict[str, str]]:
    return [{"id": one, "status": status} for one in ids]


@pytest.mark.parametrize(
    ("one", "path", "body", "link"),
    [
        (
            FLOWGLAD,
            "/customers/a%2Fb/billing",
            {"currentSubscriptions": current("sub_1")},
            {"subscription_id": "sub_1"},
        ),
        (
            FLOWGLAD,
            "/customers/a%2Fb/billing",
            {"subscriptions": [*current("sub_0", status="canceled"), *current("sub_1")]},
            {"subscription_id": "sub_1"},
        ),
        (
            WINGBACK,
            "/v1/c/customer?customer_reference=a%2Fb&limit=100",
            {"hits": [{"id": CONTRACT, "customer_reference": "a/b"}, {"id": "x", "customer_reference": "a/bc"}]},
            {"customer_id": CONTRACT},
        ),
        (
            PAYGENTIC_V0,
            "/v0/customers?organizationId=org_1&externalId=a%2Fb&limit=10",
            {"object": "list", "data": [{"id": "cus_1", "externalId": "a/b"}, {"id": "cus_2", "externalId": "A/B"}]},
            {"customer_id": "cus_1"},
        ),
    ],
)
def test_the_one_customer_is_found_by_our_own_id(one: AnyAdapter, path: str, body: Any, link: dict[str, str]) -> None:
    assert (path, LookedUp(match=Match.FOUND, link=link)) == asked(one, "a/b", said(200, body))


@pytest.mark.parametrize(
    ("one", "body", "ids"),
    [
        (FLOWGLAD, {"currentSubscriptions": current("sub_2", "sub_1")}, "sub_1, sub_2"),
        (
            WINGBACK,
            {"hits": [{"id": one, "customer_reference": "acme"} for one in ("Cust_2", "Cust_1")]},
            "Cust_1, Cust_2",
        ),
        (PAYGENTIC_V0, {"data": [{"id": one, "externalId": "acme"} for one in ("cus_2", "cus_1")]}, "cus_1, cus_2"),
    ],
)
def test_of_several_none_is_chosen_and_all_are_named(one: AnyAdapter, body: Any, ids: str) -> None:
    _, found = asked(one, "acme", said(200, body))
    assert (Match.AMBIGUOUS, {}) == (found.match, found.link)
    assert f"the provider has several ({ids}): put a link with the " in found.message


@pytest.mark.parametrize(
    ("one", "answer"),
    [
        (FLOWGLAD, said(404, {"code": "NOT_FOUND"})),
        (FLOWGLAD, said(200, {"currentSubscriptions": []})),
        (FLOWGLAD, said(200, {"currentSubscriptions": current("sub_1", status="canceled")})),
        (WINGBACK, said(200, {"hits": [{"id": CONTRACT, "customer_reference": "acme-2"}]})),
        (PAYGENTIC_V0, said(200, {"data": []})),
    ],
)
def test_whom_the_provider_does_not_know_is_absent(one: AnyAdapter, answer: Reply) -> None:
    assert Match.ABSENT is asked(one, "acme", answer)[1].match


@pytest.mark.parametrize("one", [FLOWGLAD, WINGBACK, PAYGENTIC_V0], ids=["flowglad", "wingback", "paygentic"])
@pytest.mark.parametrize(
    "answer",
    [
        Fault(kind=FaultKind.NO_ANSWER, name="ReadTimeout"),
        said(500, {"x": 1}),
        said(401, {}),
        Reply(status=404, body=b"<html>"),
        said(404, {"message": "no Route matched with those values"}),
        said(404, "Not Found"),
        Reply(status=200, body=b"<html>"),
        said(200, {"data": 3, "hits": 3, "currentSubscriptions": 3}),
        said(200, []),
    ],
    ids=str,
)
def test_an_answer_that_does_not_tell_claims_nothing(one: AnyAdapter, answer: Reply | Fault) -> None:
    assert Match.UNTOLD is asked(one, "acme", answer)[1].match


@pytest.mark.parametrize(
    ("one", "body"),
    [
        (WINGBACK, {"hits": [{"id": CONTRACT, "customer_reference": "acme"}], "total": 101}),
        (WINGBACK, {"hits": [{"id": CONTRACT, "customer_reference": "acme"}], "total": "101"}),
        (WINGBACK, {"hits": [{"id": CONTRACT, "customer_reference": "acme"}] * 100}),
        (PAYGENTIC_V0, {"data": [{"id": "cus_1", "externalId": "acme"}], "pagination": {"total": 11}}),
        (PAYGENTIC_V0, {"data": [{"id": f"cus_{n}", "externalId": "other"} for n in range(10)]}),
    ],
)
def test_where_more_match_than_are_shown_nothing_is_claimed(one: AnyAdapter, body: Any) -> None:
    message = "more customers match than one answer holds"
    assert LookedUp(match=Match.UNTOLD, message=message) == asked(one, "acme", said(200, body))[1]


@pytest.mark.parametrize("odd", [7, None, "", {}])
@pytest.mark.parametrize(
    ("one", "under", "row"),
    [
        (FLOWGLAD, "currentSubscriptions", {"status": "active"}),
        (WINGBACK, "hits", {"customer_reference": "acme"}),
        (PAYGENTIC_V0, "data", {"externalId": "acme"}),
    ],
)
def test_where_one_that_matches_cannot_be_named_nothing_is_claimed(
    one: AnyAdapter, under: str, row: dict[str, str], odd: object
) -> None:
    for body in ({under: [{**row, "id": "it_1"}, {**row, "id": odd}]}, {under: [{**row, "id": odd}]}):
        assert Match.UNTOLD is asked(one, "acme", said(200, body))[1].match


def test_what_is_declared_is_what_can_be_asked() -> None:
    for one in (FLOWGLAD, WINGBACK, PAYGENTIC_V0):
        assert one.door.customers is not None
    assert adapter("flexprice").door.customers is None
    assert adapter("paygentic").door.customers is None, "its own id is the customer's"
