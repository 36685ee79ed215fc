"""Checks of every request: access and size; headers that restrict the browser."""

import asyncio
import base64
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
MAX_MESSAGE = 32 << 20  # bytes of a request that is not a photo
LOGIN_DELAY = 1.0  # seconds that a wrong password takes
# Content types that a foreign page may send only after a preflight request of the browser.
BODY_TYPES = {"application/json", "application/octet-stream"}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, unreachable for others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware that refuses requests not from the page, with 400, 401, 403, 413 or 415.

    The Host must be one of `hosts` or, unless the server is `private` to this machine, an IP
    address, which DNS rebinding cannot imitate. Requests that change state must come from the page
    itself: a foreign Origin is refused, and a body that needs no preflight.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        private: bool = True,
        auth: str | None = None,
        max_upload: int,
    ):
        self.app, self.hosts, self.private = app, frozenset(hosts), private
        self.logins = None if auth is None else Logins(auth)
        self.max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it; every response has the HEADERS."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refuse(scope, headers)
        if refusal is None and self.logins and not await self.logins.check(scope, headers):
            refusal = PlainTextResponse(
                "This page asks for a name and a password.",
                401,
                {"WWW-Authenticate": 'Basic realm="condiff", charset="UTF-8"'},
            )
        app = refusal or self.app
        limit = self.max_upload if scope["path"].endswith("/upload") else MAX_MESSAGE
        await app(scope, limited(receive, limit), send_guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        name = _split(f"//{host}")[0]
        if not (name in self.hosts or (not self.private and _is_address(name))):
            return PlainTextResponse("The Host of this request is not this server.", 400)
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/":
            return PlainTextResponse("Another site's page asked for this.", 403)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if "origin" in headers and _split(headers["origin"])[1] != host:
            return PlainTextResponse("Another site's page asked for this.", 403)
        if headers.get("content-type", "").split(";")[0] not in BODY_TYPES:
            return PlainTextResponse("The body is neither JSON nor a file.", 415)
        limit = self.max_upload if scope["path"].endswith("/upload") else MAX_MESSAGE
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return PlainTextResponse(too_large(limit), 413)
        return None


@dataclass
class Guesses:
    """Requests of one address that wait for the check of a password."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Logins:
    """Checks the name and the password of requests; wrong ones take LOGIN_DELAY each.

    While the response to a wrong one is delayed, all other requests of that address wait, so
    parallel guesses are not faster.
    """

    def __init__(self, login: str):
        self._expected = base64.b64encode(login.encode())
        self._guesses: dict[str, Guesses] = {}

    async def check(self, scope: Scope, headers: Headers) -> bool:
        """Whether a request has the right name and password."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not given:
            return False
        right = scheme.lower() == "basic" and hmac.compare_digest(
            given.strip().encode(), self._expected
        )
        address = str((scope.get("client") or ("",))[0])
        if right and address not in self._guesses:
            return True
        guesses = self._guesses.setdefault(address, Guesses())
        guesses.waiting += 1
        try:
            async with guesses.lock:
                if not right:
                    await asyncio.sleep(LOGIN_DELAY)
        finally:
            guesses.waiting -= 1
            if not guesses.waiting:
                self._guesses.pop(address, None)
        return right


def too_large(limit: int) -> str:
    """The sentence for a body beyond `limit` bytes."""
    return f"The file is larger than {limit / 1e6:,.0f} MB, which is the maximum."


def limited(receive: Receive, limit: int) -> Receive:
    """`receive` that raises HTTPException 413 once a body is longer than `limit` bytes."""
    taken = 0

    async def receive_limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, too_large(limit))
        return message

    return receive_limited


def _split(url: str) -> tuple[str, str]:
    """The host name and the authority of a URL; empty if it has none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
