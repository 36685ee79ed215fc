"""Valid files that readers often misread: each is read correctly or refused."""

import hashlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

import condiff
from condiff.errors import ImageError, install_command
from condiff.photos import png
from condiff.photos.formats import MAX_SIDE, find_format
from condiff.photos.metadata import EXTENDED_XMP, Metadata
from condiff.photos.photo import Photo
from condiff.photos.reading import read_photo
from condiff.photos.writing import default_target, losses, write_photo

from .conftest import make_photo

RAMP = np.tile(np.linspace(0, 1, 48), (32, 1))
GREY16 = (RAMP * 65_535).round().astype(np.uint16)
RGB16 = np.stack([GREY16, GREY16[:, ::-1], np.roll(GREY16, 16, axis=1)], axis=2)


def read(data: bytes, **options):
    return read_photo(io.BytesIO(data), **options)


def as_8_bits(photo) -> np.ndarray:
    unit = 257 if photo.pixels.dtype == np.uint16 else 1
    return photo.pixels.astype(float) / unit


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


def _with_noise(data: bytes) -> bytes:
    """A JPEG with a few wrong bytes in the middle of its pixels."""
    middle = data.index(b"\xff\xda") + (len(data) - data.index(b"\xff\xda")) // 2
    return data[:middle] + b"\x13\xff\xd9\x57" + data[middle + 4 :]


PHOTO8 = np.asarray(make_photo(160, 120))
BAD_EXIF = {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}
DAMAGED = {
    "a JPEG without its end": (lambda: jpeg(PHOTO8)[:-2], "lacks the last bytes"),
    "a JPEG with wrong bytes": (lambda: _with_noise(jpeg(PHOTO8)), "libjpeg: "),
    "a PNG without its end": (lambda: PNG8[:-12], "lacks the last bytes"),
    "a PNG with half an end": (lambda: PNG8[:-3], "lacks the last bytes"),
    "a broken profile": (lambda: jpeg(PHOTO8, icc_profile=b"no profile"), "profile is damaged"),
    "a broken EXIF block": (lambda: jpeg(PHOTO8, **BAD_EXIF), "EXIF is damaged"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
@pytest.mark.parametrize("name", DAMAGED)
def test_strict_reading_refuses_what_is_damaged_and_readable(name, capfd):
    make, says = DAMAGED[name]
    photo = read(make())
    assert photo.size == (160, 120)
    if "wrong bytes" not in name:  # only strict reading pays for the search
        assert any(says in warning for warning in photo.info["warnings"])
    with pytest.raises(ImageError, match=says) as raised:
        read(make(), strict=True)
    assert "without --strict" in str(raised.value)
    assert capfd.readouterr().err == ""


def test_strict_reading_takes_whole_photos():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (jpeg(PHOTO8), jpeg(PHOTO8, progressive=True, icc_profile=profile), PNG8):
        assert np.array_equal(read(data, strict=True).pixels, read(data).pixels)
    grey = jpeg(PHOTO8[..., 0]) + b"something behind"
    assert read(grey, strict=True).size == (160, 120)


@pytest.mark.parametrize("progressive", [False, True])
def test_how_much_of_a_cut_jpeg_is_missing_is_measured(progressive):
    photo = np.asarray(make_photo(320, 240))
    data = jpeg(photo, quality=95, progressive=progressive)
    whole = read(data).pixels.astype(int)
    cut = read(data[:-20])
    assert re.search(r"the last [\d.]+% of its pixels are missing", cut.info["warnings"][0])
    assert np.array_equal(cut.pixels[:200], whole[:200]) or progressive
    assert np.abs(cut.pixels[:200] - whole[:200]).mean() < 1
    for share in (0.5, 0.9):
        with pytest.raises(ImageError, match="cut short, and .* missing"):
            read(data[: int(len(data) * share)])


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


PNG8 = cv2.imencode(".png", PHOTO8)[1].tobytes()


# ---- profiles


def lab_grey_profile() -> bytes:
    """A grey ICC profile whose curve, a gamma of 1.4, gives L*."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(1.4 * 256)) + b"\0\0"
    white = struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"desc": name, b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": curve}
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"none", 0x02100000, b"mntr", b"GRAY", b"Lab "
    )
    head += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def png_with_profile(pixels: np.ndarray, profile: bytes) -> bytes:
    channels = 1 if pixels.ndim == 2 else 3
    encoded = cv2.imencode(".png", pixels if channels == 1 else pixels[..., ::-1])[1]
    file = io.BytesIO()
    png.write_with_chunks(encoded.data, [png.profile_chunk(profile)], file)
    return file.getvalue()


def test_a_grey_profile_over_lab_is_the_same_in_16_bits_as_littlecms_has_it_in_8():
    photo = read(png_with_profile(GREY16, lab_grey_profile()))
    opened = ImageCms.ImageCmsProfile(io.BytesIO(lab_grey_profile()))
    image = Image.fromarray((GREY16 / 257).round().astype(np.uint8))
    srgb = ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(image, opened, srgb, outputMode="RGB"))
    assert photo.is_deep and np.abs(as_8_bits(photo) - expected).max() <= 1.5


@pytest.mark.parametrize("deep", [False, True])
def test_a_grey_profile_says_nothing_of_rgb(deep, capfd):
    pixels = RGB16 if deep else (RGB16 >> 8).astype(np.uint8)
    photo = read(png_with_profile(pixels, lab_grey_profile()))
    assert np.array_equal(photo.pixels, pixels)
    assert "other channels" in photo.info["warnings"][0]
    assert capfd.readouterr() == ("", "")  # libpng would print warnings


def test_gamma_and_chromaticities_of_a_png_are_those_of_the_profile():
    """PNG's gAMA and cHRM of Adobe RGB, against its published matrix over linear light."""
    points = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    chunks = [(b"gAMA", struct.pack(">I", round(100_000 / 2.2))),
              (b"cHRM", struct.pack(">8I", *(round(p * 100_000) for p in points)))]  # fmt: skip
    file = io.BytesIO()
    png.write_with_chunks(cv2.imencode(".png", RGB16[..., ::-1])[1].data, chunks, file)
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    to_srgb = [
        [3.24045, -1.53714, -0.49853],
        [-0.96927, 1.87601, 0.04156],
        [0.05564, -0.20403, 1.05723],
    ]
    light = np.clip((RGB16 / 65_535) ** 2.2 @ np.array(to_xyz).T @ np.array(to_srgb).T, 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(as_8_bits(read(file.getvalue())) - srgb * 255).max() <= 0.7


def test_a_gamma_of_srgb_and_a_damaged_one_change_nothing():
    for gamma in (45_455, 0, 5):
        file = io.BytesIO()
        chunk = (b"gAMA", struct.pack(">I", gamma))
        png.write_with_chunks(cv2.imencode(".png", RGB16[..., ::-1])[1].data, [chunk], file)
        assert np.array_equal(read(file.getvalue()).pixels, RGB16)


@pytest.mark.parametrize("kind", [0, 4, 6])  # grey, colours, colours and alpha
def test_damage_of_a_deep_png_is_found_before_libpng_writes_of_it(kind, capfd):
    pixels = {0: GREY16, 4: RGB16, 6: np.dstack([RGB16, GREY16])}[kind]
    data = bytearray(cv2.imencode(".png", pixels)[1].tobytes())
    for at in range(50, len(data) - 12, len(data) // 20):  # the end of the file follows
        broken = bytes(data[:at]) + bytes([data[at] ^ 16]) + bytes(data[at + 1 :])
        with pytest.raises(ImageError, match="damaged|cut short"):
            read(broken)
    assert capfd.readouterr().err == ""


def deep_png(pixels: bytes, *, width: int = 48, height: int = 32, kind: int = 2) -> bytes:
    """A PNG of 16 bits with valid checksums for any compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


def rows_of(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)


ROWS = rows_of(RGB16)
WRONG = {
    "half": zlib.compress(ROWS)[: len(zlib.compress(ROWS)) // 2],
    "no end": zlib.compress(ROWS)[:-4],
    "a wrong sum": zlib.compress(ROWS)[:-1] + b"\x55",
    "fewer rows": zlib.compress(ROWS[:-500]),
    "an unknown filter": zlib.compress(b"\x09" + ROWS[1:]),
    "an unknown filter at the end": zlib.compress(ROWS[:-289] + b"\x09" + ROWS[-288:]),
    "no pixels": b"",
    "no deflate": bytes(range(250)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_deep_png_whose_pixels_are_incomplete_is_refused_without_a_remark(name, capfd):
    assert np.array_equal(read(deep_png(zlib.compress(ROWS))).pixels, RGB16)
    with pytest.raises(ImageError, match="damaged or cut short"):
        read(deep_png(WRONG[name]))
    assert capfd.readouterr().err == ""


def test_opencvs_messages_are_on_again_after_deep_pngs_are_read_in_threads():
    logging = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging  # in OpenCV 4, in 5
    pixels = np.tile(RGB16, (8, 8, 1))
    data = deep_png(zlib.compress(rows_of(pixels), 1), width=8 * 48, height=8 * 32)
    before = logging.setLogLevel(3)
    try:
        with ThreadPoolExecutor(6) as pool:
            for _ in range(20):
                photos = list(pool.map(read, [data] * 6))
                assert all(np.array_equal(photo.pixels, pixels) for photo in photos)
                assert logging.getLogLevel() == 3
    finally:
        logging.setLogLevel(before)


@pytest.mark.parametrize("more", [zlib.compress(ROWS + ROWS), zlib.compress(ROWS) + b"more"])
def test_a_deep_png_with_too_much_data_is_taken_with_a_warning(more, capfd):
    photo = read(deep_png(more))
    assert np.array_equal(photo.pixels, RGB16) and "libpng" in photo.info["warnings"][0]
    with pytest.raises(ImageError, match="without --strict"):
        read(deep_png(more), strict=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lacking", [3, 12, 16])  # of the end, of all of it, and of a checksum
def test_a_png_that_lacks_no_pixel_is_taken_at_any_depth(lacking, capfd):
    for pixels in (RGB16, (RGB16 >> 8).astype(np.uint8)):
        data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        cut = read(data[:-lacking])
        assert np.array_equal(cut.pixels, pixels)
        assert cut.info["warnings"] == ("its file lacks the last bytes; no pixel is missing",)
        with pytest.raises(ImageError, match="cut short"):
            read(data[:-30])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_a_level_of_its_own_bits(bits):
    levels = np.rint(RAMP * ((1 << bits) - 1)).astype(np.uint8)
    key = int(levels[0, 30])
    flat = (levels[..., None] >> np.arange(bits)[::-1] & 1).reshape(len(levels), -1)
    rows = np.pad(np.packbits(flat, axis=1), ((0, 0), (1, 0)))
    chunks = [
        png._chunk(b"IHDR", struct.pack(">2I5B", 48, 32, bits, 0, 0, 0, 0)),
        png._chunk(b"tRNS", struct.pack(">H", key)),
        png._chunk(b"IDAT", zlib.compress(rows.tobytes())),
    ]
    photo = read(png.SIGNATURE + b"".join(chunks) + png.END)
    assert np.array_equal(photo.alpha == 0, levels == key) and set(np.unique(photo.alpha)) == {
        0,
        255,
    }


def test_a_closed_stderr_does_not_cost_a_photo(tmp_path):
    (tmp_path / "a.png").write_bytes(deep_png(zlib.compress(ROWS)))
    program = "import os, sys, condiff; os.close(2); print(condiff.read_photo(sys.argv[1]).size)"
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "(48, 32)\n"


def test_the_frames_of_a_deep_apng():
    deep = [deep_png(zlib.compress(ROWS)), deep_png(zlib.compress(rows_of(RGB16[:, ::-1])))]
    first, second = (png.read_chunks(io.BytesIO(d), {b"IDAT"})[0][1] for d in deep)
    control = struct.pack(">IIIIIHHBB", 0, 48, 32, 0, 0, 1, 10, 0, 0)
    chunks = [
        (b"acTL", struct.pack(">II", 2, 0)), (b"fcTL", control), (b"IDAT", first),
        (b"fcTL", struct.pack(">I", 1) + control[4:]), (b"fdAT", struct.pack(">I", 2) + second),
        (b"IEND", b""),
    ]  # fmt: skip
    data = deep[0][:33] + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )
    assert np.array_equal(read(data, page=1).pixels, RGB16)
    turned = as_8_bits(read(data, page=2))
    assert np.abs(turned - RGB16[:, ::-1] / 257).max() <= 1


# ---- what lies beside the pixels

GAIN_MAP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    ' xmlns:C="http://ns.google.com/photos/1.0/container/"'
    ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="kept"><C:Directory><rdf:Seq>'
    '<rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="Primary"/></rdf:li>'
    '<rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="{}"/></rdf:li>'
    "</rdf:Seq></C:Directory></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize(
    ("semantic", "name"), [("GainMap", "HDR gain map"), ("MotionPhoto", "motion video")]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_nothing_is_promised_that_the_result_has_not(semantic, name, format):
    packet = GAIN_MAP.format(semantic).encode()
    if format == "JPEG":
        source = jpeg(np.asarray(make_photo(40, 30)), xmp=packet)
    else:
        file = io.BytesIO()
        write_photo(Photo(RGB16, None, Metadata(xmp=packet)), file, format=format)
        source = file.getvalue()
    photo = read(source + b"\xff\xd8 behind it")
    assert f"its {name} is not kept" in photo.info["warnings"]
    left = photo.metadata.xmp
    assert b"kept" in left and not any(w in left for w in (b"hdrgm:V", b"Directory", b"Item:Sem"))


def test_a_video_behind_a_jpeg_is_told_of_without_xmp():
    data = jpeg(np.asarray(make_photo(40, 30))) + bytes(40) + b"\0\0\0\x18ftypmp42" + bytes(300)
    assert read(data).info["warnings"] == ("its motion video is not kept",)


def extended_jpeg(packet: bytes, name: str) -> bytes:
    note = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
        ' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" rdf:about=""'
        f' xmpNote:HasExtendedXMP="{name}"/></rdf:RDF>'
    )
    plain = jpeg(np.asarray(make_photo(40, 30)), xmp=note.encode())
    pieces = [packet[at : at + 60_000] for at in range(0, len(packet), 60_000)]
    segments = b""
    for number, piece in reversed(list(enumerate(pieces))):  # any order is allowed
        body = (
            EXTENDED_XMP + name.encode() + struct.pack(">II", len(packet), number * 60_000) + piece
        )
        segments += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    at = plain.index(b"\xff\xdb")
    return plain[:at] + segments + plain[at:]


def test_extended_xmp_is_kept_whole_or_its_name_is_dropped(tmp_path):
    packet = b"<x>" + bytes(range(33, 60)) * 6_000 + b"</x>"
    name = hashlib.md5(packet).hexdigest().upper()
    photo = read(extended_jpeg(packet, name))
    assert photo.metadata.extended_xmp == packet and "warnings" not in photo.info
    write_photo(photo, tmp_path / "a.jpg")
    again = read((tmp_path / "a.jpg").read_bytes())
    assert again.metadata.extended_xmp == packet and name.encode() in again.metadata.xmp
    assert "extended XMP" in losses(photo, "png") and "extended XMP" not in losses(photo, "jpg")
    write_photo(photo, tmp_path / "a.png")
    assert b"HasExtendedXMP" not in (tmp_path / "a.png").read_bytes()
    broken = read(extended_jpeg(packet[:-1], name))
    assert (
        b"HasExtendedXMP" not in broken.metadata.xmp and "incomplete" in broken.info["warnings"][0]
    )


# ---- formats that need a decoder


def test_a_jpeg_of_12_bits_is_read_or_named(monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    data = imagecodecs.jpeg_encode(RGB16 >> 4, bitspersample=12, level=98)
    photo = read(data)
    assert photo.is_deep and np.abs(as_8_bits(photo) - (RGB16 >> 8)).mean() < 2
    grey = imagecodecs.ljpeg_encode((GREY16 >> 8).astype(np.uint8))
    assert np.array_equal(read(grey).pixels[..., 0], GREY16 >> 8)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match="it is JPEG 12-bit, which needs imagecodecs: pip"):
        read(data)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "grey"])
def test_jpeg_xl_and_jpeg_2000_of_16_bits_are_read_in_full_depth(kind, capfd):
    imagecodecs = pytest.importorskip("imagecodecs")
    alpha = kind == "RGBA"
    given = GREY16 if kind == "grey" else np.dstack([RGB16, GREY16]) if alpha else RGB16
    light = given / 65_535
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    if alpha:
        encoded[..., 3] = light[..., 3]
    files = {
        # imagecodecs marks what it writes of 16 bits as linear light
        "JXL": (imagecodecs.jpegxl_encode(given, lossless=True), encoded * 65_535),
        "JPEG2000": (imagecodecs.jpeg2k_encode(given, level=0), given),
        "12 bits": (imagecodecs.jpeg2k_encode(given >> 4, level=0, bitspersample=12), given),
    }
    for name, (data, expected) in files.items():
        if name == "JXL":
            pytest.importorskip("pillow_jxl")
        photo = read(data)
        expected = np.dstack([expected] * 3) if kind == "grey" else expected
        assert photo.is_deep and (photo.alpha is not None) == alpha, name
        close = {"JPEG2000": 0, "12 bits": 16, "JXL": 40}[name]  # of 65,535
        assert np.abs(photo.pixels.astype(float) - expected[..., :3]).max() <= close, name
        if alpha:
            assert np.abs(photo.alpha.astype(float) - expected[..., 3]).max() <= close, name
    assert capfd.readouterr().err == ""


def test_damaged_files_of_known_formats_are_not_called_unknown():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PHOTO8)).save(file)
    avif = io.BytesIO()
    Image.fromarray(PHOTO8).save(avif, "AVIF")
    for data, name in ((file, "a HEIC"), (avif, "an AVIF")):
        whole = data.getvalue()
        with pytest.raises(ImageError, match="damaged or cut short"):
            read(whole[: len(whole) // 2])
        with pytest.raises(ImageError, match=f"it is {name}, but damaged or cut short"):
            read(whole[:40])


def test_floats_that_resizing_left_beyond_white_keep_their_tones():
    tifffile = pytest.importorskip("tifffile")
    values = (RAMP * 0.8 + 0.1).astype("f4")
    values[0, :4] = 1.3, -0.2, 2.0, 1.01
    file = io.BytesIO()
    tifffile.imwrite(file, values)
    got = read(file.getvalue()).pixels[..., 0] / 65_535
    assert np.abs(got - values.clip(0, 1)).max() < 1e-4


@pytest.mark.parametrize("white", [255, 65_535])
def test_floats_that_count_levels_keep_their_tones(white):
    tifffile = pytest.importorskip("tifffile")
    values = ((RAMP * 0.7 + 0.2) * white).astype("f4")
    file = io.BytesIO()
    tifffile.imwrite(file, values)
    got = read(file.getvalue()).pixels[..., 0] / 65_535
    assert np.abs(got - values / white).max() < 1e-4


def test_jpeg_xl_is_read_or_named(monkeypatch):
    imagecodecs, _ = (pytest.importorskip(name) for name in ("imagecodecs", "pillow_jxl"))
    pixels = (RGB16 >> 8).astype(np.uint8)
    for shape in (pixels, np.ascontiguousarray(pixels[:24, :24]), np.tile(pixels, (40, 30, 1))):
        data = imagecodecs.jpegxl_encode(shape, lossless=True)
        assert np.array_equal(read(data).pixels, shape)
        with pytest.raises(ImageError, match=f"--max-pixels {shape.shape[0] * shape.shape[1]}"):
            read(data, max_pixels=100)  # by its header
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(ImageError, match="it is JPEG XL, which needs a decoder; pip install"):
        read(data)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_merged_picture_of_a_psd_or_psb(version, packed, bits):
    pixels = RGB16 if bits == 16 else (RGB16 >> 8).astype(np.uint8)
    rows = np.moveaxis(pixels, 2, 0).astype(f">u{bits // 8}").reshape(3 * 32, 48)
    lines = [row.tobytes() for row in rows]
    body = b"".join(lines)
    if packed:
        lines = [bytes([len(line) - 1]) + line for line in lines]
        counts = struct.pack(f">{len(lines)}{'H' if version == 1 else 'I'}", *map(len, lines))
        body = counts + b"".join(lines)
    head = b"8BPS" + struct.pack(">H6xHIIHH", version, 3, 32, 48, bits, 3)
    data = head + bytes(4 + 4 + 4 * version) + bytes([0, packed]) + body
    assert np.array_equal(read(data).pixels, pixels)
    with pytest.raises(ImageError):
        read(data[:-9])
    version_info = b"8BIM" + struct.pack(">HHI", 1057, 0, 6) + b"\0\0\0\1\0\0"
    unmerged = head + bytes(4) + struct.pack(">I", len(version_info)) + version_info
    with pytest.raises(ImageError, match="Maximize Compatibility"):
        read(unmerged + bytes(4 * version) + bytes([0, packed]) + body)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("block", [b"Mt16", b"Lr16", b"none"])
def test_a_deep_psd_has_its_transparency_behind_an_empty_list_of_layers(version, block):
    pixels = np.dstack([RGB16, GREY16])
    body = np.moveaxis(pixels, 2, 0).astype(">u2").tobytes()
    size = ">I" if version == 1 else ">Q"

    def blocks(*named):
        content = [(b"8BIM" + key + struct.pack(size, len(data)), data) for key, data in named]
        return b"".join(head + data + bytes(-len(data) % 4) for head, data in content)

    other = (b"LMsk", b"abcde") if version == 2 else (b"Patt", b"abcde")
    own = {b"Mt16": [(b"Mt16", b"")], b"Lr16": [(b"Lr16", struct.pack(">h", -1))], b"none": []}
    section = bytes(struct.calcsize(size) + 4) + blocks(other, *own[block])
    head = b"8BPS" + struct.pack(">H6xHIIHH", version, 4, 32, 48, 16, 3)
    photo = read(head + bytes(8) + struct.pack(size, len(section)) + section + bytes(2) + body)
    assert np.array_equal(photo.pixels, RGB16)
    if block == b"none":
        assert photo.alpha is None
    else:
        assert np.array_equal(photo.alpha, GREY16) and "warnings" not in photo.info


def test_channels_that_are_left_out_take_no_memory():
    """24 channels of a TIFF and 20 of a PSD that no photo has."""
    many = np.dstack([RGB16, *[GREY16] * 21])
    for planar in (1, 2):
        file = io.BytesIO()
        stack = np.moveaxis(many, 2, 0) if planar == 2 else many
        tifffile.imwrite(file, stack, photometric="rgb", planarconfig=planar, extrasamples=[0] * 21)
        assert np.array_equal(read(file.getvalue()).pixels, RGB16)
    body = np.moveaxis(many[..., :20], 2, 0).astype(">u2").tobytes()
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 20, 32, 48, 16, 3)
    data = head + bytes(12) + bytes(2) + body
    assert np.array_equal(read(data[: -16 * 32 * 48 * 2]).pixels, RGB16)  # only three are read


def test_the_colours_that_a_png_declares_by_code_points():
    """cICP with Display P3 gives what cHRM with its primaries and sRGB's curve gives."""
    pixels = (RGB16 >> 8).astype(np.uint8)

    def declared(kind, content):
        info = PngImagePlugin.PngInfo()
        info.add(kind, content)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
        return read(file.getvalue())

    assert np.array_equal(declared(b"cICP", bytes([1, 13, 0, 1])).pixels, pixels)
    p3 = as_8_bits(declared(b"cICP", bytes([12, 13, 0, 1])))
    assert np.abs(p3 - pixels).max() > 20
    points = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (45_455).to_bytes(4, "big"))
    info.add(b"cHRM", struct.pack(">8I", *points))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
    assert np.abs(p3 - as_8_bits(read(file.getvalue()))).mean() < 2  # gAMA is not quite the curve


def test_a_thumbnail_in_the_exif_is_no_further_picture():
    small = io.BytesIO()
    make_photo(16, 12).save(small, "JPEG")
    exif = b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 0) + small.getvalue()
    resource = b"8BIM" + struct.pack(">HHI", 1036, 0, 28 + len(small.getvalue())) + bytes(28)
    resource += small.getvalue() + bytes(len(small.getvalue()) % 2)
    whole = io.BytesIO()
    make_photo(64, 48).save(whole, "JPEG", exif=exif)
    data = whole.getvalue()
    at = data.index(b"\xff\xdb", data.index(b"\xff\xe1") + len(exif))
    segment = b"Photoshop 3.0\0" + resource
    data = data[:at] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[at:]
    assert "warnings" not in read(data).info


@pytest.mark.skipif(not shutil.which("convert"), reason="needs ImageMagick")
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_psd_files_of_imagemagick(mode, tmp_path):
    make_photo(40, 30).convert("RGB").convert(mode).save(tmp_path / "a.tif")
    subprocess.run(["convert", "a.tif", "a.psd"], cwd=tmp_path, check=True, timeout=60)
    expected = read_photo(tmp_path / "a.tif").pixels.astype(int)
    assert np.abs(read_photo(tmp_path / "a.psd").pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("start", "name"), [(b"\x76\x2f\x31\x01", "OpenEXR"), (b"<svg xmlns=", "an SVG drawing")]
)
def test_formats_that_are_not_read_are_named(start, name):
    with pytest.raises(ImageError, match=name):
        read(start + bytes(200))


# ---- writing


@pytest.mark.parametrize(
    ("format", "side"), [("avif", 32_769), ("webp", 16_384), ("jpg", 65_501), ("png", 1_000_001)]
)
def test_a_side_that_an_encoder_does_not_take_is_a_sentence(format, side, tmp_path):
    photo = Photo(np.zeros((2, side, 3), np.uint8))
    limit = rf"at most {MAX_SIDE[find_format(format)]:,} pixels a side.*use (\S+)( or \S+)?$"
    with pytest.raises(ImageError, match=limit) as raised:
        write_photo(photo, tmp_path / f"a.{format}")
    assert not list(tmp_path.iterdir())
    other = tmp_path / f"a{re.search(limit, str(raised.value))[1]}"
    write_photo(photo, other)
    assert np.array_equal(read_photo(other).pixels, photo.pixels)


def test_names_of_255_bytes(tmp_path):
    name = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 125 + "a.jpg"
    assert len(name.encode()) == 255
    write_photo(Photo(RGB16), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    target = default_target(tmp_path / name, "color")
    assert len(target.name.encode()) <= 255 and target.name.endswith(".color.jpg")
    write_photo(Photo(RGB16), target)


def test_a_jfif_stays_a_jpeg(tmp_path):
    target = default_target(tmp_path / "a.jfif", "color")
    write_photo(Photo(RGB16), target)
    assert target.name == "a.color.jfif" and target.read_bytes().startswith(b"\xff\xd8")


def test_the_command_for_an_extra_is_one_that_works():
    assert install_command("raw") == f"pip install -e '{Path(condiff.__file__).parents[1]}[raw]'"


@pytest.mark.slow
def test_mutated_files_neither_crash_nor_hang_nor_print():
    program = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    environment = {**os.environ, "PYTHONPATH": str(program.parents[1])}
    done = subprocess.run([sys.executable, str(program), "--count", "310"], env=environment,
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout
    counts = re.search(r"310 mutations.*'refused': (\d+)", done.stdout)
    assert counts and int(counts[1]) > 50, done.stdout
