"""Quart's session in a signed cookie, at no cost to requests that do not use it."""

from typing import Any

from itsdangerous import URLSafeTimedSerializer
from quart import Quart, Response, has_request_context, request, websocket
from quart.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from werkzeug.wrappers import Response as WerkzeugResponse


class Session(SecureCookieSession):
    """A session that records whether it was read.

    `accessed` is of no use in Quart 0.23.1: its context sets it for each request, when Quart itself reads the session,
    and each response would have `Vary: Cookie`.
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
    """The same cookies as Quart's own class, which creates a serializer for each request, used or not."""

    session_class = Session
    _made_of: tuple[object, ...] = ()
    _serializer: URLSafeTimedSerializer | None = None

    def get_signing_serializer(self, app: Quart) -> URLSafeTimedSerializer | None:
        """Returns a serializer that is kept until the keys change; None without a SECRET_KEY."""
        made_of = (app.secret_key, *(app.config["SECRET_KEY_FALLBACKS"] or ()))
        if made_of != self._made_of:
            self._serializer, self._made_of = super().get_signing_serializer(app), made_of
        return self._serializer

    def get_cookie_secure(self, app: Quart) -> bool:
        """Whether a client may send the cookie over TLS only: where it came by TLS, SESSION_COOKIE_SECURE or not."""
        scheme = (request if has_request_context() else websocket).scheme
        return super().get_cookie_secure(app) or scheme in {"https", "wss"}

    async def save_session(
        self, app: Quart, session: SessionMixin, response: Response | WerkzeugResponse | None
    ) -> None:
        """Sets or deletes the cookie; an empty session that was not read is skipped."""
        if isinstance(session, Session):
            session.accessed = session.looked_at or session.modified
        if session or session.accessed or session.modified:
            await super().save_session(app, session, response)
