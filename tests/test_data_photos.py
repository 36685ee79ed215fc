"""Photos for training: all are found and decoded, held-out ones are excluded."""

import io
import json
import os
import shutil
import tarfile
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from condiff.conditions.table import apply
from condiff.config import DataConfig
from condiff.data.crops import CropDataset, CropSettings
from condiff.data.feature_cache import FeatureCache
from condiff.data.latent_cache import FrozenShape, LatentCache
from condiff.data.photos import Photos, find_photos
from condiff.data.ram_cache import RamPhotos
from condiff.data.shared_memory import PackedBytes, PackedImages, free_memory
from condiff.data.stream import StreamDataset
from condiff.errors import ConfigError, DataError
from condiff.evaluation.pairs import read_truths
from condiff.inputs import Aligned, Lines
from condiff.prep.dataset import plan, run
from condiff.prep.prepare import PrepConfig
from condiff.sources.folders import open_source
from condiff.sources.hub import HubRows
from condiff.sources.schema import is_held_out
from condiff.tasks import find_task

from .conftest import make_photo


def write_shard(path, folder, *, as_struct=False, **columns):
    rows = [photo.read_bytes() for photo in sorted(folder.iterdir())]
    column = [{"bytes": row, "path": None} for row in rows] if as_struct else rows
    pq.write_table(pa.table({"image": column, **columns}), path)


EDGES = Lines(draws=("canny",))


def prepare(source, out, *kinds):
    recipe = PrepConfig(kinds=kinds, min_side=1, max_distance=None, val=0.3)
    list(run(plan(open_source(str(source)), out, recipe)))


def pixels_of(photos):
    return [photo.read("image") for photo in photos]


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet_and_folder_hold_the_same_photos(photo_folder, tmp_path, as_struct):
    write_shard(tmp_path / "train-00.parquet", photo_folder, as_struct=as_struct)
    shard = pixels_of(find_photos(tmp_path, DataConfig(), seed=0))
    files = pixels_of(find_photos(photo_folder, DataConfig(), seed=0))
    truth = [np.asarray(Image.open(path)) for path in sorted(photo_folder.iterdir())]
    assert len(shard) == len(files) == 12
    assert all(np.array_equal(a, b) for a, b in zip(shard, truth, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(files, truth, strict=True))


def test_folders_are_read_to_the_bottom_hidden_files_left_out(photo, tmp_path):
    for name in ("a/b/1.png", "2.png", ".hidden/3.png", "a/.4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / name)
    assert len(find_photos(tmp_path, DataConfig(), seed=0)) == 2


def test_files_held_out_are_never_trained_on(photo_folder, photo, tmp_path):
    for name in ("train.parquet", "val.parquet", "test-0.parquet", "validation_1.parquet"):
        write_shard(tmp_path / name, photo_folder)
    assert len(find_photos(tmp_path, DataConfig(), seed=0)) == 12
    images = tmp_path / "images"
    for name in ("train/1.png", "val/2.png", "Test/3.png", "valley.png", "testament.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(images / name)
    assert len(find_photos(images, DataConfig(), seed=0)) == 3
    with pytest.raises(DataError, match="No photos"):
        find_photos(tmp_path / "val.parquet", DataConfig(), seed=0)


def test_rows_held_out_are_never_trained_on(photo_folder, tmp_path):
    split = ["train"] * 5 + ["val", "test", "validation", "TEST"] + ["train"] * 3
    write_shard(tmp_path / "data.parquet", photo_folder, split=split)
    found = pixels_of(find_photos(tmp_path, DataConfig(), seed=0))
    truth = [np.asarray(Image.open(path)) for path in sorted(photo_folder.iterdir())]
    kept = [photo for photo, name in zip(truth, split, strict=True) if name == "train"]
    assert all(np.array_equal(a, b) for a, b in zip(found, kept, strict=True))


def test_names_that_only_begin_alike_are_not_held_out():
    assert all(map(is_held_out, ["val", "val-00000", "valid.parquet", "Validation", "test1.jpg"]))
    assert not any(map(is_held_out, ["train", "valley.jpg", "testing", "latest", "contest"]))


def test_files_choose_how_many_of_which(photo_folder, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_shard(tmp_path / name, photo_folder)
    config = DataConfig(files={"a*": 5, "b*": 100})
    first, again = (find_photos(tmp_path, config, seed=3) for _ in range(2))
    other = find_photos(tmp_path, config, seed=4)
    assert len(first) == 17
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(find_photos(tmp_path, DataConfig(max_photos=4), seed=0)) == 4


def test_no_data_is_told(photo_folder, tmp_path):
    with pytest.raises(DataError, match="no data at"):
        find_photos(tmp_path / "nowhere", DataConfig(), seed=0)
    with pytest.raises(DataError, match="No photos"):
        find_photos(tmp_path, DataConfig(), seed=0)
    with pytest.raises(DataError, match="00.png is not a parquet or tar file: give the folder"):
        find_photos(photo_folder / "00.png", DataConfig(), seed=0)
    (tmp_path / "x.parquet").write_text("not parquet", "utf-8")
    with pytest.raises(DataError, match=r"x\.parquet: it is not a readable parquet file"):
        find_photos(tmp_path, DataConfig(), seed=0)
    write_shard(tmp_path / "x.parquet", photo_folder)
    with pytest.raises(DataError, match="no column 'photo', only image: name"):
        find_photos(tmp_path, DataConfig(image_column="photo"), seed=0)
    with pytest.raises(DataError, match="hub's data set of that name is not in the cache"):
        find_photos("nobody/nothing", DataConfig(), seed=0)
    with pytest.raises(DataError, match="never trained on"):
        find_photos("nobody/nothing", DataConfig(split="train+validation"), seed=0)


def test_another_column_may_hold_the_photos(photo_folder, tmp_path):
    rows = [path.read_bytes() for path in sorted(photo_folder.iterdir())]
    pq.write_table(pa.table({"image": ["no photo"] * 12, "picture": rows}), tmp_path / "a.parquet")
    found = find_photos(tmp_path, DataConfig(image_column="picture"), seed=0)
    assert np.array_equal(found[0].read("image"), np.asarray(make_photo(48, 40, seed=0)))


def test_another_column_of_photos_is_other_data(photo_folder, tmp_path):
    rows = [path.read_bytes() for path in sorted(photo_folder.iterdir())]
    pq.write_table(pa.table({"image": rows, "picture": rows[::-1]}), tmp_path / "a.parquet")
    prints = {
        find_photos(tmp_path, DataConfig(image_column=column), seed=0).fingerprint
        for column in (None, "picture")
    }
    assert len(prints) == 2


def test_a_hub_data_set_is_found_by_its_name(photo_folder, tmp_path, monkeypatch):
    """`datasets` reads a local folder by the same call as a hub data set."""
    import datasets

    from condiff.data import photos

    out = tmp_path / "owner" / "name"
    lines = [json.dumps({"file_name": f"{i:02}.png", "text": f"photo {i}"}) for i in range(11)]
    captioned = Path(shutil.copytree(photo_folder, tmp_path / "captioned"))
    (captioned / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    prepare(captioned, out, "canny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    config = DataConfig(max_photos=5)
    local = find_photos(out, DataConfig(), seed=0, condition=EDGES)
    hub = photos._hub_photos("owner/name", config, seed=0, condition=EDGES)
    assert len(hub) == 5
    drawn = sorted(np.random.default_rng(0).permutation(len(local))[:5])
    for photo, index in zip(hub, drawn, strict=True):
        assert np.array_equal(photo.read("image"), local[index].read("image"))
        assert np.array_equal(photo.read(photo.kinds[0]), local[index].read(local[0].kinds[0]))
        assert photo.text == local[index].text
    assert len({photo.text for photo in hub}) == 5


def test_captions_are_read_without_the_photos(tmp_path):
    """The photos of a hub data set may be files to fetch, one by one."""
    from datasets import Dataset

    gone = {"bytes": None, "path": str(tmp_path / "gone.png")}
    rows = Dataset.from_dict({"image": 3 * [gone], "text": ["a bird", None, "a bird"]})
    photos = Photos("owner/name", [2, 1, 0], HubRows("owner/name", rows, {"image": "image"}), "")
    with pytest.raises(DataError, match="gone.png cannot be fetched"):
        photos[0]
    task = find_task("sketch").with_text()
    settings = CropSettings(task, DataConfig(size=32), size=32, sample_size=32)
    views = CropDataset(photos, settings, seed=0, name=photos.name)
    latents = LatentCache(tmp_path / "latents", views, FrozenShape("", factor=8, words=(4, 8)))
    assert [latents.texts[number] for number in latents.text_of] == ["a bird", "", "a bird"]
    features = FeatureCache(tmp_path / "features", views, {})
    assert [features[0, row]["texts"] for row in range(3)] == [["a bird"], [""], ["a bird"]]


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (5, 3), 77),
        Image.new("RGBA", (7, 9), (10, 20, 30, 0)),
        Image.fromarray(np.full((4, 6), 40_000, np.uint16)),
        Image.new("1", (1, 1), 1),
        Image.new("P", (3, 2), 0),
    ],
    ids=["grey", "rgba", "16 bits", "one pixel", "palette"],
)
def test_photos_of_every_mode_become_rgb(image, tmp_path):
    image.save(tmp_path / "odd.png")
    pixels = find_photos(tmp_path, DataConfig(), seed=0)[0].read("image")
    assert pixels.shape == (image.height, image.width, 3)
    assert pixels.dtype == np.uint8
    if image.mode == "I;16":
        assert (pixels == round(40_000 / 65_535 * 255)).all()


def test_a_broken_photo_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be trained on: .*condiff prep"):
        find_photos(tmp_path, DataConfig(), seed=0)[0].read("image")


def test_what_is_wrong_with_a_row_names_the_row(photo_folder, tmp_path):
    good = (photo_folder / "00.png").read_bytes()
    wide = io.BytesIO()
    Image.new("RGB", (90, 40)).save(wide, "PNG")
    rows = {
        "image": [good, good, b"no photo"],
        "conditioning_image": [b"none", wide.getvalue(), good],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    photos = find_photos(tmp_path, DataConfig(), seed=0, condition=Aligned())
    with pytest.raises(DataError, match=r"condition image of a\.parquet#0 cannot .*: it is not"):
        photos[0].read("")
    with pytest.raises(DataError, match=r"a\.parquet#1, a photo of 48x40, has .* of 90x40"):
        photos[1].read_fitted("", photos[1].read("image"))
    with pytest.raises(DataError, match=r"^a\.parquet#2 cannot be trained on: it is not"):
        photos[2].read("image")
    with pytest.raises(DataError, match=r"^a\.parquet#2 cannot be read: it is not"):
        read_truths(tmp_path / "a.parquet")


def test_photos_with_names_that_are_not_unicode_are_trained_on(photo_folder, tmp_path):
    shutil.copy(photo_folder / "00.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(photo_folder / "01.png", tmp_path / "café.png")
    assert len(find_photos(tmp_path, DataConfig(), seed=0)) == 2
    assert len(find_photos(tmp_path, DataConfig(files={"caf*": 5}), seed=0)) == 2


def test_a_link_to_nothing_is_named(photo_folder, tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"a\.png cannot be trained on: No such file"):
        find_photos(tmp_path, DataConfig(), seed=0)


def test_patterns_that_are_none_are_told(photo_folder):
    for pattern in ("", "/photos/*"):
        with pytest.raises(ConfigError, match="is not a pattern of paths below"):
            find_photos(photo_folder, DataConfig(files={pattern: 3}), seed=0)


def test_settings_of_other_kinds_of_data_are_reported(photo_folder, caplog):
    find_photos(photo_folder, DataConfig(), seed=0)
    assert not caplog.text
    find_photos(photo_folder, DataConfig(split="more", image_column="photo"), seed=0)
    assert "data.split is for hub data sets" in caplog.text
    assert "data.image_column is for parquet files" in caplog.text


def test_a_folder_that_datasets_saved_is_sent_to_prep(photo_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [str(photo_folder / "00.png")]}
    saved = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="saved by `datasets`: make parquet files .* condiff prep"):
        find_photos(tmp_path / "saved", DataConfig(), seed=0)


def test_photos_beside_an_archive_are_reported(photo_folder, tmp_path, caplog):
    write_shard(tmp_path / "a.parquet", photo_folder)
    shutil.copy(photo_folder / "00.png", tmp_path / "b.png")
    assert len(find_photos(tmp_path, DataConfig(), seed=0)) == 12
    assert "1 image files beside them are not trained on" in caplog.text


@pytest.mark.parametrize("values", [[1, 2], [["a", "b"], ["c"]]])
def test_captions_that_are_not_text_are_none(photo_folder, tmp_path, values):
    files = [(photo_folder / name).read_bytes() for name in ("00.png", "01.png")]
    pq.write_table(pa.table({"image": files, "text": values}), tmp_path / "a.parquet")
    assert [photo.text for photo in find_photos(tmp_path, DataConfig(), seed=0)] == ["", ""]


def test_a_line_that_is_not_a_caption_is_named(photo_folder, tmp_path):
    shutil.copy(photo_folder / "00.png", tmp_path / "a.png")
    good = json.dumps({"file_name": "a.png", "text": "two\u2028lines"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(good + "\n", "utf-8")
    assert find_photos(tmp_path, DataConfig(), seed=0)[0].text == "two\u2028lines"
    for wrong in ("[1]", "{", '{"text": "a"}'):
        (tmp_path / "metadata.jsonl").write_text(f"{good}\n\n{wrong}\n", "utf-8")
        with pytest.raises(DataError, match=r"Line 3 of \S+metadata\.jsonl is not a caption"):
            find_photos(tmp_path, DataConfig(), seed=0)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read: .*utf-8"):
        find_photos(tmp_path, DataConfig(), seed=0)


def test_missing_pairs_are_told_how_to_make_them(photo_folder):
    with pytest.raises(DataError, match="name it for each photo in metadata.jsonl, or give parq"):
        find_photos(photo_folder, DataConfig(), seed=0, condition=Aligned())


def pair_up(folder, photo_folder, *, names, key="conditioning_image"):
    """Photos in folder/photos, mirrored ones as their conditions in folder/poses."""
    rows = []
    for name in names:
        for place in ("photos", "poses"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo_folder / name, folder / "photos" / name)
        with Image.open(photo_folder / name) as photo:
            photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "poses" / name)
        row = {"file_name": f"photos/{name}", f"{key}_file_name": f"./poses/{name}"}
        rows.append(row | ({"text": "a cat"} if name == "00.png" else {}))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


@pytest.mark.parametrize(
    "key, condition, kind",
    [
        ("conditioning_image", Aligned(), ""),
        ("conditioning_canny", Lines(draws=("canny", "pencil")), "canny"),
    ],
)
def test_pairs_in_a_folder_are_named_in_its_metadata(photo_folder, tmp_path, key, condition, kind):
    folder = tmp_path / "x" / ".." / "pairs"  # compared as the place that it is
    (tmp_path / "x").mkdir()
    pair_up(folder, photo_folder, names=("00.png", "03.png"), key=key)
    photos = find_photos(folder, DataConfig(), seed=0, condition=condition)
    photos = ForkingPickler.loads(ForkingPickler.dumps(photos))  # as a loader's worker gets them
    assert [photo.kinds for photo in photos] == [(kind,)] * 2
    assert [photo.text for photo in photos] == ["a cat", ""]
    for photo in photos:
        pixels = photo.read("image")
        expected = condition.decode_stored(pixels[:, ::-1], kind, "")
        assert np.array_equal(photo.read_fitted(kind, pixels), expected)
    # For tasks that draw conditions themselves, and as truths, they are not photos either.
    assert len(find_photos(folder, DataConfig(), seed=0)) == 2
    assert len(read_truths(folder)) == open_source(str(folder)).total == 2


def test_a_change_of_a_pair_changes_the_fingerprint_and_a_lacking_one_is_named(
    photo_folder, tmp_path
):
    def find():
        return find_photos(tmp_path, DataConfig(), seed=0, condition=Aligned())

    pair_up(tmp_path, photo_folder, names=("00.png", "01.png"))
    before = find().fingerprint
    os.utime(tmp_path / "poses" / "00.png", (1, 1))
    assert find().fingerprint != before
    shutil.copy(photo_folder / "05.png", tmp_path / "photos" / "alone.png")
    with pytest.raises(DataError, match=r"alone\.png has no conditioning_image_file_name in metad"):
        find()
    (tmp_path / "photos" / "alone.png").unlink()
    (tmp_path / "poses" / "01.png").unlink()
    with pytest.raises(DataError, match=r"01\.png cannot be trained on: No such file"):
        find()


def write_tar(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, source in files.items():
            tar.add(source, name)


def test_files_of_one_item_of_a_tar_file_are_a_photo_and_its_conditions(photo_folder, tmp_path):
    photos = sorted(photo_folder.iterdir())
    members = {
        "a/1.png": photos[0],
        "a/1.depth.png": photos[1],
        "b/1.png": photos[2],  # of another folder
        "b/1.depth.png": photos[3],
        "b/1.conditioning_image.png": photos[4],
        "2.old.png": photos[5],  # there is no 2.png
    }
    write_tar(tmp_path / "x.tar", **members)
    names = [item.name for item in open_source(str(tmp_path / "x.tar")).items()]
    assert names == ["x.tar/a/1.png", "x.tar/b/1.png", "x.tar/2.old.png"]
    depth = find_task("depth").picture
    with pytest.raises(DataError, match=r"2\.old\.png .*: it has no conditioning_depth in the tar"):
        find_photos(tmp_path, DataConfig(), seed=0, condition=depth)
    del members["2.old.png"]
    write_tar(tmp_path / "x.tar", **members)
    found = find_photos(tmp_path, DataConfig(), seed=0, condition=depth)
    expected = [np.asarray(Image.open(path).convert("L")) for path in (photos[1], photos[3])]
    for photo, values in zip(found, expected, strict=True):
        assert photo.kinds == ("depth",)
        assert np.abs(photo.read("depth")[..., 0].astype(int) - values).max() <= 1


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", 3])
def test_metadata_names_only_files_below_its_folder(photo_folder, tmp_path, name):
    shutil.copy(photo_folder / "00.png", tmp_path / "a.png")
    for row in ({"file_name": name, "text": "a"}, {"file_name": "a.png", "depth_file_name": name}):
        (tmp_path / "metadata.jsonl").write_text(json.dumps(row), "utf-8")
        with pytest.raises(DataError, match="is not a caption or a pair: .* below its folder"):
            find_photos(tmp_path, DataConfig(), seed=0)


@pytest.mark.parametrize("kinds", [("pencil",), ("canny", "pencil")])
def test_prepared_drawings_come_as_ink(photo_folder, tmp_path, kinds):
    """Pencil is stored dark on white, canny light on black: both come as ink 255 on paper 0."""
    prepare(photo_folder, tmp_path / "out", *kinds)
    photos = find_photos(
        tmp_path / "out", DataConfig(), seed=0, condition=Lines(draws=("canny", "pencil"))
    )
    photo = photos[0]
    assert photo.kinds == (kinds if len(kinds) > 1 else ("",))
    ink = photo.read(photo.kinds[-1])
    assert ink.shape == (40, 48, 1)
    assert np.mean(ink) < 128


def test_prepared_drawings_that_cannot_be_used_are_told(photo_folder, tmp_path):
    with pytest.raises(DataError, match=r"no column conditioning_image .*data\.conditions"):
        find_photos(photo_folder, DataConfig(), seed=0, condition=EDGES)
    drawing = io.BytesIO()
    Image.fromarray(apply("gray", np.zeros((40, 48, 3), np.uint8))[..., 0]).save(drawing, "PNG")
    for kind, reason in (("softedge", "held out"), ("gray", "not a drawing")):
        column = [{"bytes": drawing.getvalue(), "path": f"a.{kind}.png"}] * 12
        write_shard(tmp_path / "a.parquet", photo_folder, conditioning_image=column)
        photo = find_photos(tmp_path, DataConfig(), seed=0, condition=EDGES)[0]
        with pytest.raises(DataError, match=reason):
            photo.read(photo.kinds[0])
    write_shard(tmp_path / "a.parquet", photo_folder, conditioning_softedge=column)
    with pytest.raises(DataError, match="no column conditioning_image"):
        find_photos(tmp_path, DataConfig(), seed=0, condition=EDGES)


def test_packed_files_and_images_come_back():
    parts = [b"", b"abc", bytes(range(256))]
    packed = PackedBytes(parts)
    assert [packed[i] for i in range(3)] == parts
    assert (len(packed), packed.num_bytes, len(PackedBytes([]))) == (3, 259, 0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((1, 1), (5, 2), (3, 7))]
    assert all(map(np.array_equal, PackedImages(images), images))


def test_packed_images_go_to_a_spawned_worker_without_a_copy():
    images = [np.full((100, 100, 3), i, np.uint8) for i in range(20)]
    packed = PackedImages(images)
    sent = ForkingPickler.dumps(packed)
    assert len(sent) < 10_000 < packed.num_bytes
    received = ForkingPickler.loads(sent)
    packed.block[0] = 7
    assert received[0][0, 0, 0] == 7
    assert all(map(np.array_equal, received, packed))


def test_photos_in_memory_are_those_of_the_files_made_small(photo_folder):
    photos = find_photos(photo_folder, DataConfig(), seed=0)
    whole, small = RamPhotos(photos, short_side=64), RamPhotos(photos, short_side=20)
    assert all(
        np.array_equal(a, b) for a, b in zip(pixels_of(whole), pixels_of(photos), strict=True)
    )
    assert small[3].read("image").shape == (20, 24, 3)
    truth = np.asarray(Image.fromarray(photos[3].read("image")).reduce(2))
    assert np.abs(small[3].read("image").astype(int) - truth).max() <= 1
    assert small.memory == 12 * 20 * 24 * 3


def test_photos_in_memory_have_all_their_drawings(photo_folder, tmp_path):
    """OpenCV averages at most four planes at once, and a photo with two drawings has five."""
    prepare(photo_folder, tmp_path / "set", "canny", "sketch")
    lines = Lines(draws=("canny", "sketch"))
    photos = find_photos(tmp_path / "set", DataConfig(), seed=0, condition=lines)
    kept = RamPhotos(photos, short_side=20)[0]
    small = photos[0].read("sketch")
    assert kept.read("image").shape[2:] == (3,) and min(kept.read("image").shape[:2]) == 20
    for kind in ("canny", "sketch"):
        assert kept.read(kind).shape == (*kept.read("image").shape[:2], 1)
    assert kept.read("sketch").mean() == pytest.approx(small.mean(), abs=2)


def test_photos_that_do_not_fit_into_memory_are_refused(photo_folder, monkeypatch):
    assert 1 << 20 < free_memory() < 1 << 50
    monkeypatch.setattr("condiff.data.ram_cache.free_memory", lambda: 1000)
    photos = find_photos(photo_folder, DataConfig(), seed=0)
    with pytest.raises(DataError, match=r"take about .* GB are free: set data\.cache to none"):
        RamPhotos(photos, short_side=64)


def test_training_and_preparing_see_the_same_photos_and_captions_of_every_source(tmp_path):
    """A folder, a parquet file and a tar file of the same photos, with a caption each."""
    names = [f"{i:02}.png" for i in range(5)]
    files = {}
    for i, name in enumerate(names):
        file = io.BytesIO()
        make_photo(30, 24, seed=i).save(file, "PNG")
        files[name] = file.getvalue()
    captions = {name: f"photo {i}" for i, name in enumerate(names)}
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines = [json.dumps({"file_name": n, "text": text}) for n, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    rows = {"image": list(files.values()), "text": list(captions.values())}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in files.items():
            for member, content in ((name, data), (name[:-3] + "txt", captions[name].encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    config = DataConfig(streaming=True)
    settings = CropSettings(find_task("none"), config, size=32, sample_size=8)
    for place in (folder, tmp_path / "a.parquet", tmp_path / "a.tar"):
        items = list(open_source(str(place)).items())
        assert [item.text for item in items] == list(captions.values())
        trained = find_photos(place, DataConfig(), seed=0)
        assert len(trained) == len(items) == 5
        for item, photo in zip(items, trained, strict=True):
            assert np.array_equal(photo.read("image"), np.asarray(Image.open(item.image.opened())))
            assert photo.text == item.text
        kept = RamPhotos(trained, short_side=64)
        assert [photo.text for photo in kept] == list(captions.values())
        truths = read_truths(place)
        assert all(map(np.array_equal, truths, pixels_of(trained)))
        if place == folder:
            continue
        dataset = StreamDataset(place, settings, seed=0)
        [keys] = islice(dataset.keys(start=0, batch_size=5, process=0, num_processes=1), 1)
        streamed = sorted((item for *_, item in keys), key=lambda item: item.name)
        assert [(item.name, item.text) for item in streamed] == [(i.name, i.text) for i in items]
        assert [item.image.read() for item in streamed] == list(files.values())
