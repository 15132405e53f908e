"""/openapi.json, made of the routes by quart-schema, and /docs, where Swagger UI shows them and sends requests.

Only the provider of quart-schema is used. Its extension wraps `make_response` and its validators wrap the views, with
which a POST took 1.24 times (0.99 to 1.44) as long when it was measured. Its other decorators leave the views
as they are.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from quart import Blueprint, Response, current_app, send_from_directory
from quart_schema import Info, QuartSchema
from quart_schema.openapi import HttpSecurityScheme, OpenAPIProvider
from werkzeug.routing import Rule

from service.platform.app import App
from service.platform.idempotency import REPLAYED

_View = TypeVar("_View", bound=Callable[..., Any])

_STATIC = Path(__file__).parent / "static"
_SWAGGER_UI = Path(importlib.util.find_spec("flask_swagger_ui").origin).parent / "dist"  # type: ignore[union-attr, arg-type]
"""The files of Swagger UI, which this package has; it is not imported."""

_SWAGGER_UI_ASSETS = {"favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css"}
_DOCS_POLICY = (
    "default-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
"""nginx.conf's, but that Swagger UI's style sheet has its icons within."""

_TEXT = {
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}},
    "text/html": {"schema": {"type": "string"}},
}

blueprint = Blueprint("openapi", __name__)


@dataclass(frozen=True, kw_only=True)
class API:
    """The document's contents that are the application's: `blueprints` are those whose routes are in it.

    `path_parameters` has a JSON schema for each variable of a path, `errors` says where the errors are described.
    """

    title: str
    version: str
    blueprints: tuple[str, ...]
    path_parameters: dict[str, dict[str, Any]]
    errors: str


class ProblemDetails(msgspec.Struct):
    """Problem Details (RFC 9457); the application's documents name each type."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | msgspec.UnsetType = msgspec.UNSET


def problems(*statuses: int) -> Callable[[_View], _View]:
    """Documents the error statuses of a view for /openapi.json; the view itself is not changed."""

    def document(view: _View) -> _View:
        view.problems = statuses  # type: ignore[attr-defined]
        return view

    return document


def media_types(*types: str) -> Callable[[_View], _View]:
    """Documents further media types of a view's 200 response, whose body is text."""

    def document(view: _View) -> _View:
        view.media_types = types  # type: ignore[attr-defined]
        return view

    return document


def register(app: App, api: API) -> None:
    """Adds the routes. Each worker generates the document at the first request for it."""
    app.config.update(
        QUART_SCHEMA_CONVERSION_PREFERENCE="msgspec",
        QUART_SCHEMA_CONVERT_CASING=False,
        QUART_SCHEMA_PYDANTIC_DUMP_OPTIONS={},
    )
    app.extensions["api"] = api
    app.register_blueprint(blueprint)


class _Provider(OpenAPIProvider):
    """The API's routes, with details that quart-schema's decorators cannot express."""

    def __init__(self, app: App, schema: QuartSchema, api: API) -> None:
        super().__init__(app, schema)
        self._api = api

    def generate_rules(self) -> Iterable[Rule]:
        return (rule for rule in super().generate_rules() if rule.endpoint.partition(".")[0] in self._api.blueprints)

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        for path in paths.values():
            for method, operation in path.items():
                self._complete(method, operation, getattr(view, "problems", ()))
                for media_type in getattr(view, "media_types", ()):
                    ok = operation["responses"].setdefault(200, {"description": operation["summary"], "content": {}})
                    ok["content"][media_type] = {"schema": {"type": "string"}}
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
            location = {"description": "Its path.", "schema": {"type": "string"}}
            operation["responses"][201]["headers"] = {"Location": location}
        for status in statuses:
            operation["responses"][status] = {"description": self._api.errors, "content": _TEXT}
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                parameter["schema"] = self._api.path_parameters[parameter["name"]]
            elif parameter["name"] == "Idempotency-Key":
                replayed = {"description": "`true` where it was given before.", "schema": {"const": "true"}}
                operation["responses"][200]["headers"] = {REPLAYED: replayed}


def _components(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a reference to the model's schema, and by name that schema and those that it refers to."""
    (reference,), found = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    return reference, found


@blueprint.get("/openapi.json")
async def document() -> Response:
    """The API as OpenAPI 3.1."""
    kept = current_app.extensions.get("openapi")
    if kept is None:
        api: API = current_app.extensions["api"]
        schema = QuartSchema(
            info=Info(title=api.title, version=api.version),
            security_schemes={"bearer": HttpSecurityScheme(scheme="bearer")},
            conversion_preference="msgspec",
        )
        app: Any = current_app
        app = app._get_current_object()  # the provider keeps a weak reference
        kept = current_app.extensions["openapi"] = msgspec.json.encode(_Provider(app, schema, api).schema())
    return Response(kept, content_type="application/json")


@blueprint.get("/docs")
async def docs() -> Response:
    """Swagger UI; all its assets are served from here."""
    page = await send_from_directory(_STATIC, "docs.html", cache_timeout=0)
    page.headers["Content-Security-Policy"] = _DOCS_POLICY
    return page


@blueprint.get("/docs/<asset>")
async def docs_asset(asset: str) -> Response:
    """The page's assets, which browsers revalidate at each use: after an upgrade none is an old one."""
    if asset in _SWAGGER_UI_ASSETS:
        return await send_from_directory(_SWAGGER_UI, asset, cache_timeout=0)
    return await send_from_directory(_STATIC / "docs", asset, cache_timeout=0)
