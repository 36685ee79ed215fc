"""Photos for training, from any source; each is decoded when it is read."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from condiff.conditions.table import CONDITIONS
from condiff.config import DataConfig
from condiff.data.shared_memory import PackedBytes
from condiff.errors import ConfigError, DataError, ImageError
from condiff.inputs import PictureInput, fit_stored
from condiff.photos.reading import read_image
from condiff.sources.folders import local_parts
from condiff.sources.hub import HubRows, hub_name, is_saved, load_hub, undecoded
from condiff.sources.schema import FILE_NAME, columns_of, is_held_out
from condiff.sources.source import File, Item, Part

logger = logging.getLogger(__name__)

_Place = tuple[Part, int]  # an item of a part


class TrainingPhoto(NamedTuple):
    """A photo: read("image") is (H,W,3) uint8 RGB; read(kind) is a stored condition image as the
    task's input decodes it, (H,W,N) uint8."""

    read: Callable[[str], np.ndarray]
    kinds: tuple[str, ...]  # kinds of the condition images that are stored with it
    text: str = ""  # its caption
    name: str = "A photo"  # in messages

    def read_fitted(self, kind: str, pixels: np.ndarray) -> np.ndarray:
        """A stored condition image at the size of the photo's `pixels` (H,W,3): (H,W,N) uint8.

        Raises DataError if the two have different aspects.
        """
        return fit_stored(self.read(kind), pixels, where=self.name)


class PackedItems(Sequence[Item]):
    """Items whose files are in one block of memory, which a loader's workers share."""

    def __init__(self, items: Iterable[Item], kinds: Iterable[str]):
        self.kinds, self.rest = tuple(kinds), list[tuple[str, str | None, list[str]]]()
        self.files = PackedBytes(self._unpack(items))

    def _unpack(self, items: Iterable[Item]) -> Iterator[bytes]:
        for item in items:
            files = [item.files[kind] for kind in self.kinds]
            self.rest.append((item.name, item.text, [file.name for file in files]))
            yield from (file.read() for file in files)

    def __len__(self) -> int:
        return len(self.rest)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        name, text, names = self.rest[index]
        first = index * len(self.kinds)
        files = {kind: File(self.files[first + i], names[i]) for i, kind in enumerate(self.kinds)}
        return Item(name, files, text)

    def caption(self, index: int) -> str | None:
        """The caption of an item, if it has one."""
        return self.rest[index][1]

    @property
    def num_bytes(self) -> int:
        """The length of all files."""
        return self.files.num_bytes


@dataclass(frozen=True)
class Photos(Sequence[TrainingPhoto]):
    """Encoded photos in a fixed order; each is decoded when it is read."""

    name: str
    entries: Sequence[Path | int]  # an image file, or the number of an item
    items: PackedItems | HubRows
    fingerprint: str  # changes when the photos do
    condition: PictureInput | None = None  # what stored condition images are for
    texts: Mapping[Path, str] = field(default_factory=dict)  # captions of image files
    stored: Mapping[Path, dict[str, File]] = field(default_factory=dict)  # their condition images

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> TrainingPhoto:  # type: ignore[override]
        entry = self.entries[index]
        if isinstance(entry, int):
            return open_item(self.items[entry], self.condition)
        files = {"image": File(entry, str(entry)), **self.stored.get(entry, {})}
        return open_item(Item(str(entry), files, self.texts.get(entry)), self.condition)

    def caption(self, index: int) -> str:
        """The caption of a photo, "" without one; its image is not read."""
        entry = self.entries[index]
        text = self.items.caption(entry) if isinstance(entry, int) else self.texts.get(entry)
        return text or ""

    @property
    def memory(self) -> int:
        """Bytes of encoded photos in memory."""
        return getattr(self.items, "num_bytes", 0)


def open_item(item: Item, condition: PictureInput | None) -> TrainingPhoto:
    """The photo of an item; its files are decoded when they are read. DataError for a fault."""
    if item.fault:
        raise DataError(f"{item.name} cannot be trained on: {item.fault}.")
    kinds = tuple(kind for kind in item.files if kind != "image")
    return TrainingPhoto(partial(_read, item, condition), kinds, item.text or "", item.name)


def _read(item: Item, condition: PictureInput | None, kind: str) -> np.ndarray:
    file = item.files[kind]
    try:
        image = read_image(file.opened())
    except ImageError as error:
        what = item.name if kind == "image" else f"The condition image of {item.name}"
        raise DataError(
            f"{what} cannot be trained on: {file.reason(error)}. Put another photo in its place, "
            "or take it out before a new run; condiff prep lists all such photos."
        ) from error
    pixels = np.asarray(image.convert("RGB"))
    if kind == "image" or condition is None:
        return pixels
    return condition.decode_stored(pixels, kind or _kind_in(file.name), item.name)


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
    report_idle(root, parts, config)
    if not parts and is_saved(root):
        raise DataError(
            f"{root} was saved by `datasets`: make parquet files of it with condiff prep, or by "
            "the data set's to_parquet."
        )
    if root.is_file() and any(not part.is_archive for part in parts):
        raise DataError(
            f"{root} is not a parquet or tar file: give the folder of the photos, even of one."
        )
    chosen: list[_Place] = []
    for pattern, count in wanted.items():
        found = _places_in(root, parts, pattern)
        if not found:
            asked = f"match {pattern!r} of data.files" if config.files else "were found"
            raise DataError(
                f"No photos in {root} {asked}: looked for images, parquet and tar files that are "
                "not named val, validation or test; rows of such splits are held out, too."
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


def report_idle(root: Path, parts: Sequence[Part], config: DataConfig) -> None:
    """Log a warning for settings that have no effect on local data."""
    default = DataConfig()
    if config.split != default.split:
        logger.warning("data.split is for hub data sets: it has no effect on %s", root)
    if config.image_column is not None and not any(part.is_archive for part in parts):
        logger.warning("data.image_column is for parquet files: it has no effect on %s", root)


def _places_in(root: Path, parts: Sequence[Part], pattern: str) -> list[_Place]:
    """The photos of the parts that match a glob; if there are archives, only theirs."""
    if root.is_dir():
        try:
            if os.path.isabs(pattern):
                raise ValueError("an absolute path")
            matching = set(root.glob(pattern))
        except ValueError as error:  # also for an empty pattern
            raise ConfigError(
                f"data.files: {pattern!r} is not a pattern of paths below {root}: give one such as "
                "'large-*'."
            ) from error
        # By path: a part's name is valid UTF-8, which the path need not be.
        parts = [part for part in parts if part.path in matching]
    archives = [part for part in parts if part.is_archive]
    if archives and len(archives) < len(parts):
        logger.warning(
            "%s contains parquet or tar files: %d image files beside them are not trained on",
            root,
            len(parts) - len(archives),
        )
    places = []
    for part in archives or parts:
        splits = part.splits() or [""] * (part.total or 0)
        places += [(part, i) for i, split in enumerate(splits) if not is_held_out(split)]
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
    archives = {part.name: part for part, _ in places if part.is_archive}
    parts = list(archives.values()) or [part for part, _ in places]
    where = str(root)
    columns = training_columns(parts, config, condition, where=where)
    if config.image_column is not None:
        digest.update(f"{config.image_column}\n".encode("utf-8", "surrogateescape"))
    texts: dict[Path, str] = {}
    stored: dict[Path, dict[str, File]] = {}
    for part, number in places:
        assert part.path is not None
        files = [part.path]
        if not part.is_archive:
            if part.text:
                texts[part.path] = part.text
            found = {kind: part.stored[c] for kind, c in columns.items() if kind != "image"}
            if found:
                stored[part.path] = {kind: File(path, str(path)) for kind, path in found.items()}
            files += found.values()
        for path in files:
            line = f"{path} {_identify(path)} {number}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    wanted = {(part.name, number) for part, number in places}
    numbers: dict[tuple[str, int], int] = {}

    def read(columns: Mapping[str, str]) -> Iterator[Item]:
        for part in archives.values():
            for number, item in enumerate(part.items(columns)):
                if (part.name, number) in wanted:
                    numbers[part.name, number] = len(numbers)
                    item = item.fetch()
                    open_item(item, condition)  # raises for a fault
                    yield item

    items = PackedItems(read(columns), columns)
    entries: list[Path | int] = []
    for part, number in places:
        assert part.path is not None
        entries.append(numbers[part.name, number] if part.is_archive else part.path)
    return Photos(where, entries, items, digest.hexdigest(), condition, texts, stored)


def _identify(path: Path) -> str:
    """Size and time of a file; DataError if it does not exist."""
    try:
        status = path.stat()
    except OSError as error:  # also a broken link
        raise DataError(f"{path} cannot be trained on: {error.strerror}. Take it out.") from error
    return f"{status.st_size} {status.st_mtime_ns}"


def training_columns(
    parts: Sequence[Part], config: DataConfig, condition: PictureInput | None, *, where: str
) -> dict[str, str]:
    """The columns of all parts to train on, as `columns_of`; DataError where one lacks a column."""
    if not parts:
        return {}
    first = parts[0]
    asked = config.image_column if first.is_archive else None
    columns = columns_of(first.columns, asked, condition, where=where)
    for part in parts:
        for column in columns.values():
            if column in part.columns:
                continue
            if not part.is_archive:
                raise DataError(
                    f"{part.path} has no {column}{FILE_NAME} in metadata.jsonl, as other photos "
                    "have: add it, or take the photo out."
                )
            there = ", ".join(part.columns)
            raise DataError(f"{part.path} has no column {column!r}, only {there}.")
    return columns


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
        raise DataError(f"The split {config.split} of {name} contains no photos to train on.")
    fingerprint = sha256(f"{rows._fingerprint} {entries}".encode()).hexdigest()
    return Photos(name, entries, HubRows(name, rows, columns), fingerprint, condition)


def training_split(config: DataConfig) -> str:
    """The split of a hub data set to train on; DataError for one of validation or tests."""
    if any(is_held_out(split.strip()) for split in config.split.split("+")):
        raise DataError(
            f"data.split {config.split} is for validation or tests, which is never trained on."
        )
    return config.split
