"""`usage-gateway ledger`: copies of the ledger, a ledger from a copy, and customers who are to be forgotten."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import ValidationError

from gateway.cli._asking import LOCAL, Key, Reason, Url, ask, in_path
from gateway.cli._out import CommandFailed, ConfigFile, Exit, Json, hint, machine, say
from gateway.configuration.file import load
from gateway.configuration.sections import LedgerSettings
from gateway.ledger.backup import back_up
from gateway.ledger.backup import restore as restored
from gateway.ledger.doubting import doubt
from gateway.ledger.sqlite import SqliteLedger
from gateway.opening import ledger_of
from gateway.times import to_micros

__all__ = ["ledger"]

ledger = App(name="ledger", help="Back the ledger up, restore it, move it to a server, erase a customer from it.")


@ledger.command
def backup(
    *,
    config: ConfigFile,
    to: Annotated[Path, Parameter(help="The file to make; it must not be there yet.")],
    as_json: Json = False,
) -> int:
    """Copy the ledger as it stands at this instant. A gateway may go on writing to it."""
    made = back_up(_path(config), to, to_micros(datetime.now(UTC)))
    if as_json:
        machine(made)
    else:
        say(f"{to}: {made['events']} events, as of {made['at']}", "green")
    return Exit.OK


@ledger.command
def restore(
    *,
    config: ConfigFile,
    source: Annotated[Path, Parameter(name="--from", help="A file that `ledger backup` made.")],
    as_json: Json = False,
) -> int:
    """Put a backup in the place of the ledger. Stop the gateway first; the ledger that is there is kept aside.

    Whatever was not delivered when the backup was made may have been sent since. It is sent again only where the
    vendor tells repeats, and else parked as unknown.
    """
    path = _path(config)
    made = restored(path, source, to_micros(datetime.now(UTC)))
    if as_json:
        machine(made)
        return Exit.OK
    say(f"{path}: {made['events']} events, as of {made['at']}", "green")
    if "moved" in made:
        hint(f"What was there is kept as {made['moved']}.")
    say(f"Events accepted after {made['at']} are not in it: have their senders send them again.")
    say(f"{made['in_doubt']} deliveries may have been sent since. These, and usage from before this moment that comes")
    say("again, go only where the vendor tells repeats, and are unknown elsewhere. Usage without a timestamp is new.")
    if made.get("decisions"):
        counted = Counter(one["action"] for one in made["decisions"])
        said = ", ".join(f"{count} {action}" for action, count in counted.most_common())
        say(f"What was decided since is not in it: {said}. --json lists them: decide them again.")
    if made["letters"]:
        say(f"{made['letters']} were rejected or dead: where somebody retried one since, it may have arrived.")
    if made["unrouted"]:
        say(f"{made['unrouted']} had no route: where they were given one since, they may have arrived.")
    return Exit.OK


@ledger.command(name="restored")
def say_so(
    *,
    config: ConfigFile,
    taken: Annotated[datetime, Parameter(name="--as-of", help="When the copy was made: not later, in doubt earlier.")],
    as_json: Json = False,
) -> int:
    """Say that the ledger was put back by other means: a Redis server's own files, a disk's or a machine's snapshot.

    Stop every gateway first. Whatever was not delivered then may have been sent since. It is sent again only where the
    vendor tells repeats, and else parked as unknown; so is usage from before this moment that comes again.
    """
    settings = load(config, os.environ).ledger
    since, now = to_micros(taken if taken.tzinfo else taken.replace(tzinfo=UTC)), to_micros(datetime.now(UTC))
    if since > now:
        raise CommandFailed(f"--as-of: {taken} is still to come")
    made = asyncio.run(_doubted(settings, since, now))
    if as_json:
        machine(made)
    else:
        say(f"as of {made['at']}: {made['in_doubt']} deliveries may have been sent since, and are in doubt", "green")
    return Exit.OK


async def _doubted(settings: LedgerSettings, taken: int, now: int) -> dict[str, Any]:
    ledger = ledger_of(settings, timedelta(0)) if settings.address else SqliteLedger(settings.path, moved=True)
    await ledger.open()
    try:
        if (others := getattr(ledger, "others", 0)) > 0:
            raise CommandFailed(
                f"{others} gateways have this ledger open, or had it a minute ago: stop them, and try again then"
            )
        return await doubt(ledger, taken, now)
    finally:
        await ledger.close()


@ledger.command
def copy(
    *,
    config: ConfigFile,
    source: Annotated[str, Parameter(name="--from", help="The file, as ledger.url has it: sqlite:///...")],
    to: Annotated[str | None, Parameter(help="The server, redis://... Absent: that of the configuration.")] = None,
    as_json: Json = False,
) -> int:
    """Move a ledger from a file to a Redis server. Stop the gateway first.

    Nothing is lost or put twice, also where it was interrupted: run it again. Both are added up at the end; then
    start the gateway with ledger.url naming the server, and keep the file aside.
    """
    from gateway.ledger.copying import copy as copied
    from gateway.ledger.redis import RedisLedger

    configured = load(config, os.environ).ledger
    into = configured if to is None else configured.model_copy(update={"url": to})
    try:
        target = ledger_of(LedgerSettings.model_validate(into.model_dump()), timedelta(0), observer=True)
        path = LedgerSettings(url=source).path
    except ValidationError as error:
        raise CommandFailed(f"--from or --to: {error.errors()[0]['msg']}") from None
    if not path.exists():
        raise CommandFailed(f"--from: {path} does not exist: nothing was stored there yet")
    if not isinstance(target, RedisLedger):
        raise CommandFailed("--to: is a file; a ledger can be moved to a Redis server only")
    made = asyncio.run(copied(path, target))
    if as_json:
        machine(made)
    else:
        say(f"{into.shown}: {made['events']} events, and both add up to the same", "green")
    return Exit.OK


@ledger.command
def erase(
    customer: str,
    /,
    *,
    reason: Reason,
    abandon: Annotated[
        bool, Parameter(negative="", help="Give up what could still be billed or repaired. Else that is a refusal.")
    ] = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Forget a customer at a running gateway: properties, names, vendors' words. Quantities stay, under a pseudonym."""
    body = {"reason": reason, "unsettled": "abandon" if abandon else "refuse"}
    made = ask(url, key, "POST", f"/v1/customers/{in_path(customer)}/erase", body).json()
    if as_json:
        machine(made)
        return Exit.OK
    archived = "soon those" if made["archived"] is None else made["archived"]
    say(f"{made['events']} events in the ledger and {archived} in the archive: now {made['pseudonym']}", "green")
    if made["abandoned"]:
        say("given up: " + ", ".join(f"{count} {state}" for state, count in sorted(made["abandoned"].items())))
    if made["in_doubt"]:
        say(f"{made['in_doubt']} of these may have been stored at the vendor: look there", "yellow")
    if made["configured"]:
        say("The configuration still names this customer: take the links there out too.")
    return Exit.OK


def _path(config: Path) -> Path:
    """Return the ledger's file. A Redis server is backed up by its own means."""
    settings = load(config, os.environ).ledger
    if settings.url.startswith("redis"):
        raise CommandFailed(
            "the ledger is a Redis server: back it up and restore it as one, by its own RDB or AOF files"
        )
    return settings.path
