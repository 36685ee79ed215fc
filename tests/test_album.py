"""Albums: photos of a batch are drawn towards one style, which is measured once."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from condiff.batch.album import read_style, settle_style
from condiff.batch.colorize import BatchOptions, plan_batch, run_batch
from condiff.batch.journal import ALBUM, ALBUM_LINES, open_journal
from condiff.batch.plan import Choice, plan
from condiff.batch.storage import open_storage
from condiff.cli import main
from condiff.color.album import MAX_GAIN, AlbumStyle, ChromaMeans
from condiff.color.lab import rgb_to_lab
from condiff.diffusion.sampler import BROAD, damp_broad_noise, sample_initial_noise
from condiff.errors import ConfigError, StorageError, UsageError
from condiff.photos.reading import read_photo
from tests.conftest import make_photo

RNG = np.random.default_rng(0)
CHROMA = RNG.normal(size=(6, 8, 2)).astype(np.float32) * 9 + (12, -4)


def test_means_are_moved_half_of_the_way_where_strengths_agree():
    own = ChromaMeans.of(CHROMA)
    style = AlbumStyle(1, ChromaMeans(own.a - 6, own.b + 2, own.chroma))
    assert style.apply(CHROMA) == pytest.approx(CHROMA + (-3, 1), abs=1e-5)


def test_the_strength_is_the_root_of_the_ratio_and_bounded():
    own = ChromaMeans.of(CHROMA)
    twice = AlbumStyle(1, ChromaMeans(own.a, own.b, 2 * own.chroma + 1))
    assert twice.apply(CHROMA) == pytest.approx(CHROMA * 2**0.5, rel=1e-5)
    strong = AlbumStyle(1, ChromaMeans(own.a, own.b, 1e4))
    assert strong.apply(CHROMA) == pytest.approx(CHROMA * MAX_GAIN, rel=1e-5)


def test_a_style_does_not_depend_on_the_order_of_the_photos():
    means = [ChromaMeans(*values) for values in RNG.uniform(1, 20, (50, 3)).tolist()]
    assert AlbumStyle.of(means, seed=3) == AlbumStyle.of(means[::-1], seed=3)
    assert AlbumStyle.of([means[0]], seed=3).means == pytest.approx(means[0])


def test_photos_of_an_album_begin_with_the_same_noise_in_large_areas_only():
    noises = [sample_initial_noise(seed, (1, 2, 32, 32)) for seed in (1, 2, 9)]
    made = [damp_broad_noise(n, variety=1, shared=noises[2]) for n in noises[:2]]

    def means(noise):
        return noise.reshape(1, 2, 4, BROAD, 4, BROAD).mean(axis=(3, 5))

    assert means(made[0]) == pytest.approx(means(noises[2]), abs=1e-6)
    assert means(made[1]) == pytest.approx(means(noises[2]), abs=1e-6)
    assert np.abs(made[0] - made[1]).mean() > 0.5
    still = damp_broad_noise(noises[0], variety=0, shared=noises[2])
    assert still == pytest.approx(damp_broad_noise(noises[0], variety=0), abs=1e-6)


def run(folder, model, out, **fields):
    options = BatchOptions(model=model, seed=5, **({"workers": 1} | fields))
    found, options = plan_batch(str(folder), str(out), options)
    return list(run_batch(found, options))


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roll")
    for index in range(4):
        make_photo(48, 40, seed=index).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def album(roll, tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("album") / "out"
    assert {r.outcome for r in run(roll, tiny_folder, out, album=True)} == {"done"}
    return out


def test_an_album_is_closer_together_than_its_photos_alone(roll, album, tiny_folder, tmp_path):
    run(roll, tiny_folder, tmp_path / "alone")

    def spread(out):
        means = [rgb_to_lab(read_photo(p).pixels)[..., 1:].mean((0, 1)) for p in out.glob("*.png")]
        return np.std(means, axis=0).max()

    assert spread(album) < 0.8 * spread(tmp_path / "alone")
    record = json.loads(Image.open(album / "0.png").text["condiff"])
    assert record["album"].keys() == {"seed", "a", "b", "chroma"}


def test_an_album_has_the_same_bytes_with_any_number_of_workers(roll, album, tiny_folder, tmp_path):
    run(roll, tiny_folder, tmp_path / "out", album=True, workers=3)
    assert files(tmp_path / "out") == files(album)


def test_a_resumed_album_keeps_its_style(roll, album, tiny_folder, tmp_path):
    folder, out = tmp_path / "roll", tmp_path / "out"
    shutil.copytree(roll, folder)
    shutil.copytree(album, out)
    (out / "2.png").unlink()
    make_photo(48, 40, seed=8).save(folder / "8.png")
    (folder / "9.png").write_bytes(b"no photo")
    outcomes = [result.outcome for result in run(folder, tiny_folder, out, album=True)]
    assert sorted(outcomes) == ["done", "done", "failed", "skipped", "skipped", "skipped"]
    assert files(out).items() >= files(album).items()
    assert (out / ALBUM).read_bytes() == (album / ALBUM).read_bytes()
    with pytest.raises(ConfigError, match="album"):
        run(folder, tiny_folder, out)


def test_measuring_goes_on_where_it_was_stopped(roll, tmp_path):
    found = plan(open_storage(str(roll)), open_storage(str(tmp_path / "out")))
    measured = []

    def measure(photo, seed):
        if len(measured) == 2 and not allowed:
            raise KeyboardInterrupt
        measured.append(seed)
        return ChromaMeans(float(seed % 7), 1.0, 2.0)

    styles = []
    for allowed in (False, True, True):
        with open_journal(found.out, {"task": "colorize"}) as journal:
            settle = {"seed": 5, "read": read_photo, "workers": 1}
            if allowed:
                styles.append(settle_style(found, journal, measure, **settle))
            else:
                with pytest.raises(KeyboardInterrupt):
                    settle_style(found, journal, measure, **settle)
    assert len(measured) == len(set(measured)) == 4
    assert styles[0] == styles[1]
    assert styles[0].means.a == pytest.approx(np.mean([seed % 7 for seed in measured]))


@pytest.mark.parametrize("content", ["", "1", '{"means": [1]}', '{"means": [NaN, 1, 2]}'])
def test_a_damaged_style_is_a_sentence(content, roll, tmp_path):
    found = plan(open_storage(str(roll)), open_storage(str(tmp_path)))
    with open_journal(found.out, {"task": "colorize"}) as journal:
        journal.keep(ALBUM, content)
        with pytest.raises(StorageError, match=r"album\.json is damaged: .*--force"):
            read_style(found, 5)


@pytest.mark.parametrize("line", ["1", '{"a": 1}', '{"name": "0.png", "version": 1, "means": 3}'])
def test_a_damaged_line_of_measured_photos_is_measured_again(line, roll, tmp_path):
    found = plan(open_storage(str(roll)), open_storage(str(tmp_path)))
    with open_journal(found.out, {"task": "colorize"}) as journal:
        journal.add_line(ALBUM_LINES, line)
        how = {"seed": 5, "read": read_photo, "workers": 1}
        style = settle_style(found, journal, lambda *_: ChromaMeans(1.0, 2.0, 3.0), **how)
    assert style.means == (1, 2, 3)


def test_an_album_is_of_all_photos_and_of_one_machine(roll, tiny_folder, tmp_path, capsys):
    with pytest.raises(UsageError, match="shard"):
        run(roll, tiny_folder, tmp_path / "out", album=True, choice=Choice(shard=(1, 2)))
    command = ["batch", str(roll), str(tmp_path / "out"), "-m", str(tiny_folder), "--album"]
    assert main([*command, "--engine", "ray"]) == 2
    assert "album" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
