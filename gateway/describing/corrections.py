"""What a provider lets us do about usage that it has, in words."""

from collections.abc import Mapping
from typing import Any

from adapters import Amend, Deltas, Door, TakeBack

__all__ = ["correction_facts", "correction_words", "way_of"]


def way_of(door: Door) -> str:
    """Return the way of a door in a word."""
    match door.corrections:
        case Amend():
            return "amend"
        case Deltas(down=down):
            return "delta" if down else "upwards"
        case TakeBack(word=word):
            return word
        case None:
            return "none"


def correction_words(door: Door) -> str:
    """Return what a door can do about usage that was taken, as a sentence. Names of settings stand in backticks."""
    match door.corrections:
        case None:
            return "no"
        case Amend(setting=setting) as way:
            switch = "" if setting is None else f"with `{setting}` "
            said = f"{switch}an event sent again with another quantity takes the first one's place; 0 voids it"
        case Deltas(down=False) as way:
            said = f"upwards only, by a further event; {way.instead}"
        case Deltas() as way:
            setting = door.quantity.negative
            negative = "a negative one" if setting is None else f"with `{setting}` a negative one"
            said = f"by a further event with the difference, {negative} included"
        case TakeBack(word=word) as way:
            said = f"{word} of a whole event; a replacement is then an event under a key of its own"
    return f"{said} (unverified)" if way.source.grade == "unverified" else said


def correction_facts(door: Door) -> Mapping[str, Any]:
    """Return what a door can do about usage that was taken, as JSON can say it."""
    way = door.corrections
    if way is None:
        return {"way": "none"}
    made: dict[str, Any] = {"way": way_of(door), "says": correction_words(door).replace("`", "")}
    setting = way.setting if isinstance(way, Amend) else door.quantity.negative if isinstance(way, Deltas) else None
    if setting is not None:
        made["setting"] = setting
    if isinstance(way, Amend):
        made["replaces"], made["voids"] = sorted(way.replaces), sorted(way.voids)
    else:
        made["aggregations"], made["instead"] = sorted(way.aggregations), way.instead
    source = way.source
    made["source"] = {"fact": source.fact, "grade": source.grade, "seen": source.seen.isoformat(), "url": source.url}
    return made
