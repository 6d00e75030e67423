"""A comparison as one self-contained page: what differs, a heat map of customers by meters, events to look at."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

__all__ = ["html", "left_out"]

MAP = 500
"""Customers of one heat map: those with differences come first."""
DETAILS = 1000
"""Figures that are told one by one."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.5rem }
.verdict { font-size: 1.15rem; font-weight: 600; padding: .6rem 1rem; border-radius: .4rem; color: #fff }
.good { background: #1a7f37 } .bad { background: #c0252d } .partial { background: #9a6700 }
table { border-collapse: collapse; margin-top: 1rem; font-variant-numeric: tabular-nums }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top }
td.number { text-align: right } .map td { text-align: center; min-width: 5rem; color: #111 }
.scroll { overflow-x: auto }
.match { background: #c7ecd0 } .rounding { background: #dff0b8 } .in_flight, .late, .boundary { background: #fbe7a1 }
.rejected, .unmapped { background: #f9cf9c } .capability, .trimmed { background: #d5d8de }
.duplicate, .only_here, .only_there, .unexplained { background: #f2a3a3 }
.open { outline: 3px solid #c0252d; font-weight: 600 }
code { font-size: .85em; overflow-wrap: anywhere } .key span { padding: .1rem .5rem; margin-right: .3rem; color: #111 }
.quiet { opacity: .75 }
"""


def left_out(report: Mapping[str, Any]) -> int:
    """Return how many figures a report counts and does not have."""
    return sum(one["figures_count"] - len(one["figures"]) for one in report["comparisons"])


def html(told: Mapping[str, Any]) -> str:
    """Return the page. Nothing in it is loaded from anywhere, and everything that was read is escaped."""
    return "".join(_page(told))


def _page(told: Mapping[str, Any]) -> Iterator[str]:
    report = told["report"]
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>Reconciliation {_text(report['from'])}</title><style>{_STYLE}</style><body>"
    yield f"<h1>Usage reconciled</h1><p>{_text(report['from'])} to {_text(report['to'])}"
    for name in ("customer", "meter"):
        if name in report:
            yield f", {name} {_text(report[name])}"
    yield f"<br><span class=quiet>{_text(told['id'])}, made {_text(report['at'])}, "
    yield f"{report['events']:,} events of the ledger</span></p>"
    if report["unexplained"]:
        yield f"<p class='verdict bad'>{report['unexplained']:,} figures differ, unexplained</p>"
    elif report["complete"]:
        yield "<p class='verdict good'>No unexplained difference</p>"
    else:
        yield "<p class='verdict partial'>No unexplained difference in what could be read, and something could not</p>"
    if report["trimmed_batches"]:
        yield f"<p>{report['trimmed_batches']:,} batches are trimmed from the ledger: the figures lack them.</p>"
    if more := left_out(report):
        yield f"<p>{more:,} figures are in no report, those that match first: ask by meter for all of them.</p>"
    yield from _destinations(report)
    for comparison in report["comparisons"]:
        yield f"<h2>{_text(comparison['left'])} and {_text(comparison['right'])}</h2>"
        yield from _map(comparison)
        yield from _details(comparison)
    yield "</body></html>\n"


def _destinations(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>What was read</h2><table><tr><th>Destination<th>Tells<th>Rows<th>Requests<th>Could not be read"
    for one in report["destinations"]:
        problems = [] if "unread" not in one else [one["unread"]["why"]]
        if "outside" in one:
            problems.append(f"it counts its own period: {one['outside']:,} events outside are left out")
        problems += [f"{missing['meter']}: {missing['why']}" for missing in one["missing"]]
        exact = "" if one["exact"] else ", through doubles"
        yield f"<tr><td>{_text(one['destination'])}<td>{_text(one['kind'])}{exact}<td class=number>{one['rows']:,}"
        yield f"<td class=number>{one['requests']:,}<td>{'<br>'.join(map(_text, problems))}"
    yield "</table>"


def _map(comparison: Mapping[str, Any]) -> Iterator[str]:
    figures: dict[str, dict[str, Mapping[str, Any]]] = {}
    meters: dict[str, None] = {}
    for one in comparison["figures"]:
        meter = " ".join(filter(None, [one["meter"], one.get("part")]))
        meters[meter] = None
        figures.setdefault(one["customer"], {})[meter] = one
    if not figures:
        yield "<p>Nobody has any usage here.</p>"
        return
    columns = sorted(meters)
    yield "<p class=key>"
    yield "".join(f"<span class={_text(why)}>{_text(why).replace('_', ' ')}</span>" for why in comparison["classes"])
    yield "</p><div class=scroll><table class=map><tr><th>Customer"
    yield "".join(f"<th>{_text(meter)}" for meter in columns)
    for customer, row in list(figures.items())[:MAP]:
        yield f"<tr><th>{_text(customer)}"
        for meter in columns:
            one = row.get(meter)
            if one is None:
                yield "<td>"
                continue
            title = f"{one.get('left', '?')} and {one.get('right', '?')}"
            shown = "" if one["class"] == "match" else one.get("difference", "unread")
            mark = "" if one["explained"] else " open"
            yield f"<td class='{_text(one['class'])}{mark}' title='{_text(title)}'>{_text(shown) or '&nbsp;'}"
    yield "</table></div>"
    if len(figures) > MAP:
        yield f"<p class=quiet>{len(figures) - MAP:,} more customers are in the JSON and CSV reports.</p>"


def _details(comparison: Mapping[str, Any]) -> Iterator[str]:
    different = [one for one in comparison["figures"] if one["class"] != "match"]
    if not different:
        return
    left, right = _text(comparison["left"]), _text(comparison["right"])
    yield f"<div class=scroll><table><tr><th>Customer<th>Meter<th>{left}<th>{right}<th>Difference<th>Why"
    for one in different[:DETAILS]:
        meter = " ".join(filter(None, [one["meter"], one.get("part")]))
        yield f"<tr><td>{_text(one['customer'])}<td>{_text(meter)}"
        for name in ("left", "right", "difference"):
            yield f"<td class=number>{_text(one.get(name, ''))}"
        yield "<td>"
        if "unread" in one:
            yield _text(one["unread"]["why"])
        for reason in one["reasons"]:
            ids = " ".join(reason["ids"])
            yield f"<details><summary>{_text(reason['class'])}: {_text(reason['quantity'])} in {reason['events']:,}"
            yield f" events</summary><code>{_text(ids)}</code></details>"
    yield "</table></div>"
    if len(different) > DETAILS:
        yield f"<p class=quiet>{len(different) - DETAILS:,} more are in the JSON and CSV reports.</p>"


def _text(value: object) -> str:
    return escape(str(value), quote=True)
