"""Photos for training, from any source; each is decoded when it is read."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from condiff.conditions.table import CONDITIONS
from condiff.config import DataConfig
from condiff.data.shared_memory import PackedBytes
from condiff.errors import ConfigError, DataError, ImageError
from condiff.inputs import PictureInput
from condiff.photos.reading import read_image
from condiff.sources.folders import is_archive, local_parts
from condiff.sources.hub import HubColumn, hub_name, load_hub, undecoded
from condiff.sources.schema import columns_of, is_held_out, no_conditions
from condiff.sources.source import File, Part

Files = Mapping[str, File]  # "image", and condition images by kind; "" if the name has it
_Place = tuple[Part, int]  # a row of a part


class Photo(NamedTuple):
    """A photo: read("image") is (H,W,3) uint8 RGB, read(kind) what the task's input makes of a
    stored condition image, (H,W,N) uint8."""

    read: Callable[[str], np.ndarray]
    kinds: tuple[str, ...]  # kinds of the condition images that are stored with it
    text: str = ""  # its caption


@dataclass(frozen=True)
class Photos(Sequence[Photo]):
    """Encoded photos in a fixed order; each is decoded when it is read."""

    name: str
    entries: list[Path | int]  # an image file, or a row of `columns`
    columns: Mapping[str, Sequence[bytes]]
    file_names: Mapping[str, Sequence[str]]
    fingerprint: str  # changes when the photos do
    condition: PictureInput | None = None  # what stored condition images are for
    texts: Sequence[str] = ()  # captions in the order of `entries`, where there are any

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Photo:  # type: ignore[override]
        entry = self.entries[index]
        if isinstance(entry, Path):
            row = {"image": File(entry, str(entry))}
            text = self.texts[index] if self.texts else ""
            return open_row(row, self.condition, where=self.name, text=text)
        row = {
            column: File(files[entry], self.file_names[column][entry])
            for column, files in self.columns.items()
        }
        text = self.texts[index] if self.texts else ""
        return open_row(row, self.condition, where=f"row {entry} of {self.name}", text=text)

    @property
    def memory(self) -> int:
        """Bytes of encoded photos in memory."""
        return sum(getattr(files, "num_bytes", 0) for files in self.columns.values())


def open_row(row: Files, condition: PictureInput | None, *, where: str, text: str = "") -> Photo:
    """The photo of a row; its files are decoded when they are read."""
    kinds = tuple(column for column in row if column != "image")
    return Photo(partial(_read, row, condition, where), kinds, text)


def _read(row: Files, condition: PictureInput | None, where: str, column: str) -> np.ndarray:
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
    """The training photos of a folder, a parquet or tar file, or a hub data set ("owner/name").

    `config.files` maps globs to how many photos to take of the files that match; which ones is
    decided by the seed. With `condition`, its images are read from the prepared columns.
    """
    root = Path(source)
    if not root.exists():
        return _hub_photos(hub_name(source), config, seed=seed, condition=condition)
    rng = np.random.default_rng(seed)
    wanted: Mapping[str, int | None] = config.files or {"**/*": None}
    parts = training_parts(root)
    chosen: list[_Place] = []
    for pattern, count in wanted.items():
        found = _places_in(root, parts, pattern)
        if not found and root.is_file() and not is_archive(str(root)):
            raise DataError(
                f"{root} is no parquet file: give the folder of the photos, even of a single one."
            )
        if not found:
            raise DataError(
                f"No photos in {root} match {pattern!r}: looked for images, parquet and tar files "
                "that are not named val, validation or test."
            )
        chosen += _sample(found, count, rng)
    return _read_places(root, _sample(chosen, config.max_photos, rng), config, condition)


def training_parts(root: Path) -> list[Part]:
    """The parts of a folder or a file that are not held out by their names.

    Raises DataError for an archive that cannot be read; photos are read later.
    """
    parts = [
        part
        for part in local_parts(root)
        if not any(is_held_out(name) for name in PurePath(part.name).parts)
    ]
    for part in parts:
        if part.fault:
            raise DataError(f"{root / part.name if root.is_dir() else root}: {part.fault}")
    return parts


def _places_in(root: Path, parts: Sequence[Part], pattern: str) -> list[_Place]:
    """The photos of the parts that match a glob; of a folder with archives, those of archives."""
    if root.is_dir():
        matching = {path.relative_to(root) for path in root.glob(pattern)}
        parts = [part for part in parts if Path(part.name) in matching]
    archives = [part for part in parts if part.is_archive]
    places = []
    for part in archives or parts:
        splits = part.splits() or [""] * (part.total or 0)
        places += [(part, i) for i, split in enumerate(splits) if not is_held_out(split)]
    if not archives and root.is_file():
        return []
    return places


def _sample(places: list[_Place], count: int | None, rng: np.random.Generator) -> list[_Place]:
    if count is None or count >= len(places):
        return places
    return [places[i] for i in sorted(rng.permutation(len(places))[:count])]


def _read_places(
    root: Path, places: list[_Place], config: DataConfig, condition: PictureInput | None
) -> Photos:
    """The photos at these places; rows of archives are read into memory, still encoded."""
    digest = sha256()
    wanted: dict[str, set[int]] = {}
    parts: dict[str, Part] = {}
    for part, number in places:
        assert part.path is not None
        if part.is_archive:
            parts[part.name] = part
            wanted.setdefault(part.name, set()).add(number)
        status = part.path.stat()
        line = f"{part.path} {status.st_size} {status.st_mtime_ns} {number}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    if condition is not None and len(parts) == 0:
        raise no_conditions(str(root))
    numbers: dict[tuple[str, int], int] = {}
    packed: dict[str, PackedBytes] = {}
    names: dict[str, list[str]] = {}
    texts: dict[tuple[str, int], str] = {}
    if parts:
        columns = next(iter(parts.values())).columns
        by_kind = columns_of(columns, config.image_column, condition, where=str(root))
        files: dict[str, deque[bytes]] = {key: deque() for key in by_kind}
        names = {key: [] for key in by_kind}
        for part in parts.values():
            for column in by_kind.values():
                if column not in part.columns:
                    there = ", ".join(part.columns)
                    raise DataError(f"{part.path} has no column {column!r}, only {there}.")
            for number, row in enumerate(part.read(list(by_kind.values()), 0)):
                if number not in wanted[part.name]:
                    continue
                if row.fault:
                    raise DataError(f"{row.name} cannot be trained on: {row.fault}.")
                numbers[part.name, number] = len(numbers)
                texts[part.name, number] = row.text or ""
                for key, column in by_kind.items():
                    data, name = row.files[column]
                    files[key].append(data if isinstance(data, bytes) else data.read_bytes())
                    names[key].append(name)
        packed = {key: PackedBytes(_drain(queue)) for key, queue in files.items()}
    entries: list[Path | int] = []
    captions: list[str] = []
    for part, number in places:
        assert part.path is not None
        entries.append(numbers[part.name, number] if part.is_archive else part.path)
        captions.append(texts.get((part.name, number), "") if part.is_archive else part.text)
    return Photos(
        name=str(root),
        entries=entries,
        columns=packed,
        file_names=names,
        fingerprint=digest.hexdigest(),
        condition=condition,
        texts=captions if any(captions) else (),
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
    rows = load_hub(name, split=training_split(config), streaming=False)
    columns = columns_of(rows.column_names, config.image_column, condition, where=name)
    rows = undecoded(rows, columns.values())
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


def training_split(config: DataConfig) -> str:
    """The split of a hub data set to train on; DataError for one of validation or tests."""
    if any(is_held_out(split.strip()) for split in config.split.split("+")):
        raise DataError(
            f"data.split {config.split} is for validation or tests, which is never trained on."
        )
    return config.split
