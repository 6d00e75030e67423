"""The table of known ids in memory: it never forgets one, and seldom mistakes another for it."""

import threading
from hashlib import blake2b
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger import SqliteLedger, ref_of
from gateway.ledger._ids import DIGEST, Ids
from gateway.ledger._recording import verified
from gateway.ledger._rows import digests
from tests.gateway.ledger.conftest import SqliteStore, opened, recorded


def digest(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=DIGEST).digest()


def taken(ids: Ids) -> int:
    """Return the bytes of a table."""
    return sum(len(part) * part.itemsize for part in ids._parts)


# Few different ones, of which many share what the table can tell apart: the first half.
alike = st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)).map(
    lambda pair: digest(pair[0])[:8] + pair[1].to_bytes(8, "big")
)
batches = st.lists(st.lists(alike | st.integers(0, 10**6).map(digest), min_size=1, max_size=40), max_size=8)


@settings(deadline=None)
@given(batches, st.integers(0, 1000))
def test_every_id_that_was_added_is_found_where_it_is(added: list[list[bytes]], expected: int) -> None:
    ids = Ids(expected)
    for batch, some in enumerate(added, 1):
        ids.add(batch, b"".join(some))
    for batch, some in enumerate(added, 1):
        found = ids.candidates(b"".join(some))
        assert all(ref_of(batch, index) in found[index] for index in range(len(some)))


@settings(deadline=None)
@given(batches, st.data())
def test_what_is_forgotten_leads_nowhere_and_the_rest_is_found(added: list[list[bytes]], data: st.DataObject) -> None:
    ids = Ids()
    for batch, some in enumerate(added, 1):
        ids.add(batch, b"".join(some))
    count = data.draw(st.integers(0, len(added)))
    ids.forget(range(1, count + 1))
    ids.add(len(added) + 1, b"".join(digest(number) for number in range(3000)))  # parts grow, and leave them out
    for batch, some in enumerate(added, 1):
        for index, refs in ids.candidates(b"".join(some)).items():
            assert (ref_of(batch, index) in refs) is (batch > count)
            assert all(ref > ref_of(count, 2**16 - 1) for ref in refs)


@settings(deadline=None)
@given(batches, st.data())
def test_what_is_taken_back_leaves_the_rest_and_may_be_added_again(
    added: list[list[bytes]], data: st.DataObject
) -> None:
    ids = Ids()
    for batch, some in enumerate(added, 1):
        ids.add(batch, b"".join(some))
    lost = data.draw(st.lists(st.integers(0, 10**6).map(digest), max_size=3000 if data.draw(st.booleans()) else 30))
    ids.add(99, b"".join(lost))
    ids.take_back(99, b"".join(lost))
    ids.add(100, b"".join(lost))
    for batch, some in [*enumerate(added, 1), (100, lost)]:
        found = ids.candidates(b"".join(some))
        assert all(ref_of(batch, index) in found[index] for index in range(len(some)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 60).map(digest), min_size=1, max_size=20), st.sets(st.integers(0, 60)))
def test_a_batch_is_added_as_new_where_none_of_its_ids_is_known_or_comes_twice(
    some: list[bytes], known: set[int]
) -> None:
    ids = Ids()
    ids.add(1, b"".join(map(digest, known)))
    new = len(set(some)) == len(some) and not {digest(number) for number in known} & set(some)
    assert new is ids.add(2, b"".join(some), if_new=True)
    assert new is bool(ids.candidates(b"".join(set(some) - {digest(number) for number in known})) and new)
    assert len(known) == len(ids.candidates(b"".join(map(digest, known))))
    held = sum(bool(slot) for part in ids._parts for slot in part)
    assert len(known) + len(some) * new == held


def crowded(tag: int, number: int) -> bytes:
    """Return the digest of an id of the first part, that has its place there by `tag`."""
    return bytes(2) + bytes(3) + tag.to_bytes(3, "little") + number.to_bytes(8, "big")


def leads_to(ids: Ids, batch: int, some: list[bytes]) -> bool:
    """Return whether the ids of a batch are found where they are."""
    found = ids.candidates(b"".join(some))
    return all(ref_of(batch, index) in found.get(index, []) for index in range(len(some)))


# Many in one part, so that it grows time and again, and most of them near one of its ends.
crowds = st.lists(
    st.lists(
        st.builds(
            crowded, st.sampled_from([0, 1, 2**23, 2**24 - 1]) | st.integers(0, 2**24 - 1), st.integers(0, 2**16)
        ),
        min_size=1,
        max_size=120,
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(crowds, st.data())
def test_a_part_that_grows_leads_to_all_but_what_was_taken_back_or_forgotten(
    added: list[list[bytes]], data: st.DataObject
) -> None:
    ids = Ids()
    added = [[crowded(0, number) for number in range(30)], *added]  # the last of them lie at the other end
    left = dict(enumerate(added, 1))
    for batch, some in left.items():
        ids.add(batch, b"".join(some))
    for batch in data.draw(st.sets(st.sampled_from([*left]))):
        ids.take_back(batch, b"".join(left.pop(batch)))
    assert all(leads_to(ids, batch, some) for batch, some in left.items())
    gone = data.draw(st.integers(0, len(added)))
    ids.forget(range(1, gone + 1))
    ids.add(len(added) + 1, b"".join(crowded(7, number) for number in range(60)))
    assert all(leads_to(ids, batch, some) is (batch > gone) for batch, some in left.items())


def test_the_table_grows_with_its_ids_and_never_all_at_once() -> None:
    drawn, ids, known = Random(1), Ids(), 0
    rebuilt: list[float] = []
    while known < 650_000:
        before = ids._parts.copy()
        for _ in range(known // 20_000 + 1):  # one in twenty more
            ids.add(known, drawn.randbytes(1000 * DIGEST))
            known += 1000
        if known > 300_000:  # with fewer it has the size of an empty one
            rebuilt.append(sum(one is not other for one, other in zip(before, ids._parts, strict=True)) / len(before))
            assert taken(ids) <= known * 18
    assert max(rebuilt) <= 0.15
    for expected in range(300_000, 650_000, 50_000):
        assert taken(Ids(expected)) <= expected * 18


def test_few_new_ids_are_taken_for_known_ones_and_memory_stays_small() -> None:
    ids = Ids()
    for batch in range(100):
        ids.add(batch, b"".join(digest(batch * 1000 + index) for index in range(1000)))
    assert len(ids.candidates(b"".join(digest(10**9 + number) for number in range(100_000)))) < 10
    assert taken(ids) <= 100_000 * 32


def test_ids_are_found_while_others_are_added() -> None:
    ids = Ids()
    known = b"".join(digest(number) for number in range(500))
    ids.add(1, known)
    missed: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            found = ids.candidates(known)
            missed.extend(index for index in range(500) if ref_of(1, index) not in found.get(index, []))

    asking = threading.Thread(target=ask)
    asking.start()
    for batch in range(2, 40):
        ids.add(batch, b"".join(digest(batch * 1000 + index) for index in range(1000)))
    done.set()
    asking.join()
    assert [] == missed


async def test_what_only_looks_like_a_known_id_is_new(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path)) as ledger:
        assert isinstance(ledger, SqliteLedger)
        batch = await recorded(ledger, "e1")
        (known,) = digests("default", ["e1"])
        other = known[:8] + bytes(8)
        found = await ledger._read(lambda connection: verified(connection, ledger._ids, [other, known]))
        assert {known: ref_of(batch, 0)} == found
