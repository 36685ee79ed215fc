"""Tar files in the format of webdataset: files with the name 0001 up to the first dot are one item.

`0001.txt` or `0001.json` is the caption of `0001.jpg`, and `0001.depth.png` its condition image.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from condiff.conditions.table import CONDITIONS
from condiff.errors import DataError
from condiff.photos.formats import is_photo
from condiff.sources.schema import text_of
from condiff.sources.source import File, Item, Part

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def tar_part(path: Path, name: str) -> Part:
    """The photos of a tar file; DataError, OSError or TarError if it cannot be read."""
    with tarfile.open(path) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)  # tarfile ends at a damaged header; a true end is zeros
        if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
            raise DataError(f"it is damaged after {len(files)} files")
        captions: dict[str, str] = {}
        for file, member in files.items():
            stem, _, suffix = file.rpartition(".")
            if suffix in ("txt", "json"):
                content = _member(tar, member).decode("utf-8", "replace")
                text = content.strip() if suffix == "txt" else _json_text(content)
                if text is not None:
                    captions.setdefault(stem, text)
    photos = [file for file in files if is_photo(file) and not _is_hidden(file)]
    stored = _stored_images(photos)
    others = {file for images in stored.values() for file in images.values()}
    photos = [file for file in photos if file not in others]
    has_text = any(photo.rpartition(".")[0] in captions for photo in photos)

    def read(columns: Sequence[str], start: int) -> Iterator[Item]:
        with tarfile.open(path) as tar:
            for photo in islice(photos, start, None):
                item = Item(f"{name}/{photo}", {}, captions.get(photo.rpartition(".")[0]))
                found = {"image": photo, **stored.get(photo, {})}
                if missing := [column for column in columns if column not in found]:
                    yield item._replace(fault=f"it has no {missing[0]} in the tar file")
                    continue
                opened = {}
                for column in columns:
                    file = found[column]
                    opened[column] = File(_member(tar, files[file]), Path(file).name)
                yield item._replace(files=opened)

    columns = dict.fromkeys(column for images in stored.values() for column in images)
    return Part(name, len(photos), ("image", *columns), has_text, read, path=path)


def _stored_images(photos: Sequence[str]) -> dict[str, dict[str, str]]:
    """The other images of each photo by column: a/1.depth.png of a/1.jpg is conditioning_depth."""
    keys: dict[str, str] = {}
    parts = {file: PurePosixPath(file).name.split(".") for file in photos}
    for file, (key, *names) in parts.items():
        if len(names) == 1:
            keys.setdefault(str(PurePosixPath(file).with_name(key)), file)
    stored: dict[str, dict[str, str]] = {}
    for file, (key, *names) in parts.items():
        photo = keys.get(str(PurePosixPath(file).with_name(key)))
        if photo and len(names) > 1:
            kind = ".".join(names[:-1])
            column = f"conditioning_{kind}" if kind in CONDITIONS else kind
            stored.setdefault(photo, {})[column] = file
    return stored


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") and part != "." for part in path.split("/"))


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _json_text(content: str) -> str | None:
    try:
        row = json.loads(content)
    except ValueError:
        return None  # webdataset stores other notes there; not a caption
    return text_of(row) if isinstance(row, dict) else None
