"""The errors that the application answers; docs/notes.md names them."""

from http import HTTPStatus

from service.platform.problems import Problem


class NoSuchNote(Problem):
    """No note has this number."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, "no-such-note", "There is no note of this number.")


class NoteTooLong(Problem):
    """The note is longer than NOTE_LENGTH."""

    def __init__(self, length: int) -> None:
        text = f"A note has {length} characters at the most."
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, "note-too-long", text)
