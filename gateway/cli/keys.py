"""`usage-gateway keys new`: a key for a client, and what the configuration keeps of it."""

import json
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import ValidationError

from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, say
from gateway.configuration.keys import Key, Scope, new_key, sha256

__all__ = ["keys"]

keys = App(name="keys", help="The keys by which clients are known.")

Scopes = Annotated[tuple[Scope, ...], Parameter(name="--scope", negative="", help="May be given several times.")]


@keys.command
def new(
    *,
    name: Annotated[str, Parameter(help="Who holds it; appears in logs.")] = "client",
    tenant: Annotated[str, Parameter(help="Scopes ids, events and links.")] = "default",
    scope: Scopes = ("events:write", "events:read"),
    as_json: Json = False,
) -> int:
    """Make a key. It is shown this once; the configuration holds only its SHA-256."""
    secret = new_key()
    try:
        key = Key(name=name, sha256=sha256(secret), tenant=tenant, scopes=frozenset(scope))
    except ValidationError as error:
        flaw = error.errors()[0]
        raise CommandFailed(f"--{flaw['loc'][0]} {flaw['msg']}", Exit.USAGE) from None
    scopes = list(dict.fromkeys(scope))
    if as_json:
        entry = {"name": key.name, "sha256": key.sha256, "tenant": key.tenant, "scopes": scopes}
        machine({"object": "key", "key": secret, "configuration": entry})
        return Exit.OK
    hint("The key, shown this once. Give it to the client, as `Authorization: Bearer ...` or in USAGE_GATEWAY_KEY:")
    say(f"\n  {secret}\n", "bold")
    hint("For the configuration:\n")
    hint("  auth:\n    keys:")
    say(f"      - name: {json.dumps(key.name)}\n        sha256: {key.sha256}")
    if key.tenant != "default":
        say(f"        tenant: {key.tenant}")
    say(f"        scopes: [{', '.join(scopes)}]")
    return Exit.OK
