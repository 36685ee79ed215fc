"""Scans: borders, levels, negatives; the coloured part of a photo, and backgrounds."""

import json
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from condiff import ColorEdits, Hint, Pipeline
from condiff.cli import main
from condiff.color.lab import lightness, rgb_to_lab
from condiff.color.scans import find_frame, is_colour_negative, normalise_levels
from condiff.errors import ConfigError
from condiff.photos.photo import Photo, flatten

from .conftest import make_photo


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder, device="cpu")


def colored(pipeline, pixels, **changes):
    (result,) = pipeline(Image.fromarray(pixels), **{"steps": 2, "seed": 3, "size": 32} | changes)
    return np.asarray(result)


PHOTOS = {
    "astronaut": data.astronaut()[:400],
    "coffee": data.coffee(),
    "cat": data.chelsea(),
    "rocket": data.rocket(),  # on a night sky
    "waves": np.asarray(make_photo(300, 240)),
}


def grey(pixels):
    return np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def framed(pixels, sides, level, *, noise=0.0, seed=0):
    """A grey photo within a border; `sides` are its widths at the top, bottom, left and right."""
    top, bottom, left, right = sides
    pad = ((top, bottom), (left, right), (0, 0))
    scan = np.pad(grey(pixels), pad, constant_values=level).astype(np.float32)
    grain = np.random.default_rng(seed).standard_normal(scan.shape[:2])[..., None]
    return (scan + noise * grain).clip(0, 255).round().astype(np.uint8)


SIDES = [(8, 8, 8, 8), (60, 30, 12, 25), (90, 90, 110, 80)]
LEVELS = [0, 24, 45, 220, 235, 255]


@pytest.fixture(scope="module")
def alone(pipeline):
    """alone(name): the grey photo of that name coloured without a border, once."""
    return cache(lambda name: colored(pipeline, grey(PHOTOS[name])))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", ["cat", "coffee", "waves"])
def test_an_even_border_is_found_to_the_pixel(name, sides, level):
    scan = framed(PHOTOS[name], sides, level)
    top, bottom, left, right = sides
    inside = slice(top, scan.shape[0] - bottom), slice(left, scan.shape[1] - right)
    assert find_frame(scan).box == inside


@pytest.mark.parametrize(("number", "level"), list(enumerate(LEVELS)))
@pytest.mark.parametrize("name", ["cat", "coffee", "waves"])
def test_within_a_border_the_colours_are_those_without_it_and_outside_there_are_none(
    pipeline, alone, name, number, level
):
    scan = framed(PHOTOS[name], SIDES[number % 3], level)
    inside = find_frame(scan).box
    result = colored(pipeline, scan)
    assert np.array_equal(result[inside], alone(name))
    outside = np.ones(scan.shape[:2], bool)
    outside[inside] = False
    assert np.array_equal(result[outside], scan[outside])
    as_is = colored(pipeline, scan, edits=ColorEdits(as_is=True))
    assert not np.array_equal(as_is[inside], alone(name))


@pytest.mark.parametrize("level", [12, 240])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "cat"])
def test_a_noisy_border_of_a_large_scan_is_found_to_within_a_few_pixels(name, level):
    photo = cv2.resize(PHOTOS[name], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    scan = framed(photo, (100, 170, 60, 230), level, noise=4)
    rows, columns = find_frame(scan).box
    found = (rows.start, scan.shape[0] - rows.stop, columns.start, scan.shape[1] - columns.stop)
    assert np.abs(np.subtract(found, (100, 170, 60, 230))).max() <= 3


@pytest.mark.parametrize("level", [90, 165])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "cat"])
def test_a_border_of_another_grey_is_found_on_four_sides_only(name, level):
    sides = (30, 42, 36, 50)
    scan = framed(PHOTOS[name], sides, level, noise=2)
    rows, columns = find_frame(scan).box
    found = (rows.start, scan.shape[0] - rows.stop, columns.start, scan.shape[1] - columns.stop)
    assert np.abs(np.subtract(found, sides)).max() <= 2
    assert find_frame(scan[:-60]) is None  # it may be a wall
    scan[:32] = np.maximum(scan[:32], level + 25)  # two greys
    assert find_frame(scan) is None


@pytest.mark.parametrize("angle", [-1.5, 0.7, 2.0])
@pytest.mark.parametrize("level", [10, 245])
def test_a_border_that_is_askew_stays_grey_to_its_edge(pipeline, angle, level):
    photo = PHOTOS["coffee"]
    scan = framed(photo, (50, 50, 50, 50), level)
    height, width = scan.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    scan = cv2.warpAffine(scan, turn, (width, height), borderValue=(level,) * 3)
    picture = np.pad(np.ones(photo.shape[:2], np.float32), 50)
    picture = cv2.warpAffine(picture, turn, (width, height))
    frame = find_frame(scan)
    inside = np.zeros((height, width), bool)
    inside[frame.box] = frame.cover() > 0
    wrong = inside != (picture > 0.5)
    assert wrong.mean() < 0.006  # a line of 2 pixels around the picture
    result = colored(pipeline, scan)
    assert np.array_equal(result[~inside], scan[~inside])
    assert np.ptp(result[inside].astype(int), axis=1).max() > 20


def test_a_white_border_in_a_black_one_is_found_too():
    scan = framed(framed(PHOTOS["cat"], (20, 20, 20, 20), 250), (15, 30, 10, 40), 3)
    assert find_frame(scan).box == (slice(35, 335), slice(30, 481))


def test_dust_and_scratches_on_a_border_do_not_hide_it():
    scan = framed(PHOTOS["astronaut"], (40, 40, 40, 40), 10)
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(0, 480, 60), rng.integers(0, 592, 60), strict=True):
        cv2.circle(scan, (int(x), int(y)), 1, (200, 200, 200), -1)
    rows, columns = find_frame(scan).box
    assert (rows.start, rows.stop, columns.start, columns.stop) == pytest.approx(
        (40, 440, 40, 552), abs=2
    )


@cache
def scenes():
    """Photos with even black or white up to an edge, but without a border."""
    y, x = np.mgrid[0:400, 0:600].astype(np.float32)
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.standard_normal((400, 600)).astype(np.float32), (0, 0), 5) * 300
    hills = 250 + 40 * np.sin(x / 70) + 15 * np.sin(x / 23)
    ground = (90 + texture).clip(0, 255)
    night = np.where(y < hills, 4, ground)
    snow = np.where(y > hills, 250, ground)
    wall = np.full((400, 600), 245, np.float32)
    cv2.ellipse(wall, (300, 230), (120, 170), 0, 0, 360, 90, -1)
    door = np.full((400, 600), 240, np.float32)
    door[80:, 230:370] = 60 + texture[80:, 230:370].clip(-40, 40)
    fade = (255 - y / 2 + 0.05 * texture).clip(0, 255)  # evenly darker downwards
    sea = np.where(y < 170, 252, (90 + texture).clip(0, 200))  # a white sky, a level horizon
    tower = np.where((abs(x - 300) < 90) & (y > 60), ground, 5)
    drawn = {"night": night, "snow": snow, "wall": wall, "door": door, "fade": fade}
    drawn |= {"sea": sea, "tower": tower}
    made = {name: np.repeat(p.astype(np.uint8)[..., None], 3, axis=2) for name, p in drawn.items()}
    return {**{name: grey(p) for name, p in PHOTOS.items()}, **made}


@pytest.mark.parametrize("name", scenes())
def test_night_skies_and_white_walls_are_no_borders(name):
    photo = scenes()[name]
    assert find_frame(photo) is None
    assert find_frame(np.ascontiguousarray(photo[::-1])) is None


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (200, 3), (20, 20)])
@pytest.mark.parametrize("level", [0, 255])
def test_blank_and_tiny_photos_have_no_border(size, level):
    assert find_frame(np.full((*size, 3), level, np.uint8)) is None


def test_a_border_of_toned_paper_comes_out_grey_and_16_bits_alike(pipeline):
    scan = framed(PHOTOS["coffee"], (30, 30, 30, 30), 236).astype(np.float32)
    sepia = (scan * [1.0, 0.96, 0.86]).astype(np.uint8)
    outside = np.ones(scan.shape[:2], bool)
    outside[30:-30, 30:-30] = False
    result = colored(pipeline, sepia)
    assert (np.ptp(result[outside], axis=1) == 0).all()
    assert np.abs(lightness(result) - lightness(sepia)).max() <= 0.5
    deep = Photo(sepia.astype(np.uint16) * 257)
    (result,) = pipeline(deep, steps=2, seed=3, size=32)
    assert (np.ptp(result.pixels[outside], axis=1) == 0).all()
    assert np.abs(lightness(result.pixels) - lightness(deep.pixels)).max() <= 0.05


def test_hints_lie_where_they_were_put_whatever_the_border(pipeline):
    photo = grey(PHOTOS["coffee"])
    scan = framed(photo, (40, 20, 60, 30), 5)
    result = colored(pipeline, scan, edits=ColorEdits(hints=[Hint(300, 200, "#2040ff")]))
    moved = [Hint(240.5 / 600, 160.5 / 400, "#2040ff")]
    alone = colored(pipeline, photo, edits=ColorEdits(hints=moved))
    assert np.array_equal(result[40:-20, 60:-30], alone)
    strokes = np.zeros((*scan.shape[:2], 4), np.uint8)
    strokes[190:210, 290:310] = (32, 64, 255, 255)
    result = colored(pipeline, scan, edits=ColorEdits(hints=Image.fromarray(strokes)))
    inside = Image.fromarray(np.ascontiguousarray(strokes[40:-20, 60:-30]))
    alone = colored(pipeline, photo, edits=ColorEdits(hints=inside))
    assert np.array_equal(result[40:-20, 60:-30], alone)
    assert rgb_to_lab(result)[200, 300, 2] < -15
    on_the_border = ColorEdits(hints=[Hint(5, 5, "#2040ff")])
    assert np.array_equal(colored(pipeline, scan, edits=on_the_border), colored(pipeline, scan))


def as_seen(pipeline, pixels, **settings):
    """L* (h,w) of a photo as model input."""
    _, condition = pipeline.prepare(Image.fromarray(pixels), size=64, **settings)
    return (condition[..., 0] + 1) * 50


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_a_dark_or_faded_scan_is_shown_to_the_model_with_usual_levels(pipeline, name):
    photo = grey(PHOTOS[name])
    dark = (photo * 0.3).round().astype(np.uint8)
    faded = (90 + photo * 0.3).round().astype(np.uint8)
    for scan in (dark, faded):
        usual, seen = as_seen(pipeline, photo), as_seen(pipeline, scan)
        assert 92 < np.percentile(seen, 99) < 94
        own = as_seen(pipeline, scan, as_is=True)
        assert np.abs(seen - usual).mean() < 0.5 * np.abs(own - usual).mean()
        result = colored(pipeline, scan)
        assert np.abs(lightness(result) - lightness(scan)).max() <= 0.5
        own = colored(pipeline, scan, edits=ColorEdits(as_is=True))
        assert not np.array_equal(result, own)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "cat", "waves"])
def test_photos_of_a_usual_range_are_seen_and_coloured_as_they_are(pipeline, name):
    photo = grey(PHOTOS[name])
    L = lightness(photo)
    assert normalise_levels(L) is L
    own = colored(pipeline, photo, edits=ColorEdits(as_is=True))
    assert np.array_equal(colored(pipeline, photo), own)


@pytest.mark.parametrize("level", [0, 40, 255])
def test_blank_scans_are_not_made_of_their_noise(level):
    L = lightness(framed(np.full((40, 40, 3), level, np.uint8), (0, 0, 0, 0), 0, noise=1))
    assert normalise_levels(L) is L


def test_a_frame_does_not_count_for_the_levels_of_what_is_in_it(pipeline):
    dark = (grey(PHOTOS["coffee"]) * 0.3).round().astype(np.uint8)
    scan = np.pad(dark, ((40, 40), (40, 40), (0, 0)), constant_values=250)
    assert np.array_equal(colored(pipeline, scan)[40:-40, 40:-40], colored(pipeline, dark))


def test_a_sepia_scan_is_coloured_like_the_grey_photo_of_its_lightness(pipeline):
    """In sepia only hue and chroma differ; 16 bits, so that L* is not rounded."""
    L = lightness(PHOTOS["coffee"].astype(np.uint16) * 257)
    toned = np.dstack([L, 6 + 0 * L, 22 + 0 * L]).astype(np.float32)
    sepia, plain = (
        np.rint(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).clip(0, 1) * 65_535).astype(np.uint16)
        for lab in (toned, toned * np.float32([1, 0, 0]))
    )
    shown = np.abs(lightness(sepia) - L) < 0.02  # where sRGB has room for the tone
    assert shown.mean() > 0.75
    (from_sepia,), (from_grey,) = (
        pipeline(Photo(pixels), steps=2, seed=3, size=32) for pixels in (sepia, plain)
    )
    labs = [rgb_to_lab(result.pixels) for result in (from_sepia, from_grey)]
    off = np.linalg.norm(labs[0] - labs[1], axis=2)[shown]
    assert np.median(off) < 0.5 and np.median(np.linalg.norm(labs[1][..., 1:], axis=2)) > 5


def as_negative(pixels, base=(242, 158, 107)):
    """A scan of the colour negative of a photo: its orange mask and denser where it is light."""
    light = 0.15 + 0.85 * (1 - pixels / 255.0)
    return np.rint(np.array(base) * light).astype(np.uint8)


@pytest.mark.parametrize("name", ["cat", "rocket"])
def test_colour_negatives_are_told_from_photos_and_sepia(name):
    photo = PHOTOS[name]
    assert is_colour_negative(as_negative(photo))
    assert is_colour_negative(as_negative(photo).astype(np.uint16) * 257)
    sepia = np.rint(grey(photo) * [1.0, 0.89, 0.7]).astype(np.uint8)
    for other in (photo, grey(photo), 255 - grey(photo), sepia):
        assert not is_colour_negative(other)


def test_a_negative_is_inverted_before_it_is_coloured(pipeline):
    photo = grey(PHOTOS["coffee"])
    inverted = ColorEdits(invert=True)
    assert np.array_equal(colored(pipeline, 255 - photo, edits=inverted), colored(pipeline, photo))
    deep = photo.astype(np.uint16) * 257
    (result,) = pipeline(Photo(65_535 - deep), seed=3, steps=2, size=32, edits=inverted)
    (plain,) = pipeline(Photo(deep), seed=3, steps=2, size=32)
    assert np.array_equal(result.pixels, plain.pixels)
    see_through = Image.fromarray(255 - photo).convert("LA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    (result,) = pipeline(see_through, seed=3, steps=2, size=32, edits=inverted)
    assert np.array_equal(np.asarray(result)[..., :3], colored(pipeline, photo))
    assert result.getchannel("A").tobytes() == see_through.getchannel("A").tobytes()


@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_says_what_is_coloured_and_what_stays_grey(pipeline, scale):
    photo = grey(PHOTOS["coffee"])
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:, 200:400], mask[:, 400:] = 128, 255
    picture = Image.fromarray(mask[::scale, ::scale])
    result = colored(pipeline, photo, edits=ColorEdits(mask=picture))
    free = colored(pipeline, photo)
    assert np.array_equal(result[:, :198], photo[:, :198])
    assert np.array_equal(result[:, 402:], free[:, 402:])
    half, full = (rgb_to_lab(pixels)[:, 205:395, 1:] for pixels in (result, free))
    assert np.abs(half - full * 128 / 255).mean() < 0.6
    assert np.abs(lightness(result) - lightness(photo)).max() <= 0.5
    with pytest.raises(ConfigError, match="mask is 400x400 and the photo 600x400"):
        colored(pipeline, photo, edits=ColorEdits(mask=Image.new("L", (400, 400))))


def test_a_mask_and_a_border_both_count(pipeline):
    scan = framed(PHOTOS["coffee"], (40, 40, 40, 40), 250)
    mask = np.full(scan.shape[:2], 255, np.uint8)
    mask[:240] = 0
    result = colored(pipeline, scan, edits=ColorEdits(mask=Image.fromarray(mask)))
    free = colored(pipeline, scan)
    assert np.array_equal(result[:240], scan[:240])
    assert np.array_equal(result[240:], free[240:])


@pytest.mark.parametrize("background", ["white", "#203080"])
def test_transparency_is_put_on_a_background(pipeline, background):
    photo = make_photo(60, 44)
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    settings = {"seed": 3, "steps": 2, "size": 32}
    (free,) = pipeline(photo, **settings)
    (result,) = pipeline(photo, **settings, edits=ColorEdits(background=background))
    assert result.mode == "RGB" and result.info["seed"] == 3
    ground = Image.new("RGBA", photo.size, background)
    expected = np.asarray(Image.alpha_composite(ground, free).convert("RGB"), int)
    assert np.abs(np.asarray(result, int) - expected).max() <= 1
    opaque = make_photo(60, 44)
    (same,) = pipeline(opaque, **settings, edits=ColorEdits(background=background))
    assert same.tobytes() == pipeline(opaque, **settings)[0].tobytes()
    deep = Photo(np.full((8, 8, 3), 1000, np.uint16), np.full((8, 8), 13_107, np.uint16))
    flat = flatten(deep, "white")
    assert flat.alpha is None and (flat.pixels == round(65_535 * 0.8 + 1000 * 0.2)).all()


def test_wrong_backgrounds_and_models_that_take_no_such_edits_are_refused(sketch_folder):
    with pytest.raises(ConfigError, match="'whiite' is not a colour"):
        ColorEdits(background="whiite")
    drawing = Pipeline.from_pretrained(sketch_folder, device="cpu")
    with pytest.raises(ConfigError, match="takes no invert"):
        drawing(Image.new("L", (64, 64), "white"), edits=ColorEdits(invert=True))


def save(pixels, path):
    Image.fromarray(pixels).save(path)
    return str(path)


def test_the_commands_pass_the_flags(tiny_folder, tmp_path, capsys):
    photo = grey(PHOTOS["coffee"])
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:, 300:] = 255
    source = tmp_path / "in"
    source.mkdir()
    negative = save(255 - photo, source / "a.png")
    flags = ["--invert", "--mask", save(mask, tmp_path / "mask.png"), "--as-is"]
    flags += ["-m", str(tiny_folder), "--steps", "2", "--size", "32", "--device", "cpu"]
    assert main(["colorize", negative, "--seed", "3", "-o", str(tmp_path / "one.png"), *flags]) == 0
    edits = ColorEdits(mask=Image.fromarray(mask), invert=True, as_is=True)
    with Image.open(tmp_path / "one.png") as one:
        expected = colored(pipeline_of(tiny_folder), 255 - photo, edits=edits)
        assert np.array_equal(np.asarray(one), expected)
    noted = json.loads(one.text["condiff"])
    assert (noted["invert"], noted["as_is"], len(noted["mask"])) == (True, True, 16)
    batch = ["batch", str(source), str(tmp_path / "out"), "--seed", "3", *flags]
    assert main(batch) == 0
    result = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert np.array_equal(result[:, :300], photo[:, :300])
    assert np.ptp(result[:, 300:].astype(int), axis=2).max() > 20
    capsys.readouterr()
    assert main([flag for flag in batch if flag != "--invert"]) == 2
    assert "invert: True there, False asked" in capsys.readouterr().err


def pipeline_of(folder):
    return Pipeline.from_pretrained(folder, device="cpu")


def test_a_jpeg_of_a_transparent_photo_takes_a_background(tiny_folder, tmp_path, capsys):
    photo = make_photo(60, 44)
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "a.png")
    command = ["colorize", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.jpg"), "--steps", "1"]
    command += ["-m", str(tiny_folder), "--size", "32", "--device", "cpu"]
    assert main(command) == 1
    assert "--background white" in capsys.readouterr().err
    assert main([*command, "--background", "white"]) == 0
    with Image.open(tmp_path / "a.jpg") as made:
        assert np.asarray(made)[0].min() > 230


def test_colorize_says_that_a_photo_looks_like_a_negative(tiny_folder, tmp_path, capsys):
    negative = save(as_negative(PHOTOS["cat"]), tmp_path / "a.png")
    command = ["colorize", negative, "-m", str(tiny_folder), "--steps", "1", "--size", "32"]
    command += ["--device", "cpu", "--force"]
    assert main(command) == 0
    assert "looks like a colour negative; --invert" in capsys.readouterr().err
    assert main([*command, "--invert"]) == 0
    assert "negative" not in capsys.readouterr().err
