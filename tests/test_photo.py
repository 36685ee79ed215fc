"""Depth: 16 bits are kept from file to file, checked by tifffile, cv2 and bytes made by hand."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage.color import rgb2lab

from condiff.color import lab as color
from condiff.color.lab import join_chroma
from condiff.errors import ImageError
from condiff.photos import icc
from condiff.photos.metadata import Metadata
from condiff.photos.photo import Photo
from condiff.photos.reading import read_image, read_photo
from condiff.photos.writing import losses, write_photo

DEEP = np.random.default_rng(0).integers(0, 65_536, (16, 24, 3), dtype=np.uint16)
GREY = DEEP[..., 0]
ALPHA = DEEP[..., 1][::-1].copy()


def png(pixels: np.ndarray, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel, written here by the specification."""
    height, width = pixels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb"} | options)
    return file.getvalue()


FILES = {
    "PNG RGB": (png(DEEP), DEEP, None),
    "PNG grey": (png(GREY), np.dstack([GREY] * 3), None),
    "PNG grey and alpha": (png(np.dstack([GREY, ALPHA])), np.dstack([GREY] * 3), ALPHA),
    "PNG RGB and alpha": (png(np.dstack([DEEP, ALPHA])), DEEP, ALPHA),
    "TIFF RGB": (tiff(DEEP), DEEP, None),
    "TIFF RGB, big-endian": (tiff(DEEP, byteorder=">"), DEEP, None),
    "TIFF RGB, deflated": (tiff(DEEP, compression="zlib", predictor=True), DEEP, None),
    "TIFF RGB, tiled": (tiff(DEEP, tile=(16, 16)), DEEP, None),
    "BigTIFF RGB": (tiff(DEEP, bigtiff=True), DEEP, None),
    "TIFF RGB, planes": (
        tiff(np.ascontiguousarray(DEEP.transpose(2, 0, 1)), planarconfig="separate"), DEEP, None,
    ),
    "TIFF RGB and alpha": (
        tiff(np.dstack([DEEP, ALPHA]), extrasamples=["unassalpha"]), DEEP, ALPHA,
    ),
    "TIFF grey": (tiff(GREY, photometric="minisblack"), np.dstack([GREY] * 3), None),
    "TIFF grey, white is zero": (
        tiff(65_535 - GREY, photometric="miniswhite"), np.dstack([GREY] * 3), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_deep_files_are_read_at_their_own_depth(name):
    data, pixels, alpha = FILES[name]
    photo = read_photo(io.BytesIO(data))
    assert photo.is_deep and np.array_equal(photo.pixels, pixels)
    assert (photo.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(photo.alpha, alpha)
    eight = np.asarray(read_image(io.BytesIO(data)).convert("RGB"))
    assert np.abs(eight - pixels / 257).max() <= 0.5


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_deep_photos_are_written_at_their_own_depth(suffix, alpha, tmp_path):
    path = tmp_path / f"deep{suffix}"
    write_photo(Photo(DEEP, alpha, Metadata(dpi=(300, 300))), path)
    expected = DEEP if alpha is None else np.dstack([DEEP, alpha])
    if suffix == ".tif":
        written = tifffile.imread(path)
    else:
        written = cv2.cvtColor(
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED),
            cv2.COLOR_BGR2RGB if alpha is None else cv2.COLOR_BGRA2RGBA,
        )
    assert written.dtype == np.uint16 and np.array_equal(written, expected)
    with Image.open(path) as opened:
        assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    again = read_photo(path)
    assert np.array_equal(again.pixels, DEEP)
    assert alpha is None or np.array_equal(again.alpha, alpha)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 50), st.booleans(), st.sampled_from(["u1", "u2"]))
def test_tiffs_of_any_size_are_read_by_others(width, height, alpha, kind):
    rng = np.random.default_rng(width * height)
    levels = 256 ** int(kind[1])
    pixels = rng.integers(0, levels, (height, width, 3 + alpha), dtype=kind)
    photo = Photo(pixels[..., :3], pixels[..., 3].copy() if alpha else None)
    file = io.BytesIO()
    write_photo(photo, file, format="tiff")
    file.seek(0)
    assert np.array_equal(tifffile.imread(file).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".bmp"])
def test_formats_of_8_bits_get_the_nearest_levels_and_say_so(suffix, tmp_path):
    smooth = np.repeat(np.linspace(0, 65_535, 32 * 24).reshape(24, 32, 1), 3, axis=2)
    photo = Photo(np.rint(smooth).astype(np.uint16), None, Metadata(xmp=b"<x/>", dpi=(72, 72)))
    assert "16 bits" in losses(photo, suffix)
    assert ("XMP" in losses(photo, suffix)) == (suffix == ".bmp")
    assert losses(photo, ".tif") == losses(photo, "png") == ""
    write_photo(photo, tmp_path / f"a{suffix}")
    error = np.abs(np.asarray(read_image(tmp_path / f"a{suffix}")) - smooth / 257)
    assert error.max() <= (0.5 if suffix == ".bmp" else 12)


@pytest.mark.parametrize("kind", ["f4", "f8", "u4", "i2"])
def test_colour_of_32_bits_and_of_floating_point_is_read_by_its_range(kind):
    values = (DEEP / 65_535).astype(kind) if kind[0] == "f" else DEEP.astype("i8")
    if kind == "u4":
        values = (values * 65_537).astype(kind)  # all of its range
    elif kind == "i2":
        values = (values - 32_768).astype(kind)
    data = tiff(values, resolution=(300, 300), resolutionunit="INCH")
    got = read_photo(io.BytesIO(data)).pixels.astype(int)
    scaled = (values - float(values.min())) / np.ptp(values.astype(float)) * 65_535
    if kind[0] in "fu":
        scaled = DEEP
    assert np.abs(got - scaled).max() <= 2


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow warns and continues
@pytest.mark.parametrize("name", FILES)
def test_half_a_deep_photo_is_never_accepted(name):
    data = FILES[name][0]
    for part in (0.1, 0.4, 0.7, 0.9):
        with pytest.raises(ImageError, match="; "):
            read_photo(io.BytesIO(data[: int(len(data) * part)]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["PNG RGB", "TIFF RGB", "TIFF RGB, deflated", "PNG grey and alpha"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
def test_damage_is_an_image_error_or_a_photo(name, damage):
    data = bytearray(FILES[name][0])
    for position, byte in damage:
        data[position % len(data)] = byte
    try:
        photo = read_photo(io.BytesIO(bytes(data)), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert photo.pixels.ndim == 3 and photo.pixels.shape[2] == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_photos_are_upright(orientation):
    eight = np.rint(DEEP / 257).astype(np.uint8)
    turned = read_photo(io.BytesIO(tiff(DEEP, extratags=[(274, 3, 1, orientation, True)])))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(eight).save(file, "PNG", exif=exif)
    expected = read_photo(io.BytesIO(file.getvalue()))
    assert np.abs(turned.pixels / 257 - expected.pixels).max() <= 0.5


# ---- profiles in 16 bits


def profile_file(name: str) -> bytes:
    """LittleCMS's sRGB under another name, so that it is applied and not skipped."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = srgb.replace(b"sRGB", name.encode())
    return renamed.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


def gamma_profile(gamma: float, space: bytes = b"RGB ") -> bytes:
    """A profile of sRGB's primaries, or of grey, with a pure power for its curve."""
    srgb = profile_file("pure")
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    at = {name: srgb.index(name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")}
    places = {name: struct.unpack_from(">I", srgb, here + 4)[0] for name, here in at.items()}
    xyz = {name: srgb[place : place + 20] for name, place in places.items()}
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    tags = {b"wtpt": white}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= xyz | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    start = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    header = bytearray(srgb[:128])
    header[16:20], header[0:4] = space, struct.pack(">I", start + len(body))
    return bytes(header) + table + body  # fmt: skip


def test_a_profile_that_is_srgb_changes_nothing_in_16_bits():
    assert np.abs(icc.deep_to_srgb(DEEP, profile_file("sRGX")).astype(int) - DEEP).max() <= 24
    assert icc.deep_to_srgb(DEEP, icc.srgb_profile()) is DEEP
    notes: list[str] = []
    assert icc.array_to_srgb(DEEP, b"no profile", notes) is DEEP and "damaged" in notes[0]


@pytest.mark.parametrize("gamma", [1.8, 2.2])
@pytest.mark.parametrize("space", [b"RGB ", b"GRAY"])
def test_profiles_in_16_bits_agree_with_littlecms_in_8(gamma, space):
    profile = gamma_profile(gamma, space)
    eight = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    if space == b"GRAY":
        eight = np.repeat(eight[..., :1], 3, axis=2)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = Image.fromarray(eight[..., 0] if space == b"GRAY" else eight)
    expected = np.asarray(icc.to_srgb(image, opened).convert("RGB")).astype(int)
    got = icc.deep_to_srgb(eight.astype(np.uint16) * 257, profile) / 257
    assert np.abs(got - expected).max() <= 1.5
    exact = icc.decode_srgb(got / 255)
    assert np.abs(exact - (eight / 255) ** gamma).max() < 2e-3  # and by the formula


# ---- the finish in 16 bits


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    return rgb2lab(pixels / 65_535)[..., 0]  # the other implementation, in double precision


@pytest.mark.parametrize("reach", [0, 20, 60, 110])
@pytest.mark.parametrize("least, most", [(0, 65_536), (0, 3_000), (60_000, 65_536)])
def test_lightness_is_kept_to_a_twentieth_in_16_bits(reach, least, most):
    rng = np.random.default_rng(2)
    ab = rng.uniform(-reach, reach, (24, 24, 2)).astype(np.float32)
    for pixels in (
        rng.integers(least, most, (120, 130, 3), dtype=np.uint16),
        np.repeat(np.linspace(least, most - 1, 120 * 130).reshape(120, 130, 1), 3, 2).astype("u2"),
    ):
        joined = join_chroma(pixels, ab)
        assert joined.dtype == np.uint16
        assert np.abs(lightness_of(joined) - lightness_of(pixels)).max() <= 0.05


def test_8_and_16_bits_get_the_same_colours():
    eight = np.random.default_rng(3).integers(20, 230, (90, 80, 1), dtype=np.uint8).repeat(3, 2)
    ab = np.random.default_rng(4).uniform(-40, 40, (16, 16, 2)).astype(np.float32)
    shallow = rgb2lab(join_chroma(eight, ab))
    deep = rgb2lab(join_chroma(eight.astype(np.uint16) * 257, ab) / 65_535)
    assert np.linalg.norm(shallow - deep, axis=2).mean() < 0.5


@pytest.mark.parametrize("strip_pixels", [1, 700, 5_000])
def test_strips_leave_no_trace_in_16_bits(strip_pixels, monkeypatch):
    pixels = np.random.default_rng(5).integers(0, 65_536, (60, 50, 3), dtype=np.uint16)
    ab = np.random.default_rng(6).uniform(-90, 90, (12, 10, 2)).astype(np.float32)
    whole = join_chroma(pixels, ab)
    monkeypatch.setattr(color, "STRIP_PIXELS", strip_pixels)
    assert np.array_equal(join_chroma(pixels, ab), whole)
    profile = gamma_profile(1.8)
    wide = icc.deep_to_srgb(pixels, profile)
    monkeypatch.setattr(icc, "STRIP_PIXELS", strip_pixels)
    assert np.array_equal(icc.deep_to_srgb(pixels, profile), wide)


def test_without_chroma_grey_stays_untouched_in_16_bits():
    grey = np.repeat(np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1), 3, axis=2)
    assert np.array_equal(join_chroma(grey, np.zeros((8, 8, 2), np.float32)), grey)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_deep_file_is_coloured_into_a_deep_file(tiny_folder, suffix, tmp_path):
    from condiff.pipelines.pipeline import Pipeline

    rows = np.linspace(500, 65_000, 90 * 70).reshape(90, 70).astype(np.uint16)
    write_photo(Photo(np.dstack([rows] * 3)), tmp_path / f"a{suffix}")
    pipeline = Pipeline.from_pretrained(tiny_folder, device="cpu")
    photo = read_photo(tmp_path / f"a{suffix}")
    (result,) = pipeline(photo, steps=2, seed=3, size=32)
    write_photo(result, tmp_path / f"b{suffix}")
    written = read_photo(tmp_path / f"b{suffix}").pixels
    assert written.dtype == np.uint16 and np.ptp(written.astype(int), axis=2).max() > 300
    assert np.abs(lightness_of(written) - lightness_of(photo.pixels)).max() <= 0.05


def test_paths_and_streams_are_alike(tmp_path: Path):
    (tmp_path / "a").write_bytes(FILES["PNG RGB and alpha"][0])
    by_path = read_photo(tmp_path / "a")
    by_stream = read_photo(io.BytesIO(FILES["PNG RGB and alpha"][0]))
    assert np.array_equal(by_path.pixels, by_stream.pixels)
    assert by_path.size == (24, 16)
