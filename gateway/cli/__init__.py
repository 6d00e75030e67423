"""The command line: `usage-gateway`. Machines read standard output, people read standard error.

Exit codes: 0 ok, 1 failure, 2 usage, 3 differences found, 4 partial success, 130 interrupted.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from gateway import __version__
from gateway.cli._out import CommandFailed, Exit, complain
from gateway.errors import GatewayError

__all__ = ["app", "main"]

app = App(
    name="usage-gateway",
    version=__version__,
    help="One usage event in, every billing vendor out, one merged answer.",
    suppress_keyboard_interrupt=False,
    help_epilogue="Exit codes: 0 ok, 1 failure, 2 usage, 3 differences found, 4 partial success, 130 interrupted.",
)

# Commands are imported when they are used: the help of one must not wait for the imports of all.
app.command("gateway.cli.demo:demo", name="demo", help="Show it working: four simulated vendors, 200 events.")
app.command("gateway.cli.serve:serve", name="serve", help="Run the service.")
app.command("gateway.cli.send:send", name="send", help="Send a file of events to a running gateway.")
app.command("gateway.cli.explain:explain", name="explain", help="Show what would be sent for events, without sending.")
app.command("gateway.cli.check:check", name="check", help="Check a configuration, and what will surprise with it.")
app.command("gateway.cli.check:config", name="config", help="About the configuration file.")
app.command("gateway.cli.keys:keys", name="keys", help="The keys by which clients are known.")
app.command("gateway.cli.providers:providers", name="providers", help="Show what each provider can and cannot do.")
app.command("gateway.cli.links:links", name="links", help="How destinations name customers: CSV in and out.")
app.command("gateway.cli.deliveries:deliveries", name="deliveries", help="Look at and repair deliveries.")
app.command("gateway.cli.ledger:ledger", name="ledger", help="Back the ledger up, restore it, erase a customer.")
app.command("gateway.cli.events:events", name="events", help="Look at events, and correct them.")
app.command("gateway.cli.events:corrections", name="corrections", help="Correct many events by filter.")
app.command("gateway.cli.init:init", name="init", help="Write a configuration from what stands at a vendor.")
app.command(
    "gateway.cli.preflight:preflight", name="preflight", help="Tell what a destination would refuse of a history."
)
app.command("gateway.cli.backfill:backfill", name="backfill", help="Fill a destination in with history.")
app.command("gateway.cli.close:close", name="close", help="Tell whether a billing period is complete, and close it.")
app.command(
    "gateway.cli.reconcile:reconcile", name="reconcile", help="Hold the ledger and the vendors against each other."
)
app.command("gateway.cli.simulate:simulate", name="simulate", help="Run simulated vendors for your own tests.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` leaves out the program's name; absent: the process's own."""
    given = list(sys.argv[1:] if argv is None else argv)
    if (recode := getattr(sys.stdout, "reconfigure", None)) is not None:
        recode(encoding="utf-8")  # what machines read is, whatever the terminal speaks
    try:
        code = app(given, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{error} Try `usage-gateway --help`.")
        return Exit.USAGE
    except CommandFailed as error:
        complain(str(error))
        return error.code
    except GatewayError as error:
        complain(str(error))
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone. Python would complain once more when it closes standard output.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.OK
