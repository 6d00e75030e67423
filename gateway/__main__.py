"""`usage-gateway`, and `python -m gateway`."""

import contextlib
import signal
import sys
from collections.abc import Generator

__all__ = ["main"]

INTERRUPTED = 130
"""As `gateway.cli` has it, which is not there yet."""


def main() -> int:
    """Run the command that the process was given; return its exit code."""
    try:
        with _hangups_wait() if sys.argv[1:2] == ["serve"] else contextlib.nullcontext():
            from gateway.cli import main as run  # which takes a while, and a SIGHUP would end the process meanwhile

            return run()
    except KeyboardInterrupt:  # in that while; later ones are the command's own
        return INTERRUPTED


@contextlib.contextmanager
def _hangups_wait() -> Generator[None]:
    """Keep a SIGHUP for whoever hears them later. One that nobody did hear is forgotten in the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        if signal.SIGHUP in signal.sigpending():
            signal.sigwait({signal.SIGHUP})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


if __name__ == "__main__":
    sys.exit(main())
