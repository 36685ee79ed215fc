"""Photos given as Python objects are decoded like files on the command line."""

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from condiff import Pipeline, read_photo, write_photo
from condiff.cli import main
from condiff.errors import ImageError
from condiff.photos.metadata import Metadata
from condiff.photos.photo import Photo, to_8_bits
from condiff.photos.reading import as_photo

from .conftest import make_photo
from .test_photo import ALPHA, DEEP, GREY, png

COLOUR = make_photo(36, 28)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def grey_profile() -> bytes:
    """A grey profile of gamma 1.0: converted pixels become much lighter."""
    return _profile(b"GRAY", {b"kTRC": b"curv" + bytes(8), b"wtpt": _xyz(0.9642, 1, 0.8249)})


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(round(v * 65_536).to_bytes(4, "big") for v in values)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of these tags (ICC.1:2010, 7.2 and 7.3)."""
    at, table, data = 132 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + (at + len(data)).to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data += body
    rest = len(tags).to_bytes(4, "big") + table + data
    white = _xyz(0.9642, 1, 0.8249)[8:]
    head = b"".join([
        (128 + len(rest)).to_bytes(4, "big"), bytes(4), b"\2\x10\0\0", b"mntr", space, b"XYZ ",
        bytes(12), b"acsp", bytes(28), white, bytes(48),
    ])  # fmt: skip
    return head + rest


def transparent(mode: str) -> bytes:
    """A palette or a key with one transparent colour."""
    image = COLOUR.convert(mode)
    key = image.getpixel((3, 4))
    return saved(image, transparency=key if mode == "P" else tuple(key))


TURNED = Image.Exif()
TURNED[0x0112] = 6
P3 = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # misfits every photo

FILES = {
    "RGB": saved(COLOUR),
    "L": saved(COLOUR.convert("L")),
    "1": saved(COLOUR.convert("1")),
    "LA": saved(COLOUR.convert("LA")),
    "RGBA": saved(Image.merge("RGBA", [*COLOUR.split(), COLOUR.getchannel(0)])),
    "P": saved(COLOUR.convert("P")),
    "P, a transparent colour": transparent("P"),
    "RGB, a transparent colour": transparent("RGB"),
    "CMYK": saved(COLOUR.convert("CMYK"), "JPEG"),
    "JPEG on its side": saved(COLOUR, "JPEG", exif=TURNED),
    "WebP on its side": saved(COLOUR, "WEBP", exif=TURNED, lossless=True),
    "PNG on its side": saved(COLOUR, exif=TURNED),
    "TIFF on its side": saved(COLOUR, "TIFF", exif=TURNED),
    "L with a grey profile": saved(COLOUR.convert("L"), icc_profile=grey_profile()),
    "RGB with a grey profile": saved(COLOUR, icc_profile=grey_profile()),
    "RGB with a profile of no photo": saved(COLOUR, icc_profile=P3),
    "I;16": png(GREY),
    "I;16 with a grey profile": saved(Image.fromarray(GREY), icc_profile=grey_profile()),
    "I;16 with a linear gamma": png(GREY, (b"gAMA", (100_000).to_bytes(4, "big"))),
    "I;16B": tiff(GREY, photometric="minisblack", byteorder=">"),
    "I;16, white is zero": tiff(GREY, photometric="miniswhite"),
    "I": tiff(GREY.astype(np.int32), photometric="minisblack"),
    "F": tiff((GREY / 65_535).astype(np.float32), photometric="minisblack"),
}  # fmt: skip
# Pillow silently reduces these to 8 bits: exact only before it has decoded them.
DEEPER = {
    "RGB of 16 bits": png(DEEP),
    "RGBA of 16 bits": png(np.dstack([DEEP, ALPHA])),
    "TIFF, RGB of 16 bits": tiff(DEEP, photometric="rgb"),
}


def same(photo: Photo, expected: Photo, *, within: float = 0.0) -> bool:
    """Whether colours and transparency are equal, up to `within` 8-bit levels if given."""
    pairs = [(photo.pixels, expected.pixels)]
    if (photo.alpha is None) != (expected.alpha is None):
        return False
    if photo.alpha is not None and expected.alpha is not None:
        pairs.append((photo.alpha, expected.alpha))
    if within:
        pairs = [(to_8_bits(a).astype(float), to_8_bits(b).astype(float)) for a, b in pairs]
    return all(a.shape == b.shape and np.abs(a - b * 1.0).max() <= within for a, b in pairs)


@pytest.mark.parametrize("name", FILES | DEEPER)
def test_every_way_into_python_gives_the_pixels_of_the_file(name, tmp_path):
    data = (FILES | DEEPER)[name]
    path = tmp_path / "photo"
    path.write_bytes(data)
    expected = read_photo(path)  # what `condiff colorize` reads
    for way in (path, str(path), data, io.BytesIO(data), expected):
        found = as_photo(way)
        assert same(found, expected) and found.metadata == expected.metadata
    with Image.open(path) as opened:
        assert same(as_photo(opened), expected)
        assert same(as_photo(opened), expected), "the image is as it was"
        info = dict(opened.info)
        opened.load()
        within = 0.0 if name in FILES else 1.0
        assert same(as_photo(opened), expected, within=within)
        assert opened.info.items() >= {k: v for k, v in info.items() if k != "exif"}.items()
        if name not in ("I;16, white is zero",):  # the tag is lost by then
            assert same(as_photo(opened.copy()), expected, within=within)
    lazy = Image.open(io.BytesIO(data))
    as_photo(lazy)
    whole = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(lazy), np.asarray(whole)), "Pillow can go on decoding"


def test_an_image_that_was_changed_is_not_read_from_its_file():
    data = saved(COLOUR.convert("L"), icc_profile=grey_profile())
    image = Image.open(io.BytesIO(data))
    del image.info["icc_profile"]
    assert np.array_equal(as_photo(image).pixels[..., 0], np.asarray(COLOUR.convert("L")))
    big = Image.open(io.BytesIO(saved(make_photo(400, 300), "JPEG")))
    big.draft("RGB", (100, 75))
    assert as_photo(big).size == big.size == (100, 75)
    frames = [COLOUR, COLOUR.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    film = Image.open(
        io.BytesIO(saved(frames[0], "TIFF", save_all=True, append_images=[frames[1]]))
    )
    assert np.array_equal(as_photo(film).pixels, np.asarray(frames[0]))
    film.seek(1)
    assert np.array_equal(as_photo(film).pixels, np.asarray(frames[1]))


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "YCbCr", "HSV", "RGBX", "I", "F"])
def test_modes_that_only_memory_has(mode):
    clear = Image.merge("RGBA", [*COLOUR.split(), Image.new("L", COLOUR.size, 128)])
    if mode in ("I", "F"):
        values = GREY if mode == "I" else GREY / np.float32(65_535)
        photo = as_photo(Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32)))
        assert photo.is_deep and np.array_equal(photo.pixels[..., 1], GREY)
        return
    through = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    source = clear.convert(through) if through != "P" else clear.quantize(16)
    photo = as_photo(source.convert(mode))
    expected = np.asarray(source.convert("RGBA"))
    assert np.abs(photo.pixels - expected[..., :3].astype(int)).max() <= 4  # of rounding
    if mode in ("PA", "La", "RGBa"):
        assert photo.alpha is not None and np.array_equal(photo.alpha, expected[..., 3])


def test_a_file_that_pillow_only_half_reads_is_read_by_its_own_reader():
    packed = tiff((GREY >> 4), photometric="minisblack")
    assert same(as_photo(Image.open(io.BytesIO(packed))), read_photo(packed))
    cut = saved(make_photo(200, 160), "JPEG")[:-2]
    photo = as_photo(Image.open(io.BytesIO(cut)))
    assert "lacks the last bytes" in photo.info["warnings"][0]


ARRAYS = {
    "uint8 (H,W)": (GREY >> 8).astype(np.uint8),
    "uint8 (H,W,1)": (GREY >> 8).astype(np.uint8)[..., None],
    "uint8 (H,W,3)": (DEEP >> 8).astype(np.uint8),
    "uint8 (H,W,4)": (np.dstack([DEEP, ALPHA]) >> 8).astype(np.uint8),
    "uint16 (H,W)": GREY,
    "uint16 (H,W,1)": GREY[..., None],
    "uint16 (H,W,3)": DEEP,
    "uint16 (H,W,4)": np.dstack([DEEP, ALPHA]),
    "uint16 in another byte order": DEEP.astype(DEEP.dtype.newbyteorder()),
    "a view with strides": np.flip(DEEP, 1)[:, ::2],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_what_a_png_of_them_is(name):
    array = ARRAYS[name]
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    squeezed = native[..., 0] if native.ndim == 3 and native.shape[2] == 1 else native
    data = png(squeezed) if native.dtype == np.uint16 else saved(Image.fromarray(squeezed))
    assert same(as_photo(array), read_photo(data))
    for kind in (np.float32, np.float64):
        white = np.iinfo(native.dtype).max
        photo = as_photo((native / white).astype(kind))
        assert photo.is_deep and same(photo, read_photo(data), within=0.5 if white == 255 else 1e-9)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((4, 5, 2), np.uint8), "(4, 5, 2)"),
        (np.zeros((3, 40, 50), np.uint8), "(3, 40, 50)"),
        (np.zeros((1, 4, 5, 3), np.uint8), "(1, 4, 5, 3)"),
        (np.zeros(7, np.uint8), "(7,)"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3)"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((4, 5), bool), "bool"),
        (np.zeros((4, 5), np.uint32), "uint32"),
        (np.full((4, 5), 254.0), "254"),
        (np.full((4, 5, 3), -0.5), "-0.5"),
        (np.full((4, 5, 3), np.nan), "nan"),
        (np.full((4, 5), "a"), "<U1"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
        (5, "int"),
        (b"", "empty"),
        (b"no photo at all", "not a photo"),
        ("no/such/photo.jpg", "no such file"),
        (Path(__file__).parent, "folder"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (Image.open(io.BytesIO(saved(make_photo(200, 160), "JPEG")[:1500])), "cut short"),
    ],
)
def test_what_is_no_photo_is_one_sentence(wrong, says):
    with pytest.raises(ImageError) as raised:
        as_photo(wrong)
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder, device="cpu")


@pytest.mark.parametrize("name", ["I;16", "L with a grey profile", "JPEG on its side", "LA"])
def test_the_pipeline_gives_what_the_command_writes(name, pipeline, tiny_folder, tmp_path):
    path = tmp_path / "photo.bin"
    path.write_bytes(FILES[name])
    command = ["colorize", str(path), "-o", str(tmp_path / "out.png"), "-m", str(tiny_folder)]
    flags = ["--steps", "2", "--seed", "3", "--size", "32", "--device", "cpu", "-q"]
    assert main([*command, *flags]) == 0
    expected = read_photo(tmp_path / "out.png")
    sampling = {"steps": 2, "seed": 3, "size": 32}
    for way in (path, FILES[name], as_photo(path)):
        (result,) = pipeline(way, **sampling)
        assert isinstance(result, Photo) and result.info["seed"] == 3
        assert same(result, expected)
    with Image.open(path) as image:
        (result,) = pipeline(image, **sampling)
    assert isinstance(result, Image.Image)
    assert same(as_photo(result), replace(expected, pixels=to_8_bits(expected.pixels)), within=1e-9)


def test_arrays_keep_their_depth_through_the_pipeline(pipeline):
    deep = (np.asarray(COLOUR).astype(np.uint16) * 257)[..., 0]
    (result,) = pipeline(deep, steps=2, seed=3, size=32)
    assert result.is_deep and result.size == COLOUR.size
    (eight,) = pipeline((deep / 257).astype(np.uint8), steps=2, seed=3, size=32)
    assert not eight.is_deep
    assert np.abs(eight.pixels - result.pixels / 257).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_result_carries_no_foreign_profile(suffix, pipeline, tmp_path):
    image = Image.open(io.BytesIO(FILES["L with a grey profile"]))
    (result,) = pipeline(image, steps=2, seed=3, size=32)
    result.save(tmp_path / f"pillow{suffix}")  # Pillow takes a profile from an image's info
    (photo,) = pipeline(FILES["L with a grey profile"], steps=2, seed=3, size=32)
    write_photo(photo, tmp_path / f"own{suffix}")
    for name in ("pillow", "own"):
        with Image.open(tmp_path / f"{name}{suffix}") as written:
            profile = written.info.get("icc_profile", b"")
        assert profile[16:20] == (b"" if name == "pillow" else b"RGB ")
    assert isinstance(photo.metadata, Metadata) and photo.metadata.profiled


def test_a_drawing_may_come_in_any_way(sketch_folder, tmp_path):
    ink = np.full((64, 48), 255, np.uint8)
    cv2.line(ink, (5, 5), (40, 60), 0, 2)
    draw = Pipeline.from_pretrained(sketch_folder, device="cpu")
    sampling = {"steps": 2, "seed": 3}
    (expected,) = draw(Image.fromarray(ink), **sampling)
    for way in (ink, saved(Image.fromarray(ink)), ink.astype(np.uint16) * 257):
        (picture,) = draw(way, **sampling)
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_other_kinds_of_bytes_are_read_and_text_is_a_sentence():
    file = io.BytesIO()
    Image.new("L", (8, 6), 90).save(file, "PNG")
    whole = file.getvalue()
    for kind in (bytearray, memoryview):
        assert np.array_equal(as_photo(kind(whole)).pixels, as_photo(whole).pixels)
    with pytest.raises(ImageError, match="mode 'rb'"):
        as_photo(io.StringIO("no photo"))


def test_an_image_of_32_bits_that_was_made_of_8_keeps_its_levels():
    grey = make_photo(40, 30).convert("L")
    assert np.array_equal(as_photo(grey.convert("I")).pixels, as_photo(grey).pixels)
    deep = Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    assert np.array_equal(as_photo(deep).pixels, as_photo(grey).pixels.astype(np.uint16) * 257)


def test_an_image_that_was_closed_is_not_called_damaged(tmp_path):
    make_photo(40, 30).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.load()
    image.close()
    with pytest.raises(ImageError, match="it was closed; give it while it is open, or its path"):
        as_photo(image)
