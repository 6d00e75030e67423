"""A quantity is exact: taken as it is, written as it is, or refused."""

import json
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canonical_schema import InvalidQuantity, parse_quantity, plain, to_quantity

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

fitting = st.builds(
    lambda sign, digits, exponent: Decimal((sign, digits, exponent - len(digits) + 1)),
    st.sampled_from((0, 1)),
    st.tuples(st.integers(1, 9)) | st.lists(st.integers(0, 9), max_size=37).map(lambda rest: (1, *rest)),
    st.integers(-38, 38),
)
"""Every value that fits: a digit, up to 37 more, and an exponent of -38 to 38."""


@given(fitting)
def test_what_fits_is_read_exactly_however_it_is_spelled(value: Decimal) -> None:
    spelled = (str(value), f"{value:e}", f"{value:E}".replace("E+", "E"), plain(value))
    assert [value] * 4 == [parse_quantity(each) for each in spelled]


@given(fitting)
def test_plain_has_every_digit_and_no_exponent(value: Decimal) -> None:
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", plain(value))
    assert Fraction(value) == Fraction(plain(value))


@given(st.from_regex(NUMBER, fullmatch=True) | st.text("0123456789+-.eE_ \n٣", max_size=8) | st.text(max_size=6))
def test_a_string_is_a_quantity_only_by_the_grammar_of_json(text: str) -> None:
    try:
        value = parse_quantity(text)
    except InvalidQuantity:
        return
    assert NUMBER.fullmatch(text)
    assert Fraction(text) == Fraction(value)


@given(st.from_regex(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,9})?", fullmatch=True))
def test_a_number_of_json_fits_as_its_string_does(text: str) -> None:
    number = json.loads(text, parse_float=Decimal)
    try:
        expected = parse_quantity(text)
    except InvalidQuantity:
        with pytest.raises(InvalidQuantity):
            to_quantity(number)
    else:
        assert str(expected) == str(to_quantity(number))


@given(fitting, st.integers(0, 60))
def test_trailing_zeros_never_decide(value: Decimal, zeros: int) -> None:
    text = plain(value)
    assert value == parse_quantity(f"{text}{'' if '.' in text else '.'}0{'0' * zeros}")


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1_000",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "",
        "-",
        ".5",
        "5.",
        "01",
        "0x1",
        "1e",
        "٣",
        "1٣",
    ],
)
def test_what_json_would_not_call_a_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuantity, match="must be a finite decimal"):
        parse_quantity(text)


@pytest.mark.parametrize(
    "text",
    ["1e39", "1e-39", "9" * 39, "1." + "0" * 37 + "1", "1e999999", "1e-999999", "-1e99999999999999999999", "0e39"],
)
def test_what_is_too_wide_is_refused_with_the_limits(text: str) -> None:
    with pytest.raises(InvalidQuantity, match="at most 38 significant digits, with an exponent of -38 to 38"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["1e38", "9" * 38, "1" + "0" * 38, "9.9e38", "1e-38", "1.5e-38", "0", "0.00"])
def test_what_just_fits_is_taken(text: str) -> None:
    assert Fraction(text) == Fraction(parse_quantity(text))


@pytest.mark.parametrize("value", [True, 1.5, None, b"1", [], Decimal("NaN"), Decimal("-Infinity")])
def test_what_is_no_exact_number_is_refused(value: object) -> None:
    with pytest.raises(InvalidQuantity, match="must be a finite decimal"):
        to_quantity(value)


@pytest.mark.parametrize(
    ("expected", "written"),
    [("0.00001", "1E-5"), ("100000", "1e5"), ("1.50", "1.50"), ("0", "-0"), ("0.00", "-0.00"), ("-12.5", "-12.5")],
)
def test_quantities_are_written_out(expected: str, written: str) -> None:
    assert expected == plain(parse_quantity(written))


@pytest.mark.parametrize("zero", ["-0.0", "0.0"])
def test_a_zero_has_no_sign_even_where_nobody_parsed_it(zero: str) -> None:
    assert plain(Decimal(zero)) == "0.0" == str(to_quantity(Decimal(zero)))


def test_what_is_not_finite_is_not_written() -> None:
    with pytest.raises(InvalidQuantity):
        plain(Decimal("NaN"))
