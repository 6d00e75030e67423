"""The result: a table for people, a file for those who compare runs."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.measure import Figure

__all__ = ["keep", "table"]

VERSIONS = ("uvicorn", "uvloop", "httptools", "starlette", "msgspec", "pydantic", "httpx", "aiohttp")


def table(figures: Sequence[Figure]) -> Table:
    """Return the figures beside their goals."""
    made = Table(title="Usage Gateway: medians of interleaved turns", caption=_CAPTION, title_justify="left")
    made.add_column("")
    for name in ("events/s", "CPU us/event"):
        made.add_column(name, justify="right")
    made.add_column("against")
    for name in ("ratio", "by CPU"):
        made.add_column(name, justify="right")
    made.add_column("goal")
    made.add_column("")
    section = ""
    for figure in figures:
        if figure.section != section:
            section = figure.section
            made.add_section()
        made.add_row(
            figure.what,
            "" if figure.rate is None else f"{figure.rate:,.0f}",
            "" if figure.cost is None else f"{figure.cost:,.1f}",
            figure.against,
            _short(figure.ratio),
            _short(figure.cpu_ratio),
            _goal(figure),
            figure.note,
        )
    return made


_CAPTION = (
    "CPU is of the process under test, all threads. A ratio is of rates within one turn; of costs or latencies "
    "where the line says so."
)


def _goal(figure: Figure) -> Text:
    if figure.goal is None or figure.judged is None:
        return Text("")
    met = figure.goal.met(figure.judged)
    return Text(f"{figure.goal} {'met' if met else 'missed'}", style="green" if met else "red")


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def keep(figures: Sequence[Figure], folder: Path, *, quick: bool, seconds: float) -> Path:
    """Write the figures with every turn, and what they were measured on; return the file."""
    now = datetime.now(UTC)
    path = folder / f"{now:%Y%m%dT%H%M%SZ}-{'quick' if quick else 'full'}.json"
    data = {
        "at": now.isoformat(timespec="seconds"),
        "quick": quick,
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in VERSIONS},
        "figures": [
            asdict(figure) | {"met": figure.goal.met(figure.judged) if figure.goal and figure.judged else None}
            for figure in figures
        ],
    }
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path
