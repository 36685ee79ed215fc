"""Prepare coloured illustrations with line drawings, from openly licensed vector packages.

    python data_prep/illustrations.py OUT/                        # every set, 160 x 160 pixels
    python data_prep/illustrations.py OUT/ --sets noto,twemoji --size 256 --draw canny,outline
    python data_prep/illustrations.py OUT/ --split val            # only the 322 for validation

illustrations.tsv pins each set's package by version and hash, with its licence and credit; packages
are downloaded once and cached. illustrations.csv.xz lists the selected pictures with names,
keywords and split. It excludes flags, logos, lettering, line art and near-duplicates. All pictures
of a concept, such as an emoji's skin tones in all sets, are in the same split.
"""

import argparse
import base64
import csv
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from condiff.conditions.table import apply, find_condition
from condiff.errors import CondiffError, DataError, DependencyError
from condiff.prep.parquet_writer import (
    SPLITS,
    Row,
    ShardWriter,
    Summary,
    check_pyarrow,
    columns_of,
    features_of,
    shard_path,
    write_info,
    write_text,
)
from condiff.resize import resize
from output import cache_folder

HERE = Path(__file__).parent
CODE = "dicebear-core"  # not a set: code that assembles the avatars of the other dicebear sets
SHARP = 480  # least side of pictures for outlines
MARGIN = 0.04  # white on each side, as a share of the picture
LARGEST = 2600  # pixels of a rendering before it is cropped to its content
SHARD_SIZE = 1000
DRAW_AVATARS = """
import { pathToFileURL } from "node:url";
const [core, style, ...seeds] = process.argv.slice(1);
const { createAvatar } = await import(pathToFileURL(core));
const parts = await import(pathToFileURL(style));
console.log(JSON.stringify(seeds.map((seed) => createAvatar(parts, { seed }).toString())));
"""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Package:
    """One line of illustrations.tsv: a set of pictures and its package."""

    set: str
    package: str  # "npm @iconify-json/noto", "Debian openclipart-svg"
    version: str
    url: str
    hash: str  # "sha512-" and base64, as in npm, or "sha256-" and hex digits, as in Debian
    pictures: str  # a folder in the package, its icons.json, or "-": avatars drawn by its code
    license: str
    credit: str


@dataclass(frozen=True)
class Picture:
    """One line of illustrations.csv.xz."""

    id: str  # the set, a slash, the name in its package
    name: str
    keywords: str  # separated by commas
    concept: str
    split: str

    @property
    def set(self) -> str:
        return self.id.partition("/")[0]

    @property
    def key(self) -> str:
        """The name in the package."""
        return self.id.partition("/")[2]


Job = tuple[Picture, bytes, str]  # a picture, its file, its licence


def read_packages(path: Path = HERE / "illustrations.tsv") -> dict[str, Package]:
    """The pinned packages by set."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["set"]: Package(**row) for row in rows}


def read_pictures(path: Path = HERE / "illustrations.csv.xz") -> list[Picture]:
    """The selected pictures; sets are mixed, so that the first ones are from all sets."""
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        return [Picture(**row) for row in csv.DictReader(file)]


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the cache folder, downloaded if missing, with its hash checked.

    Raises DataError if it cannot be downloaded, or is not the pinned file.
    """
    name = PurePosixPath(package.url).name
    path = cache / (name if package.package.startswith("Debian") else f"{package.set}-{name}")
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            with (
                urllib.request.urlopen(package.url, timeout=60) as answer,
                open(part, "wb") as file,
            ):
                shutil.copyfileobj(answer, file)
            _check_hash(package, part, where=package.url)
            part.replace(path)
        except OSError as error:
            raise DataError(
                f"{package.url} cannot be fetched ({error}): run the same again later, or save the "
                f"file as {path}; older Debian files are on snapshot.debian.org."
            ) from error
        finally:
            part.unlink(missing_ok=True)
    else:
        _check_hash(package, path, where=f"{path} (remove it)")
    return path


def _check_hash(package: Package, path: Path, *, where: str) -> None:
    kind, _, wanted = package.hash.partition("-")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, kind)
    found = digest.hexdigest() if kind == "sha256" else base64.b64encode(digest.digest()).decode()
    if found != wanted:
        raise DataError(
            f"The file at {where} is not {package.package} {package.version}, its {kind} "
            "differs: run the same again."
        )


def read_files(package: Path, wanted: str) -> Iterator[tuple[str, bytes]]:
    """The files of an npm tarball, or of a Debian package, whose path begins with `wanted`."""
    with open(package, "rb") as file:
        tar_file = _find_data(file.read()) if package.suffix == ".deb" else file
        with tarfile.open(fileobj=tar_file, mode="r:*") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isfile() and name.startswith(wanted):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield name, content.read()


def _find_data(deb: bytes) -> BytesIO:
    """The member data.tar of a Debian package, which is an ar archive."""
    place = 8  # after "!<arch>\n"
    while place < len(deb):
        name, size = deb[place : place + 16], int(deb[place + 48 : place + 58])
        place += 60
        if name.startswith(b"data.tar"):
            return BytesIO(deb[place : place + size])
        place += size + size % 2
    raise tarfile.ReadError("it contains no data.tar")


def read_set(
    set: str, keys: Sequence[str], packages: dict[str, Package], cache: Path
) -> list[bytes]:
    """The picture files (SVG, WebP) of those names in a set; DataError if one is missing."""
    package = packages[set]
    path = fetch(package, cache)
    try:
        if package.pictures == "-":
            drawn = draw_avatars([fetch(packages[CODE], cache), path], keys)
        elif package.pictures.endswith(".json"):
            ((_, content),) = read_files(path, package.pictures)
            icons = json.loads(content)
            drawn = {key: _icon(icons, key) for key in keys}
        else:
            needed = {*keys}
            names = (
                (n.removeprefix(package.pictures), c) for n, c in read_files(path, package.pictures)
            )
            drawn = {
                stem: content for n, content in names if (stem := n.rpartition(".")[0]) in needed
            }
        return [drawn[key] for key in keys]
    except (KeyError, ValueError, EOFError, OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} lacks pictures in illustrations.csv.xz ({error!r}): remove it, and run the "
            "same again."
        ) from error


def _icon(icons: dict, key: str) -> bytes:
    """An icon of an Iconify set as an SVG file."""
    icon = icons["icons"][key]
    left, top = (icon.get(side, icons.get(side, 0)) for side in ("left", "top"))
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body'].replace('currentColor', '#333333')}</svg>"
    ).encode()


def draw_avatars(archives: Sequence[Path], keys: Sequence[str]) -> dict[str, bytes]:
    """DiceBear's SVG files by "style-seed", drawn by its code (core and a style) in Node.js.

    An avatar is a function of its seed; nothing is installed, and the network is not used.
    """
    node = shutil.which("node")
    if node is None:
        raise DataError(
            "The dicebear sets are drawn by JavaScript, but Node.js is missing: install it, "
            "or leave these sets out with --sets."
        )
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for path in archives:
            files = dict(read_files(path, "package/"))
            name = json.loads(files["package/package.json"])["name"]
            root = Path(folder) / "node_modules" / name
            for file, content in files.items():
                target = root / file.removeprefix("package/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            entries.append(str(root / "lib/index.js"))
        style = name.rpartition("/")[2]
        seeds = [key.removeprefix(f"{style}-") for key in keys]
        command = [node, "--input-type=module", "--eval", DRAW_AVATARS, *entries, *seeds]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            raise DataError(f"Node.js cannot draw the set {style}: {done.stderr.strip()[-300:]}")
    return dict(zip(keys, (svg.encode() for svg in json.loads(done.stdout)), strict=True))


def render(file: bytes, side: int) -> Pixels:
    """An SVG, PNG or WebP file -> (side,side,3) uint8: its content, centred on white.

    Text is left out, because fonts differ between machines. Raises ValueError for an invalid or
    empty picture.
    """
    inner = round(side * (1 - 2 * MARGIN))
    if b"<svg" in file[:100_000]:
        text = _decode(file)
        first = _crop(_render_svg(text, {"width": 320}))
        across, longest = 320, max(first.size)
        wanted = max(1, min(LARGEST, round(across * inner / longest)))
        image = _crop(_render_svg(text, {"width": wanted}))
    else:
        image = _crop(Image.open(BytesIO(file)).convert("RGBA"))
    scale = inner / max(image.size)
    if abs(max(image.size) - inner) > 2:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.convert("RGBa").resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    paper = Image.new("RGBA", (side, side), "white")
    paper.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.array(paper.convert("RGB"))


def _decode(file: bytes) -> str:
    """An XML file's text, by its declared encoding."""
    named = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w-]+)["']""", file)
    return file.decode(named[1].decode() if named else "utf-8", errors="replace").lstrip("\ufeff")


def _render_svg(text: str, size: dict[str, int]) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise DependencyError.of("Rendering SVG needs resvg-py", extra="svg") from error
    png = resvg_py.svg_to_bytes(svg_string=text, dpi=90.0, skip_system_fonts=True, **size)
    return Image.open(BytesIO(bytes(png))).convert("RGBA")


def _crop(image: Image.Image) -> Image.Image:
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise ValueError("it is empty")
    return image.crop(box)


def make_row(job: Job, *, size: int, kinds: Sequence[str]) -> Row:
    """A picture's row from its file and licence: rendered at `size`, with drawings and text.

    Raises DataError for a file that cannot be rendered.
    """
    picture, file, license = job
    try:
        large = render(file, size * -(-SHARP // size))
    except (ValueError, OSError) as error:
        raise DataError(f"{picture.id} cannot be rendered: {error}.") from error
    small = resize(large, size, size)
    stem = picture.id.replace("/", "-")
    row: Row = {"image": {"bytes": _encode(small, "WEBP", lossless=True), "path": f"{stem}.webp"}}
    for kind, column in columns_of(kinds).items():
        # A condition with its own resolution uses the larger rendering.
        own = "resolution" in find_condition(kind).params
        drawn = resize(apply(kind, large if own else small), size, size).reshape(size, size, -1)
        drawn = drawn[..., 0] if drawn.shape[2] == 1 else drawn
        row[column] = {"bytes": _encode(drawn, "PNG", optimize=True), "path": f"{stem}.{kind}.png"}
    return row | {
        "text": f"{picture.name}, {picture.keywords}" if picture.keywords else picture.name,
        "source": picture.id,
        "split": picture.split,
        "set": picture.set,
        "concept": picture.concept,
        "license": license,
    }


def _encode(pixels: Pixels, format: str, **options: bool) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Recipe:
    """The settings that, with the pinned packages, determine the written bytes."""

    sets: tuple[str, ...]
    size: int
    kinds: tuple[str, ...]
    limit: int | None
    split: str | None = None  # None: both

    def choose(self, pictures: Sequence[Picture]) -> list[Picture]:
        """The pictures to write, in order."""
        chosen = [
            each for each in pictures if each.set in self.sets and self.split in (None, each.split)
        ]
        return chosen[: self.limit]


def write(
    out: Path,
    recipe: Recipe,
    packages: dict[str, Package],
    pictures: Sequence[Picture],
    cache: Path,
    *,
    workers: int = 1,
) -> Counter[str]:
    """Write the data set, resuming an interrupted run; returns the number of pictures by set.

    Raises DataError if `out` contains other files, or was begun with other settings.
    """
    check_pyarrow()
    chosen = recipe.choose(pictures)
    listed = hashlib.sha256(repr((chosen, [packages[name] for name in recipe.sets])).encode())
    settings = {
        "sets": [*recipe.sets],
        "size": recipe.size,
        "kinds": [*recipe.kinds],
        "limit": recipe.limit,
        "pictures": listed.hexdigest(),
        "versions": {"resvg-py": metadata.version("resvg-py"), "cv2": cv2.__version__},
    }
    _claim(out, settings)
    numbers: Counter[str] = Counter()
    pending: list[tuple[int, Picture]] = []
    for picture in chosen:
        number = numbers[picture.split]
        numbers[picture.split] += 1
        if not shard_path(out, picture.split, number // SHARD_SIZE).exists():
            pending.append((number, picture))
    files: dict[str, bytes] = {}
    for name in tqdm(recipe.sets, unit="set", disable=None):
        wanted = [picture for _, picture in pending if picture.set == name]
        found = read_set(name, [each.key for each in wanted], packages, cache) if wanted else []
        files |= {each.id: file for each, file in zip(wanted, found, strict=True)}
    features = features_of(recipe.kinds, has_text=True, more=("set", "concept", "license"))
    writers = {
        split: ShardWriter(
            out,
            split,
            features,
            shard_size=SHARD_SIZE,
            scratch=out / ".prep",
            before_commit=lambda: None,
        )
        for split in SPLITS
    }
    jobs = [(each, files.pop(each.id), packages[each.set].license) for _, each in pending]
    draw = partial(make_row, size=recipe.size, kinds=recipe.kinds)
    with _mapped(draw, jobs, workers) as rows:
        bar = tqdm(rows, total=len(jobs), unit="picture", disable=None)
        for (number, picture), row in zip(pending, bar, strict=True):
            writers[picture.split].add(number, row)
    for writer in writers.values():
        writer.close()
    outcomes = Counter(done=len(chosen))
    summary = Summary("Illustrations", "other", settings, features, outcomes, numbers)
    counts = Counter(picture.set for picture in chosen)
    write_text(out / "README.md", make_card(recipe, packages, counts, numbers))
    write_info(out, summary)
    return counts


@contextmanager
def _mapped(
    draw: Callable[[Job], Row], jobs: Sequence[Job], workers: int
) -> Iterator[Iterator[Row]]:
    """The rows of jobs in order, by this process or by `workers` others."""
    if workers == 1:
        yield map(draw, jobs)
        return
    # A fork of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,))
    try:
        yield pool.map(draw, jobs, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)


def _claim(out: Path, settings: dict) -> None:
    """Create the folder with its settings, or compare them with the existing ones."""
    path = out / ".prep" / "settings.json"
    if path.exists():
        there = json.loads(path.read_text("utf-8"))
        changed = " and ".join(key for key in settings if there.get(key) != settings[key])
        if changed:
            raise DataError(
                f"{out} was begun with other settings ({changed} changed): give another folder."
            )
        return
    try:
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out} contains other files: give an empty or a new folder.")
        path.parent.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            f"Cannot write to {out} ({error.strerror}): give another folder."
        ) from error
    write_text(path, json.dumps(settings, indent=2) + "\n")


def make_card(
    recipe: Recipe, packages: dict[str, Package], counts: Counter[str], splits: Counter[str]
) -> str:
    """README.md of the data set: content, origin, authors, licences."""
    lines = ["---", "license: other", "task_categories:", "- image-to-image", "configs:"]
    lines += ["- config_name: default", "  data_files:"]
    for split in sorted(splits):
        lines += [f"  - split: {split}", f"    path: {split}-*.parquet"]
    numbers = ", ".join(f"{splits[split]} for {split}" for split in sorted(splits))
    drawings = " and ".join(f"`{kind}`" for kind in recipe.kinds)
    lines += [
        "---",
        "",
        "# Illustrations",
        "",
        f"{sum(counts.values())} pictures ({numbers}) of {recipe.size} x {recipe.size} pixels, "
        f"each with its {drawings} drawing, its name and keywords (`text`), set, concept and "
        "licence. All pictures of a concept are in the same split.",
        "",
        "The pictures were changed: rendered on white at this size, without text.",
        "",
        "| set | pictures | package | licence | credit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in recipe.sets:
        each = packages[name]
        lines.append(
            f"| {name} | {counts[name]} | {each.package} {each.version} | {each.license} | "
            f"{each.credit} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    packages = read_packages()
    sets = [name for name in packages if name != CODE]
    parser = argparse.ArgumentParser(description="Coloured illustrations with line drawings.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--cache", type=Path, help="cache folder of packages (default: condiff's)")
    parser.add_argument(
        "--sets", default=",".join(sets), help=f"of {', '.join(sets)} (default: all)"
    )
    parser.add_argument("--size", type=int, default=160, help="side (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="largest number of pictures")
    parser.add_argument("--split", choices=SPLITS, help="only one split (default: both)")
    parser.add_argument("--draw", default="outline", help="conditions (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    options = parser.parse_args(argv)
    chosen = tuple(dict.fromkeys(options.sets.split(",")))
    if unknown := [name for name in chosen if name not in sets]:
        parser.error(f"there is no set {unknown[0]!r}: choose from {', '.join(sets)}")
    counts = [options.workers, *([options.limit] if options.limit is not None else [])]
    if options.size < 16 or min(counts) < 1:
        parser.error("--size must be at least 16, --workers and --limit at least 1")
    try:
        kinds = tuple(dict.fromkeys(options.draw.split(",")))
        for kind in kinds:
            find_condition(kind)
        recipe = Recipe(chosen, options.size, kinds, options.limit, options.split)
        cache = options.cache or cache_folder()
        written = write(
            options.out, recipe, packages, read_pictures(), cache, workers=options.workers
        )
    except CondiffError as error:
        parser.exit(1, f"{error}\n")
    for name in chosen:
        print(f"{written[name]:6} {name}")
    print(f"{sum(written.values()):6} pictures in {options.out}")
    return 0


if __name__ == "__main__":
    cv2.setNumThreads(1)
    raise SystemExit(main())
