"""What a user's mistake looks like: one line on stderr and exit code 1, never a traceback."""

import functools
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what is allowed."""


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a stage's `main`: user's mistakes, a full or read-only disk and Ctrl-C end in one line
    and exit code 1 (130 for Ctrl-C).

    Anything else is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        stage = main.__globals__["__spec__"].name.rpartition(".")[2]
        # DVC's SIGTERM, or a cluster's, unwinds like Ctrl-C, so that half-written outputs are
        # removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            main()
        except UserError as error:
            sys.exit(f"{stage}: {error}")
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            sys.exit(f"{stage}: {error.filename or 'disk'}: {error.strerror}")
        except KeyboardInterrupt:
            print(f"{stage}: interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
