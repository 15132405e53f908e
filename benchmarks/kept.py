"""The kept runs: a file for each suite and machine."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtests.proof.measuring import Run

KEPT = Path(__file__).with_name("results")


@dataclass
class Results:
    """The runs of a suite on one machine."""

    suite: str
    machine: str
    software: str
    date: str
    commands: list[str]
    notes: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return KEPT / re.sub(r"[^a-z0-9]+", "-", self.machine.lower()).strip("-") / f"{self.suite}.json"

    def save(self) -> None:
        """Keeps the results, apart from those of other machines."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def of(self, candidate: str, connections: int, arrivals: int = 0) -> dict[str, Run]:
        """Returns the candidate's runs by round."""
        wanted = candidate, connections, arrivals
        return {run.round: run for run in self.runs if (run.candidate, run.connections, run.arrivals) == wanted}


def load(file: Path) -> Results:
    """Returns the results that were saved in the file."""
    found = json.loads(file.read_text())
    return Results(**{**found, "runs": [Run(**run) for run in found["runs"]]})
