"""What a user's mistake looks like: one line on stderr and exit code 1, never a traceback."""

import functools
import io
import os
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what is allowed."""


class Stopped(KeyboardInterrupt):
    """Told to stop by a signal. Arguments: what to say about it, and the signal's number."""


def terminated(number: int, _: object) -> None:
    """Handle SIGTERM, DVC's or a cluster's: unwind as after Ctrl-C, so that half-written outputs
    are removed."""
    raise Stopped("interrupted", number)


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a stage's `main`: user's mistakes, a full or read-only disk, Ctrl-C and SIGTERM end in
    one line and exit code 1 (128 + the signal's number after a signal).

    Anything else is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        stage = main.__globals__["__spec__"].name.rpartition(".")[2]
        signal.signal(signal.SIGTERM, terminated)
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path that the locale lacks letters for
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            main()
        except UserError as error:
            sys.exit(f"{stage}: {error}")
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            sys.exit(f"{stage}: {error.filename or 'disk'}: {error.strerror}")
        except KeyboardInterrupt as stop:
            message, number = stop.args or ("interrupted", signal.SIGINT)
            if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
                print(f"{stage}: {message}", file=sys.stderr)
            sys.exit(128 + number)

    return wrapped
