"""The scripts of data_prep: Nouns with known pixels, toy photos, and the rest."""

import importlib
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "data_prep"
PALETTE = ["", "ff0000", "00ff00", "0000ff"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for path in SCRIPTS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def part(*numbers: int) -> str:
    return "0x" + bytes(numbers).hex()


def image_data() -> dict:
    """Image data in the package's format, with one or two parts per layer."""
    square = part(0, 4, 8, 8, 4, 16, 1)  # rows 4..7, columns 4..7: 16 red
    nothing = part(0, 0, 0, 0, 0)
    stripe = part(0, 20, 32, 21, 0, 32, 2)  # row 20 from side to side
    return {
        "bgcolors": ["d5d7e1", "e1d7d5"],
        "palette": PALETTE,
        "images": {
            "bodies": [{"filename": "body-stripe", "data": stripe}],
            "accessories": [{"filename": "accessory-none", "data": nothing}],
            "heads": [{"filename": "head-big-square", "data": square}],
            "glasses": [{"filename": "glasses-hip-rose", "data": part(0, 5, 6, 6, 5, 1, 3)}],
        },
    }


def test_a_part_of_known_pixels():
    nouns = importlib.import_module("nouns")
    canvas = np.full((32, 32, 3), 9, np.uint8)
    # top 2, right 13, bottom 5, left 10: rows of 3; the run of green goes on in the next row
    nouns.draw_part(canvas, part(0, 2, 13, 5, 10, 2, 1, 3, 2, 2, 0, 2, 3), PALETTE)
    red, green, blue, empty = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
    expected = np.full((32, 32, 3), 9, np.uint8)
    expected[2, 10:13] = [red, red, green]
    expected[3, 10:13] = [green, green, empty]
    expected[4, 10:13] = [empty, blue, blue]
    np.testing.assert_array_equal(canvas, expected)
    nouns.draw_part(canvas, part(0, 0, 0, 0, 0), PALETTE)
    np.testing.assert_array_equal(canvas, expected)


def test_layers_lie_over_each_other_and_are_enlarged_without_mixing():
    nouns = importlib.import_module("nouns")
    pixels = nouns.draw_noun(image_data(), dict.fromkeys(nouns.LAYERS, 0), 1)
    assert pixels.shape == (320, 320, 3)
    assert tuple(pixels[0, 0]) == (0xE1, 0xD7, 0xD5)
    assert tuple(pixels[45, 45]) == (255, 0, 0)  # head
    assert (pixels[50:60, 50:60] == (0, 0, 255)).all()  # glasses over it
    assert (pixels[200:210] == (0, 255, 0)).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 4


def test_nouns_from_the_package_file_as_a_folder_and_as_shards(tmp_path):
    nouns = importlib.import_module("nouns")
    file = tmp_path / "image-data.json"
    file.write_text(json.dumps(image_data()))
    package = tmp_path / "assets.tgz"
    with tarfile.open(package, "w:gz") as tar:
        tar.add(file, nouns.IMAGE_DATA)
    flags = ["--count", "5", "--seed", "3", "--package", str(package)]
    assert nouns.main([str(tmp_path / "a"), *flags]) == 0
    lines = (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["file_name"] for row in rows] == [f"noun-{n:06d}.png" for n in range(5)]
    assert all("big square head, hip rose glasses" in row["text"] for row in rows)
    with Image.open(tmp_path / "a" / rows[4]["file_name"]) as image:
        assert (image.mode, image.size) == ("RGB", (320, 320))
    assert nouns.main([str(tmp_path / "b"), *flags, "--parquet"]) == 0
    shards = sorted((tmp_path / "b").glob("*.parquet"))
    table = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    assert {row["source"]: row["text"] for row in table} == {
        row["file_name"]: row["text"] for row in rows
    }
    for row in table:
        assert row["image"]["bytes"] == (tmp_path / "a" / row["source"]).read_bytes()


def test_the_package_comes_from_the_cache_or_it_is_told_how_to_get_it(
    tmp_path, monkeypatch, capsys
):
    nouns = importlib.import_module("nouns")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    flags = [str(tmp_path / "out"), "--count", "3", "--sheet", str(tmp_path / "sheet.png")]
    way_out = "run `npm pack @nouns/assets@0.10.0` elsewhere and give nouns-assets-0.10.0.tgz"
    with pytest.raises(SystemExit, match="1"):
        nouns.main(flags)
    found = capsys.readouterr().err
    assert "npm, which is not here" in found and way_out in found
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/bin/sh\necho npm error code ECONNREFUSED >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(SystemExit, match="1"):
        nouns.main(flags)
    found = capsys.readouterr().err
    assert "(npm error code ECONNREFUSED)" in found and way_out in found
    cache = tmp_path / "cache" / "condiff"
    assert not list(cache.iterdir())
    (tmp_path / "image-data.json").write_text(json.dumps(image_data()))
    with tarfile.open(cache / nouns.FILE_NAME, "w:gz") as tar:
        tar.add(tmp_path / "image-data.json", nouns.IMAGE_DATA)
    assert nouns.main(flags) == 0  # the npm that fails is not asked
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 162 + 2, 162 + 2)
        red, green, blue = sheet.getpixel((82, 2 + 102))
        assert green > 250 and max(red, blue) < 20  # the stripe of the body


def test_a_file_that_is_no_package_is_one_sentence(tmp_path, capsys):
    nouns = importlib.import_module("nouns")
    (tmp_path / "x.tgz").write_bytes(b"no tar")
    with pytest.raises(SystemExit, match="1"):
        nouns.main([str(tmp_path / "out"), "--package", str(tmp_path / "x.tgz")])
    assert "is not @nouns/assets@0.10.0" in capsys.readouterr().err


def test_toy_photos_have_the_colours_of_their_shapes(tmp_path):
    shapes = importlib.import_module("shapes")
    texts = set()
    for number in range(20):
        pixels, text = shapes.draw_photo(0, number)
        texts.add(text.split()[1])
        assert pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8
        top, bottom = (pixels[rows].reshape(-1, 3).mean(0) for rows in (slice(3), slice(-3, None)))
        if "landscape" in text:
            assert top.argmax() == 2 and bottom.argmax() == 1  # blue above, green below
        elif "fruit" in text:
            assert bottom.argmax() == 0 and bottom.argmin() == 2  # wood
    assert len(texts) == 3
    again, _ = shapes.draw_photo(0, 19)
    np.testing.assert_array_equal(pixels, again)


def test_drawn_pictures_are_not_put_among_other_files(tmp_path, capsys):
    shapes = importlib.import_module("shapes")
    out = tmp_path / "out"
    assert shapes.main([str(out), "--count", "2"]) == 0
    assert shapes.main([str(out), "--count", "3"]) == 0  # its own are made anew
    (out / "holiday.jpg").touch()
    for place, message in [
        (out, "contains other files"),
        (out / "holiday.jpg" / "x", "Cannot write"),
    ]:
        with pytest.raises(SystemExit, match="1"):
            shapes.main([str(place), "--count", "3"])
        assert message in capsys.readouterr().err


def test_toy_photos_prepared_by_the_script_for_photos(tmp_path, capsys):
    shapes, photos = importlib.import_module("shapes"), importlib.import_module("photos")
    assert shapes.main([str(tmp_path / "toys"), "--count", "12"]) == 0
    flags = [str(tmp_path / "toys"), str(tmp_path / "out"), "--task", "edge", "--workers", "1"]
    assert photos.main(flags) == 0
    table = pq.read_table(next((tmp_path / "out").glob("train-*.parquet")))
    names = ["image", "conditioning_image", "text", "source", "split"]
    assert table.column_names == names
    assert photos.main(flags) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_hub_script_reads_what_datasets_reads(tmp_path, capsys):
    pytest.importorskip("datasets")
    shapes, huggingface = importlib.import_module("shapes"), importlib.import_module("huggingface")
    assert shapes.main([str(tmp_path / "toys"), "--count", "6"]) == 0
    flags = ["--drawings", "--limit", "4", "--workers", "1", "--task", "edge"]
    assert huggingface.main([str(tmp_path / "toys"), str(tmp_path / "out"), *flags]) == 0
    shards = list((tmp_path / "out").glob("*.parquet"))
    assert sum(pq.read_metadata(shard).num_rows for shard in shards) == 4
    with pytest.raises(SystemExit, match="1"):  # offline: HF_HUB_OFFLINE is set
        huggingface.main(["nobody/nothing", str(tmp_path / "none")])
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_condiff_imports_nothing_from_here():
    package = Path(importlib.import_module("condiff").__file__).parent
    assert not [p for p in package.rglob("*.py") if "data_prep" in p.read_text("utf-8")]
