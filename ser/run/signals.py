"""Signals that wait until the work at hand is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def caught() -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM are added, in place of their usual effect: signals of the
    main thread, no other has any."""
    signals: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM) * is_main
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
