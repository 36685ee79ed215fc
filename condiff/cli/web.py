"""`condiff web`: serve the page that colours photos and makes pictures from drawings."""

import os
import socket
import sys
import threading
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from condiff.cli import options
from condiff.cli.sampling import expand_groups
from condiff.errors import DependencyError, UsageError
from condiff.files import reason_of
from condiff.photos.formats import MAX_PIXELS

if TYPE_CHECKING:
    from condiff.web.app import WebSettings

AUTH = "CONDIFF_WEB_AUTH"
MAX_REQUESTS = 256  # at once; a tab has at most six


@expand_groups
def web(
    machine: options.Machine,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 admits other machines of the network."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:PASSWORD",
            envvar=AUTH,
            help=f"Ask for this name and password. In the environment variable {AUTH} they are "
            "hidden from other users of the machine.",
        ),
    ] = None,
    model: options.Model = "colorize",
    drawing_model: Annotated[
        str, typer.Option(help="The model of the sketch pad: a name, or a model folder.")
    ] = "sketch",
    max_pixels: options.MaxPixels = MAX_PIXELS,
    max_upload: Annotated[
        int, typer.Option(min=1, help="Refuse files larger than this many megabytes.")
    ] = 500,
    quiet: options.Quiet = False,
) -> None:
    """Serve a page that colours photos and makes pictures from drawings.

    The page runs on this machine only: nothing is sent elsewhere, and uploads are deleted when the
    tab is closed or the command ends. A download is the same file that `condiff colorize` writes.
    The page's address is printed on stdout; Ctrl-C ends the command.
    """
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise DependencyError.of(f"The page needs {missing[0]}", extra="web")
    if auth is not None and (":" not in auth or not all(auth.split(":", 1))):
        raise UsageError("--auth takes a name and a password: --auth family:secret.")
    from condiff.web.app import LOOPBACK, WebSettings
    from condiff.web.security import is_loopback

    private, own = is_loopback(host), socket.gethostname().lower()
    settings = WebSettings(
        model=model,
        drawing_model=drawing_model,
        device=machine.device,
        engine=machine.engine,
        threads=machine.threads,
        max_pixels=max_pixels,
        max_upload=max_upload * 1_000_000,
        hosts=(*LOOPBACK, host.strip("[]").lower(), own, f"{own}.local"),
        private=private,
        auth=auth,
    )
    if not private:
        open_to = (
            "anybody in the network can use the page"
            if auth is None
            else ("names, passwords and photos cross the network unencrypted")
        )
        options.report(
            f"warning: on {host} {open_to}"
            + ("; --auth NAME:PASSWORD asks for a password" if auth is None else ""),
            quiet=False,
        )
    options.quiet_libraries()
    _serve(settings, host.strip("[]"), port, browser=browser, quiet=quiet)


def _serve(settings: "WebSettings", host: str, port: int, *, browser: bool, quiet: bool) -> None:
    """Listen, print the address, and serve until Ctrl-C or SIGTERM."""
    import uvicorn

    from condiff.web.app import Server

    class Listener(uvicorn.Server):
        """Ends the streams of jobs before it waits for all streams to end."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            server.worker.stop()
            await super().shutdown(sockets)

    listening = _listen(host, port)
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}/"
    server = Server(settings)
    try:
        config = uvicorn.Config(
            server.build(),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=MAX_REQUESTS,
            lifespan="on",
        )
        print(url, flush=True)
        options.report("The page is at this address; Ctrl-C ends it.", quiet=quiet)
        if shown != host.strip("[]") and not settings.private:
            other = f"http://{socket.gethostname()}:{port}/"
            options.report(f"From other machines: {other}, or this one's IP address.", quiet=quiet)
        if browser:
            threading.Thread(target=_open_browser, args=(url,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            Listener(config).run(sockets=[listening])
    finally:
        server.close()
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError where the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = reason_of(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason}; choose another with --port, or "
            "--port 0 for a free one."
        ) from None


def _open_browser(url: str) -> None:
    """Open the page; without a browser its address was printed."""
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return
    with suppress(webbrowser.Error):
        webbrowser.open(url)
