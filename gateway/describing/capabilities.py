"""A provider's declaration in words: for people, for the documents, and for `GET /v1/destinations`."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from adapters import Dedupe, Door, ProviderSpec, QuantityRule, Rate, ReadBack, TimeRule
from adapters._facts import Grade, Refusal
from adapters._models import format_duration
from gateway.describing.corrections import correction_facts, correction_words

__all__ = ["capabilities", "column", "facts", "provider_facts"]

_GRADES: Mapping[Grade, str] = {
    "observed": "seen on the wire",
    "code": "from the vendor's code",
    "docs": "from its documents",
    "unverified": "unverified",
}


def capabilities(spec: ProviderSpec, door: Door) -> dict[str, Any]:
    """Return what one door of a provider can and cannot do, with how sure that is."""
    quantity, dedupe = door.quantity, door.dedupe
    made: dict[str, Any] = {
        "endpoint": f"{door.method} {door.path}",
        "max_rows": door.max_rows,
        "max_bytes": door.max_bytes,
        "rates": [_rate(rate) for rate in door.rates],
        "quantity": {
            "places": quantity.places,
            "minimum": None if quantity.minimum is None else format(quantity.minimum, "f"),
            "maximum": None if quantity.maximum is None else format(quantity.maximum, "f"),
            "digits": quantity.digits,
            "negative": quantity.negative,
        },
        "zero": door.zero,
        "absolute": "no" if door.absolute is None else f"with {door.absolute}",
        "aggregations": sorted(door.aggregations),
        "several_measures": door.several_measures,
        "repeats": "billed again" if dedupe is None else f"known by {_identity(door, dedupe)} {_window(dedupe.window)}",
        "lost_answer": "unknown" if dedupe is None else "sent again",
        "refused_batch": door.refusal.value,
        "receipt": door.receipt or "stored",
        "time_resolution_ms": door.time.resolution / timedelta(milliseconds=1),
        "window": {
            name: format_duration(span)
            for name, span in (("past", door.time.past), ("future", door.time.future))
            if span is not None
        },
        "probe": None if door.probe is None else door.probe.grade,
        "customers": None if door.customers is None else door.customers.grade,
        "corrections": correction_facts(door),
        "read_back": _read_back(door.read_back),
        "binding_fields": list(door.binding.names),
        "link_fields": list(door.link.names),
        "weakest_fact": spec.weakest,
        "cautions": list(spec.cautions),
    }
    for name in ("window", "probe", "customers"):
        if not made[name]:
            del made[name]
    made["quantity"] = {name: value for name, value in made["quantity"].items() if value is not None}
    return made


def provider_facts(spec: ProviderSpec) -> dict[str, Any]:
    """Return everything that is declared about a provider, its sources among it, as JSON can say it."""
    return {
        "name": spec.name,
        "title": spec.title,
        "base_url": spec.base_url,
        "profiles": {profile: capabilities(spec, door) for profile, door in spec.doors.items()},
        "cautions": list(spec.cautions),
        "weakest_fact": spec.weakest,
        "sources": [
            {"fact": one.fact, "grade": one.grade, "seen": one.seen.isoformat(), "url": one.url} for one in spec.sources
        ],
    }


def column(spec: ProviderSpec, profile: str) -> str:
    """Return how a door is headed beside others: the provider's title, with the profile where there are several."""
    return spec.title if len(spec.doors) == 1 else f"{spec.title} `{profile}`"


def facts(spec: ProviderSpec, door: Door) -> dict[str, str]:
    """Return what one door can and cannot do as short sentences, under the same headings for every provider.

    Names from the configuration and the wire stand in backticks.
    """
    dedupe, roles = door.dedupe, door.roles
    several, measures = door.binding.several, "one row" if door.several_measures else "a row each"
    return {
        "Endpoint": f"`{door.method} {door.path}`",
        "Events a request": f"{door.max_rows:,}",
        "Rate kept": ", ".join(_rate(rate) for rate in door.rates) or "none is stated",
        "Quantities": _quantities(door.quantity),
        "Zero": "sent" if door.zero == "sent" else "left out (`filtered`)",
        "Running totals (`kind: absolute`)": "no" if door.absolute is None else f"with `{door.absolute}`",
        "Several measures in an event": measures if several is None else f"one row, by `{several}`, or {measures}",
        "Aggregations": ", ".join(sorted(door.aggregations)),
        "A repeat": "is billed again"
        if dedupe is None
        else f"is known by {_identity(door, dedupe, '`')} {_window(dedupe.window, dedupe.setting)}",
        "A repeat with other content": "is billed too"
        if dedupe is None
        else {"first_wins": "the first stays", "last_wins": "the last wins", "unverified": "unverified"}[
            dedupe.different
        ],
        "After a lost answer": "parked as `unknown`, never resent" if dedupe is None else "sent again",
        "A refused request": "stored nothing" if door.refusal is Refusal.WHOLE else "may have stored its good rows",
        "`accepted` means": "stored" if door.receipt is None else f"{door.receipt}, and may still be dropped",
        "Taking usage back": correction_words(door),
        "Reading usage back": _read_back(door.read_back),
        "Time": _time(door.time),
        "While it is down, tried with": "a delivery" if door.probe is None else f"a harmless read ({door.probe.grade})",
        "In doubt, looked for": _finds(door.read_back),
        "Meter, by": _names(door.binding.names, door.binding.default),
        "Customer, by": _names(door.link.names, door.link.default),
        "Customers looked up": "no" if door.customers is None else f"by our own id ({door.customers.grade})",
        "Idempotency key": "none" if roles.key is None else f"`{roles.key}`",
        "Facts": _graded(spec),
    }


_RESOLUTIONS = {
    timedelta(seconds=1): "second",
    timedelta(milliseconds=1): "millisecond",
    timedelta(microseconds=1): "microsecond",
}


def _time(rule: TimeRule) -> str:
    bounds = [
        f"{format_duration(span)} {way}"
        for way, span in (("back", rule.past), ("ahead", rule.future))
        if span is not None
    ]
    finest = f"to the {_RESOLUTIONS.get(rule.resolution, str(rule.resolution))}"
    return "; ".join([finest, *([f"at most {' and '.join(bounds)}"] if bounds else [])])


def _graded(spec: ProviderSpec) -> str:
    counted = Counter(source.grade for source in spec.sources)
    return ", ".join(f"{counted[grade]} {words}" for grade, words in _GRADES.items() if counted[grade])


def _names(names: tuple[str, ...], default: str | None) -> str:
    listed = " or ".join(f"`{name}`" for name in names)
    return listed if default is None else f"{listed}; default: our name, as `{default}`"


def _quantities(rule: QuantityRule) -> str:
    kind = "whole numbers" if rule.places == 0 else f"{rule.places} decimal places"
    if rule.digits is not None:
        kind += f", {rule.digits} digits"
    negative = f"; below 0 with `{rule.negative}`" if rule.negative else ""
    low = "no lower bound" if rule.minimum is None else f"from {rule.minimum:,f}"
    high = "no upper bound" if rule.maximum is None else f"to {rule.maximum:,f}"
    return f"{kind}, {low} {high}{negative}"


def _read_back(read_back: ReadBack | None) -> str:
    if read_back is None:
        return "no"
    doubles = "" if read_back.exact else ", as doubles"
    graded = "" if read_back.source.grade != "unverified" else " (unverified)"
    return f"{read_back.kind}{doubles}{graded}; window: {read_back.window}"


def _finds(read_back: ReadBack | None) -> str:
    if read_back is None or read_back.kind != "events":
        return "no"
    return "nightly" if read_back.finds is None else f"soon, one by one ({read_back.finds.grade}), and nightly"


def _rate(rate: Rate) -> str:
    rows = "" if rate.rows is None else f" and {rate.rows:,} rows"
    return f"{rate.requests:,} requests{rows} in {format_duration(rate.per)}"


def _identity(door: Door, dedupe: Dedupe, quote: str = "") -> str:
    """Return what tells two rows apart, in the provider's own words where it has one."""
    named = {"key": f"{quote}{door.roles.key}{quote}", "meter": "meter", "timestamp": "timestamp"}
    return " and ".join(named[role] for role in dedupe.by)


def _window(window: timedelta | None, setting: str | None = None) -> str:
    if window is None:
        return "for ever"
    hours = f"for {window // timedelta(hours=1)} h"
    return hours if setting is None else f"{hours} (`{setting}`)"
