"""Photos for training, from folders, parquet files or the hub; each is decoded when read."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from condiff.conditions.table import CONDITIONS
from condiff.config import DataConfig
from condiff.data.columns import columns_of, is_held_out, no_drawings
from condiff.data.hub import HubColumn, hub_name, load_hub, undecoded
from condiff.data.parquet import File, read_rows, scan_parquet
from condiff.data.shared_memory import PackedBytes
from condiff.errors import ConfigError, DataError, ImageError
from condiff.inputs import PictureInput
from condiff.photos.reading import list_images, read_image

Row = Mapping[str, File]  # "image", and drawings by kind; "" if the file name tells it
_Place = Path | tuple[Path, int]  # an image file, or a row of a parquet file


class Photo(NamedTuple):
    """A photo: read("image") is (H,W,3) uint8 RGB, read(kind) what the task's input makes of a
    stored condition image, (H,W,N) uint8."""

    read: Callable[[str], np.ndarray]
    kinds: tuple[str, ...]  # kinds of the condition images that are stored with it


@dataclass(frozen=True)
class Photos(Sequence[Photo]):
    """Encoded photos in a fixed order; each is decoded when it is read."""

    name: str
    entries: list[Path | int]  # an image file, or a row of `columns`
    columns: Mapping[str, Sequence[bytes]]
    file_names: Mapping[str, Sequence[str]]
    fingerprint: str  # changes when the photos do
    condition: PictureInput | None = None  # what stored condition images are for

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Photo:  # type: ignore[override]
        entry = self.entries[index]
        if isinstance(entry, Path):
            row = {"image": File(entry, str(entry))}
            return open_row(row, self.condition, where=self.name)
        row = {
            column: File(files[entry], self.file_names[column][entry])
            for column, files in self.columns.items()
        }
        return open_row(row, self.condition, where=f"row {entry} of {self.name}")

    @property
    def memory(self) -> int:
        """Bytes of encoded photos in memory."""
        return sum(getattr(files, "num_bytes", 0) for files in self.columns.values())


def open_row(row: Row, condition: PictureInput | None, *, where: str) -> Photo:
    """The photo of a row; its files are decoded when they are read."""
    kinds = tuple(column for column in row if column != "image")
    return Photo(partial(_read, row, condition, where), kinds)


def _read(row: Row, condition: PictureInput | None, where: str, column: str) -> np.ndarray:
    data, name = row[column]
    try:
        image = read_image(BytesIO(data) if isinstance(data, bytes) else data)
    except ImageError as error:
        raise DataError(
            f"{name or where} cannot be trained on ({error}); take it out, or let condiff prep "
            "sort the photos: it lists what it leaves out."
        ) from error
    pixels = np.asarray(image.convert("RGB"))
    if column == "image" or condition is None:
        return pixels
    return condition.decode_stored(pixels, column or _kind_in(name), where)


def _kind_in(name: str) -> str:
    """The condition that condiff prep writes into a file's name: photo.canny.png."""
    parts = name.rsplit(".", 2)
    return parts[1] if len(parts) == 3 and parts[1] in CONDITIONS else ""


def find_photos(
    source: str | Path, config: DataConfig, *, seed: int, condition: PictureInput | None = None
) -> Photos:
    """The training photos of a folder, a parquet file or a hub data set ("owner/name").

    `config.files` maps globs to how many photos to take of the files that match; which ones is
    drawn by the seed. With `condition`, its images are read from the prepared columns.
    """
    root = Path(source)
    if not root.exists():
        return _hub_photos(hub_name(source), config, seed=seed, condition=condition)
    rng = np.random.default_rng(seed)
    wanted: Mapping[str, int | None] = config.files or {"**/*": None}
    chosen: list[_Place] = []
    for pattern, count in wanted.items():
        found = _places_in(root, pattern)
        if not found and root.is_file() and root.suffix != ".parquet":
            raise DataError(
                f"{root} is no parquet file: give the folder of the photos, even of a single one."
            )
        if not found:
            raise DataError(
                f"No photos in {root} match {pattern!r}: looked for images and *.parquet that are "
                "not named val, validation or test."
            )
        chosen += _draw(found, count, rng)
    return _read_places(root, _draw(chosen, config.max_photos, rng), config, condition)


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
    root: Path, places: list[_Place], config: DataConfig, condition: PictureInput | None
) -> Photos:
    """The photos at these places; rows of parquet files are read into memory, still encoded."""
    rows: dict[Path, set[int]] = {}
    digest = sha256()
    for place in places:
        if isinstance(place, tuple):
            rows.setdefault(place[0], set()).add(place[1])
        path, number = place if isinstance(place, tuple) else (place, 0)
        status = path.stat()
        line = f"{path} {status.st_size} {status.st_mtime_ns} {number}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    if condition is not None and any(isinstance(place, Path) for place in places):
        raise no_drawings(str(root))
    numbers: dict[_Place, int] = {}
    packed: dict[str, PackedBytes] = {}
    names: dict[str, list[str]] = {}
    if rows:
        first = scan_parquet(next(iter(rows))).columns
        columns = columns_of(first, config.image_column, condition, where=str(root))
        files: dict[str, deque[bytes]] = {key: deque() for key in columns}
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
        packed = {key: PackedBytes(_drain(queue)) for key, queue in files.items()}
    return Photos(
        name=str(root),
        entries=[place if isinstance(place, Path) else numbers[place] for place in places],
        columns=packed,
        file_names=names,
        fingerprint=digest.hexdigest(),
        condition=condition,
    )


def _drain(queue: deque[bytes]) -> Iterator[bytes]:
    """Yield and remove all of a queue, so that nothing is in memory twice."""
    while queue:
        yield queue.popleft()


def _hub_photos(
    name: str, config: DataConfig, *, seed: int, condition: PictureInput | None
) -> Photos:
    if config.files:
        raise ConfigError("data.files chooses among files: a hub data set takes data.max_photos.")
    rows = load_hub(name, config, streaming=False)
    columns = columns_of(rows.column_names, config.image_column, condition, where=name)
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
        columns={key: HubColumn(rows, column, names=False) for key, column in columns.items()},
        file_names={key: HubColumn(rows, column, names=True) for key, column in columns.items()},
        fingerprint=sha256(f"{rows._fingerprint} {entries}".encode()).hexdigest(),
        condition=condition,
    )
