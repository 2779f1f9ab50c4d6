"""User-facing errors: one line on stderr and exit code 1, never a traceback."""

import functools
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

LONGEST = 1000  # characters of a message


def as_line(text: str) -> str:
    """`text` as one line: no line break, and nothing that a terminal would obey, as names in an
    archive or a file may hold it; cut off where it goes on and on."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:LONGEST])
    return line if len(text) <= LONGEST else f"{line}…"


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what is allowed, on
    one line, whatever it quotes."""

    def __init__(self, message: str):
        super().__init__(as_line(message))


class Stopped(KeyboardInterrupt):
    """Raised on SIGTERM. Arguments: what to say about it, and the signal's number."""


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
        signal.signal(signal.SIGTERM, terminated)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if isinstance(sys.stdout, io.TextIOWrapper):  # a path that the locale lacks letters for
            sys.stdout.reconfigure(errors="backslashreplace")
        stage = main.__globals__["__spec__"].name.rpartition(".")[2]
        try:
            main()
            print(end="", flush=True)
            return
        except UserError as error:
            message, code = str(error), 1
        except BrokenPipeError:  # whoever reads stdout has enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left
            sys.exit(128 + 13)  # as after SIGPIPE
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            name = error.filename or "disk"
            where = as_line(os.fsdecode(name) if isinstance(name, bytes) else str(name))
            message, code = f"{where}: {error.strerror}", 1
        except KeyboardInterrupt as stop:
            message, number = stop.args or ("interrupted", signal.SIGINT)
            code = 128 + number
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            # One of several processes: their launcher shows what the first of them reports.
            Path(report).write_text(json.dumps({"message": message, "timestamp": time.time()}))
        elif code == 1:
            sys.exit(f"{stage}: {message}")
        else:
            print(f"{stage}: {message}", file=sys.stderr)
        sys.exit(code)

    return wrapped
