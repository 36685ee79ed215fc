"""Streams: every photo once per epoch, shuffled, without held-out ones, resumed bit for bit."""

import json
import shutil
from itertools import count, islice
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from condiff.data.stream import _read_ahead
from condiff.errors import CondiffError, DataError
from condiff.sources.hub import hub_shards

from .test_data import build, equal, joined, take
from .test_data_photos import prepare

STILL = {"min_crop": 1.0, "flip": 0.0, "size": 8}


@pytest.fixture
def shards(tmp_path):
    """Four shards of five flat photos that differ in red; two rows are for validation."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(4):
        photos = []
        for row in range(5):
            path = tmp_path / "photo.png"
            Image.new("RGB", (4, 4), (10 * (5 * shard + row), 0, 0)).save(path)
            photos.append(path.read_bytes())
        splits = ["val" if (shard, row) in ((1, 2), (2, 0)) else "train" for row in range(5)]
        table = pa.table({"image": photos, "split": splits, "other": ["x"] * 5})
        pq.write_table(table, folder / f"train-{shard:05}.parquet")
    pq.write_table(table, folder / "val-00000.parquet")
    return folder


def stream(shards, tmp_path, **data):
    data = {"streaming": True, "shuffle_buffer": 4, **STILL, **data}
    return build(shards, tmp_path, task="none", **data)


def numbers(batches):
    """The photos in the batches."""
    return [round((float(photo[0].mean()) + 1) * 127.5 / 10) for b in batches for photo in b["x_0"]]


TRAINED = sorted(set(range(20)) - {7, 10})


def test_a_stream_shows_every_photo_once_an_epoch_in_another_order(shards, tmp_path):
    shown = numbers(take(stream(shards, tmp_path), 6, batch_size=6))
    first, second = shown[:18], shown[18:]
    assert sorted(first) == sorted(second) == TRAINED
    assert first != second
    assert first != TRAINED
    assert numbers(take(stream(shards, tmp_path, seed=6), 3, batch_size=6)) != first


def test_a_stream_goes_on_where_it_was(photo_folder, tmp_path):
    prepare(photo_folder, tmp_path / "out", "canny")
    dataset = build(tmp_path / "out", tmp_path, streaming=True, shuffle_buffer=3)
    truth = take(dataset, 9, batch_size=4)
    for start in (1, 4, 8):
        resumed = build(tmp_path / "out", tmp_path, streaming=True, shuffle_buffer=3)
        again = take(resumed, 9 - start, batch_size=4, start=start)
        assert all(map(equal, truth[start:], again))
    workers = build(tmp_path / "out", tmp_path, streaming=True, shuffle_buffer=3, num_workers=2)
    assert all(map(equal, truth, take(workers, 9, batch_size=4)))


def test_shards_that_are_skipped_are_not_read(shards, tmp_path):
    truth = numbers(take(stream(shards, tmp_path), 6, batch_size=6))
    order = np.random.default_rng((5, 0)).permutation(4)
    path = shards / f"train-{order[0]:05}.parquet"
    content = path.read_bytes()
    middle = len(content) // 4
    broken = bytearray(content)
    broken[4:middle] = bytes(middle - 4)  # its photos are lost, what it says of itself is not
    path.write_bytes(broken)
    resumed = take(stream(shards, tmp_path), 1, batch_size=6, start=2)
    assert numbers(resumed) == truth[12:18]


def test_each_epoch_of_a_stream_shows_another_view(photo_folder, tmp_path):
    prepare(photo_folder, tmp_path / "out", "canny")
    dataset = build(tmp_path / "out", tmp_path, streaming=True)
    count = sum(1 for _ in islice(dataset._endless([0], skip=0), 12) if _[0] == 0)
    batches = take(dataset, 2 * count, batch_size=1)
    assert len({batch["x_0"].numpy().tobytes() for batch in batches}) == 2 * count


def test_two_processes_share_the_shards_where_these_can_be_dealt_out(shards, tmp_path):
    dataset = stream(shards, tmp_path)
    halves = [take(dataset, 3, batch_size=3, process=r, num_processes=2) for r in (0, 1)]
    shown = [numbers(half) for half in halves]
    assert sorted(shown[0] + shown[1]) == TRAINED  # 9 of 9 each: an epoch, nothing twice
    resumed = take(dataset, 2, batch_size=3, process=1, num_processes=2, start=1)
    assert all(map(equal, halves[1][1:], resumed))


def test_three_processes_see_together_what_one_would(shards, tmp_path):
    dataset = stream(shards, tmp_path)
    truth = take(dataset, 5, batch_size=6)
    parts = [take(dataset, 5, batch_size=2, process=r, num_processes=3) for r in range(3)]
    together = [joined(part) for part in zip(*parts, strict=True)]
    assert all(map(equal, truth, together))


def test_a_stream_and_a_folder_show_the_same_photos_in_other_orders(shards, tmp_path):
    """The order of photos differs: a stream has no access to their number or positions."""
    mapped = build(shards, tmp_path, task="none", **STILL)
    assert mapped.num_photos == len(TRAINED)
    shown = numbers(take(mapped, 3, batch_size=6))
    assert sorted(shown) == TRAINED
    assert shown != numbers(take(stream(shards, tmp_path), 3, batch_size=6))


def test_prepared_drawings_are_streamed(photo_folder, tmp_path):
    prepare(photo_folder, tmp_path / "out", "pencil", "canny")
    dataset = build(
        tmp_path / "out", tmp_path, task="sketch", streaming=True, conditions="prepared"
    )
    batch = take(dataset, 1, batch_size=6)[0]
    assert batch["condition"].shape == (6, 1, 32, 32)
    assert batch["condition"].mean() < 0  # ink on paper, whatever the tone it was stored in
    assert "a stream of 1 shards" in dataset.describe()
    assert dataset.num_photos is None


def test_a_hub_data_set_is_streamed(photo_folder, tmp_path, monkeypatch):
    """`datasets` reads a local folder by the same call as a hub data set."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(photo_folder, tmp_path / "captioned"))
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    lines = [json.dumps({"file_name": name, "text": f"photo {name}"}) for name in files]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    items = [
        item for part in hub_shards(str(folder), "train") for item in part.items({"image": "image"})
    ]
    assert len({item.name for item in items}) == 12
    assert {item.image.name: item.fetch().image.read() for item in items} == files
    assert all(item.text == f"photo {item.image.name}" for item in items)


def test_a_stream_may_be_closed_in_the_thread_that_reads_it():
    """The garbage collector, which runs in any thread, closes a stream that an error left open."""
    suspended, done, calls, errors = Event(), Event(), count(), []

    def read():
        if next(calls) == 1:
            suspended.wait(5)
            try:
                batches.close()
            except RuntimeError as error:
                errors.append(error)
            done.set()
        return []

    batches = _read_ahead(read)
    assert next(batches) == []
    suspended.set()
    assert done.wait(5) and not errors


def test_what_cannot_be_streamed_is_told(photo_folder, shards, tmp_path):
    with pytest.raises(DataError, match="no parquet or tar files to stream"):
        stream(photo_folder, tmp_path)
    with pytest.raises(DataError, match="hub's data set of that name is not in the cache"):
        stream("nobody/nothing", tmp_path)
    with pytest.raises(DataError, match="no column 'photo'"):
        stream(shards, tmp_path, image_column="photo")
    (shards / "train-00002.parquet").write_bytes(b"no parquet")
    with pytest.raises(CondiffError, match=r"00002\.parquet: it is not a readable parquet file"):
        take(stream(shards, tmp_path), 9, batch_size=4)
