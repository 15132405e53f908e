"""The application's own settings, read as the platform's are (service/platform/settings.py)."""

from dataclasses import dataclass

from environs import FileAwareEnv

from service.notes.tables import LONGEST
from service.platform.settings import between, load


@dataclass(frozen=True, slots=True, kw_only=True)
class NotesSettings:
    """`note_length` is in characters; `note_days`: how long notes are kept, 0 for ever."""

    note_length: int
    note_days: int


def load_notes_settings() -> NotesSettings:
    """Returns the application's settings. Raises SettingsError."""
    return load(_read)


def _read(env: FileAwareEnv) -> NotesSettings:
    return NotesSettings(
        note_length=env.int("NOTE_LENGTH", 1_000, validate=between(1, LONGEST)),
        note_days=env.int("NOTE_DAYS", 0, validate=between(0, 36_500)),
    )
