"""What is kept beside events: by kind, tenant and name, all of a call or nothing. For every backend."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import LedgerUnavailable
from gateway.ledger import AuditRow, Document, Ledger
from tests.gateway.ledger.conftest import Store, events, opened, recorded


def document(name: str, body: bytes | None = b"{}", kind: str = "link", tenant: str = "default") -> Document:
    return Document(kind=kind, tenant=tenant, name=name, body=body)


def row(target: str) -> AuditRow:
    return AuditRow(at=1, tenant="default", actor="ops", action="link", target=target, reason="asked for")


async def names(ledger: Ledger, after: str | None = None, limit: int = 100, kind: str = "link") -> list[str]:
    return [one.name for one in await ledger.documents(kind, "default", after, limit)]


async def test_a_document_is_what_was_kept_last_under_its_name(ledger: Ledger) -> None:
    await ledger.keep([document("acme", b"1"), document("other", b"2")])
    await ledger.keep([document("acme", b"3")])
    assert (b"3", b"2") == (
        await ledger.document("link", "default", "acme"),
        await ledger.document("link", "default", "other"),
    )


async def test_kinds_and_tenants_do_not_see_each_other(ledger: Ledger) -> None:
    await ledger.keep([document("acme", b"1"), document("acme", b"2", tenant="blue"), document("acme", b"3", kind="r")])
    await ledger.keep([document("acme", None, tenant="blue")])
    assert b"1" == await ledger.document("link", "default", "acme")
    assert await ledger.document("link", "blue", "acme") is None
    assert b"3" == await ledger.document("r", "default", "acme")
    assert ["acme"] == await names(ledger, kind="r")


async def test_a_removed_document_is_gone_and_may_come_again(ledger: Ledger) -> None:
    await ledger.keep([document("acme")])
    await ledger.keep([document("acme", None), document("never-there", None)])
    assert ([], {}) == (await names(ledger), await ledger.named("link", "default", ["acme", "never-there"]))
    await ledger.keep([document("acme", b"again")])
    assert b"again" == await ledger.document("link", "default", "acme")


async def test_of_two_of_one_name_in_one_call_the_last_counts(ledger: Ledger) -> None:
    await ledger.keep(
        [document("acme", b"1"), document("acme", None), document("acme", b"2"), document("b"), document("b", None)]
    )
    assert {"acme": b"2"} == await ledger.named("link", "default", ["acme", "b"])


async def test_many_are_found_in_one_look_and_those_not_there_are_left_out(ledger: Ledger) -> None:
    await ledger.keep([document(f"c{index}", str(index).encode()) for index in range(3000)])
    asked = [f"c{index}" for index in range(0, 6000, 2)]
    assert {f"c{index}": str(index).encode() for index in range(0, 3000, 2)} == await ledger.named(
        "link", "default", asked
    )
    assert {} == await ledger.named("link", "default", [])


@pytest.mark.parametrize("name", ["a\0b", "a\0", "\0", "'", "a/b", "\u2028"])
async def test_a_name_is_any_text(ledger: Ledger, name: str) -> None:
    await ledger.keep([document(name, b"it"), document("a", b"other")])
    assert {name: b"it"} == await ledger.named("link", "default", [name])
    assert {name, "a"} == set(await names(ledger))


async def test_pages_follow_one_another_by_name(ledger: Ledger) -> None:
    await ledger.keep([document(name) for name in ("b", "a/1", "Z", "a", "ä", "\U0001f600", "\uffff")])
    every = ["Z", "a", "a/1", "b", "ä", "\uffff", "\U0001f600"]
    assert every == await names(ledger)
    assert (every[:3], every[3:6], every[6:]) == (
        await names(ledger, limit=3),
        await names(ledger, "a/1", 3),
        await names(ledger, "\uffff", 3),
    )
    assert every[1:] == await names(ledger, "Zz"), "a name that is not there is a place all the same"


async def test_the_audit_is_written_with_the_documents(ledger: Ledger) -> None:
    await ledger.keep([document("acme")], [row("acme")])
    assert ["acme"] == [one.target for _, one in await ledger.trail("default", None, 10)]


async def test_what_was_kept_survives_the_loss_of_power(store: Store) -> None:
    async with opened(store) as ledger:
        await ledger.keep([document("acme", b"1")], [row("acme")])
        left = store.cut()
    async with opened(left) as ledger:
        assert b"1" == await ledger.document("link", "default", "acme")
        assert 1 == len(await ledger.trail("default", None, 10))


async def test_without_room_nothing_is_kept_and_nothing_is_audited(store: Store) -> None:
    async with opened(store) as ledger:
        await ledger.keep([document("acme", b"before")])
        await recorded(ledger, *(one.id for one in events("e1")))
        async with store.full(ledger):
            with pytest.raises(LedgerUnavailable):
                await ledger.keep([document(f"c{index}", b"x" * 10_000) for index in range(500)], [row("many")])
        assert (["acme"], []) == (await names(ledger), list(await ledger.trail("default", None, 10)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.text(min_size=1, max_size=3), st.none() | st.binary(max_size=3)), max_size=5), max_size=5
    )
)
async def test_whatever_is_kept_and_removed_a_dictionary_would_hold_the_same(
    ledger: Ledger, calls: list[list[tuple[str, bytes | None]]]
) -> None:
    held: dict[str, bytes] = {}
    kind = f"k{await _next(ledger)}"
    for call in calls:
        await ledger.keep([document(name, body, kind=kind) for name, body in call])
        for name, body in call:
            held.pop(name, None)
            if body is not None:
                held[name] = body
    found = await ledger.documents(kind, "default", None, 1000)
    assert [(name, held[name]) for name in sorted(held)] == [(one.name, one.body) for one in found]
    assert held == await ledger.named(kind, "default", list(held))


async def _next(ledger: Ledger) -> int:
    """Count the runs of a law that shares one ledger."""
    run = int(await ledger.document("run", "default", "law") or 0) + 1
    await ledger.keep([document("law", str(run).encode(), kind="run")])
    return run
