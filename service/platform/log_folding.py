"""No flood of lines: what lasts is logged when it begins and when it ends, with how often it was in between.

Lines at WARNING and above are folded, each worker's by themselves. Lines are of one condition where one logger says the
same but for the arguments, or with an error of the same class. Of a condition pass

- the first line, and those that differ in the arguments, or in the error's text or traceback, DIFFERENT at the most;
- `lasts: …` each LASTING seconds, after which as many different ones pass again;
- `over: …` when none has come for QUIET seconds, if any was held back.

The last two have `times`, how many lines there were, those that passed included, and `lasted`, in seconds.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

QUIET = 30.0
"""Seconds without such a line after which a condition is over. Longer than what fails here waits to try again."""

LASTING = 600.0
"""Seconds after which it is said that a condition lasts."""

DIFFERENT = 10
"""How many lines of a condition that differ pass."""

CONDITIONS = 100
"""How many conditions there are at once; all others are one."""


@dataclass
class _Condition:
    """Its first line's logger, level and text, and when that came, by the clock.

    Not the record: its traceback would keep the request that failed in memory.
    """

    name: str
    level: int
    text: str
    begun: float
    last: float
    said: float
    times: int = 0
    is_folded: bool = False
    """Whether a line was held back."""
    passed: set[str] = field(default_factory=set)


class FoldingHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr. `clock` returns seconds, from any time on."""

    def __init__(
        self, *, quiet: float = QUIET, lasting: float = LASTING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.beside: logging.Handler | None = None
        """Gets the lines that pass, at its level and above."""
        self._quiet = quiet
        self._lasting = lasting
        self._clock = clock
        self._conditions: dict[tuple[str, ...], _Condition] = {}
        self._changing = threading.Lock()
        self._ending = threading.Event()
        self._watching: threading.Thread | None = None

    def handle(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and not self._passes(record):
            return False
        if self.beside is not None and record.levelno >= self.beside.level:
            self.beside.handle(record)
        return bool(super().handle(record))

    def close(self) -> None:
        self._ending.set()
        self.say_what_lasts()
        super().close()

    def say_what_lasts(self) -> None:
        """Says of what lasts how often it was, and forgets it: at the end of a process."""
        with self._changing:
            lasting = [one for one in self._conditions.values() if one.is_folded]
            self._conditions.clear()
        for one in lasting:
            self._say("lasts", one)

    def _passes(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
            key, text = _condition_and_text(record, message)
        except Exception:  # noqa: BLE001  # a broken call: logging reports it as it writes the line
            return True
        now = self._clock()
        with self._changing:
            if key not in self._conditions and len(self._conditions) >= CONDITIONS:
                key = ()
            one = self._conditions.get(key)
            if one is None or (now > one.last + self._quiet and not one.is_folded):
                one = self._conditions[key] = _Condition(record.name, record.levelno, message, now, now, now)
                self._watch()
            one.times += 1
            one.last = now
            if text in one.passed or len(one.passed) >= DIFFERENT:
                one.is_folded = True
                return False
            one.passed.add(text)
            return True

    def _watch(self) -> None:
        if self._watching is None and not self._ending.is_set():
            self._watching = threading.Thread(target=self._say_what_ends, name="log folding", daemon=True)
            self._watching.start()

    def _say_what_ends(self) -> None:
        """Runs in a thread of its own while there is any condition."""
        while not self._ending.wait(self._quiet / 4):
            over, lasting = [], []
            now = self._clock()
            with self._changing:
                for key, one in list(self._conditions.items()):
                    if now > one.last + self._quiet:
                        over.append(self._conditions.pop(key))
                    elif now > one.said + self._lasting:
                        lasting.append(one)
                        one.said = now
                        one.passed.clear()
                if not self._conditions:
                    self._watching = None
            for word, some in ("over", over), ("lasts", lasting):
                for one in some:
                    if one.is_folded:
                        self._say(word, one)
            if self._watching is not threading.current_thread():
                return

    def _say(self, word: str, one: _Condition) -> None:
        said = logging.LogRecord(one.name, one.level, "", 0, "%s: %s", (word, one.text), None)
        vars(said).update(times=one.times, lasted=round(one.last - one.begun, 3))
        super().handle(said)


def _condition_and_text(record: logging.LogRecord, message: str) -> tuple[tuple[str, ...], str]:
    """Returns what lines of one condition have in common, and what tells them apart."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return (record.name, record.levelname, str(record.msg)), message
    way = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return (record.name, record.levelname, type(error).__qualname__), f"{error} {way}"
