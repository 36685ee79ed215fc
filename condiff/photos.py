"""Photos for training: found in folders, parquet files or on the hub, decoded when looked at.

What is kept for validation and tests is never among them: files and folders that are named val,
valid, validation or test (test-00.parquet, val/1.jpg), and rows whose `split` says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from condiff.conditions import CONDITIONS, HELD_OUT, to_ink
from condiff.config import DataConfig
from condiff.errors import ConfigError, DataError, ImageError
from condiff.extractors import resize
from condiff.images import list_images, read_image
from condiff.packed import PackedBytes
from condiff.parquet import File, read_rows, scan_parquet

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")  # the first that is there
PREPARED = "conditioning_image"  # a prepared data set's only condition; of several: conditioning_…

Row = Mapping[str, File]  # "image", and prepared drawings by kind, "" where only its file says
_Place = Path | tuple[Path, int]  # an image file, or a row of a parquet file


class Photo(NamedTuple):
    """A photo to look at: read("image") is (H,W,3) uint8 RGB, read(kind) (H,W,1) uint8 ink."""

    read: Callable[[str], np.ndarray]
    kinds: tuple[str, ...]  # of the drawings that are stored with it


@dataclass(frozen=True)
class Photos(Sequence[Photo]):
    """Encoded photos in an order that never changes; decoded when they are read."""

    name: str
    entries: list[Path | int]  # an image file, or a row of `columns`
    columns: Mapping[str, Sequence[bytes]]
    file_names: Mapping[str, Sequence[str]]
    fingerprint: str  # another one: other photos

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Photo:  # type: ignore[override]
        entry = self.entries[index]
        if isinstance(entry, Path):
            return open_row({"image": File(entry, str(entry))}, where=self.name)
        row = {
            column: File(files[entry], self.file_names[column][entry])
            for column, files in self.columns.items()
        }
        return open_row(row, where=f"row {entry} of {self.name}")

    @property
    def memory(self) -> int:
        """Bytes of encoded photos that are held."""
        return sum(getattr(files, "num_bytes", 0) for files in self.columns.values())


def open_row(row: Row, *, where: str) -> Photo:
    """A photo that decodes what is asked of it."""
    kinds = tuple(column for column in row if column != "image")
    return Photo(partial(_read, row, where), kinds)


def _read(row: Row, where: str, column: str) -> np.ndarray:
    data, name = row[column]
    if column != "image":
        ink = _ink_of(column or _kind_in(name), where)
    try:
        image = read_image(BytesIO(data) if isinstance(data, bytes) else data)
    except ImageError as error:
        raise DataError(
            f"{name or where} cannot be trained on ({error}); take it out, or let condiff prep "
            "sort the photos: it lists what it leaves out."
        ) from error
    pixels = np.asarray(image.convert("RGB"))
    return pixels if column == "image" else to_ink(pixels, ink=ink)


def fit_drawing(drawing: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A stored drawing (h,w,1) brought to its photo's size; of another shape it is an error."""
    (h, w), (height, width) = drawing.shape[:2], pixels.shape[:2]
    if abs(w * height - h * width) > max(h + w, height + width) / 2:
        raise DataError(
            f"A photo of {width}x{height} has a condition image of {w}x{h}: they are to show the "
            "same, so make the data set anew with condiff prep."
        )
    return resize(drawing, height, width).reshape(height, width, 1)


def _kind_in(name: str) -> str:
    """The condition that condiff prep writes into a file's name: photo.canny.png."""
    parts = name.rsplit(".", 2)
    return parts[1] if len(parts) == 3 and parts[1] in CONDITIONS else ""


def _ink_of(kind: str, where: str) -> Any:
    """The tone of a drawing's ink, None where its kind is not known."""
    if kind in (HELD_OUT, "scribble"):
        raise DataError(
            f"{where} has a drawing of the kind {kind}, which is held out for testing: prepare "
            "other kinds, or set data.conditions to online."
        )
    if kind and CONDITIONS[kind].ink is None:
        raise DataError(
            f"{where} has {kind} as its condition, which is no drawing: prepare the data for a "
            "line task, or set data.conditions to online."
        )
    return CONDITIONS[kind].ink if kind else None


def find_photos(
    source: str | Path, config: DataConfig, *, seed: int, kinds: tuple[str, ...] = ()
) -> Photos:
    """The training photos of a folder, a parquet file or a hub data set ("owner/name").

    `config.files` maps globs to how many photos to take of the files that match; which ones is
    drawn by the seed. With `kinds`, drawings of these kinds are read from the prepared columns.
    """
    root = Path(source)
    if not root.exists():
        return _hub_photos(hub_name(source), config, seed=seed, kinds=kinds)
    rng = np.random.default_rng(seed)
    wanted: Mapping[str, int | None] = config.files or {"**/*": None}
    chosen: list[_Place] = []
    for pattern, count in wanted.items():
        found = _places_in(root, pattern)
        if not found:
            raise DataError(
                f"No photos in {root} match {pattern!r}: looked for images and *.parquet that are "
                "not named val, validation or test."
            )
        chosen += _draw(found, count, rng)
    return _read_places(root, _draw(chosen, config.max_photos, rng), config, kinds)


def is_held_out(name: str) -> bool:
    """Whether a file, a folder or a split of this name is for validation or tests."""
    return re.match(r"(val|valid|validation|test)(?![a-z])", name, re.IGNORECASE) is not None


def find_shards(root: Path, pattern: str = "**/*") -> list[Path]:
    """The parquet files to train on, sorted."""
    return [path for path in _listed(root, pattern) if path.suffix == ".parquet"]


def _listed(root: Path, pattern: str) -> list[Path]:
    if root.is_file():
        return [] if is_held_out(root.name) else [root]
    found = sorted(path for path in root.glob(pattern) if path.is_file())
    return [
        path
        for path in found
        if not any(is_held_out(p) or p.startswith(".") for p in path.relative_to(root).parts)
    ]


def _places_in(root: Path, pattern: str) -> list[_Place]:
    places: list[_Place] = []
    for shard in find_shards(root, pattern):
        splits = scan_parquet(shard).splits
        places += [(shard, i) for i, split in enumerate(splits) if not is_held_out(split)]
    if places or not root.is_dir():
        return places
    paths = set(_listed(root, pattern))
    return [path for path in list_images(root) if path in paths]


def _draw(places: list[_Place], count: int | None, rng: np.random.Generator) -> list[_Place]:
    if count is None or count >= len(places):
        return places
    return [places[i] for i in sorted(rng.permutation(len(places))[:count])]


def _read_places(
    root: Path, places: list[_Place], config: DataConfig, kinds: tuple[str, ...]
) -> Photos:
    """Image files by their paths, rows of parquet files into memory, still encoded."""
    rows: dict[Path, set[int]] = {}
    digest = sha256()
    for place in places:
        if isinstance(place, tuple):
            rows.setdefault(place[0], set()).add(place[1])
        path, number = place if isinstance(place, tuple) else (place, 0)
        status = path.stat()
        line = f"{path} {status.st_size} {status.st_mtime_ns} {number}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    if kinds and any(isinstance(place, Path) for place in places):
        raise _no_drawings(str(root))
    numbers: dict[_Place, int] = {}
    packed: dict[str, PackedBytes] = {}
    names: dict[str, list[str]] = {}
    if rows:
        first = scan_parquet(next(iter(rows))).columns
        columns = columns_of(first, config, kinds, where=str(root))
        files: dict[str, list[bytes]] = {key: [] for key in columns}
        names = {key: [] for key in columns}
        for shard, wanted in rows.items():
            for number, row in enumerate(read_rows(shard, list(columns.values()))):
                if number in wanted:
                    numbers[shard, number] = len(numbers)
                    for key, column in columns.items():
                        file = row[column]
                        assert isinstance(file.data, bytes)
                        files[key].append(file.data)
                        names[key].append(file.name)
        packed = {key: PackedBytes(files.pop(key)) for key in columns}
    return Photos(
        name=str(root),
        entries=[place if isinstance(place, Path) else numbers[place] for place in places],
        columns=packed,
        file_names=names,
        fingerprint=digest.hexdigest(),
    )


def columns_of(
    there: Sequence[str], config: DataConfig, kinds: tuple[str, ...], *, where: str
) -> dict[str, str]:
    """What is read of a row: "image", and drawings by kind -> their columns in the data set."""
    wanted = (config.image_column,) if config.image_column else IMAGE_COLUMNS
    image = next((column for column in wanted if column in there), None)
    if image is None:
        raise DataError(
            f"{where} has no column {wanted[0]!r}, only {', '.join(there)}: name the one with the "
            "photos in data.image_column."
        )
    if not kinds:
        return {"image": image}
    drawings = {kind: f"conditioning_{kind}" for kind in kinds}
    drawings = {kind: column for kind, column in drawings.items() if column in there}
    if not drawings and PREPARED in there:
        drawings = {"": PREPARED}
    if not drawings:
        raise _no_drawings(where)
    return {"image": image, **drawings}


def _no_drawings(where: str) -> DataError:
    return DataError(
        f"{where} has no column {PREPARED} (or conditioning_canny, …) for data.conditions: "
        "prepared; make it with condiff prep, or set data.conditions to online."
    )


def hub_name(source: str | Path) -> str:
    """The name of a hub data set; anything else that is not there is an error."""
    name = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise DataError(
            f"There is no data at {name}: give a folder of photos or parquet files, or a hub data "
            "set as owner/name."
        )
    return name


def load_hub(name: str, config: DataConfig, *, streaming: bool) -> Any:
    """A split of a hub data set (or of a folder that `datasets` knows)."""
    if any(is_held_out(split.strip()) for split in config.split.split("+")):
        raise DataError(
            f"data.split {config.split} is for validation or tests, which is never trained on."
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"There is no file or folder {name}; to read the hub's data set of that name takes "
            "datasets: pip install 'condiff[train]'"
        ) from error
    try:
        return load_dataset(name, split=config.split, streaming=streaming)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"There is no file or folder {name}, and the hub's data set of that name cannot be "
            f"read: {reason}"
        ) from error


class _Column(Sequence[Any]):
    """One column of a map-style data set of `datasets`: files' bytes, or their names."""

    def __init__(self, rows: Any, column: str, *, names: bool):
        self.rows, self.names = rows.select_columns([column]), names
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        cell = self.rows[int(index)][self.column]
        if not isinstance(cell, dict):
            return "" if self.names else cell
        if self.names:
            return Path(cell["path"] or "").name
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])


def _hub_photos(name: str, config: DataConfig, *, seed: int, kinds: tuple[str, ...]) -> Photos:
    if config.files:
        raise ConfigError("data.files chooses among files: a hub data set takes data.max_photos.")
    rows = load_hub(name, config, streaming=False)
    columns = columns_of(rows.column_names, config, kinds, where=name)
    rows = undecoded(rows, columns)
    entries = list(range(len(rows)))
    if "split" in rows.column_names:
        entries = [i for i, split in enumerate(rows["split"]) if not is_held_out(str(split))]
    if config.max_photos is not None and config.max_photos < len(entries):
        drawn = np.random.default_rng(seed).permutation(len(entries))[: config.max_photos]
        entries = [entries[i] for i in sorted(drawn)]
    if not entries:
        raise DataError(f"The split {config.split} of {name} holds no photos to train on.")
    return Photos(
        name=name,
        entries=[*entries],
        columns={key: _Column(rows, column, names=False) for key, column in columns.items()},
        file_names={key: _Column(rows, column, names=True) for key, column in columns.items()},
        fingerprint=sha256(f"{rows._fingerprint} {entries}".encode()).hexdigest(),
    )


def undecoded(rows: Any, columns: Mapping[str, str]) -> Any:
    """The data set with these columns' image files as they are."""
    from datasets import Image

    for column in columns.values():
        if isinstance((rows.features or {}).get(column), Image):
            rows = rows.cast_column(column, Image(decode=False))
    return rows
