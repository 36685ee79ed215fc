"""data_prep/illustrations.py on packages built by the tests: an npm tarball, a Debian package."""

import base64
import collections
import hashlib
import importlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("resvg_py")
SCRIPTS = Path(__file__).parents[1] / "data_prep"
HOUSE = '<path fill="#c03020" d="M2 8h12v8H2z"/><path fill="#3050c0" d="M2 8l6-6 6 6z"/>'
BALL = '<circle cx="50" cy="50" r="40" fill="green"/><text x="10" y="90" font-size="60">A</text>'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{0}">{1}</svg>'


@pytest.fixture
def illustrations(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("illustrations")
    for path in SCRIPTS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def tar(files: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def ar(files: dict[str, bytes]) -> bytes:
    """The format of `ar`: 60 bytes of header before each file, padded to even length."""
    archive = b"!<arch>\n"
    for name, content in files.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


@pytest.fixture
def packages(illustrations, tmp_path):
    """An Iconify set of two icons and a Debian package of two files, to be fetched."""
    icons = {"icons": {"house": {"body": HOUSE}, "hut": {"body": HOUSE.replace("8", "9")}}}
    icons |= {"width": 16, "height": 16}
    npm = tar({"package/icons.json": json.dumps(icons).encode()}, "w:gz")
    latin = '<?xml version="1.0" encoding="iso-8859-1"?><!-- \xe9 -->' + SVG.format(100, BALL)
    svg = {
        "./usr/share/toys/round/ball.svg": latin.encode("latin-1"),
        "./usr/share/toys/dot.svg": SVG.format(9, '<path d="M1 1h6v3z" fill="red"/>').encode(),
        "./usr/share/doc/copyright": b"public domain",
    }
    deb = ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar(svg, "w:xz")})
    served = tmp_path / "served"
    served.mkdir()
    (served / "icons-1.0.tgz").write_bytes(npm)
    (served / "toys_1.0_all.deb").write_bytes(deb)
    sha512 = "sha512-" + base64.b64encode(hashlib.sha512(npm).digest()).decode()
    sha256 = "sha256-" + hashlib.sha256(deb).hexdigest()
    rows = [
        ("icons", "npm icons", "1.0", f"{served.as_uri()}/icons-1.0.tgz", sha512),
        ("toys", "Debian toys", "1.0", f"{served.as_uri()}/toys_1.0_all.deb", sha256),
    ]
    folders, licenses = ("package/icons.json", "usr/share/toys/"), ("MIT", "PD")
    return {
        row[0]: illustrations.Package(*row, folder, license, f"by {row[0]}")
        for row, folder, license in zip(rows, folders, licenses, strict=True)
    }


@pytest.fixture
def pictures(illustrations):
    rows = [
        ("icons/house", "house", "home, roof", "house", "train"),
        ("toys/round/ball", "ball", "", "ball", "val"),
        ("icons/hut", "hut", "small", "house", "train"),
        ("toys/dot", "dot", "", "dot", "train"),
    ]
    return [illustrations.Picture(*row) for row in rows]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def decode(cell: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_packages_become_shards_with_pictures_drawings_and_words(
    illustrations, packages, pictures, tmp_path
):
    recipe = illustrations.Recipe(("icons", "toys"), 40, ("canny", "outline"), None)
    out, cache = tmp_path / "out", tmp_path / "cache"
    counts = illustrations.write(out, recipe, packages, pictures, cache)
    assert counts == {"icons": 2, "toys": 2}
    train, val = (pq.read_table(out / f"{split}-00000.parquet") for split in ("train", "val"))
    assert train.column_names == [
        *("image", "conditioning_canny", "conditioning_outline", "text", "source", "split"),
        *("set", "concept", "license"),
    ]
    house, hut, _ = train.to_pylist()
    assert (house["text"], house["license"], house["set"]) == ("house, home, roof", "MIT", "icons")
    assert (hut["source"], hut["concept"], hut["split"]) == ("icons/hut", "house", "train")
    image = decode(house["image"])
    assert image.shape == (40, 40, 3) and (image[0] == 255).all()
    assert tuple(image[30, 20]) == (0xC0, 0x30, 0x20)
    drawn = decode(house["conditioning_outline"])
    assert house["conditioning_outline"]["path"] == "icons-house.outline.png"
    assert drawn.shape == (40, 40)
    assert drawn[15:20, 20].min() < 200  # between the wall and the roof
    assert drawn[30, 20] == drawn[1, 1] == 255
    assert decode(house["conditioning_canny"]).max() == 255
    (ball,) = val.to_pylist()
    assert ball["text"] == "ball"
    colours = np.unique(decode(ball["image"])[10:30, 10:30].reshape(-1, 3), axis=0)
    assert colours.tolist() == [[0, 128, 0]]  # its letter is left out
    card = (out / "README.md").read_text("utf-8")
    assert (
        "4 pictures (3 for train, 1 for val)" in card
        and "| npm icons 1.0 | MIT | by icons |" in card
    )


def test_a_split_alone_is_the_first_of_that_split(illustrations, packages, pictures, tmp_path):
    recipe = illustrations.Recipe(("icons", "toys"), 32, ("outline",), 1, split="val")
    out = tmp_path / "out"
    assert illustrations.write(out, recipe, packages, pictures, tmp_path / "cache") == {"toys": 1}
    assert [path.name for path in out.glob("*.parquet")] == ["val-00000.parquet"]
    (ball,) = pq.read_table(out / "val-00000.parquet").to_pylist()
    assert ball["source"] == "toys/round/ball"


@pytest.mark.slow
def test_the_same_bytes_on_every_run_and_after_a_run_that_was_stopped(
    illustrations, packages, pictures, tmp_path, monkeypatch
):
    recipe = illustrations.Recipe(("icons", "toys"), 32, ("outline",), None)
    cache = tmp_path / "cache"
    monkeypatch.setattr(illustrations, "SHARD_SIZE", 1)
    illustrations.write(tmp_path / "a", recipe, packages, pictures, cache)
    whole = files_of(tmp_path / "a")
    assert {"train-00002.parquet", "val-00000.parquet", "dataset_info.json"} <= whole.keys()
    illustrations.write(tmp_path / "b", recipe, packages, pictures, cache, workers=2)
    assert files_of(tmp_path / "b") == whole
    for name in ("train-00001.parquet", "README.md", "dataset_info.json"):
        (tmp_path / "b" / name).unlink()
    shutil.rmtree(tmp_path / "served")  # what was fetched is kept
    (cache / "toys_1.0_all.deb").unlink()  # not needed: its pictures are there
    illustrations.write(tmp_path / "b", recipe, packages, pictures, cache)
    assert files_of(tmp_path / "b") == whole


def test_what_cannot_go_on_is_one_sentence(illustrations, packages, pictures, tmp_path):
    recipe = illustrations.Recipe(("icons",), 32, ("outline",), 1)
    cache, out = tmp_path / "cache", tmp_path / "out"

    def write(out, recipe=recipe, pictures=pictures):
        return illustrations.write(out, recipe, packages, pictures, cache)

    assert write(out) == {"icons": 1}
    other = illustrations.Recipe(("icons",), 48, ("outline",), 1)
    with pytest.raises(illustrations.DataError, match=r"other settings \(size changed\)"):
        write(out, other)
    with pytest.raises(illustrations.DataError, match="contains other files"):
        write(cache)
    missing = [illustrations.Picture("icons/castle", "castle", "", "castle", "train")]
    with pytest.raises(illustrations.DataError, match="lacks pictures"):
        write(tmp_path / "missing", pictures=missing)
    (cache / "icons-icons-1.0.tgz").write_bytes(b"another")
    with pytest.raises(illustrations.DataError, match="its sha512 differs"):
        write(tmp_path / "changed")
    (cache / "icons-icons-1.0.tgz").unlink()
    (tmp_path / "served" / "icons-1.0.tgz").unlink()
    with pytest.raises(illustrations.DataError, match="cannot be fetched .* save the file"):
        write(tmp_path / "offline")
    assert not list(cache.glob(".*"))


def test_a_picture_is_in_the_middle_whatever_its_page(illustrations):
    tall = '<rect x="900" y="40" width="20" height="40" fill="blue"/>'  # small on a wide page
    pixels = illustrations.render(SVG.format(1000, tall).encode(), 100)
    rows, columns = np.nonzero((pixels < 128).any(axis=2))
    assert (rows.min(), rows.max()) == pytest.approx((4, 95), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((27, 72), abs=2)
    with pytest.raises(ValueError, match="it is empty"):
        illustrations.render(SVG.format(10, "").encode(), 100)


def test_the_list_and_the_pins_fit_together(illustrations):
    packages, pictures = illustrations.read_packages(), illustrations.read_pictures()
    assert {each.set for each in pictures} == packages.keys() - {illustrations.CODE}
    assert all(each.license != "CC-BY-SA-4.0" and each.credit for each in packages.values())
    assert all(each.hash.startswith(("sha256-", "sha512-")) for each in packages.values())
    assert len({each.id for each in pictures}) == len(pictures) > 10_000
    splits = collections.defaultdict(set)
    for each in pictures:
        splits[each.concept].add(each.split)
    assert all(len(both) == 1 for both in splits.values())
    # the tones of an emoji are one concept
    tones = [each for each in pictures if each.name.startswith("santa claus")]
    assert len(tones) > 5 and len({each.split for each in tones}) == 1
    assert not [each for each in pictures if " flag" in f" {each.name}" or "logo" in each.name]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_avatars_are_drawn_by_their_package(illustrations, tmp_path):
    core = (
        b"""export const createAvatar = (style, { seed }) => `<svg>${style.shape(seed)}</svg>`;"""
    )
    shape = b"""import "@dicebear/core"; export const shape = (seed) => seed.toUpperCase();"""
    paths = []
    for name, code in (("core", core), ("round", shape)):
        about = json.dumps({"name": f"@dicebear/{name}", "type": "module", "main": "lib/index.js"})
        content = {"package/package.json": about.encode(), "package/lib/index.js": code}
        paths.append(tmp_path / f"{name}.tgz")
        paths[-1].write_bytes(tar(content, "w:gz"))
    drawn = illustrations.draw_avatars(paths, ["round-a b", "round-c"])
    assert drawn == {"round-a b": b"<svg>A B</svg>", "round-c": b"<svg>C</svg>"}
