"""Where photos come from: folders, parquet, tar (webdataset) and hub data sets, as one list."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from condiff.errors import DataError
from condiff.formats import FORMATS, READ_ONLY

PHOTO_SUFFIXES = FORMATS.keys() | READ_ONLY
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT_KEYS = ("text", "caption")  # the first that is there
PARQUET_BATCH = 16  # rows in memory; a row group may hold gigabytes of photos


@dataclass(frozen=True)
class Item:
    """A photo's file: where it lies or its bytes, its caption; or why there is none."""

    source: str
    data: Path | bytes = b""
    text: str | None = None
    fault: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes on its way to another process."""
        return 0 if isinstance(self.data, Path) else len(self.data)


@dataclass(frozen=True)
class Source:
    """Photos in an order that never changes; items(start) begins at any of them."""

    name: str
    total: int | None  # None: a stream that does not know
    has_text: bool
    fingerprint: str  # another one: other photos
    items: Callable[[int], Iterator[Item]]


@dataclass(frozen=True)
class _Part:
    """A photo, or an archive of photos, in a folder."""

    name: str
    total: int
    has_text: bool
    items: Callable[[int], Iterator[Item]]
    fault: str | None = None


def open_source(name: str) -> Source:
    """A folder (recursive), a parquet or tar file; a name that is none of these: a hub data set."""
    path = Path(name)
    if path.is_dir() or path.is_file():
        return _local_source(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.suffix:
        raise DataError(f"There is no data at {name}: give a folder, a parquet or a tar file.")
    return hub_source(name)


def drawn_source(
    name: str, total: int, draw: Callable[[int], tuple[bytes, str]], *, fingerprint: str
) -> Source:
    """Pictures that a function draws: number -> (a file's bytes, caption)."""

    def items(start: int) -> Iterator[Item]:
        for number in range(start, total):
            data, text = draw(number)
            yield Item(f"{name}-{number:06d}.png", data, text)

    return Source(name, total, True, fingerprint, items)


def write_folder(source: Source, out: Path) -> Iterator[Path]:
    """The source's photos as plain files and their captions in metadata.jsonl, an `imagefolder`."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as captions:
        for item in source.items(0):
            data = item.data.read_bytes() if isinstance(item.data, Path) else item.data
            path = out / item.source
            path.write_bytes(data)
            row = {"file_name": item.source, "text": item.text}
            captions.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield path


def _local_source(root: Path) -> Source:
    files = [root]
    if root.is_dir():
        entries = (path for path in root.rglob("*") if not _is_hidden(path.relative_to(root)))
        files = sorted(path for path in entries if is_photo(path) or _is_archive(path))
    captions = _read_captions(root) if root.is_dir() else {}
    parts = [_open_part(path, root, captions) for path in files]
    if not parts:
        raise DataError(f"{root} holds no photos: looked for image, parquet and tar files.")
    if all(part.fault for part in parts):
        raise DataError(f"{root} cannot be used: {parts[0].name}: {parts[0].fault}.")
    digest = hashlib.blake2b(digest_size=16)
    for path, part in zip(files, parts, strict=True):
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{part.name}\0{size}\0{part.total}\n".encode("utf-8", "surrogateescape"))

    def items(start: int) -> Iterator[Item]:
        for part in parts:
            if start < part.total:
                yield from part.items(start)
            start = max(0, start - part.total)

    return Source(
        name=root.resolve().name,
        total=sum(part.total for part in parts),
        has_text=any(part.has_text for part in parts),
        fingerprint=digest.hexdigest(),
        items=items,
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def is_photo(path: Path) -> bool:
    """By name alone: a link to nowhere that is counted beats a photo silently left out."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".parquet", *TAR_SUFFIXES)) and path.is_file()


def _read_captions(root: Path) -> dict[Path, str]:
    """Captions by photo, from every metadata.jsonl below root."""
    captions = {}
    for file in sorted(root.rglob("metadata.jsonl")):
        try:
            for line in file.read_text("utf-8").splitlines():
                row = json.loads(line) if line.strip() else {}
                if (text := _text_of(row)) is not None:
                    captions[file.parent / row["file_name"]] = text
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{file} is no list of captions: each line is to be "
                f'{{"file_name": ..., "text": ...}} ({error}).'
            ) from error
    return captions


def _text_of(row: dict[str, Any]) -> str | None:
    return next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), None)


def _open_part(path: Path, root: Path, captions: dict[Path, str]) -> _Part:
    """A photo as it is, an archive by its list of contents; one that cannot be opened is a fault.

    A lone file goes by its name, a file in a folder by its path there.
    """
    name = path.name if path == root else path.relative_to(root).as_posix()
    name = name.encode("utf-8", "replace").decode()  # names may hold bytes that are no UTF-8
    try:
        if not _is_archive(path):
            item = Item(name, path, captions.get(path))
            return _Part(name, 1, item.text is not None, lambda start: iter((item,)))
        if path.suffix.lower() == ".parquet":
            return _parquet_part(path, name)
        return _tar_part(path, name)
    except (OSError, ValueError, LookupError, EOFError, tarfile.TarError) as error:
        fault = " ".join(str(error).split()) or type(error).__name__
        return _Part(name, 1, False, lambda start: iter((Item(name, fault=fault),)), fault)


def _parquet_part(path: Path, name: str) -> _Part:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            "Reading parquet files takes pyarrow: pip install 'condiff[train]'"
        ) from error
    with pq.ParquetFile(path) as file:
        schema, total = file.schema_arrow, file.metadata.num_rows
    image = next((n for n in ("image", "img", "jpg", "png", "webp") if n in schema.names), None)
    if image is None:
        raise ValueError(f"it has no column image, only {', '.join(schema.names)}")
    text = next((key for key in TEXT_KEYS if key in schema.names), None)

    def items(start: int) -> Iterator[Item]:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group, number = 0, 0
            while group < len(sizes) and number + sizes[group] <= start:
                number, group = number + sizes[group], group + 1
            for batch in file.iter_batches(
                PARQUET_BATCH,
                row_groups=range(group, len(sizes)),
                columns=[image, *([text] if text else [])],
            ):
                for row in batch.to_pylist():
                    if number >= start:
                        yield _row_item(f"{name}#{number}", row[image], text and row[text])
                    number += 1

    return _Part(name, total, text is not None, items)


def _row_item(source: str, value: Any, text: str | None) -> Item:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return Item(source, data, text)
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        return Item(source, text=text, fault="the row holds no photo")
    if Path(path).is_file():
        return Item(source, Path(path), text)
    try:
        import fsspec  # comes with datasets, whose streams name files on the hub or in archives

        with fsspec.open(path, "rb") as file:
            return Item(source, file.read(), text)
    except (ImportError, OSError, ValueError) as error:
        return Item(source, text=text, fault=f"{path} cannot be fetched: {error}")


def _tar_part(path: Path, name: str) -> _Part:
    """Photos of a tar file; `0001.txt` or `0001.json` is the caption of `0001.jpg`."""
    with tarfile.open(path) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        captions: dict[str, str] = {}
        for file, member in files.items():
            stem, _, suffix = file.rpartition(".")
            if suffix in ("txt", "json"):
                content = _member(tar, member).decode("utf-8", "replace")
                text = content.strip() if suffix == "txt" else _json_text(content)
                if text is not None:
                    captions.setdefault(stem, text)
    photos = [file for file in files if is_photo(Path(file)) and not _is_hidden(Path(file))]
    has_text = any(photo.rpartition(".")[0] in captions for photo in photos)

    def items(start: int) -> Iterator[Item]:
        with tarfile.open(path) as tar:
            for photo in islice(photos, start, None):
                data = _member(tar, files[photo])
                yield Item(f"{name}/{photo}", data, captions.get(photo.rpartition(".")[0]))

    return _Part(name, len(photos), has_text, items)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _json_text(content: str) -> str | None:
    try:
        row = json.loads(content)
    except ValueError:
        return None  # webdataset puts all kinds of notes there; a caption it is not
    return _text_of(row) if isinstance(row, dict) else None


def hub_source(name: str) -> Source:
    """A data set of the Hugging Face hub (or a folder that `datasets` knows), streamed."""
    try:
        from datasets import Image, IterableDataset, load_dataset
    except ImportError as error:
        raise DataError(
            f"There is no file or folder {name}; to read the hub's data set of that name "
            "takes datasets: pip install 'condiff[train]'"
        ) from error
    try:
        splits: dict[str, IterableDataset] = load_dataset(name, streaming=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"There is no file or folder {name}, and the hub's data set of that name cannot be "
            f"read: {reason}"
        ) from error
    first = next(iter(splits.values()))
    features = first.features or {}
    image = next((key for key, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        columns = ", ".join(features) or "none that is declared"
        raise DataError(f"The data set {name} has no column of images, only: {columns}.")
    text = next((key for key in TEXT_KEYS if key in features), None)
    counts = [split.info.splits[key].num_examples if split.info.splits else None
              for key, split in splits.items()]  # fmt: skip

    def items(start: int) -> Iterator[Item]:
        number = 0
        for (key, split), count in zip(splits.items(), counts, strict=True):
            if count is not None and number + count <= start:
                number += count
                continue
            rows = split.cast_column(image, Image(decode=False))
            skipped = start - number if number < start and count is not None else 0
            number += skipped
            for row in rows.skip(skipped) if skipped else rows:
                if number >= start:
                    yield _row_item(f"{name}/{key}#{number}", row[image], text and row[text])
                number += 1

    total = None if None in counts else sum(count for count in counts if count is not None)
    digest = hashlib.blake2b(f"{name}\0{total}".encode(), digest_size=16).hexdigest()
    return Source(name, total, text is not None, digest, items)
