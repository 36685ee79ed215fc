"""Prepares one photo for a data set, and many of them in parallel."""

import hashlib
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import connection, get_context, parent_process
from pathlib import PurePosixPath
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from condiff.arrays import Pixels
from condiff.color.lab import rgb_to_lab
from condiff.errors import DataError, ImageError
from condiff.photos.formats import is_photo
from condiff.photos.reading import read_image
from condiff.platforms import WINDOWS
from condiff.prep.parquet_writer import Row, columns_of
from condiff.resize import shrink_short_side
from condiff.sources.source import Item

CHUNK_ITEMS, CHUNK_BYTES = 16, 4 << 20  # limits of one message to a worker
CHUNKS_AHEAD = 3  # chunks per worker, including the current one; limits memory
MOST_ON_WINDOWS = 61  # workers of a ProcessPoolExecutor
WEBP_METHOD = 4
CELLS = 32  # on the short side; averaging in cells removes noise

Outcome = Literal["done", "broken", "small", "grey", "duplicate"]


@dataclass(frozen=True)
class PrepConfig:
    """The settings that, together with the photos, determine the written bytes."""

    kinds: tuple[str, ...] = ()
    size: int | None = None  # short side; None keeps the files unchanged
    quality: int = 90
    min_side: int = 64
    min_chroma: float = 0.0
    max_distance: int | None = 3  # of two dHashes, in bits of 64; None keeps near-duplicates
    val: float = 0.05
    shard_size: int = 1000
    limit: int | None = None
    license: str | None = None


@dataclass(frozen=True)
class Decision:
    """The outcome for one photo; a line of the journal."""

    source: str
    outcome: Outcome
    reason: str = ""
    split: str = ""
    dhash: int = 0


@dataclass(frozen=True)
class Prepared:
    """A photo that passed all filters except the one for duplicates."""

    source: str
    split: str
    dhash: int
    row: Row


def prepare(item: Item, recipe: PrepConfig) -> Prepared | Decision:
    """Decode, filter and encode one photo; the result depends only on the file and the recipe."""
    if item.fault is not None:
        return Decision(item.name, "broken", item.fault)
    try:
        image = read_image(item.image.opened())
        data = item.image.read()
    except (ImageError, OSError) as error:
        return Decision(item.name, "broken", item.image.reason(error))
    if min(image.size) < recipe.min_side:
        side = f"{image.width} x {image.height} pixels, below {recipe.min_side}"
        return Decision(item.name, "small", side)
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if recipe.size is not None:
        pixels = shrink_short_side(pixels, recipe.size)
    if recipe.min_chroma > 0 and (chroma := mean_chroma(pixels)) < recipe.min_chroma:
        reason = f"mean chroma {chroma:.1f}, below {recipe.min_chroma:g}"
        return Decision(item.name, "grey", reason)
    digest = hashlib.blake2b(data, digest_size=8).digest()
    content = int.from_bytes(digest, "big")
    dhash = difference_hash(pixels)
    name = PurePosixPath(item.name).name.replace("#", "-")
    stem = PurePosixPath(name).stem if is_photo(name) else name
    if recipe.size is not None:
        try:
            data = _encode(pixels, "WEBP", quality=recipe.quality, method=WEBP_METHOD)
        except (OSError, ValueError) as error:
            reason = f"{pixels.shape[1]} x {pixels.shape[0]} pixels do not fit into WebP ({error})"
            return Decision(item.name, "broken", reason)
        name = f"{stem}.webp"
    split = "val" if content < recipe.val * 2**64 else "train"
    row: Row = {"image": {"bytes": data, "path": name}}
    for kind, column in columns_of(recipe.kinds).items():
        drawn = _condition(kind, pixels, seed=content)
        row[column] = {"bytes": drawn, "path": f"{stem}.{kind}.png"}
    row |= {"text": item.text, "source": item.name, "split": split}
    return Prepared(item.name, split, dhash, row)


def mean_chroma(pixels: Pixels) -> float:
    """Mean distance from grey in Lab of (H,W,3) uint8, after averaging in cells."""
    side = max(1, min(pixels.shape[:2]) // CELLS)
    rows, columns = (length // side for length in pixels.shape[:2])
    whole = pixels[: rows * side, : columns * side]  # cv2 is ten times as fast for integer factors
    cells = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    _, a, b = cv2.split(rgb_to_lab(cells))
    return float(cv2.mean(cv2.magnitude(a, b))[0])


def difference_hash(pixels: Pixels) -> int:
    """dHash: 64 bits, each whether a cell of an 8 x 8 grid is darker than its right neighbour."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grid = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(grid[:, :-1] < grid[:, 1:]).tobytes(), "big")


def _condition(kind: str, pixels: Pixels, *, seed: int) -> bytes:
    from condiff.conditions.table import apply

    drawn = apply(kind, pixels, seed=seed)
    return _encode(drawn[..., 0] if drawn.shape[-1] == 1 else drawn, "PNG", compress_level=3)


def _encode(pixels: Pixels, format: str, **options: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def prepare_in_order(
    items: Iterable[tuple[int, Item]], recipe: PrepConfig, *, workers: int
) -> Generator[tuple[int, Prepared | Decision], None, None]:
    """`prepare` numbered items with `workers` processes; yields results in order.

    Only a few items per worker are in memory at a time. Raises DataError if a worker is killed.
    """
    if workers == 1:
        for number, item in items:
            yield number, prepare(item, recipe)
        return
    context = get_context("spawn")  # a fork of a process with threads may hang
    most = MOST_ON_WINDOWS if WINDOWS else workers
    pool = ProcessPoolExecutor(min(workers, most), mp_context=context, initializer=_start_worker)
    ahead: deque[Future[list[tuple[int, Prepared | Decision]]]] = deque()
    try:
        for chunk in _chunks(items):
            ahead.append(pool.submit(_prepare_chunk, chunk, recipe))
            if len(ahead) >= CHUNKS_AHEAD * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was killed, perhaps for lack of memory: run the same again with "
            "fewer --workers; finished photos are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(items: Iterable[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
    chunk: list[tuple[int, Item]] = []
    size = 0
    for number, item in items:
        chunk.append((number, item))
        size += item.size
        if len(chunk) == CHUNK_ITEMS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _prepare_chunk(
    chunk: list[tuple[int, Item]], recipe: PrepConfig
) -> list[tuple[int, Prepared | Decision]]:
    return [(number, prepare(item, recipe)) for number, item in chunk]


def _start_worker() -> None:
    """Use one thread; leave Ctrl-C to the parent process, and exit when it exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
