"""Healthy files that readers misread: each is read as the array it was written from, or refused."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from condiff.errors import ImageError
from condiff.photos.reading import read_photo

rng = np.random.default_rng(0)
RAMP = np.tile(np.linspace(0, 1, 48), (32, 1))
GREY16 = (RAMP * 65_535).round().astype(np.uint16)
RGB16 = np.stack([GREY16, GREY16[:, ::-1], np.roll(GREY16, 16, axis=1)], axis=2)


def read(data: bytes, **options):
    return read_photo(io.BytesIO(data), **options)


def tiff(array, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def as_8_bits(photo) -> np.ndarray:
    unit = 257 if photo.pixels.dtype == np.uint16 else 1
    return photo.pixels.astype(float) / unit


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "webp", "jpeg2000", "png"])
def test_no_compression_of_a_tiff_comes_out_black(compression):
    pixels = (RGB16 >> 8).astype(np.uint8)
    if compression in ("lzw", "zstd", "webp", "jpeg2000", "png"):
        pytest.importorskip("imagecodecs")
    lossy = 12 if compression == "webp" else 0
    options = {} if compression is None else {"compression": compression}
    if compression == "jpeg2000":
        options["compressionargs"] = {"reversible": True}
    photo = read(tiff(pixels, photometric="rgb", **options))
    assert np.abs(as_8_bits(photo) - pixels).mean() <= lossy


def test_a_compression_without_its_decoder_is_named_with_what_reads_it(tmp_path):
    pytest.importorskip("imagecodecs")
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((RGB16 >> 8).astype(np.uint8), photometric="rgb", compression="jpegxr"))
    program = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from pathlib import Path; from condiff import read_photo\n"
        f"read_photo(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "ImageError" in last and "JPEG XR" in last and "[tiff]" in last, done.stderr


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_grey_of_odd_depths_has_its_whole_range(bits):
    pytest.importorskip("imagecodecs")  # which packs them
    values = (RAMP * (2**bits - 1)).round().astype(np.uint16)
    data = tiff(values, photometric="minisblack", bitspersample=bits)
    expected = np.repeat(RAMP[..., None] * 255, 3, axis=2)
    assert np.abs(as_8_bits(read(data)) - expected).max() < 0.5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_of_16_bits_in_both_orders_and_polarities(order, white_is_zero):
    photometric = "miniswhite" if white_is_zero else "minisblack"
    stored = 65_535 - GREY16 if white_is_zero else GREY16
    photo = read(tiff(stored, photometric=photometric, byteorder=order))
    assert photo.pixels.dtype == np.uint16
    assert np.array_equal(photo.pixels[..., 0], GREY16)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
def test_wide_greys_are_read_by_their_range(dtype):
    white = 2**32 - 1 if dtype == np.uint32 else 1
    data = tiff((RAMP * white).astype(dtype), photometric="minisblack")
    assert np.abs(as_8_bits(read(data))[..., 0] - RAMP * 255).max() < 0.6


def test_grey_with_alpha_keeps_both():
    alpha = np.roll(GREY16, 8, axis=1)
    data = tiff(np.dstack([GREY16, alpha]), photometric="minisblack", extrasamples=["unassalpha"])
    photo = read(data)
    assert np.array_equal(photo.pixels[..., 0], GREY16)
    assert np.array_equal(photo.alpha, alpha)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", [1, 2])
def test_infrared_is_not_alpha(planar, extra):
    channels = [RGB16, *[rng.integers(0, 65_536, (32, 48, 1), np.uint16)] * extra]
    pixels = np.concatenate(channels, axis=2)
    if planar == "separate":
        pixels = pixels.transpose(2, 0, 1)
    kinds = ["unspecified"] * extra
    data = tiff(np.ascontiguousarray(pixels), photometric="rgb", planarconfig=planar,
                extrasamples=kinds)  # fmt: skip
    photo = read(data)
    assert photo.alpha is None
    assert np.array_equal(photo.pixels, RGB16)
    assert any("left out" in warning for warning in photo.info["warnings"])


def test_a_thumbnail_is_no_page():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(RGB16, photometric="rgb")
        writer.write(GREY16[::4, ::4], photometric="minisblack", subfiletype=1)
    assert np.array_equal(read(file.getvalue()).pixels, RGB16)


def test_pages_of_several_photos_are_asked_for():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number in range(3):
            writer.write(np.roll(RGB16, number, axis=1), photometric="rgb")
    with pytest.raises(ImageError, match="3 pages"):
        read(file.getvalue())
    assert np.array_equal(read(file.getvalue(), page=3).pixels, np.roll(RGB16, 2, axis=1))


def test_gamma_of_a_png_is_applied():
    linear = (RAMP * 255).round().astype(np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100_000).to_bytes(4, "big"))
    file = io.BytesIO()
    Image.fromarray(linear).save(file, "PNG", pnginfo=info)
    x = linear / 255
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(as_8_bits(read(file.getvalue()))[..., 0] - 255 * srgb).max() <= 0.6


def test_a_png_with_megabytes_of_text_is_whole():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 3_000_000)
    info.add_text("Zipped", "y" * 3_000_000, zip=True)
    file = io.BytesIO()
    Image.fromarray((RGB16 >> 8).astype(np.uint8)).save(file, "PNG", pnginfo=info)
    assert np.array_equal(read(file.getvalue()).pixels, (RGB16 >> 8).astype(np.uint8))


def test_a_jpeg_that_lacks_its_last_bytes_is_taken_with_a_warning():
    file = io.BytesIO()
    Image.fromarray((RGB16 >> 8).astype(np.uint8)).save(file, "JPEG")
    whole = read(file.getvalue())
    cut = read(file.getvalue()[:-2])
    assert np.array_equal(cut.pixels, whole.pixels) and cut.info["warnings"]
    with pytest.raises(ImageError):
        read(file.getvalue()[:-2], strict=True)
    with pytest.raises(ImageError, match="cut short"):
        read(file.getvalue()[: len(file.getvalue()) // 2])


@pytest.mark.parametrize(
    ("start", "name"), [(b"\x76\x2f\x31\x01", "OpenEXR"), (b"<svg xmlns=", "an SVG drawing")]
)
def test_formats_that_are_not_read_are_named(start, name):
    with pytest.raises(ImageError, match=name):
        read(start + bytes(200))
