"""Folders of photos, of parquet and of tar files, or single files; opens all sources."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from condiff.errors import DataError
from condiff.files import JUNK, reason_of
from condiff.photos.formats import is_photo
from condiff.platforms import comparable, with_slashes
from condiff.sources.hub import hub_source, is_saved, saved_source
from condiff.sources.parquet import parquet_part
from condiff.sources.schema import FILE_NAME, text_of
from condiff.sources.source import UNREADABLE, File, Item, Part, Source, faulty, one_file
from condiff.sources.tar import SUFFIXES as TAR_SUFFIXES
from condiff.sources.tar import tar_part

# Functions that open an archive of photos, by suffix.
ARCHIVES: dict[str, Callable[[Path, str], Part]] = {
    ".parquet": parquet_part,
    **dict.fromkeys(TAR_SUFFIXES, tar_part),
}


class _Row(NamedTuple):
    """A photo's line of metadata.jsonl: its caption, and its condition images by column."""

    text: str | None
    stored: dict[str, Path]


NO_ROW = _Row(None, {})


def open_source(name: str) -> Source:
    """Open a folder (with its subfolders), a parquet or tar file, or else a hub data set.

    A folder may also be one written by save_to_disk of `datasets`. Raises DataError if there are no
    photos.
    """
    path = Path(name)
    if path.is_dir() and is_saved(path):
        return saved_source(path)
    if path.is_dir() or path.is_file():
        return local_source(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.suffix:
        raise DataError(f"There is no data at {name}: give a folder, a parquet file or a tar file.")
    return hub_source(name)


def drawn_source(
    name: str, total: int, draw: Callable[[int], tuple[bytes, str]], *, fingerprint: str
) -> Source:
    """A source of pictures drawn by a function: number -> (a file's bytes, caption)."""

    def read(columns: Sequence[str], start: int) -> Iterator[Item]:
        for number in range(start, total):
            data, text = draw(number)
            item_name = f"{name}-{number:06d}.png"
            yield Item(item_name, {column: File(data, item_name) for column in columns}, text)

    return Source(name, [Part(name, total, ("image",), True, read)], fingerprint)


def write_folder(source: Source, out: Path) -> Iterator[Path]:
    """Write a drawn source as an `imagefolder`: plain files, with captions in metadata.jsonl.

    Raises DataError if the folder cannot be written or contains files with other names.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in out.iterdir() if not path.name.startswith(f"{source.name}-")}
    except OSError as error:
        raise DataError(
            f"Cannot write into {out}: {error.strerror}. Choose another folder."
        ) from error
    if held - {"metadata.jsonl"} - JUNK:
        raise DataError(f"{out} contains other files: give an empty or a new folder.")
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as captions:
        for item in source.items(0):
            path = out / item.name
            path.write_bytes(item.image.read())
            row = {"file_name": item.name, "text": item.text}
            captions.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield path


def local_source(root: Path) -> Source:
    """A folder or a single file; files in a folder are named by their relative paths."""
    parts = local_parts(root)
    if not parts:
        raise DataError(f"{root} contains no photos: looked for image, parquet and tar files.")
    if all(part.fault for part in parts):
        raise DataError(f"{root} cannot be used: {parts[0].name}: {parts[0].fault}.")
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        size = _size_of(part.path) if part.path else -1
        digest.update(f"{part.name}\0{size}\0{part.total}\n".encode())
    return Source(root.resolve().name, parts, digest.hexdigest())


def local_parts(root: Path) -> list[Part]:
    """The photos and archives of a folder with its subfolders, or a single file."""
    if not root.is_dir():
        return [_open_part(root, root.name, NO_ROW)]
    rows = _read_metadata(root)
    stored = {_key(path) for row in rows.values() for path in row.stored.values()}
    parts = []
    for place, fault in _list_folder(root):
        path, key = root / place, _key(_normalize(root / place))
        name = place.encode("utf-8", "replace").decode()  # names may not be valid UTF-8
        if fault:
            parts.append(faulty(name, fault))
        elif key in rows or key not in stored:  # a condition image is not a photo
            parts.append(_open_part(path, name, rows.get(key, NO_ROW)))
    return parts


def _opener(path: str) -> Callable[[Path, str], Part] | None:
    """The function that opens a file as an archive, by its name; None for other files."""
    found = (open_part for suffix, open_part in ARCHIVES.items() if path.lower().endswith(suffix))
    return next(found, None) if os.path.isfile(path) else None


def _list_folder(root: Path) -> list[tuple[str, str | None]]:
    """Photos and archives by their path below root, in order, without hidden ones.

    A folder that cannot be read is listed with the reason, so its photos are not skipped silently.
    """
    start = len(os.path.join(root, ""))
    found: list[tuple[str, str | None]] = []

    def report(error: OSError) -> None:
        place = with_slashes(str(error.filename)[start:]) or "."
        found.append((place, f"cannot be listed: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=report):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if not name.startswith(".") and (is_photo(name) or _opener(path)):
                found.append((with_slashes(path[start:]), None))
    return sorted(found, key=lambda row: row[0].split("/"))


def _size_of(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:  # a broken link
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _read_metadata(root: Path) -> dict[str, _Row]:
    """The lines of every metadata.jsonl below root, by the key of their photo."""
    rows: dict[str, _Row] = {}
    for file in sorted(root.rglob("metadata.jsonl")):
        try:
            with open(file, encoding="utf-8") as lines:  # unlike str.splitlines, only by newlines
                for number, line in enumerate(lines, start=1):
                    rows |= _read_row(file, number, line)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {reason_of(error)}.") from error
    return rows


def _read_row(file: Path, number: int, line: str) -> dict[str, _Row]:
    """A line of metadata.jsonl, by its photo's key; empty without caption and conditions."""
    try:
        row = json.loads(line) if line.strip() else {}
        stored = {
            key.removesuffix(FILE_NAME): _resolve(file, name)
            for key, name in row.items()
            if key.endswith(FILE_NAME)
        }
        text = text_of(row)
        if text is None and not stored:
            return {}
        return {_key(_resolve(file, row["file_name"])): _Row(text, stored)}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"Line {number} of {file} is not a caption or a pair: each line must be "
            '{"file_name": ..., "text": ...} or {"file_name": ..., "conditioning_image_file_name": '
            "...}, with paths below its folder."
        ) from error


def _resolve(file: Path, name: str) -> Path:
    """A path that metadata.jsonl names; ValueError if it leads out of its folder."""
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise ValueError(f"{name} is outside")
    return _normalize(file.parent / name)


def _normalize(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _key(path: Path) -> str:
    return comparable(str(path))


def _open_part(path: Path, name: str, row: _Row) -> Part:
    """A photo, or the photos of an archive; a failure to open it becomes a fault."""
    try:
        open_part = _opener(str(path))
        return open_part(path, name) if open_part else one_file(path, name, *row)
    except (DataError, LookupError, *UNREADABLE) as error:
        return faulty(name, " ".join(str(error).split()) or type(error).__name__)
