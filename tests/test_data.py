"""Photos for training: found, varied, cached."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from condiff.config import DataConfig
from condiff.data import (
    FeatureCache,
    ShuffledSampler,
    ViewDataset,
    collate,
    degrade,
    find_photos,
    make_view,
)
from condiff.errors import DataError

from .conftest import make_photo


def write_shard(path, folder, *, as_struct=False):
    rows = [photo.read_bytes() for photo in sorted(folder.iterdir())]
    column = [{"bytes": row, "path": None} for row in rows] if as_struct else rows
    pq.write_table(pa.table({"image": column}), path)


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet_and_folder_hold_the_same_photos(photo_folder, tmp_path, as_struct):
    write_shard(tmp_path / "train-00.parquet", photo_folder, as_struct=as_struct)
    shard = find_photos(tmp_path, DataConfig(), seed=0)
    files = find_photos(photo_folder, DataConfig(), seed=0)
    assert len(shard) == len(files) == 12
    assert all(np.array_equal(a, b) for a, b in zip(shard, files, strict=True))


def test_validation_photos_are_never_trained_on(photo_folder, tmp_path):
    for name in ("train.parquet", "val.parquet", "test-0.parquet"):
        write_shard(tmp_path / name, photo_folder)
    assert len(find_photos(tmp_path, DataConfig(), seed=0)) == 12


def test_files_choose_how_many_of_which(photo_folder, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_shard(tmp_path / name, photo_folder)
    config = DataConfig(files={"a*": 5, "b*": 100})
    first, again = (find_photos(tmp_path, config, seed=3) for _ in range(2))
    assert len(first) == 17
    assert first.sources == again.sources
    assert len(find_photos(tmp_path, DataConfig(max_photos=4), seed=0)) == 4


def test_no_data_is_told(tmp_path):
    with pytest.raises(DataError, match="no data at"):
        find_photos(tmp_path / "nowhere", DataConfig(), seed=0)
    with pytest.raises(DataError, match="No photos"):
        find_photos(tmp_path, DataConfig(), seed=0)
    (tmp_path / "x.parquet").write_text("not parquet", "utf-8")
    with pytest.raises(DataError, match=r"x\.parquet is not a readable parquet file"):
        find_photos(tmp_path, DataConfig(), seed=0)


def test_a_view_is_the_photo_itself_when_nothing_is_varied():
    pixels = np.asarray(make_photo(64, 64))
    config = DataConfig(min_crop=1.0, flip=0.0, degrade=0.0)
    rng = np.random.default_rng(0)
    lightness, chroma = make_view(pixels, rng, config, size=64, sample_size=64)
    from skimage.color import rgb2lab

    lab = rgb2lab(pixels)
    assert np.abs(lightness - lab[..., 0]).max() < 0.3
    assert np.abs(chroma - lab[..., 1:]).max() < 0.6


def test_flips_turn_lightness_and_chroma_together():
    pixels = np.asarray(make_photo(64, 64))
    views = [
        make_view(
            pixels, np.random.default_rng(0),
            DataConfig(min_crop=1.0, flip=flip, degrade=0.0), size=64, sample_size=16,
        )
        for flip in (0.0, 1.0)
    ]  # fmt: skip
    (lightness, chroma), (flipped_lightness, flipped_chroma) = views
    assert np.allclose(lightness[:, ::-1], flipped_lightness, atol=1e-3)
    assert np.allclose(chroma[:, ::-1], flipped_chroma, atol=1e-3)


def test_degraded_lightness_stays_a_lightness():
    rng = np.random.default_rng(0)
    lightness = np.linspace(0, 100, 64 * 64, dtype=np.float32).reshape(64, 64)
    drawn = [degrade(lightness, rng) for _ in range(40)]
    assert all(d.shape == (64, 64) and d.dtype == np.float32 for d in drawn)
    assert all(d.min() >= 0 and d.max() <= 101 for d in drawn)
    assert sum(not np.array_equal(d, lightness) for d in drawn) > 20


def views_of(photo_folder):
    photos = find_photos(photo_folder, DataConfig(), seed=0)
    return ViewDataset(photos, DataConfig(), size=32, sample_size=8, seed=5)


def test_a_view_depends_on_seed_and_index_alone(photo_folder):
    views, again = views_of(photo_folder), views_of(photo_folder)
    again[0]
    assert torch.equal(views[3]["lightness"], again[3]["lightness"])
    assert torch.equal(views[3]["chroma"], again[3]["chroma"])


def test_the_cache_gives_views_and_features_and_goes_on_where_it_stopped(photo_folder, tmp_path):
    views = views_of(photo_folder)
    calls = []

    def extract(lightness):
        calls.append(len(lightness))
        return {8: lightness.mean() * torch.ones(len(lightness), 3, 4, 4)}

    cache = FeatureCache(tmp_path, views, {8: 3})
    filling = cache.fill(extract, range(12), batch_size=4)
    assert [next(filling), next(filling)] == [0, 4]  # then it is stopped
    again = FeatureCache(tmp_path, views, {8: 3})
    assert list(again.fill(extract, range(12), batch_size=4)) == [4, 8, 12]
    assert calls == [4, 4, 4]
    batch = collate([again[i] for i in (2, 7)])
    assert batch["features"][8].shape == (2, 3, 4, 4)
    expected = views[7]["lightness"]
    assert torch.allclose(batch["lightness"][1], expected, atol=0.05)  # half precision
    assert torch.allclose(batch["chroma"][1], views[7]["chroma"], atol=0.05)


def test_a_cache_of_other_data_is_refused(photo_folder, tmp_path):
    FeatureCache(tmp_path, views_of(photo_folder), {8: 3})
    with pytest.raises(DataError, match="other data"):
        FeatureCache(tmp_path, views_of(photo_folder), {8: 5})


def test_the_sampler_shows_every_photo_once_an_epoch():
    order = iter(ShuffledSampler(10, seed=1))
    first, second = ([next(order) for _ in range(10)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    again = iter(ShuffledSampler(10, seed=1))
    assert [next(again) for _ in range(10)] == first
