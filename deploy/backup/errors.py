"""The one error that is shown to people."""


class Refused(Exception):
    """What was asked for cannot be done; the text is one sentence that says what is wrong and what to do."""
