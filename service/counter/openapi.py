"""/openapi.json, made of the routes by quart-schema, and /docs, a page to try them.

Only the provider of quart-schema is used. Its extension wraps `make_response` and its validators wrap the views, with
which a POST took 1.24 times (0.99 to 1.44) as long: benchmarks/validation.py. Its other decorators leave the views
as they are.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from quart import Blueprint, Response, current_app
from quart_schema import Info, QuartSchema
from quart_schema.openapi import HttpSecurityScheme, OpenAPIProvider
from werkzeug.routing import Rule

from service.counter.models import ProblemDetails
from service.platform.app import App

_View = TypeVar("_View", bound=Callable[..., Any])

_STATIC = Path(__file__).parent / "static"
_NAME = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}
_RECEIPT = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TEXT = {
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}},
    "text/html": {"schema": {"type": "string"}},
}

blueprint = Blueprint("openapi", __name__)


def problems(*statuses: int) -> Callable[[_View], _View]:
    """Says which errors a view answers, for /openapi.json; the view is left as it is."""

    def document(view: _View) -> _View:
        view.problems = statuses  # type: ignore[attr-defined]
        return view

    return document


def register(app: App) -> None:
    """Adds the routes. The document is made when it is first asked for, by each worker once."""
    app.config.update(
        QUART_SCHEMA_CONVERSION_PREFERENCE="msgspec",
        QUART_SCHEMA_CONVERT_CASING=False,
        QUART_SCHEMA_PYDANTIC_DUMP_OPTIONS={},
    )
    app.register_blueprint(blueprint)


class _Provider(OpenAPIProvider):
    """The API's routes, with what quart-schema's decorators cannot say."""

    def generate_rules(self) -> Iterable[Rule]:
        return (rule for rule in super().generate_rules() if rule.endpoint.startswith("api."))

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        for path in paths.values():
            for method, operation in path.items():
                self._complete(method, operation, getattr(view, "problems", ()))
        return paths, {**components, **_components(ProblemDetails)[1]}

    def build_response_object(self, model: Any, headers_model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """quart-schema 0.25 loses the schemas of structs within a struct of msgspec."""
        response, _ = super().build_response_object(model, headers_model)
        response["content"]["application/json"]["schema"], definitions = _components(model)
        return response, definitions

    def _complete(self, method: str, operation: dict[str, Any], statuses: Iterable[int]) -> None:
        if method == "delete":
            operation["responses"][204] = {"description": "It is deleted."}
        if 201 in operation["responses"]:
            location = {"description": "The counter's path.", "schema": {"type": "string"}}
            operation["responses"][201]["headers"] = {"Location": location}
        for status in statuses:
            operation["responses"][status] = {"description": "See docs/counter/api.md.", "content": _TEXT}
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                parameter["schema"] = _NAME if parameter["name"] == "name" else _RECEIPT


def _components(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a reference to the model's schema, and the schemas of it and of what is in it, by name."""
    (reference,), found = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    return reference, found


@blueprint.get("/openapi.json")
async def document() -> Response:
    """The API as OpenAPI 3.1."""
    kept = current_app.extensions.get("openapi")
    if kept is None:
        schema = QuartSchema(
            info=Info(title="Tally", version="0.1.0"),
            security_schemes={"bearer": HttpSecurityScheme(scheme="bearer")},
            conversion_preference="msgspec",
        )
        app = current_app._get_current_object()  # type: ignore[attr-defined]  # the provider keeps a weak reference
        kept = current_app.extensions["openapi"] = msgspec.json.encode(_Provider(app, schema).schema())
    return Response(kept, content_type="application/json")


@blueprint.get("/docs")
async def docs() -> Response:
    """A page to try the API, which needs nothing from elsewhere."""
    return Response((_STATIC / "docs.html").read_bytes(), content_type="text/html; charset=utf-8")


@blueprint.get("/docs.js")
async def docs_script() -> Response:
    """The page's script, in a file of its own since the Content-Security-Policy forbids inline ones."""
    return Response((_STATIC / "docs.js").read_bytes(), content_type="text/javascript; charset=utf-8")
