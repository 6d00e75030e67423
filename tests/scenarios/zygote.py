"""A process that has everything imported and forks the real `serve` command on demand, so that a start costs little.

One line in, the path of a configuration: one child. The child's pid and its own first line come out on standard
output, in any order. `reap` waits for the child that was killed. With `hasty` as its argument, the children
acknowledge before they store: what the kill loop must find out.
"""

import json
import os
import sys
import traceback


def main() -> None:
    import gateway.opening
    from gateway.cli import main as command
    from gateway.cli.serve import serve  # imported once, here: a child forks with all that it needs
    from tests.scenarios.hasty import HastyLedger

    assert callable(serve)
    child = 0
    for line in sys.stdin:
        given = line.strip()
        if given == "reap":
            os.waitpid(child, 0)
            say({"reaped": child})
            continue
        child = os.fork()
        if child == 0:
            # Not its parent's orders: a pipe that stays open here would keep the test waiting for its end.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if "hasty" in sys.argv[1:]:
                gateway.opening.SqliteLedger = HastyLedger  # type: ignore[misc]
            sys.argv = ["usage-gateway", "serve", "--config", given, "--json"]
            try:
                command()
            except Exception:  # noqa: BLE001  nobody else tells: this process ends without one
                traceback.print_exc()
            finally:
                os._exit(0)
        say({"pid": child})


def say(told: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
