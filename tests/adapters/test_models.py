"""What every adapter is given and gives: settings, bindings, links, numbers, times, the registry."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from importlib.metadata import EntryPoint
from pkgutil import iter_modules
from typing import Any

import pytest
from pydantic import ValidationError

import adapters
from adapters import Binding, Dedupe, Link, Settings, encode_row, provider, providers
from adapters import _base as base
from adapters._models import format_duration, parse_duration
from adapters._text import texts
from adapters.wingback import Wingback
from tests.adapters.worlds import KEY, adapter_of, usage_of

FLOWGLAD = adapter_of("flowglad", "bulk")
EVENTS = adapter_of("paygentic", "events")
FLEXPRICE = adapter_of("flexprice", "bulk")
WINGBACK = adapter_of("wingback", "bulk")


# Numbers.


@pytest.mark.parametrize(
    ("quantity", "number", "text"),
    [
        ("1E+3", 1000, "1000"),
        ("1E+30", 10**30, "1" + "0" * 30),
        ("12345678901234567890123456789012345678", 12345678901234567890123456789012345678, None),
        ("0", 0, "0"),
        ("-0.00", 0, "0.00"),
        ("2.0", 2, "2.0"),
        ("-7", -7, "-7"),
    ],
)
def test_whole_numbers(quantity: str, number: int, text: str | None) -> None:
    wire = EVENTS.wire_quantity(Decimal(quantity))
    assert (int, number) == (type(wire), wire)
    assert (text or quantity) == WINGBACK.wire_quantity(Decimal(quantity))


@pytest.mark.parametrize("quantity", ["1.50", "1E-7", "0.000000000001", "-12345678.12345678", "0.1"])
def test_fractions_keep_every_digit(quantity: str) -> None:
    wire = EVENTS.wire_quantity(Decimal(quantity))
    assert isinstance(wire, Decimal)
    assert Decimal(quantity) == wire
    text = WINGBACK.wire_quantity(Decimal(quantity))
    assert isinstance(text, str)
    assert ("e" in text.lower(), Decimal(quantity)) == (False, Decimal(text))


def test_rows_are_json_on_one_line_with_exact_numbers() -> None:
    row: Mapping[str, Any] = {"a": Decimal("1.10"), "b": 10**30, "c": "é\n", "d": True, "e": [Decimal("1E-30")]}
    assert '{"a":1.10,"b":1000000000000000000000000000000,"c":"é\\n","d":true,"e":[1E-30]}'.encode() == encode_row(row)


def test_scalars_as_text() -> None:
    assert {"a": "true", "b": "false", "c": "1000", "d": "0.0000001", "e": "x", "f": "5"} == texts(
        {"a": True, "b": False, "c": Decimal("1E+3"), "d": Decimal("1E-7"), "e": "x", "f": 5}
    )


# Times.


@pytest.mark.parametrize(
    ("instant", "text", "milliseconds"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01T00:00:00Z", 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), "1969-12-31T23:59:59.999Z", -1),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "1969-12-31T23:59:59.999999Z", -1),
        (datetime(2026, 10, 31, 23, 59, 59, 999999, tzinfo=UTC), "2026-10-31T23:59:59.999999Z", 1793491199999),
        (datetime(2026, 11, 1, tzinfo=UTC), "2026-11-01T00:00:00Z", 1793491200000),
        (datetime(2026, 11, 1, 0, 0, 0, 120000, tzinfo=UTC), "2026-11-01T00:00:00.120Z", 1793491200120),
        (datetime(2026, 11, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-11-01T00:00:00Z", 1793491200000),
        (datetime(999, 1, 1, tzinfo=UTC), "0999-01-01T00:00:00Z", -30641760000000),
    ],
)
def test_instants(instant: datetime, text: str, milliseconds: int) -> None:
    assert (text, milliseconds) == (WINGBACK.wire_time(instant), FLOWGLAD.wire_time(instant))


# Settings.


def test_a_secret_never_shows() -> None:
    assert KEY not in repr(FLOWGLAD.settings) + str(FLOWGLAD.settings) + FLOWGLAD.settings.model_dump_json()
    assert (KEY,) == FLOWGLAD.secrets
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"api_key": [KEY], "base_url": KEY, "extra": KEY})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h", "h", "https://h?x=1", "https://h#x", "https://a b", "", "https://user:pass@host", "https://"),
        *("http://[::1", "http://h:99999", "http://h:eighty", "http://:8080", "http:///v1"),
    ],
)
def test_an_address_that_is_none_or_that_holds_credentials_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter_of("flowglad", "bulk", base_url=url)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "previous_api_key"])
@pytest.mark.parametrize("end", ["\n", "\r\nx-other: 1", "é", "\x00", "\x7f", "\N{RIGHT DOUBLE QUOTATION MARK}"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(name: str, end: str) -> None:
    with pytest.raises(ValidationError, match="holds a line end, or another character that no key has") as caught:
        Settings.model_validate({"api_key": "k", name: KEY + end})
    assert KEY not in str(caught.value)


def test_another_address_takes_the_vendors_place() -> None:
    there = adapter_of("flowglad", "bulk", base_url="http://127.0.0.1:8101/flowglad/")
    assert "http://127.0.0.1:8101/flowglad/usage-events/bulk" == there.request([b"{}"]).url
    assert "https://app.flowglad.com/api/v1" == FLOWGLAD.base_url


def test_a_key_is_needed() -> None:
    for given in ({}, {"api_key": ""}):
        with pytest.raises(ValidationError):
            Settings.model_validate(given)


def test_a_door_of_single_rows_takes_one() -> None:
    with pytest.raises(ValueError, match="too many values"):
        EVENTS.request([b"{}", b"{}"])


def test_what_a_door_declares_holds_until_a_setting_says_otherwise() -> None:
    assert FLOWGLAD.dedupe is FLOWGLAD.door.dedupe
    assert FLOWGLAD.quantity is FLOWGLAD.door.quantity
    assert WINGBACK.dedupe is None
    dedupe = EVENTS.dedupe
    assert isinstance(dedupe, Dedupe)
    assert timedelta(hours=24) == dedupe.window


# Durations.


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("200ms", timedelta(milliseconds=200)),
        ("1s", timedelta(seconds=1)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta(0)),
    ],
)
def test_durations(text: str, span: timedelta) -> None:
    assert span == parse_duration(text) == parse_duration(span) == parse_duration(format_duration(span))


@pytest.mark.parametrize("value", [5, 1.5, "5", "1w", "-1s", "\u0663s", " 1s", "1.5s", "", None, True])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is no duration: write 200ms, 1s, 15m, 24h or 7d"):
        parse_duration(value)


def test_a_duration_finer_than_a_millisecond_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="fraction of a millisecond"):
        format_duration(timedelta(microseconds=1))


# Bindings and links.


class OneName(Link):
    names = ("who",)
    default = "who"
    who: str | None = None


class NoDefault(Link):
    names = ("who",)
    who: str | None = None


def test_a_default_takes_our_own_name_only_where_nothing_is_named() -> None:
    assert {"who": "acme"} == OneName.completed({}, "acme")
    assert {"who": "acme"} == OneName.completed({"who": None}, "acme")
    assert {"who": "x"} == OneName.completed({"who": "x"}, "acme")
    assert {"until": 1, "who": "acme"} == OneName.completed({"until": 1}, "acme")
    assert {} == NoDefault.completed({}, "acme")


def test_a_name_is_asked_for_by_its_name() -> None:
    with pytest.raises(ValidationError, match=r"Value error, give who(\s|$)"):
        NoDefault.model_validate({})
    with pytest.raises(ValidationError, match="give exactly one of price_slug, price_id"):
        FLOWGLAD.door.binding.model_validate({})


def test_a_link_holds_for_a_time_and_a_subscription() -> None:
    link = OneName.model_validate(
        {"who": "x", "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T01:00:00+01:00", "subscription": "s"}
    )
    assert (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), "s") == (
        link.since, link.until, link.subscription,
    )  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        {"from": "2026-02-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"},
        {"from": "2026-01-01T00:00:00"},
        {"from": 1767225600},
        {"from": "1767225600"},
        {"until": "tomorrow"},
        {"who": None},
        {"unknown": 1},
    ],
)
def test_a_link_that_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OneName.model_validate({"who": "x", **given})


def test_a_link_does_not_show_the_customer() -> None:
    assert "OneName()" == repr(OneName(who="acme"))


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "x"])
def test_a_scale_is_above_zero(scale: str) -> None:
    with pytest.raises(ValidationError):
        Binding.model_validate({"scale": scale})


def test_a_binding_takes_the_plain_quantity_unless_it_names_one() -> None:
    assert ((), ("input",)) == (Binding().takes(), Binding(quantity="input").takes())
    assert Binding().together() is None
    assert Decimal(1) == Binding().scale


def test_usage_of_several_measures_has_no_single_quantity() -> None:
    usage = usage_of(FLOWGLAD)
    assert Decimal(3) == usage.quantity
    twice = replace(usage, measures=usage.measures * 2)
    with pytest.raises(ValueError, match="too many values"):
        _ = twice.quantity
    assert usage.binding is twice.binding


# The registry.


def test_the_folder_is_the_registry_and_a_file_is_named_like_its_provider() -> None:
    modules = [module.name for module in iter_modules(adapters.__path__) if not module.name.startswith("_")]
    assert {f"adapters.{name}": name for name in modules} == {
        kind.__module__: name for name, kind in providers().items() if kind.__module__.startswith("adapters.")
    }
    assert provider("wingback") is Wingback
    with pytest.raises(KeyError):
        provider("nobody")


def test_others_ship_adapters_of_their_own_but_not_under_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Wingback):
        spec = Wingback.spec

    point = EntryPoint(name="other", value="tests:Other", group=base.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Other)
    monkeypatch.setattr(base, "entry_points", lambda group: [point] if group == base.GROUP else [])
    with pytest.raises(ValueError, match="two adapters claim the provider name 'wingback'"):
        providers.__wrapped__()
    Other.spec = adapters.ProviderSpec(
        name="other",
        title="Other",
        base_url="https://h",
        auth=Wingback.spec.auth,
        doors=Wingback.spec.doors,
        sources=(),
    )
    assert Other is providers.__wrapped__()["other"]


def test_the_package_offers_what_it_says() -> None:
    assert adapters.__all__ == sorted(adapters.__all__)
    assert all(hasattr(adapters, name) for name in adapters.__all__)
    assert FLEXPRICE.spec.title == "Flexprice"
