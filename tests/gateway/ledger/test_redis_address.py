"""What is written for a Redis server: where it is, and members as runs."""

import pytest

from gateway.ledger._redis.address import Address
from gateway.ledger._redis.layout import pack_runs, unpack_runs


@pytest.mark.parametrize("members", [[], [0], [0, 1, 2], [5], [1, 3, 5], [0, 1, 7, 8, 9, 65535]])
def test_runs_are_the_members_that_they_came_from(members: list[int]) -> None:
    assert members == unpack_runs(pack_runs(members))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://u:p%40ss@[::1]:7000/3", "rediss://[::1]:7000/3"),
        ("redis+sentinel://:s3cret@a,b:5/name/2", "redis+sentinel://a:26379,b:5/name/2"),
        ("rediss+cluster://a:1,b:2", "rediss+cluster://a:1,b:2"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    one = Address.read(url)
    assert shown == str(one)
    assert "s3cret" not in repr(one)


@pytest.mark.parametrize(
    "url", ["redis://", "redis://a,b", "redis://h:99999", "redis+sentinel://h", "redis://h/0/1", "redis://h/x", "redis"]
)
def test_an_address_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis"):
        Address.read(url)
