"""What a job says of its steps, and how far it is within one."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ON_A_TERMINAL, ELSEWHERE = 0.5, 30.0
"""Seconds between two reports of a step: in a line that is written over, or each in a line of its own."""

_CLEAR = "\r\x1b[K"


def say(text: str) -> None:
    """Says what a job does, or has done."""
    print(f"-- {text}", file=sys.stderr, flush=True)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def count(number: float) -> str:
    return f"{number:,.0f}"


@contextmanager
def progress(total: float, done: Callable[[], float], measure: Callable[[float], str] = megabytes) -> Iterator[None]:
    """Shows during the block how much of `total` is done, as `measure` prints it. `done` runs in another thread."""
    is_terminal = sys.stderr.isatty()
    begun = time.monotonic()
    over = threading.Event()

    def show() -> None:
        while not over.wait(ON_A_TERMINAL if is_terminal else ELSEWHERE):
            try:
                so_far = min(done(), total)
            except OSError:  # a file was removed while its size was looked up
                continue
            text = _text(so_far, total, time.monotonic() - begun, measure)
            print(f"{_CLEAR}-- {text}" if is_terminal else f"-- {text}\n", end="", file=sys.stderr, flush=True)

    showing = threading.Thread(target=show, name="progress", daemon=True)
    showing.start()
    try:
        yield
    finally:
        over.set()
        showing.join()
        if is_terminal:
            print(_CLEAR, end="", file=sys.stderr, flush=True)


def _text(done: float, total: float, seconds: float, measure: Callable[[float], str]) -> str:
    """Returns how much is done, with the rate, and the seconds left where there is a rate."""
    rate = done / seconds
    left = f", {(total - done) / rate:,.0f} s left" if rate else ""
    return f"{measure(done)} of {measure(total)}, {measure(rate)}/s{left}"
