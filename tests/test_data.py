"""Batches: exact, endless, the same for any number of workers and after any interruption."""

import multiprocessing
import os
import pickle
import signal
from itertools import islice

import numpy as np
import pytest
import torch

from condiff.config import TrainConfig
from condiff.data.crops import CropDataset, CropSettings
from condiff.data.feature_cache import FeatureCache
from condiff.data.loading import build_dataset, collate, load_batches
from condiff.data.photos import find_photos
from condiff.data.shuffling import Order
from condiff.errors import CondiffError, ConfigError, DataError
from condiff.tasks import find_task

from .test_data_photos import prepare


def build(source, tmp_path, *, task="colorize", features=None, seed=5, device="cpu", **data):
    model = {"sample_size": 8}
    if find_task(task).enlarges:
        model |= {"fold": 1, "backbone_variant": None}
    config = TrainConfig.model_validate(
        {"task": task, "seed": seed, "max_train_steps": 1, "model": model,
         "data": {"size": 32, **data}}
    )  # fmt: skip
    return build_dataset(
        config,
        find_task(task),
        source,
        cache_dir=tmp_path / "cache",
        feature_channels=features or {},
        device=torch.device(device),
    )


def take(dataset, count, **how):
    return list(islice(load_batches(dataset, device="cpu", **how), count))


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in ("x_0", "condition"))


def joined(batches):
    return {key: torch.cat([b[key] for b in batches]) for key in ("x_0", "condition")}


def test_the_order_shows_every_photo_once_an_epoch():
    order = Order(10, seed=1)
    first, second = ([order.at(10 * e + k) for k in range(10)] for e in (0, 1))
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(10))
    assert [i for _, i in first] != [i for _, i in second]
    assert {e for e, _ in second} == {1}
    assert [Order(10, seed=1).at(k) for k in (13, 2, 7)] == [second[3], first[2], first[7]]
    assert [Order(10, seed=2).at(k) for k in range(10)] != first


@pytest.mark.parametrize("task", ["colorize", "sketch", "edge", "none", "upscale"])
def test_a_batch_is_what_it_says(photo_folder, tmp_path, task):
    row = find_task(task)
    batch, *_ = take(build(photo_folder, tmp_path, task=task), 1, batch_size=5)
    assert batch["x_0"].shape == (5, row.space.channels, 8, 8)
    side = 8 if row.enlarges else 32  # a window of the view is seen pixel for pixel
    assert batch["condition"].shape == (5, row.condition_channels, side, side)
    assert batch["x_0"].dtype == batch["condition"].dtype == torch.float32
    assert batch["features"] is None


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("task", ["colorize", "sketch"])
def test_workers_processes_and_resume_change_nothing(photo_folder, tmp_path, task, cache):
    dataset = build(photo_folder, tmp_path, task=task, cache=cache)
    truth = take(dataset, 6, batch_size=4)  # two epochs of 12
    workers = build(photo_folder, tmp_path, task=task, cache=cache, num_workers=2)
    assert all(map(equal, truth, take(workers, 6, batch_size=4)))
    assert all(map(equal, truth[3:], take(dataset, 3, batch_size=4, start=3)))
    halves = [take(dataset, 6, batch_size=2, process=r, num_processes=2) for r in (0, 1)]
    pairs = zip(*halves, strict=True)
    assert all(equal(whole, joined(pair)) for whole, pair in zip(truth, pairs, strict=True))


def test_each_epoch_shows_another_view_of_every_photo(photo_folder, tmp_path):
    dataset = build(photo_folder, tmp_path, degrade=0.0)
    first, second = dataset[0, 3], dataset[1, 3]
    assert not equal(first, second)
    assert equal(first, build(photo_folder, tmp_path, degrade=0.0)[0, 3])
    assert not equal(first, build(photo_folder, tmp_path, degrade=0.0, seed=6)[0, 3])


def test_batches_run_over_the_end_of_an_epoch(photo_folder, tmp_path):
    dataset = build(photo_folder, tmp_path, max_photos=3)
    order = Order(3, seed=5)
    batch = take(dataset, 1, batch_size=7)[0]
    assert equal(batch, collate([dataset[order.at(k)] for k in range(7)]))


def test_loading_leaves_the_runs_own_randomness_alone(photo_folder, tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(build(photo_folder, tmp_path), 2, batch_size=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_prepared_conditions_are_read(photo_folder, tmp_path, cache):
    prepare(photo_folder, tmp_path / "out", "canny", "pencil")
    dataset = build(tmp_path / "out", tmp_path, task="sketch", conditions="prepared", cache=cache)
    assert 0 < dataset.num_photos < 12  # some are for validation
    batch = take(dataset, 1, batch_size=8)[0]
    assert batch["condition"].shape == (8, 1, 32, 32)
    assert batch["condition"].mean() < 0  # mostly paper


def test_what_cannot_be_done_is_said(photo_folder, tmp_path):
    with pytest.raises(DataError, match="no column conditioning_image"):
        build(photo_folder, tmp_path, task="sketch", conditions="prepared")
    with pytest.raises(ConfigError, match="prepared is for tasks with a condition image"):
        build(photo_folder, tmp_path, task="none", conditions="prepared")
    with pytest.raises(ConfigError, match="restyle learns from pairs: .*conditions to prepared"):
        build(photo_folder, tmp_path, task="restyle")
    with pytest.raises(ValueError, match="max_photos does not go with streaming"):
        build(photo_folder, tmp_path, streaming=True, max_photos=3)
    with pytest.raises(ValueError, match="cache_features does not go with cache ram"):
        build(photo_folder, tmp_path, cache="ram", cache_features=True)


def test_a_broken_photo_stops_a_worker_with_its_sentence(photo_folder, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no photo")
    with pytest.raises(CondiffError, match=r"^\S+b\.png cannot be trained on"):
        take(build(tmp_path, tmp_path, num_workers=1), 2, batch_size=2)


def test_workers_go_on_when_a_signal_reaches_all_processes(photo_folder, tmp_path):
    """The training process then finishes its step and writes a checkpoint."""
    batches = load_batches(build(photo_folder, tmp_path, num_workers=1), batch_size=4)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    for stop in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, stop)
    again = take(build(photo_folder, tmp_path), 6, batch_size=4)
    assert all(map(equal, [first, *islice(batches, 5)], again))
    batches.close()
    worker.join(10)
    assert worker.exitcode == 0


def test_a_data_set_says_what_it_holds(photo_folder, tmp_path):
    assert build(photo_folder, tmp_path).describe().startswith(f"12 photos from {photo_folder}")
    found = build(photo_folder, tmp_path, cache="ram").describe()
    assert found.endswith("0.1 MB of pixels in memory")  # 12 x 48 x 40 x 3


def views_of(photo_folder):
    config = TrainConfig(max_train_steps=1).data
    photos = find_photos(photo_folder, config, seed=0)
    settings = CropSettings(find_task("colorize"), config, 32, 8)
    return CropDataset(photos, settings, seed=5, name="photos", fingerprint=photos.fingerprint)


def extract(condition):
    return {8: condition.mean((1, 2, 3)).view(-1, 1, 1, 1) * torch.ones(len(condition), 3, 4, 4)}


def test_the_cache_gives_views_and_features_and_goes_on_where_it_stopped(photo_folder, tmp_path):
    views, calls = views_of(photo_folder), []

    def counted(condition):
        calls.append(len(condition))
        return extract(condition)

    cache = FeatureCache(tmp_path, views, {8: 3})
    filling = cache.fill(counted, range(12), batch_size=4)
    assert [next(filling), next(filling)] == [0, 4]  # then it is stopped
    again = FeatureCache(tmp_path, views, {8: 3})
    assert list(again.fill(counted, range(12), batch_size=4)) == [4, 8, 12]
    assert calls == [4, 4, 4]
    batch = collate([again[0, i] for i in (2, 7)])
    expected = views[0, 7]
    assert torch.allclose(batch["condition"][1], expected["condition"], atol=1e-3)  # half precision
    assert torch.allclose(batch["x_0"][1], expected["x_0"], atol=1e-3)
    assert torch.allclose(
        batch["features"][8][1], extract(expected["condition"][None])[8], atol=1e-3
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"lightness.npy", "chroma.npy", "features_8.npy", "done.npy"}
    assert np.load(tmp_path / "lightness.npy").max() > 1  # L*


def test_a_worker_maps_the_cache_instead_of_a_copy(photo_folder, tmp_path):
    cache = FeatureCache(tmp_path, views_of(photo_folder), {8: 3})
    list(cache.fill(extract, range(12)))
    sent = pickle.dumps(cache.arrays)
    assert len(sent) < 1000 < cache.arrays["lightness"].nbytes
    received = pickle.loads(sent)
    cache.arrays["lightness"][3] = 50
    assert (received["lightness"][3] == 50).all()


def test_the_cache_is_loaded_like_all_else(photo_folder, tmp_path):
    for workers in (0, 2):
        cache = build(
            photo_folder, tmp_path, features={8: 3}, cache_features=True, num_workers=workers
        )
        list(cache.fill(extract, range(12)))
        batches = take(cache, 6, batch_size=4)
        order = Order(12, seed=5)
        for number, batch in enumerate(batches):
            rows = collate([cache[order.at(4 * number + j)] for j in range(4)])
            assert equal(batch, rows)
            assert torch.equal(batch["features"][8], rows["features"][8])
    assert "one view of each with its features" in cache.describe()


def test_a_cache_of_other_data_is_refused(photo_folder, tmp_path):
    FeatureCache(tmp_path, views_of(photo_folder), {8: 3})
    with pytest.raises(DataError, match="other data"):
        FeatureCache(tmp_path, views_of(photo_folder), {8: 5})
