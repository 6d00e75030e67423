"""From YAML to a configuration, and what an operator reads when it cannot be had."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.configuration import Configuration, file
from gateway.configuration.file import load, loads
from gateway.errors import ConfigurationError

ONE = "destinations: {one: {provider: flexprice, settings: {api_key: k}}}\n"
V0 = "destinations: {one: {provider: paygentic, settings: {api_key: k, profile: usage-v0, merchant_id: org_1}}}\n"
WING = "destinations: {one: {provider: wingback, settings: {api_key: k}}}\n"
CUST = "Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670"


def findings(text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Return the lines of the refusal; none where the text is a configuration."""
    try:
        loads(text, environ or {}, source="config.yaml")
    except ConfigurationError as error:
        refusal = error
    else:
        return []
    assert (None, None) == (refusal.__cause__, refusal.__context__)
    return str(refusal).split("\n")


def key_of(configuration: Configuration) -> str:
    return configuration.destinations["one"].settings.api_key.get_secret_value()


def with_key(written: str) -> str:
    return f"destinations:\n  one:\n    provider: flexprice\n    settings:\n      api_key: {written}\n"


# What is written is what is meant


def test_the_smallest_file_is_enough() -> None:
    text = """
destinations: {flexprice: {provider: flexprice, settings: {api_key: "${FLEXPRICE_API_KEY}"}}}
meters: {api_calls: {}}
"""
    configuration = loads(text, {"FLEXPRICE_API_KEY": "fx"})
    assert ["flexprice"] == list(configuration.meters["api_calls"].bindings)


@pytest.mark.parametrize("written", ["0.001", '"0.001"', "0.0010", "1e-3", "1.0e-3", ".001"])
def test_decimals_keep_the_digits_that_were_written(written: str) -> None:
    text = f"{V0}meters: {{m: {{bindings: {{one: {{billable_metric_id: b, scale: {written}, price: {written}}}}}}}}}"
    (row,) = loads(text, {}).meters["m"].bindings["one"]
    assert (Decimal("0.001"), Decimal("0.001")) == (row.scale, getattr(row.bind({}), "price", None))


@settings(deadline=None)
@given(st.decimals(min_value=Decimal("1e-30"), max_value=10**30, allow_nan=False))
def test_a_decimal_is_never_a_double(number: Decimal) -> None:
    text = f"{V0}meters: {{m: {{bindings: {{one: {{billable_metric_id: b, scale: {number:f}}}}}}}}}"
    assert number == loads(text, {}).meters["m"].bindings["one"][0].scale


@pytest.mark.parametrize("mode", ["off", "'off'"])
def test_the_word_off_is_a_mode_and_no_boolean(mode: str) -> None:
    text = f"destinations: {{one: {{provider: flexprice, mode: {mode}, settings: {{api_key: k}}}}}}"
    assert "off" == loads(text, {}).destinations["one"].mode


def test_keys_are_text_whatever_they_look_like() -> None:
    text = ONE + "customers: {007: {one: {}}, 1.0: {one: {}}, yes: {one: {}}, 2026-01-01: {one: {}}, ~: {one: {}}}"
    assert ["007", "1.0", "yes", "2026-01-01", "~"] == list(loads(text, {}).customers)


def test_times_need_no_quotes() -> None:
    text = f"{WING}customers: {{a: {{one: {{customer_id: {CUST}, from: 2026-12-01T00:00:00Z}}}}}}"
    (row,) = loads(text, {}).customers["a"]["one"]
    assert row.since is not None
    assert "2026-12-01T00:00:00+00:00" == row.since.isoformat()


def test_numbers_are_plain_decimal() -> None:
    assert 8080 == loads("listen: {port: 8080}", {}).listen.port
    assert ["config.yaml:1: listen.port: should be a whole number"] == findings("listen: {port: 0x50}")
    assert ["config.yaml:1: listen.port: should be a whole number"] == findings("listen: {port: 1:30}")


def test_aliases_and_merges_are_followed_and_own_keys_win() -> None:
    text = """
destinations:
  one: &shared {provider: flexprice, required: false, settings: &settings {api_key: k}}
  two: {<<: *shared, required: true}
  three: {<<: [{settings: {api_key: other}}, *shared]}
  four: {provider: wingback, settings: *settings}
"""
    found = loads(text, {}).destinations
    assert [
        ("flexprice", False, "k"),
        ("flexprice", True, "k"),
        ("flexprice", False, "other"),
        ("wingback", True, "k"),
    ] == [(each.provider, each.required, each.settings.api_key.get_secret_value()) for each in found.values()]


# References


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "\0" not in text))
def test_a_reference_is_the_text_it_stands_for(value: str) -> None:
    for written, stands_for in (("${UNIT}", value), ('"a${UNIT}b${UNIT}"', f"a{value}b{value}")):
        text = f"{with_key('k')}meters:\n  calls:\n    unit: {written}\n"
        assert stands_for == loads(text, {"UNIT": value}).meters["calls"].unit


@pytest.mark.parametrize("value", ["1", "true", "null", "~", "1.50", "2026-01-01", "{a: b}", "${OTHER}", "$${X}"])
def test_what_a_reference_stands_for_is_text_and_not_read_again(value: str) -> None:
    assert value == key_of(loads(with_key("${KEY}"), {"KEY": value}))


def test_a_reference_serves_where_a_number_or_a_boolean_belongs() -> None:
    text = """
listen: {port: "${PORT}"}
intake: {max_bytes: "${SIZE}"}
destinations: {one: {provider: flexprice, required: "${REQUIRED}", settings: {api_key: k}}}
"""
    configuration = loads(text, {"PORT": "81", "SIZE": "64KiB", "REQUIRED": "false"})
    assert (81, 65536, False) == (
        configuration.listen.port,
        configuration.intake.max_bytes,
        configuration.destinations["one"].required,
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("$${KEY}", "${KEY}"), ("$${KEY}${KEY}", "${KEY}v"), ("$KEY", "$KEY"), ("$$", "$$"), ("a$${", "a${"), ("}", "}")],
)
def test_two_dollars_are_a_plain_one(written: str, meant: str) -> None:
    assert meant == key_of(loads(with_key(f"'{written}'"), {"KEY": "v"}))


def test_a_file_is_read_without_its_last_line_end_and_from_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret \r\n")
    (tmp_path / "config.yaml").write_text("\ufeff" + with_key("${file:secret}"), "utf-8")
    assert "s3cret " == key_of(load(tmp_path / "config.yaml", {}))
    assert "s3cret " == key_of(loads(with_key(f"${{file:{tmp_path}/secret}}"), {}))


def test_keys_are_never_replaced() -> None:
    assert "${KEY}" in loads(ONE + "customers: {'${KEY}': {one: {}}}", {"KEY": "v"}).customers


# Refusals


def test_everything_is_said_at_once_by_line() -> None:
    text = """\
listen: {prot: 1}
destinations:
  one: {provider: flexprice, settings: {api_key: "${KEY}", url: h}}
  two: {provider: wingback, settings: {api_key: k}}
meters:
  a: {bindings: {one: {scale: x}, two: {scale: x}, three: {}}}
customers:
  c: {two: {}}
"""
    assert [
        "config.yaml:1: listen.prot: unknown key; did you mean port?",
        "config.yaml:3: destinations.one.settings.api_key: the environment variable KEY is not set",
        (
            "config.yaml:3: destinations.one.settings.url: unknown key; known are "
            "api_key, previous_api_key, base_url, allow_amend"
        ),
        "config.yaml:6: meters.a.bindings.two.scale: should be a number",
        "config.yaml:6: meters.a.bindings.three: unknown destination; known are one, two",
        "config.yaml:8: customers.c.two: give customer_id",
    ] == findings(text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    assert f"{path}: cannot be read: No such file or directory" == str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    assert f"{path}: is not UTF-8 text" == str(caught.value)


def test_a_secret_file_that_is_no_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\xff")
    says = f"the file {tmp_path}/secret cannot be read: it holds no UTF-8 text"
    assert [f"config.yaml:5: destinations.one.settings.api_key: {says}"] == findings(
        with_key(f"${{file:{tmp_path}/secret}}")
    )


def test_what_was_put_in_is_said_by_its_reference() -> None:
    assert ["config.yaml:1: delivery.timeout: '${SPAN}' is no duration: write 200ms, 1s, 15m, 24h or 7d"] == findings(
        "delivery: {timeout: '${SPAN}'}", {"SPAN": "soon"}
    )
    assert [
        "config.yaml:1: intake.max_bytes: '${SIZE}MB' is no size: write 32MiB, 512KiB or a number of bytes"
    ] == findings("intake: {max_bytes: '${SIZE}MB'}", {"SIZE": "3"})


PLACES = [
    "listen: {{host: {0}}}", "listen: {{port: {0}}}", "listen: {0}", "ledger: {{url: {0}}}", "intake: {{ack: {0}}}",
    "intake: {{max_bytes: {0}}}", "delivery: {{timeout: {0}}}", "retention: {0}", "destinations: {0}", "meters: {0}",
    "destinations: {{one: {{provider: {0}, settings: {{api_key: {0}}}}}}}",
    "destinations: {{one: {{provider: paygentic, settings: {{api_key: {0}, profile: {0}, dedupe_window: {0}}}}}}}",
    "auth: {{keys: [{{name: {0}, sha256: {0}, tenant: {0}, scopes: {0}}}]}}",
    V0.replace("{", "{{").replace("}", "}}") + "meters: {{a: {{bindings: {{one: {{price: {0}, scale: {0}}}}}}}}}",
    WING.replace("{", "{{").replace("}", "}}") + "customers: {{a: {{one: {{customer_id: {0}, from: {0}}}}}}}",
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(PLACES), st.text("xyzXYZ'\\\"\n\té#", min_size=6, max_size=12), st.sampled_from(["", "p", "'q"]))
def test_no_secret_is_in_any_error(place: str, value: str, before: str) -> None:
    quoted = yaml.safe_dump(before + "${SECRET}", default_style='"').strip()
    said = "\n".join(findings(place.format(quoted), {"SECRET": value}))
    assert value not in said
    assert repr(value)[1:-1] not in said


@settings(deadline=None)
@given(st.text("{}[]:,-'\"\n #&*!|>%@`a1$<?~.", max_size=40))
def test_any_text_is_a_configuration_or_an_error_of_whole_lines(text: str) -> None:
    assert all(line.startswith("config.yaml:") for line in findings(text))


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 100_000, "- " * 100_000 + "a", "a: " + "[" * 2000 + "]" * 2000])
def test_a_bottomless_file_is_refused(text: str) -> None:
    assert ["config.yaml:1: is nested too deeply"] == findings(text)


pieces = st.sampled_from(
    [*"ab01-:?,.'\"#&*!|>%@`~\t \n[]{}", ": ", "- ", "\n  ", "<<", "*a", "&a ", "0x1f", "yes", "é", "\x85", "---\n"]
)
plain = st.none() | st.booleans() | st.integers() | st.text() | st.decimals().map(str)
nested = st.recursive(plain, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=12)


@given(
    st.lists(pieces).map("".join)
    | st.builds(
        lambda data, flow: yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True, sort_keys=False),
        st.dictionaries(st.text(min_size=1), nested, min_size=1),
        st.sampled_from([True, False, None]),
    )
)
def test_a_file_says_the_same_read_fast_or_not(text: str) -> None:
    def read() -> tuple[object, list[tuple[int, str]], object]:
        reader = file._Reader({}, Path())
        return reader.read(text), reader.findings, reader._lines

    fast = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_FAST", None)
        slow = read()
    invalid = any("YAML" in says for _, says in slow[1])
    assert fast == slow or invalid, "libyaml lets a little more pass"
