"""The server of `condiff web`: handlers of the page's requests."""

import asyncio
import base64
import json
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from condiff._version import __version__
from condiff.color.references import Reference
from condiff.errors import CondiffError, ConfigError, ImageError
from condiff.inputs import Lines
from condiff.models.info import read_model_info
from condiff.photos.formats import FORMATS, MAX_PIXELS, READ_ONLY
from condiff.pipelines.cascade import Cascade
from condiff.pipelines.pipeline import Pipeline
from condiff.threads import use_all_cores
from condiff.web import controls
from condiff.web.colorizer import Colorizer, Order
from condiff.web.drawer import Drawer
from condiff.web.security import Guard
from condiff.web.sessions import Gone, Session, Sessions, Upload
from condiff.web.worker import NO_ROOM, Busy, Event, Job, Worker

STATIC = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page's files, by name: the only static files that are served.
PARTS = {path.name: path for path in STATIC.iterdir() if path.suffix in KINDS}
MAX_UPLOAD = 500_000_000  # bytes
MAX_REFERENCES = 8
MAX_STROKES = 16 << 20  # bytes of a PNG of strokes, or of a mask
SWEEP_SECONDS = 300
ROOM = 500_000_000  # bytes of the disk that uploads must leave free
CHECKED = 64 << 20  # bytes of an upload after which the free space is checked again
REST_SECONDS = 300  # without work, after which photos are freed from memory
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class WebSettings:
    """The models, limits and access of the server."""

    model: str = "colorize"
    drawing_model: str = "sketch"
    device: str = "auto"
    engine: str = "auto"
    threads: int = 1
    max_pixels: int = MAX_PIXELS
    max_upload: int = MAX_UPLOAD
    hosts: tuple[str, ...] = LOOPBACK
    private: bool = True  # only this machine can reach the server
    auth: str | None = field(default=None, repr=False)  # name:password


class Models:
    """The models, each loaded at its first use; only for the worker's thread."""

    def __init__(self, settings: WebSettings):
        self.settings = settings
        self.color_info = read_model_info(settings.model)
        self.drawing_info = read_model_info(settings.drawing_model)
        if not self.color_info.task.space.keeps_photo:
            raise ConfigError(f"The model {settings.model} is not a colorizer: give one.")
        if not isinstance(self.drawing_info.task.picture, Lines):
            raise ConfigError(
                f"The model {settings.drawing_model} takes no drawings: give another one."
            )

    @cached_property
    def colorizer(self) -> Colorizer:
        """The colorizer of photos."""
        settings = self.settings
        pipeline = Pipeline.from_pretrained(settings.model, **self._machine())
        return Colorizer(
            pipeline,
            name=Path(settings.model).name,
            device=settings.device,
            engine=settings.engine,
            max_pixels=settings.max_pixels,
        )

    @cached_property
    def drawer(self) -> Drawer:
        """The model for drawings."""
        settings = self.settings
        cascade = Cascade.from_pretrained(settings.drawing_model, **self._machine())
        return Drawer(cascade, max_pixels=settings.max_pixels)

    def _machine(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "device": settings.device,
            "engine": settings.engine,
            "threads": settings.threads,
        }


class Server:
    """The handlers and their shared state."""

    def __init__(self, settings: WebSettings):
        self.settings = settings
        self.models = Models(settings)
        self.sessions = Sessions()
        self.worker = Worker(use_all_cores)

    def build(self) -> Starlette:
        """The application; its lifespan loads the colorizer, and deletes all files at the end."""
        settings = self.settings
        guard = Middleware(
            Guard,
            hosts=settings.hosts,
            private=settings.private,
            auth=settings.auth,
            max_upload=settings.max_upload,
        )
        base = "/api/{session}"
        routes = [
            Route("/", self.page),
            Route("/static/{name}", self.page),
            Route("/api/settings", self.describe),
            Route("/api/session", self.begin, methods=["POST"]),
            Route(f"{base}/alive", self.alive, methods=["POST"]),
            Route(f"{base}/end", self.end, methods=["POST"]),
            Route(f"{base}/{{kind}}/upload", self.upload, methods=["POST"]),
            Route(f"{base}/cancel/{{job}}", self.cancel, methods=["POST"]),
            Route(f"{base}/zip", self.zip, methods=["POST"]),
            Route(f"{base}/make/{{upload}}", self.make, methods=["POST"]),
            Route(f"{base}/write/{{upload}}/{{result}}", self.write, methods=["POST"]),
            Route(f"{base}/remove/{{upload}}", self.remove, methods=["POST"]),
            Route(f"{base}/files/{{upload}}/{{name}}", self.file),
        ]
        return Starlette(
            routes=routes,
            middleware=[guard],
            lifespan=self.lifespan,
            exception_handlers={
                CondiffError: refuse,
                HTTPException: refuse,
                ClientDisconnect: refuse,
            },
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the colorizer, regularly sweep idle sessions, and close at the end."""

        def load() -> Iterator[Event]:
            assert self.models.colorizer
            yield {}

        self.worker.submit(load)
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            self.close()

    def close(self) -> None:
        """Stop the worker, and delete all files."""
        self.worker.close()
        self.sessions.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sessions.sweep()
            if self.worker.rests_for > REST_SECONDS:
                self._release()

    async def page(self, request: Request) -> Response:
        """Serve the page and its parts, by a fixed table of names."""
        path = PARTS.get(request.path_params.get("name", "index.html"))
        if path is None:
            raise HTTPException(404, "There is no such page.")
        return Response(path.read_bytes(), media_type=KINDS[path.suffix])

    async def describe(self, request: Request) -> Response:
        """Return the controls, looks and limits."""
        return JSONResponse(
            {
                "version": __version__,
                "colorize": controls.describe(self.models.color_info),
                "draw": controls.describe(self.models.drawing_info),
                "suffixes": sorted({*FORMATS, *READ_ONLY}),
                "max_upload": self.settings.max_upload,
                "queue": self.worker.length,
            }
        )

    async def begin(self, request: Request) -> Response:
        """Open a new session."""
        return JSONResponse({"session": self.sessions.open().id})

    async def alive(self, request: Request) -> Response:
        """Keep a session alive; returns the length of the queue."""
        self._session(request)
        return JSONResponse({"queue": self.worker.length})

    async def end(self, request: Request) -> Response:
        """End a session: its files are deleted."""
        session = self.sessions.find(request.path_params["session"])
        for upload in list(session.uploads.values()):
            self._forget(upload)
        self.sessions.end(session.id)
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        """Receive a file, and return the events of opening it."""
        session = self._session(request)
        kind = request.path_params["kind"]
        if kind not in ("photo", "drawing", "reference"):
            raise HTTPException(404, "There is no such page.")
        self._check_room(int(request.headers.get("content-length", 0)))
        upload = session.add(request.query_params.get("name", ""))
        try:
            with open(upload.path, "xb") as file:
                unchecked = 0
                async for chunk in request.stream():
                    await asyncio.to_thread(file.write, chunk)
                    unchecked += len(chunk)
                    if unchecked > CHECKED:  # others also write, and the length may be unknown
                        self._check_room()
                        unchecked = 0
        except (HTTPException, ClientDisconnect):
            session.remove(upload.id)
            raise
        except OSError:
            session.remove(upload.id)
            raise HTTPException(507, NO_ROOM) from None

        def run() -> Iterator[Event]:
            if kind == "drawing":
                opened = self.models.drawer.open(upload)
            elif kind == "reference":
                opened = self.models.colorizer.open_reference(upload)
            else:
                opened = self.models.colorizer.open(upload)
            try:
                for event in while_there(upload, opened):
                    yield {"upload": upload.id, "name": upload.name, **event}
            except BaseException:
                session.remove(upload.id)
                raise

        return self._stream(run, dropped=lambda: session.remove(upload.id))

    async def make(self, request: Request) -> Response:
        """Colour a photo or make pictures of a drawing; streams steps, previews, results."""
        session = self._session(request)
        upload = session.find(request.path_params["upload"])
        order = await read_order(request, session)

        def run() -> Iterator[Event]:
            if order[0] == "drawing":
                made = self.models.drawer.render(upload, order[1])
            else:
                made = self.models.colorizer.colorize(upload, order[1])
            yield from while_there(upload, made)

        return self._stream(run)

    async def write(self, request: Request) -> Response:
        """Write a result's file, which `file` then serves."""
        upload = self._session(request).find(request.path_params["upload"])
        result = request.path_params["result"]
        return self._stream(
            lambda: while_there(upload, self._writer(upload, result)(upload, result))
        )

    async def zip(self, request: Request) -> Response:
        """Write the files of many results into one ZIP, with the reasons of those that failed."""
        session = self._session(request)
        values = await read_json(request)
        rows, lines = values.get("results"), values.get("failed", [])
        if not (isinstance(rows, list) and isinstance(lines, list)):
            raise ConfigError("A ZIP needs a list of results.")
        pairs = [row for row in rows if isinstance(row, list) and len(row) == 2]
        chosen = [(session.find(str(upload)), str(result)) for upload, result in pairs]
        failed = [str(line)[:1000] for line in lines][:1000]
        if not chosen:
            raise ConfigError("There is no result to put into a ZIP yet.")
        if session.packed is not None:
            session.remove(session.packed)  # one ZIP per tab
        packed = session.add("photos.zip")
        session.packed = packed.id

        def run() -> Iterator[Event]:
            try:
                yield from while_there(packed, pack(packed, chosen, failed, write=self._writer))
            except BaseException:
                session.remove(packed.id)
                raise
            yield {"upload": packed.id, "file": packed.path.name, "name": "photos.color.zip"}

        return self._stream(run, dropped=lambda: session.remove(packed.id))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job at its next step."""
        self._session(request)
        return JSONResponse({"canceled": self.worker.cancel(request.path_params["job"])})

    async def remove(self, request: Request) -> Response:
        """Delete a photo and its results."""
        session = self._session(request)
        upload = session.find(request.path_params["upload"])
        self._forget(upload)
        session.remove(upload.id)
        return Response(status_code=204)

    async def file(self, request: Request) -> Response:
        """Serve a generated file, only by a name that the server published."""
        upload = self._session(request).find(request.path_params["upload"])
        name = request.path_params["name"]
        if name not in upload.files:
            raise Gone("This file no longer exists: make it again.")
        wanted = request.query_params.get("name")
        shown = wanted is None and name.endswith((".jpg", ".png"))
        kind = None if shown else "application/octet-stream"
        return FileResponse(upload.folder / name, filename=wanted, media_type=kind)

    def _check_room(self, wanted: int = 0) -> None:
        """Raise HTTPException 507 if `wanted` bytes would leave too little free disk space."""
        if shutil.disk_usage(self.sessions.root).free - wanted < ROOM:
            raise HTTPException(507, NO_ROOM)

    def _session(self, request: Request) -> Session:
        return self.sessions.find(request.path_params["session"])

    def _writer(self, upload: Upload, result: str) -> Callable[[Upload, str], Iterator[Event]]:
        """The function that writes a result, of the colorizer or the drawer."""
        drawn = result.startswith("picture")
        return self.models.drawer.write if drawn else self.models.colorizer.write

    def _forget(self, upload: Upload) -> None:
        """Free an upload's memory, in the thread that uses it."""
        self._tidy(lambda model: model.forget(upload))

    def _release(self) -> None:
        """Free the memory of all photos; they are read again when needed."""
        self._tidy(lambda model: model.release())

    def _tidy(self, act: Callable[[Colorizer | Drawer], None]) -> None:
        """Call `act` on each loaded model, in the worker's thread."""

        def run() -> Iterator[Event]:
            for name in ("colorizer", "drawer"):
                if name in self.models.__dict__:
                    act(getattr(self.models, name))
            yield {}

        with suppress(Busy):
            self.worker.submit(run)

    def _stream(
        self, run: Callable[[], Iterator[Event]], dropped: Callable[[], None] = lambda: None
    ) -> Response:
        """A job's events as lines of JSON; a closed connection cancels the job.

        `dropped` is called for a job that never begins.
        """
        try:
            job = self.worker.submit(run, dropped)
        except Busy:
            dropped()
            raise
        return StreamingResponse(to_lines(job), media_type="application/x-ndjson")


def while_there(upload: Upload, events: Iterator[Event]) -> Iterator[Event]:
    """The events; raises Gone if the upload's tab was closed, which deletes its files."""
    try:
        yield from events
    except (FileNotFoundError, ImageError):
        if upload.folder.exists():
            raise
        raise Gone("This photo no longer exists: add it again.") from None


async def to_lines(job: Job) -> AsyncIterator[str]:
    """A job's events, one line of JSON each."""
    async for event in job.events():
        yield json.dumps(event) + "\n"


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body; ConfigError if there is none."""
    try:
        values = json.loads(await request.body(), parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("The request is not a JSON object.")
    return values


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(name)


async def read_order(request: Request, session: Session) -> tuple[str, Order]:
    """The kind of an order, photo or drawing, and its settings."""
    values = await read_json(request)
    references, palette = values.get("references", []), values.get("palette")
    if not isinstance(references, list) or len(references) > MAX_REFERENCES:
        raise ConfigError(f"A photo takes up to {MAX_REFERENCES} references.")
    taken = [find_reference(session, number) for number in references]
    strokes, mask = (read_png(values, name) for name in ("strokes", "mask"))
    whole = None if palette is None else find_reference(session, palette)
    order = await asyncio.to_thread(
        Order.read, values, strokes, mask, references=taken, palette=whole
    )
    return str(values.get("kind", "photo")), order


def read_png(values: dict[str, Any], name: str) -> bytes:
    """The bytes of a picture in base64; empty if there is none."""
    given = values.get(name)
    if not given:
        return b""
    try:
        content = base64.b64decode(str(given), validate=True)
    except ValueError:
        raise ConfigError(f"The {name} are not a PNG in base64.") from None
    if len(content) > MAX_STROKES:
        raise ConfigError(f"The picture of the {name} is too large.")
    return content


def find_reference(session: Session, number: object) -> Reference:
    """The reference that was uploaded under that id; Gone if there is none."""
    reference = session.find(str(number)).reference
    if reference is None:
        raise Gone("This reference no longer exists: add it again.")
    return reference


def pack(
    packed: Upload,
    chosen: list[tuple[Upload, str]],
    failed: list[str],
    *,
    write: Callable[[Upload, str], Callable[[Upload, str], Iterator[Event]]],
) -> Iterator[Event]:
    """Write a ZIP of results with distinct names; failures are lines of failed.txt in it."""
    taken: set[str] = set()
    with zipfile.ZipFile(packed.path, "x", zipfile.ZIP_STORED) as archive:
        for number, (upload, result) in enumerate(chosen):
            yield {"step": number, "steps": len(chosen)}
            try:
                *_, made = write(upload, result)(upload, result)
            except CondiffError as error:
                failed.append(f"{upload.name}: {error}")
                continue
            name = distinct(made["name"], taken)
            archive.write(upload.folder / made["file"], name)
        if failed:
            archive.writestr("failed.txt", "\n".join(failed) + "\n")
    packed.publish(packed.path)
    yield {"step": len(chosen), "steps": len(chosen), "failed": failed}


def distinct(name: str, taken: set[str]) -> str:
    """photo.color.jpg, then photo.color-2.jpg, ignoring case; adds the name to `taken`."""
    stem, dot, ending = name.rpartition(".")
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{stem}-{number}{dot}{ending}"
    taken.add(free.casefold())
    return free


async def refuse(request: Request, error: Exception) -> Response:
    """Convert an error to a response with one sentence for the page."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # not read by anybody
    status = 404 if isinstance(error, Gone) else 503 if isinstance(error, Busy) else 422
    return JSONResponse({"error": str(error)}, status)
