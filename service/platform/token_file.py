"""The file of tokens: a line for each, with its name, its scopes and the SHA-256 of the token itself.

256 random bits need no slower hash. What scopes there are is the application's choice.
"""

import hashlib
import re
from dataclasses import dataclass

_NAME = "[a-z0-9][a-z0-9._-]{0,62}"
_SCOPE = f"[a-z]+(:{_NAME})?"
_LINE = re.compile(f"(?P<name>{_NAME}) +(?P<scopes>{_SCOPE}(,{_SCOPE})*) +(?P<digest>[0-9a-f]{{64}})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token's name, for logs and as the owner of keys, and what it may do."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: str, name: str = "") -> bool:
        """Whether it has the scope: for every name, or for those that begin with what follows a `:` (`write:shop-`)."""
        return scope in self.scopes or name.startswith(self.prefixes(scope))

    def prefixes(self, scope: str) -> tuple[str, ...]:
        """Returns with what the names begin for which it has the scope: "" for every name, none where it lacks it."""
        found = (one.partition(":") for one in self.scopes)
        return tuple(prefix for word, _, prefix in found if word == scope)


def parse_tokens(text: str) -> dict[str, Token]:
    """Parses lines of `name scope,scope sha256`; returns the tokens by their SHA-256 in hexadecimal.

    A `;` ends a line too. A name is one token's, to which its idempotency keys belong. Raises ValueError, which names
    the line and holds nothing of it.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(map(str.strip, text.replace(";", "\n").splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"API_TOKENS is malformed in line {number}: it must be `name scope,scope sha256`")
        if found["digest"] in tokens:
            raise ValueError(f"API_TOKENS has the token of line {number} twice")
        if any(token.name == found["name"] for token in tokens.values()):
            raise ValueError(f"API_TOKENS has the name of line {number} twice: give each token a name of its own")
        tokens[found["digest"]] = Token(found["name"], frozenset(found["scopes"].split(",")))
    return tokens


def line_of(name: str, scopes: tuple[str, ...], secret: str) -> str:
    """Returns the line for a token. Raises ValueError where name or scopes cannot be in one."""
    line = f"{name} {','.join(scopes)} {digest(secret)}"
    if _LINE.fullmatch(line) is None:
        raise ValueError(f"a name is {_NAME}, a scope is [a-z]+ or, for names with a prefix, [a-z]+:PREFIX")
    return line


def digest(secret: str) -> str:
    """Returns the SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()
