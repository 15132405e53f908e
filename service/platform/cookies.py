"""Quart's session in a signed cookie, without work for the requests that have no use for it."""

from typing import Any

from itsdangerous import URLSafeTimedSerializer
from quart import Quart, Response
from quart.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from werkzeug.wrappers import Response as WerkzeugResponse


class Session(SecureCookieSession):
    """A session that knows whether it was looked at.

    `accessed` does not tell in Quart 0.23.1: its context sets that at each request, when Quart itself asks for the
    session, and each answer would have `Vary: Cookie`.
    """

    looked_at = False

    def __getitem__(self, key: str) -> Any:
        self.looked_at = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_at = True
        return super().get(key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.looked_at = True
        return super().setdefault(key, default)


class CookieSessions(SecureCookieSessionInterface):
    """The same cookies as Quart's own class, which makes its serializer for each request, session or not."""

    session_class = Session
    _made_of: tuple[object, ...] = ()
    _serializer: URLSafeTimedSerializer | None = None

    def get_signing_serializer(self, app: Quart) -> URLSafeTimedSerializer | None:
        """Returns one that is made anew only when the keys change; None without a SECRET_KEY."""
        made_of = (app.secret_key, *(app.config["SECRET_KEY_FALLBACKS"] or ()))
        if made_of != self._made_of:
            self._serializer, self._made_of = super().get_signing_serializer(app), made_of
        return self._serializer

    async def save_session(
        self, app: Quart, session: SessionMixin, response: Response | WerkzeugResponse | None
    ) -> None:
        """Sets or deletes the cookie; nothing of either is asked of a session that is empty and was not looked at."""
        if isinstance(session, Session):
            session.accessed = session.looked_at or session.modified
        if session or session.accessed or session.modified:
            await super().save_session(app, session, response)
