"""What the core relies on: every declaration agrees with itself, and every adapter is held to the laws."""

import re

from adapters import Amend, Binding, Deltas, Outcome, State, TakeBack, encode_row, providers, settle
from tests.adapters.worlds import DOORS, NAMED, NOW, adapter_of, every_door, rows_of


def test_every_provider_of_the_registry_is_held_to_the_laws() -> None:
    assert sorted(NAMED) == sorted(DOORS)
    assert {name for name, _ in DOORS} == set(providers())


@every_door
def test_the_facts_of_a_door_agree_with_each_other(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    assert door.path.startswith("/")
    assert (door.rows == "one") == (door.max_rows == 1)
    assert door.absolute is None or door.absolute in type(adapter.settings).model_fields
    assert door.quantity.negative is None or door.quantity.negative in type(adapter.settings).model_fields
    assert (door.zero == "refused") == (door.quantity.minimum is not None and door.quantity.minimum > 0)
    assert (door.roles.key is None) == (door.dedupe is None) == (door.roles.event_id is not None)
    assert adapter.spec.sources
    match door.corrections:
        case Amend() as way:
            assert door.dedupe is not None
            assert (door.dedupe.different, "key" in door.dedupe.by) == ("last_wins", True)
            assert way.voids <= way.replaces <= door.aggregations
            assert way.setting is None or way.setting in type(adapter.settings).model_fields
        case Deltas() as way:
            assert way.aggregations <= door.aggregations
            lowest = door.quantity.minimum
            assert not way.down or lowest is None or lowest < 0 or door.quantity.negative is not None
            assert way.source.grade != "unverified" or door.quantity.negative is not None, "off until it is allowed"
        case TakeBack() as way:
            assert way.aggregations <= door.aggregations
            assert (way.door.rows, way.door.max_rows, way.door.corrections) == ("one", 1, None)
            theirs = adapter.through(way.door).request([encode_row(adapter.take_back("their/id", "why"))])
            assert "{" not in theirs.url
            assert theirs.url.startswith(adapter.base_url)
        case None:
            pass
    for rule in door.rules:
        assert rule.statuses
        assert rule.says is None or "{" not in re.sub(r"\{(customer|meter|index|key)\}", "", rule.says)
        assert rule.text is None or re.compile(rule.text)
    for model in (door.binding, door.link):
        assert set(model.names) <= model.model_fields.keys()
        assert model.default is None or model.default in model.names
    several = door.binding.several
    assert several is None or several in door.binding.model_fields
    assert (several is None) == (door.binding.takes is Binding.takes), "what takes several says by which field"


@every_door
def test_every_sentence_of_the_simulator_is_read_as_its_rule_means_it(name: str, profile: str) -> None:
    adapter = adapter_of(name, profile)
    door = adapter.door
    (row,) = rows_of(adapter, 1)
    for rule in door.rules:
        if rule.says is not None:
            truth = {row.key: Outcome(state=State.REJECTED, code=rule.error)}
            outcome = settle(door, door.dialect.render(door, [row], truth), [row], now=NOW)[row.key]
            assert (State.REJECTED, rule.error) == (outcome.state, outcome.code)
