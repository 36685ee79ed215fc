"""Prep: shards are correct and complete for any source, and the same after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from condiff.cli import main
from condiff.errors import ConfigError, DataError
from condiff.prep.dataset import plan, run
from condiff.prep.parquet_writer import SPLITS
from condiff.prep.prepare import PrepConfig, difference_hash, mean_chroma, prepare_in_order
from condiff.resize import shrink_short_side
from condiff.sources.folders import open_source
from condiff.sources.hub import hub_source, streamed_source
from condiff.sources.source import File, Item

from .conftest import error_in_fork, make_photo

PLAIN = ["--kind", "none", "--workers", "1"]


def photo(seed: int, *, side: int = 80, gray: bool = False) -> np.ndarray:
    """Blobs of colour, unique for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    cells = cells[..., :1].repeat(3, 2) if gray else cells
    return np.asarray(Image.fromarray(cells).resize((side + 10, side), Image.Resampling.BILINEAR))


def encoded(pixels: np.ndarray, format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(30):
        (folder / f"{n:02d}.jpg").write_bytes(encoded(photo(n)))
    return folder


def rows_of(out: Path) -> list[dict]:
    shards = sorted(out.glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    return sorted(rows, key=lambda row: row["source"])


def files_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def prepared(source: str | Path, out: Path, recipe: PrepConfig, *, workers: int = 1) -> list:
    return list(run(plan(open_source(str(source)), out, recipe), workers=workers))


def test_files_are_kept_byte_for_byte_and_a_second_run_does_nothing(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prep", str(photos), str(out), *PLAIN, "--shard-size", "8"]) == 0
    assert capsys.readouterr().out == "30 done, 0 skipped, 0 failed\n"
    rows = rows_of(out)
    assert [row["image"]["bytes"] for row in rows] == [
        p.read_bytes() for p in sorted(photos.iterdir())
    ]
    assert [row["source"] for row in rows] == [f"{n:02d}.jpg" for n in range(30)]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main(["prep", str(photos), str(out), *PLAIN, "--shard-size", "8"]) == 0
    assert capsys.readouterr().out == "0 done, 30 skipped, 0 failed\n"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_whatever_lies_in_the_folder_is_told_and_the_rest_is_done(tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "über alles").mkdir(parents=True)
    (folder / "über alles" / "schöne Grüße 1.jpg").write_bytes(encoded(photo(1)))
    (folder / "cut.jpg").write_bytes(encoded(photo(2))[:900])
    (folder / "empty.jpg").touch()
    (folder / "moving.gif").write_bytes(encoded(photo(3), "GIF"))
    deep = np.random.default_rng(0).integers(0, 65_536, (80, 90), np.uint16)
    (folder / "deep.png").write_bytes(encoded(deep, "PNG"))
    (folder / "folder.jpg").mkdir()
    (folder / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.jpg").touch()
    (folder / "broken.parquet").write_bytes(b"PAR1 no more")
    (folder / "tiny.png").write_bytes(encoded(photo(4, side=20), "PNG"))
    out = tmp_path / "out"
    assert main(["prep", str(folder), str(out), *PLAIN]) == 1
    found = capsys.readouterr()
    assert found.out == "3 done, 1 skipped, 5 failed\n"
    broken = ["broken.parquet", "cut.jpg", "empty.jpg", "folder.jpg", "nowhere.jpg"]
    *lines, left_out = found.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == broken
    assert left_out == f"left out: 1 too small (each in {out / 'rejected.jsonl'})"
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["source"] for row in listed} == {*broken, "tiny.png"}
    assert all(row["reason"] and str(tmp_path) not in row["reason"] for row in listed)
    sources = {row["source"] for row in rows_of(out)}
    assert sources == {"über alles/schöne Grüße 1.jpg", "moving.gif", "deep.png"}
    assert main(["prep", str(folder), str(out), *PLAIN]) == 1  # what failed stays failed
    assert capsys.readouterr().out == "0 done, 4 skipped, 5 failed\n"


def test_a_data_set_without_photos_is_a_failure(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "grey.png").write_bytes(encoded(photo(1, side=300, gray=True), "PNG"))
    for _ in range(2):
        code = main(["prep", str(tmp_path / "photos"), str(tmp_path / "out"), "--task", "colorize"])
        found = capsys.readouterr()
        assert (code, found.out) == (1, "0 done, 1 skipped, 0 failed\n")
        assert "left out: 1 without colour" in found.err
        assert "contains no photo: none of photos was kept" in " ".join(found.err.split())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["the beginning", "a shard"])
def test_killed_and_run_again_leaves_the_bytes_of_an_undisturbed_run(moment, photos, tmp_path):
    for n in range(0, 30, 7):  # duplicates, to be found again after the kill
        (photos / f"{n:02d}-twin.png").write_bytes(encoded(photo(n, side=100), "PNG"))
    for n in range(30, 80):
        (photos / f"{n}.png").write_bytes(encoded(photo(n, side=150), "PNG"))
    (photos / "cut.jpg").write_bytes(encoded(photo(2))[:900])
    flags = ["--kind", "none", "--size", "140", "--workers", "2", "--shard-size", "16"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "condiff", "prep", str(photos), str(killed), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = killed / ".prep" / "journal.jsonl"
    first = {"the beginning": ".prep/settings.json", "a shard": "train-00000.parquet"}
    watched = killed / first[moment]
    while not (watched.exists() and watched.stat().st_size):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "dataset_info.json").exists()
    with open(journal, "a") as file:
        file.write('{"source": "cut in the mid')  # as a kill within a write leaves it
    assert main(["prep", str(photos), str(killed), *flags]) == 1
    assert main(["prep", str(photos), str(whole), *flags[:-4], "--workers", "1", *flags[-2:]]) == 1
    assert files_of(killed) == files_of(whole)
    sources = [row["source"] for row in rows_of(whole)]
    assert len(sources) == len(set(sources)) == 80


def test_a_shard_that_was_deleted_is_made_again(photos, tmp_path):
    out, recipe = tmp_path / "out", PrepConfig(shard_size=6, val=0.3)
    prepared(photos, out, recipe)
    before = files_of(out)
    (out / "train-00001.parquet").unlink()
    assert prepared(photos, out, recipe) == []
    assert files_of(out) == before


def test_workers_that_lost_their_parent_end(photos, tmp_path):
    code = (
        "import sys, os; from condiff.prep.prepare import PrepConfig, prepare_in_order\n"
        "from condiff.sources.folders import open_source\n"
        "if __name__ == '__main__':\n"
        "    source = open_source(sys.argv[1])\n"
        "    results = prepare_in_order(enumerate(source.items(0)), PrepConfig(), workers=2)\n"
        "    next(results)\n"
        "    import multiprocessing\n"
        "    print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script, photos], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    workers = [Path("/proc") / pid for pid in done.stdout.split()]
    assert workers
    end = time.monotonic() + 60
    while any(is_running(path) for path in workers):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(path: Path) -> bool:
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_other_settings_or_other_photos_are_refused_unless_forced(photos, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["prep", str(photos), str(out), *PLAIN]
    assert main(flags) == 0
    assert main([*flags, "--min-side", "70"]) == 1
    assert "min_side changed" in capsys.readouterr().err
    (photos / "new.jpg").write_bytes(encoded(photo(99)))
    assert main(flags) == 1
    assert "the photos of its source" in capsys.readouterr().err
    assert main([*flags, "--force"]) == 0
    assert len(rows_of(out)) == 31


def test_a_folder_of_other_things_is_left_alone(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="contains other files"):
        plan(open_source(str(photos)), out, PrepConfig(), force=True)


def test_a_data_set_is_not_replaced_by_one_made_of_it(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prep", str(photos), str(out), *PLAIN]) == 0
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*")}
    shard = next(out.glob("train-*.parquet"))
    capsys.readouterr()
    assert main(["prep", str(shard), str(out), *PLAIN, "--force"]) == 2
    assert "is inside OUT" in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*")} == before


def test_a_file_and_damaged_settings_in_the_place_of_a_data_set_are_sentences(photos, tmp_path):
    source = open_source(str(photos))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file: give a folder"):
        plan(source, tmp_path / "file", PrepConfig())
    for content in ("", "[1]", "1"):
        scratch = tmp_path / "out" / ".prep"
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "settings.json").write_text(content)
        with pytest.raises(DataError, match=r"settings\.json is damaged: .*--force"):
            plan(source, tmp_path / "out", PrepConfig())


def test_a_place_that_cannot_be_written_is_told(photos, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["prep", str(photos), str(tmp_path / "file" / "out"), *PLAIN]) == 1
    assert "Cannot write into" in capsys.readouterr().err


def test_a_dry_run_touches_nothing(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prep", str(photos), str(out), *PLAIN, "--dry-run", "--limit", "7"]) == 0
    assert "photos: 7 photos" in capsys.readouterr().out
    assert not out.exists()
    assert main(["prep", str(photos), str(photos / "out"), *PLAIN]) == 2  # would read itself


def test_duplicates_greys_and_small_ones_are_left_out(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(photo(1), "PNG"))
    (folder / "b smaller.jpg").write_bytes(encoded(photo(1, side=70)))
    (folder / "c gray.jpg").write_bytes(encoded(photo(2, gray=True)))
    (folder / "d other.jpg").write_bytes(encoded(photo(3)))
    (folder / "e small.jpg").write_bytes(encoded(photo(4, side=40)))
    verdicts = prepared(folder, tmp_path / "out", PrepConfig(min_chroma=4, min_side=64))
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes == ["done", "duplicate", "grey", "done", "small"]
    assert verdicts[1].reason == "looks like a.png"
    every = PrepConfig(max_distance=None, min_side=1)
    assert len(prepared(folder, tmp_path / "every", every)) == 5
    assert len(rows_of(tmp_path / "every")) == 5


def test_dhash_of_a_ramp_and_chroma_of_a_known_colour():
    ramp = np.arange(0, 90, dtype=np.uint8)[None, :, None].repeat(80, 0).repeat(3, 2)
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0
    assert mean_chroma(ramp) < 0.01
    red = np.full((10, 10, 3), (255, 0, 0), np.uint8)
    assert mean_chroma(red) == pytest.approx(
        104.55, abs=0.05
    )  # CIELAB of sRGB red, from its tables


def test_size_shrinks_the_short_side_and_invents_nothing(photos, tmp_path):
    assert shrink_short_side(np.zeros((300, 400, 3), np.uint8), 150).shape == (150, 200, 3)
    assert shrink_short_side(np.zeros((100, 90, 3), np.uint8), 150).shape == (100, 90, 3)
    prepared(photos, tmp_path / "out", PrepConfig(size=72, limit=3))
    for row in rows_of(tmp_path / "out"):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert (image.format, image.size) == ("WEBP", (81, 72))
        assert row["image"]["path"] == row["source"].replace(".jpg", ".webp")


def test_the_split_follows_from_the_content_alone(photos, tmp_path):
    prepared(photos, tmp_path / "all", PrepConfig(val=0.3))
    sides = {row["image"]["bytes"]: row["split"] for row in rows_of(tmp_path / "all")}
    assert set(sides.values()) == set(SPLITS)
    for n, path in enumerate(sorted(photos.iterdir())):
        path.rename(photos / f"{99 - n} renamed.jpg")
        if n % 3 == 0:
            (photos / f"{99 - n} renamed.jpg").unlink()
    prepared(photos, tmp_path / "some", PrepConfig(val=0.3))
    for row in rows_of(tmp_path / "some"):
        assert sides[row["image"]["bytes"]] == row["split"]
    for shard in (tmp_path / "all").glob("*.parquet"):
        column = pq.read_table(shard, columns=["split"])["split"].to_pylist()
        assert set(column) == {shard.name.partition("-")[0]}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_file_as_webdataset_writes_it(suffix, tmp_path):
    path = tmp_path / f"photos{suffix}"
    members = {
        "0.jpg": encoded(photo(0)),
        "0.txt": b"a caption\n",
        "1.json": b'{"caption": "another"}',
        "1.png": encoded(photo(1), "PNG"),
        "sub/2.jpg": encoded(photo(2)),
    }
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    prepared(path, tmp_path / "out", PrepConfig())
    rows = {row["source"].partition("/")[2]: row for row in rows_of(tmp_path / "out")}
    assert {name: row["text"] for name, row in rows.items()} == {
        "0.jpg": "a caption",
        "1.png": "another",
        "sub/2.jpg": None,
    }
    assert all(row["image"]["bytes"] == members[name] for name, row in rows.items())


def test_parquet_of_bytes_and_of_structs_from_any_row_on(tmp_path):
    files = [encoded(photo(n)) for n in range(40)]
    folder = tmp_path / "in"
    folder.mkdir()
    bare = pa.table({"image": files[:25], "caption": [f"no. {n}" for n in range(25)]})
    pq.write_table(bare, folder / "a.parquet", row_group_size=10)
    structs = pa.array([{"bytes": file, "path": "x.jpg"} for file in files[25:]])
    pq.write_table(pa.table({"image": structs}), folder / "b.parquet")
    source = open_source(str(folder))
    assert (source.total, source.has_text) == (40, True)
    for start in (0, 9, 10, 24, 25, 39, 40):
        assert [item.image.data for item in source.items(start)] == files[start:]
    item = next(source.items(24))
    assert (item.name, item.text, item.fault) == ("a.parquet#24", "no. 24", None)


def test_archives_that_are_damaged_inside_are_told(photos, tmp_path):
    """Their beginnings and ends are intact: damage is found only by reading."""
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": files}), path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^a\.parquet broke off \(.*it is damaged\.$"):
        list(open_source(str(path)).items())
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    with tarfile.open(path) as tar:
        header = tar.getmembers()[20].offset
    content = bytearray(path.read_bytes())
    content[header : header + 512] = b"x" * 512
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"b\.tar cannot be used: .* damaged after 20 files"):
        open_source(str(path))


def test_captions_of_an_imagefolder(photos, tmp_path):
    lines = [json.dumps({"file_name": f"{n:02d}.jpg", "text": f"ä {n}"}) for n in range(0, 30, 2)]
    (photos / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    prepared(photos, tmp_path / "out", PrepConfig())
    texts = [row["text"] for row in rows_of(tmp_path / "out")]
    assert texts == [f"ä {n}" if n % 2 == 0 else None for n in range(30)]


def test_conditions_lie_beside_the_photo_at_its_size(photos, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--workers", "1", "--limit", "3"]
    assert main(["prep", str(photos), str(one), "--task", "edge", *flags]) == 0
    assert main(["prep", str(photos), str(two), "--kind", "gray", "--kind", "canny", *flags]) == 0
    for row, both in zip(rows_of(one), rows_of(two), strict=True):
        edges = both["conditioning_canny"]["bytes"]
        assert row["conditioning_image"]["bytes"] == edges  # seeded by the photo alone
        for data in (edges, both["conditioning_gray"]["bytes"]):
            with Image.open(io.BytesIO(data)) as image:
                assert (image.mode, image.size) == ("L", (90, 80))
    with pytest.raises(ConfigError, match="no condition 'magic'"):
        plan(open_source(str(photos)), tmp_path / "three", PrepConfig(kinds=("magic",)))
    assert main(["prep", str(photos), str(tmp_path / "four")]) == 2
    assert main(["prep", str(photos), str(tmp_path / "four"), "--task", "cook"]) == 2


def test_datasets_opens_it_with_image_features(photos, tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "00.jpg", "text": "first"}))
    out = tmp_path / "out"
    flags = ["--task", "colorize", "--val", "0.3", "--license", "cc0-1.0", "--workers", "1"]
    assert main(["prep", str(photos), str(out), *flags]) == 0
    files = {split: str(out / f"{split}-*.parquet") for split in SPLITS}
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    for name in ("image", "conditioning_image"):
        assert isinstance(data["train"].features[name], datasets.Image)
    assert list(data["train"].features)[2:] == ["text", "source", "split"]
    row = data["val"][0]
    assert row["image"].size == row["conditioning_image"].size == (90, 80)
    info = datasets.DatasetInfo.from_directory(str(out))
    assert info.license == "cc0-1.0"
    assert info.features == data["train"].features
    assert sum(split.num_examples for split in info.splits.values()) == 30
    by_card = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in by_card.items()} == {
        name: len(rows) for name, rows in data.items()
    }


def test_a_hub_data_set_is_streamed_from_any_row_on(photos, tmp_path):
    """`datasets` reads a local folder by the same call as a hub data set."""
    pytest.importorskip("datasets")
    lines = [json.dumps({"file_name": f"{n:02d}.jpg", "text": str(n)}) for n in range(30)]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    source = hub_source(str(photos))
    assert source.has_text
    files = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]
    for start in (0, 28):
        items = list(source.items(start))
        assert [item.image.read() for item in items] == files[start:]
        assert [item.text for item in items] == [str(n) for n in range(start, 30)]


def hub_rows(count: int):
    """A data set as on the hub: the photos' bytes in an Image column, and captions."""
    import datasets

    images = [{"bytes": encoded(photo(n)), "path": f"{n}.jpg"} for n in range(count)]
    data = datasets.Dataset.from_dict(
        {"image": images, "caption": [f"no. {n}" for n in range(count)]}
    )
    return data.cast_column("image", datasets.Image())


def test_a_hub_data_set_that_is_in_the_cache_is_read_offline(tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    folder = tmp_path / "owner___some_photos" / "default" / "0.0.0" / "0123abcd"
    rows = hub_rows(20)
    rows.info.splits = datasets.splits.SplitDict.from_split_dict(
        [{"name": "train", "num_examples": 20, "dataset_name": "some_photos"}]
    )
    rows.info.config_name = "default"
    folder.mkdir(parents=True)
    with datasets.arrow_writer.ArrowWriter(
        features=rows.features, path=str(folder / "some_photos-train.arrow")
    ) as writer:
        writer.write_table(rows.data.table)
        writer.finalize()
    rows.info.write_to_directory(str(folder))
    out = tmp_path / "out"
    assert main(["prep", "owner/some_photos", str(out), *PLAIN]) == 0
    assert capsys.readouterr().out == "20 done, 0 skipped, 0 failed\n"
    row = rows_of(out)[19]
    assert (row["source"], row["text"]) == ("owner/some_photos/train#9", "no. 9")
    assert row["image"]["bytes"] == encoded(photo(9))


def test_a_stream_that_breaks_off_is_told_and_gone_on_with(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [{"bytes": encoded(photo(n)), "path": f"{n}.jpg"} for n in range(9)]
    is_up = False

    def rows():
        for n, file in enumerate(files):
            if n == 5 and not is_up:
                raise ConnectionError("Server Disconnected")
            yield {"image": file}

    features = datasets.Features(image=datasets.Image())
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    source = streamed_source("owner/name", {"train": stream}, [None])
    verdicts = []
    with pytest.raises(DataError, match=r"broke off \(Server Disconnected\): run the same again"):
        for verdict in run(plan(source, tmp_path / "out", PrepConfig())):
            verdicts.append(verdict)
    assert len(verdicts) == 5
    is_up = True
    verdicts += run(plan(source, tmp_path / "out", PrepConfig()))
    assert [verdict.source for verdict in verdicts] == [f"owner/name/train#{n}" for n in range(9)]
    assert len(rows_of(tmp_path / "out")) == 9


def test_what_datasets_saved_to_disk_is_a_source(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = hub_rows(30)
    one, two = tmp_path / "one", tmp_path / "two"
    rows.save_to_disk(str(one))
    halves = {"train": rows.select(range(20)), "test": rows.select(range(20, 30))}
    datasets.DatasetDict(halves).save_to_disk(str(two))
    for folder in (one, two):
        source = open_source(str(folder))
        assert (source.total, source.has_text) == (30, True)
        for start in (0, 7, 20, 29, 30):
            items = list(source.items(start))
            assert [item.image.data for item in items] == [
                encoded(photo(n)) for n in range(start, 30)
            ]
            assert [item.text for item in items] == [f"no. {n}" for n in range(start, 30)]
    assert open_source(str(one)).fingerprint != open_source(str(two)).fingerprint
    (two / "test" / "data-00000-of-00001.arrow").write_bytes(b"cut")
    with pytest.raises(DataError, match="saved by datasets and is damaged"):
        open_source(str(two))


def test_a_source_that_is_not_there_is_one_sentence(tmp_path, capsys):
    for name in (str(tmp_path / "gone"), "./gone", "gone.parquet"):
        with pytest.raises(DataError, match="There is no data at"):
            open_source(name)
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"no file or folder nobody/nothing.*HF_HUB_OFFLINE is set"):
        open_source("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no photos"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be used"):
        open_source(str(tmp_path / "bad.parquet"))


def test_few_items_are_held_at_a_time(photos):
    files = sorted(photos.iterdir())
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            yield drawn, Item("x", {"image": File(files[drawn % 30], "x")})
            drawn += 1

    results = prepare_in_order(endless(), PrepConfig(), workers=2)
    numbers = [next(results)[0] for _ in range(40)]
    results.close()
    assert numbers == list(range(40))
    assert drawn < 150


def test_two_runs_on_one_folder_do_not_mix(photos, tmp_path):
    pytest.importorskip("fcntl")
    out, recipe = tmp_path / "out", PrepConfig()
    first = run(plan(open_source(str(photos)), out, recipe))
    next(first)
    error = error_in_fork(lambda: next(run(plan(open_source(str(photos)), out, recipe))))
    assert error == f"{out} is being prepared by another run."
    first.close()
    assert len(prepared(photos, out, recipe)) == 29
    assert os.listdir(out / ".prep")


def test_a_journal_that_lost_lines_is_decided_again_to_the_same_bytes(tmp_path):
    """As after a power failure: zeros in place of the last lines."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(6):
        make_photo(40, 40, seed=n).save(folder / f"{n}.png")
    recipe = PrepConfig(
        kinds=("canny",), size=32, min_side=8, max_distance=None, val=0, shard_size=2
    )
    for out in (tmp_path / "one", tmp_path / "two"):
        list(run(plan(open_source(str(folder)), out, recipe)))
    journal = tmp_path / "two" / ".prep" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]) + b"\0" * 200 + b"\n" + lines[-2])
    (tmp_path / "two" / "dataset_info.json").unlink()
    assert len(list(run(plan(open_source(str(folder)), tmp_path / "two", recipe)))) == 3
    one, two = (
        {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 6 and one == two
