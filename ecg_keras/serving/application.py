"""The web application: upload form, state of an upload, table of answers, explanation pages."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from data_prep.errors import OptionError
from ecg_keras.serving.uploads import Upload, Worker

_ENVIRONMENT = Environment(
    loader=ChoiceLoader(
        [PackageLoader("ecg_keras.serving"), PackageLoader("ecg_keras.evaluation")]
    ),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_COOKIE = "ecg_serve_token"
_HEADERS = {
    # No page may run scripts or load anything from other sites.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def application(worker: Worker, *, token: str | None = None) -> Starlette:
    """Build the application.

    Args:
        worker: processes the uploads; it is started and stopped with the application.
        token: must be given once as ``?token=…`` to open a page, and is then kept in a cookie.
            None if only this machine can reach the server; then only requests to a loopback name
            are accepted.
    """

    def form(request: Request) -> Response:
        limits = worker.limits
        return _page("form.html.jinja", models=list(worker.models), limits=limits)

    async def take(request: Request) -> Response:
        limits = worker.limits
        length = request.headers.get("content-length", "")
        # With a transfer encoding, the length that is stated does not hold.
        if not length.isdecimal() or "transfer-encoding" in request.headers:
            raise HTTPException(411, "the browser does not say how large the upload is.")
        if int(length) > limits.megabytes * 1_000_000:
            raise HTTPException(
                413,
                f"the upload has {int(length) / 1e6:.0f} MB; at most {limits.megabytes} MB are"
                " taken at once.",
            )
        try:
            async with asyncio.timeout(limits.seconds):
                fields = await request.form(max_files=limits.files, max_fields=3)
        except TimeoutError:
            raise HTTPException(
                408, f"the upload took longer than {limits.seconds} s to arrive; try again."
            ) from None
        except HTTPException as error:
            raise HTTPException(
                400, f"the upload cannot be read ({error.detail}); at most {limits.files} files are"
                " taken at once."
            ) from None  # fmt: skip
        try:
            uploaded = [each for each in fields.getlist("files") if isinstance(each, UploadFile)]
            files: list[tuple[str, BinaryIO]] = [
                (each.filename, each.file) for each in uploaded if each.filename
            ]
            if not files:
                raise OptionError("no file was chosen; drop one on the field or choose it.")
            upload = await asyncio.to_thread(
                worker.add,
                str(fields.get("model", "")),
                files,
                fs=_rate(str(fields.get("fs", ""))),
                unit=str(fields.get("unit", "")) or None,
            )
        finally:
            await fields.close()
        return RedirectResponse(f"/uploads/{upload.key}", 303)

    def state(request: Request) -> Response:
        upload = _upload(request)
        return _page("upload.html.jinja", upload=upload, before=worker.before(upload))

    def table(request: Request) -> Response:
        upload = _upload(request)
        if not upload.table:
            raise HTTPException(404, "there are no answers yet; open the page of the upload.")
        attached = {"Content-Disposition": 'attachment; filename="answers.csv"'}
        return Response(upload.table, media_type="text/csv; charset=utf-8", headers=attached)

    def explanation(request: Request) -> Response:
        number = request.path_params["number"]
        page = _upload(request).pages.get(number)
        if page is None:
            raise HTTPException(404, "there is no such page yet; open the page of the upload.")
        # A recording's name may hold any character.
        saved = f"explanation_{number}.html" if "download" in request.query_params else None
        return FileResponse(page, media_type="text/html", filename=saved)

    def forget(request: Request) -> Response:
        worker.forget(request.path_params["key"])
        return RedirectResponse("/", 303)

    def _upload(request: Request) -> Upload:
        upload = worker.get(request.path_params["key"])
        if upload is None:
            raise HTTPException(404, "this upload is not kept any more; upload the files again.")
        return upload

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        worker.start()
        yield
        worker.stop()

    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refusal = _refusal(request, token)
        response = refusal or await call_next(request)
        if refusal is None and token is not None and "token" in request.query_params:
            response.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
        response.headers.update(_HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/", form),
            Route("/uploads", take, methods=["POST"]),
            Route("/uploads/{key}", state),
            Route("/uploads/{key}/answers.csv", table),
            Route("/uploads/{key}/pages/{number:int}", explanation),
            Route("/uploads/{key}/forget", forget, methods=["POST"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={HTTPException: _http_problem, OptionError: _problem},
        lifespan=lifespan,
    )


def _refusal(request: Request, token: str | None) -> Response | None:
    """Return an error page for a request without the token or from another site, else None."""
    host = request.headers.get("host", "")
    if token is None and _split(f"//{host}").hostname not in _LOOPBACK:
        return _error(400, "this server answers only as localhost; open its address by that name.")
    if token is not None:
        given = request.query_params.get("token") or request.cookies.get(_COOKIE, "")
        if not secrets.compare_digest(given.encode(), token.encode()):
            refusal = _error(403, "the token is missing; open the address that ecg-serve printed.")
            # Fifty connections that stay open would keep out all others.
            refusal.headers["Connection"] = "close"
            return refusal
    origin = request.headers.get("origin")
    if request.method == "POST" and origin is not None and _split(origin).netloc != host:
        return _error(
            403,
            "another site sent this upload, or a proxy changed its Host header; send it from this"
            " server's own page, through a proxy that passes the Host on.",
        )
    return None


def _rate(text: str) -> float | None:
    """Return the sampling rate in hertz that was given on the form, None if none was."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise OptionError(
            f"the sampling rate is {text[:40]!r}; give a number of hertz, such as 500."
        ) from None


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # such as http://[
        return urlsplit("")


def _page(template: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(**values), status)


def _error(status: int, sentence: str) -> Response:
    return _page("problem.html.jinja", status, sentence=sentence)


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = error.status_code == 404 and error.detail == "Not Found"
    return _error(error.status_code, "there is no such page." if unknown else error.detail)


def _problem(request: Request, error: Exception) -> Response:
    return _error(400, str(error))
