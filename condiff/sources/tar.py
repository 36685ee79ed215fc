"""Tar files in the format of webdataset: `0001.txt` or `0001.json` is the caption of `0001.jpg`."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

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
    has_text = any(photo.rpartition(".")[0] in captions for photo in photos)

    def read(columns: Sequence[str], start: int) -> Iterator[Item]:
        with tarfile.open(path) as tar:
            for photo in islice(photos, start, None):
                file = File(_member(tar, files[photo]), Path(photo).name)
                text = captions.get(photo.rpartition(".")[0])
                yield Item(f"{name}/{photo}", {column: file for column in columns}, text)

    return Part(name, len(photos), ("image",), has_text, read, path=path)


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
