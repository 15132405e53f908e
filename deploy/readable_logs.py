"""Prints log lines for people: those in JSON as text, all others as they are. `./run logs` on a terminal."""

import json
import re
import signal
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

LINE = re.compile(r"(?P<before>[^{]*)(?P<object>\{.*\})\s*")
"""Compose names the container before what it has said."""

SHOWN = ("time", "level", "event", "exception")


def readable(line: str) -> str:
    """Returns the line as text, in which no character does anything to a terminal."""
    found = LINE.fullmatch(line)
    try:
        said = json.loads(found["object"]) if found else None
    except ValueError:
        said = None
    if isinstance(said, dict) and "msg" in said and "label" in said:  # MySQL's
        said = {"time": said.get("time"), "level": str(said["label"]).lower(), "event": said["msg"]}
    elif isinstance(said, dict) and "msg" in said and "ts" in said:  # Prometheus'
        said = {"time": said.pop("ts"), "event": said.pop("msg"), **said}
    if found is None or not isinstance(said, dict) or "event" not in said:
        return _printable(line.rstrip("\n"))
    return _printable(found["before"]) + "\n".join([_first_line(said), *map(_printable, _traceback(said))])


def _first_line(said: dict[str, Any]) -> str:
    try:
        time = datetime.fromisoformat(str(said.get("time"))).strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        time = ""
    event = str(said["event"])
    if event == "request" and "uri" in said:
        event = " ".join(str(said.get(name, "")) for name in ("method", "uri", "status"))
    others = " ".join(
        f"{name}={value}" for name, value in said.items() if name not in SHOWN and value not in ("", None)
    )
    return _printable(f"{time:12} {said.get('level', ''):8} {event}  {others}".rstrip())


def _traceback(said: dict[str, Any]) -> Iterable[str]:
    return str(said.get("exception", "")).splitlines()


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() or character == "\t" else character.encode("unicode_escape").decode()
        for character in text
    )


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends what writes, and this with it
    for line in sys.stdin.buffer:
        print(readable(line.decode(errors="replace")), flush=True)


if __name__ == "__main__":
    main()
