"""Keys: made at random, kept as a hash, found by what was presented."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.configuration.keys import Key, Keyring, Scope, new_key, sha256


def key(of: str, *scopes: Scope, name: str = "backend") -> Key:
    return Key(name=name, sha256=sha256(of), scopes=frozenset(scopes or ("events:write",)))


def test_a_new_key_says_whose_it_is_and_is_never_the_same_twice() -> None:
    keys = {new_key() for _ in range(100)}
    assert 100 == len(keys)
    assert all(re.fullmatch(r"ugw_[A-Za-z0-9_-]{43}", each) for each in keys)


def test_the_hash_is_that_of_the_whole_key() -> None:
    assert "d17fd7bf7df2a28b4f983956ceaff74b311890a8c8a8824adaa7b9f73633c089" == sha256("ugw_x")


@settings(deadline=None)
@given(st.lists(st.text(), max_size=5, unique=True), st.text())
def test_a_key_is_found_exactly_where_it_was_configured(known: list[str], presented: str) -> None:
    keyring = Keyring([key(each, name=f"k{index}") for index, each in enumerate(known)])
    found = keyring.find(presented)
    assert (f"k{known.index(presented)}" if presented in known else None) == (found and found.name)
    assert all(keyring.find(each) is not None for each in known)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_anything_can_be_presented(presented: str) -> None:
    assert Keyring([key("ugw_1")]).find(presented + "\ud800") is None


def test_a_keyring_without_keys_is_false() -> None:
    assert not Keyring([])
    assert Keyring([key("ugw_1")])


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("events:write",), {"events:write"}),
        (("events:read",), {"events:read"}),
        (("events:write", "events:read"), {"events:write", "events:read"}),
        (("admin",), {"events:write", "events:read", "admin"}),
    ],
)
def test_a_key_allows_its_scopes_and_admin_allows_all(scopes: tuple[Scope, ...], allowed: set[str]) -> None:
    every: tuple[Scope, ...] = ("events:write", "events:read", "admin")
    assert allowed == {scope for scope in every if key("ugw_1", *scopes).allows(scope)}


def test_a_key_belongs_to_the_default_tenant() -> None:
    assert "default" == key("ugw_1").tenant


@pytest.mark.parametrize("wrong", ["ugw_secret", "A" * 64, "a" * 63, "a" * 65, "g" * 64, "", "a" * 64 + "\n"])
def test_what_is_no_hash_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Key(name="backend", sha256=wrong, scopes=frozenset({"admin"}))
    (detail,) = caught.value.errors()
    says = "should be 64 lower-case hex digits, as `usage-gateway keys new` prints them; not the key"
    assert (("sha256",), says, None) == (detail["loc"], detail["msg"], detail["input"])
    assert "ugw_secret" not in str(caught.value)
