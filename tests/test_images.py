"""Photo files: reading, refusals and their messages, and files left on the disk."""

import errno
import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from condiff.errors import ImageError
from condiff.files import publish
from condiff.photos.reading import list_images, read_image
from condiff.photos.writing import check_target, default_target, write_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GRAY = Image.fromarray(RAMP)
ORIENTATION = 0x0112


def photo(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth, asymmetric colour picture, which lossy formats keep closely."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    pixels = np.stack([red, green, (red + green) / 2], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def read_back(image: Image.Image, format: str, **options: object) -> np.ndarray:
    return np.asarray(read_image(encoded(image, format, **options))).astype(int)


def refusal(source: Path | io.BytesIO, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message and ";" in message, "one sentence, with a way out"
    return message


# ---- reading


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "JPEG2000", "PPM", "TGA"]
)
def test_formats_are_read_from_files_and_streams(format, tmp_path):
    data = encoded(photo(), format).getvalue()
    (tmp_path / "photo").write_bytes(data)  # the content counts, not the name
    for image in (read_image(tmp_path / "photo"), read_image(io.BytesIO(data))):
        assert image.mode == "RGB" and image.size == (24, 16)
        assert image.info["format"] == format
        error = np.abs(np.asarray(image).astype(int) - np.asarray(photo()).astype(int))
        assert error.mean() < (12 if format == "GIF" else 4)


def test_pipes_are_read_by_path_and_by_stream(tmp_path):
    data = encoded(photo(), "PNG").getvalue()
    for by_path in (True, False):
        out, into = os.pipe()
        os.write(into, data)
        os.close(into)
        with open(out, "rb") as pipe:
            image = read_image(Path(f"/dev/fd/{out}") if by_path else pipe)
        assert np.array_equal(np.asarray(image), np.asarray(photo()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_photos_are_upright(format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "a description"
    file = encoded(photo(), format, exif=exif)
    with Image.open(file) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    file.seek(0)
    image = read_image(file)
    assert image.size == ((16, 24) if orientation > 4 else (24, 16))
    assert np.array_equal(np.asarray(image), expected)
    if format in ("JPEG", "PNG", "WEBP"):
        kept = Image.Exif()
        kept.load(image.info["exif"])
        assert kept[ORIENTATION] == 1 and kept[0x010E] == "a description"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow warns and continues
def test_broken_exif_does_not_cost_the_photo():
    file = encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert read_image(file).size == (24, 16)


@pytest.mark.parametrize(
    ("format", "dtype", "mode"),
    [
        ("PNG", "<u2", "I;16"),
        ("TIFF", "<u2", "I;16"),
        ("TIFF", ">u2", "I;16B"),
        ("PPM", "<u2", "I"),
    ],
)
def test_16_bit_gray_keeps_its_tones(format, dtype, mode):
    deep = encoded(Image.fromarray((RAMP.astype(np.uint16) * 257).astype(dtype)), format)
    assert Image.open(deep).mode == mode
    deep.seek(0)
    assert np.array_equal(np.asarray(read_image(deep))[..., 1], RAMP)
    dark = Image.fromarray((RAMP.astype(np.uint16) * 64).astype(dtype))  # not stretched to white
    assert read_back(dark, format).max() == round(255 * 64 / 257)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP.astype(np.float32) / 255, RAMP),
        (RAMP.astype(np.float32) * 3 - 100, RAMP),
        (RAMP.astype(np.int32) * 257, RAMP),
        (RAMP.astype(np.int32) * 100_000 - 7, RAMP),
        (np.full((16, 16), 9, np.float32), np.zeros((16, 16))),
    ],
)
def test_float_and_integer_tiffs_are_scaled_by_their_range(values, expected):
    assert np.array_equal(read_back(Image.fromarray(values), "TIFF")[..., 0], expected)


def test_every_colour_mode_becomes_rgb():
    source = photo()
    for mode, format, tolerance in [
        ("1", "PNG", 0), ("L", "JPEG", 3), ("P", "PNG", 0), ("CMYK", "JPEG", 12),
        ("CMYK", "TIFF", 0), ("YCbCr", "TIFF", 0),
    ]:  # fmt: skip
        converted = source.quantize(8) if mode == "P" else source.convert(mode)
        expected = np.asarray(converted.convert("RGB")).astype(int)
        got = read_back(converted, format, **({"quality": 95} if format == "JPEG" else {}))
        assert got.shape == (16, 24, 3)
        assert np.abs(got - expected).max() <= tolerance, (mode, format)


def test_lab_tiff_is_converted():
    neutral = Image.new("L", (16, 16), 128)
    got = read_back(Image.merge("LAB", [GRAY, neutral, neutral]), "TIFF")
    expected = np.asarray(GRAY.convert("RGB"))
    assert got.shape == (16, 16, 3)
    assert np.ptp(got, axis=2).max() <= 2 and np.abs(got - expected).max() < 25


@pytest.mark.parametrize(
    ("image", "format", "options"),
    [
        (Image.merge("RGBA", [GRAY] * 4), "PNG", {}),
        (Image.merge("RGBA", [GRAY] * 4), "WEBP", {"lossless": True, "exact": True}),
        (Image.merge("LA", [GRAY, GRAY]), "PNG", {}),
        (Image.merge("LA", [GRAY, GRAY]), "TIFF", {}),
    ],
)
def test_alpha_is_kept_and_colours_under_it_too(image, format, options):
    assert np.array_equal(read_back(image, format, **options), np.dstack([RAMP] * 4))


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (GRAY, {"transparency": 0}),
        (GRAY.convert("RGB"), {"transparency": (0, 0, 0)}),
        (GRAY.convert("P"), {"transparency": 0}),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), {"transparency": 0}),
        (GRAY.point(lambda level: 255 * (level > 0), "1"), {"transparency": 0}),
        (GRAY.convert("P"), {"transparency": bytes([0, *[255] * 255])}),
    ],
)
def test_png_transparency_without_alpha_channel(image, options):
    alpha = read_back(image, "PNG", **options)[..., 3]
    assert np.array_equal(alpha, np.where(RAMP == 0, 0, 255))


def test_gif_gives_its_first_frame():
    frames = [Image.new("P", (9, 7), index) for index in (3, 5)]
    for frame in frames:
        frame.putpalette(list(range(30)))
    got = read_back(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert got.shape == (7, 9, 3) and np.array_equal(got[0, 0], [9, 10, 11])


def test_embedded_profile_is_converted_to_srgb():
    """A profile with red and blue swapped differs from sRGB only when applied."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = {tag: srgb.index(tag) for tag in (b"rXYZ", b"bXYZ")}
    swapped = srgb.replace(b"sRGB", b"swap").replace("sRGB".encode("utf-16-be"), b"\0s\0w\0a\0p")
    swapped = bytearray(swapped)
    swapped[at[b"rXYZ"] : at[b"rXYZ"] + 4], swapped[at[b"bXYZ"] : at[b"bXYZ"] + 4] = (
        b"bXYZ",
        b"rXYZ",
    )
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    image = read_image(encoded(red, "PNG", icc_profile=bytes(swapped)))
    r, g, b = np.asarray(image)[0, 0].astype(int)
    assert b > 250 and r < 5 and g < 5
    assert "icc_profile" not in image.info
    assert np.array_equal(read_back(red, "PNG", icc_profile=srgb)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("profile", [b"not a profile", bytes(200)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_broken_profile_is_ignored(profile, mode):
    format = "TIFF" if mode == "CMYK" else "PNG"
    plain = photo().convert(mode)
    assert np.array_equal(read_back(plain, format, icc_profile=profile), read_back(plain, format))


def test_profile_of_another_mode_is_ignored():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(read_back(photo(), "PNG", icc_profile=lab), np.asarray(photo()))


def test_resolution_is_kept_only_where_the_file_states_one():
    dpi = read_image(encoded(photo(), "PNG", dpi=(300, 300))).info["dpi"]
    assert dpi == pytest.approx((300, 300), abs=0.1)
    assert "dpi" not in read_image(encoded(photo(), "TIFF")).info


# ---- what cannot be read


def test_refusals_name_the_file_the_reason_and_a_way_out(tmp_path):
    empty, text = tmp_path / "empty.png", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("a letter, not a photo")
    assert refusal(tmp_path / "no.jpg").startswith(
        f"cannot read {tmp_path / 'no.jpg'}: there is no"
    )
    assert "it is a folder" in refusal(tmp_path)
    assert "empty.png: it is empty" in refusal(empty)
    assert "text.jpg: it is not a photo in a known format" in refusal(text)
    assert refusal(io.BytesIO()).startswith("cannot read the file that was given: it is empty")
    with open(empty, "rb") as opened:
        assert "empty.png: it is empty" in refusal(opened)
    assert "check the path" in refusal(tmp_path / ("x" * 300))
    assert "check the path" in refusal(Path("a\0b.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_to_read(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "no permission" in refusal(tmp_path / "a.png")


def png_header(width: int, height: int) -> io.BytesIO:
    """A PNG that declares a size but contains no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\4IDAT")


def test_too_many_pixels_are_refused_from_the_header():
    before = Image.MAX_IMAGE_PIXELS
    message = refusal(png_header(60_000, 60_000))
    assert "3600 megapixels" in message and "limit of 200" in message
    assert "limit of 0.0003;" in refusal(encoded(photo(), "PNG"), max_pixels=300)
    assert read_image(encoded(photo(), "PNG"), max_pixels=24 * 16).size == (24, 16)
    assert before == Image.MAX_IMAGE_PIXELS


def test_limits_above_pillows_own_are_honoured():
    """Pillow by itself warns from 90 and refuses from 179 megapixels."""
    bits = Image.new("1", (20_000, 9_500))
    assert "190 megapixels" in refusal(encoded(bits, "PNG"), max_pixels=1_000_000)
    message = refusal(png_header(20_000, 9_500))
    assert "cut short" in message, "within our limit, so only its missing pixels are at fault"


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_images_without_pixels_are_refused(size):
    refusal(png_header(*size))
    refusal(io.BytesIO(b"P6 %d %d 255\n" % size))
    refusal(
        io.BytesIO(b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, *size, 1, 24, *[0] * 6))
    )


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "JPEG2000", "PPM", "TGA"]
)
def test_half_a_photo_is_never_accepted(format):
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format).getvalue()
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        refusal(io.BytesIO(data[: int(len(data) * part)]))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "PPM"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damage_is_an_image_error_or_a_photo_never_a_crash(format, damage):
    data = bytearray(encoded(photo(), format).getvalue())
    for position, byte in damage:
        data[position % len(data)] = byte
    try:
        image = read_image(io.BytesIO(data), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode in ("RGB", "RGBA") and min(image.size) > 0


# ---- writing


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif", ".bmp", ".PNG"])
def test_written_photos_read_back(suffix, tmp_path):
    target = tmp_path / f"photo{suffix}"
    for image in (photo(), photo().convert("L"), photo().quantize(16), photo().convert("1")):
        write_image(image, target, force=True)
        error = np.abs(
            np.asarray(read_image(target)).astype(int) - np.asarray(image.convert("RGB"))
        )
        assert error.mean() < (10 if suffix in (".avif", ".jpg", ".webp") else 1e-9)
        assert os.listdir(tmp_path) == [target.name]


def test_jpeg_keeps_full_colour_resolution(tmp_path):
    write_image(photo(), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}
        assert max(max(table) for table in image.quantization.values()) <= 15  # quality 95


def test_streams_get_png_or_the_named_format():
    for format, expected in [(None, "PNG"), ("jpg", "JPEG"), ("WEBP", "WEBP"), ("tiff", "TIFF")]:
        file = io.BytesIO()
        write_image(photo(), file, format=format)
        assert Image.open(io.BytesIO(file.getvalue())).format == expected
    with pytest.raises(ImageError, match="cannot write the file that was given: .*POTATO"):
        write_image(photo(), io.BytesIO(), format="potato")


def test_closed_pipe_is_an_image_error():
    out, into = os.pipe()
    os.close(out)
    with (
        pytest.raises(ImageError, match="the file that was given: Broken pipe"),
        open(into, "wb", 0) as pipe,
    ):
        write_image(photo(), pipe)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_exif_and_resolution_travel(suffix, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x0110] = "a camera"
    image = read_image(encoded(photo(), "JPEG", exif=exif, dpi=(240, 240)))
    write_image(image, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as written:
        assert written.size == (16, 24)
        assert written.getexif()[0x0110] == "a camera"
        assert written.getexif().get(ORIENTATION, 1) == 1
        if suffix in (".jpg", ".png", ".tif"):
            assert written.info["dpi"] == pytest.approx((240, 240), abs=0.1)


def test_exif_too_long_for_jpeg_is_left_out(tmp_path):
    image = photo()
    image.info["exif"] = b"Exif\0\0" + bytes(70_000)
    write_image(image, tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").size == (24, 16)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".ppm"])
def test_transparency_is_never_dropped_silently(suffix, tmp_path):
    image = photo().convert("RGBA")
    write_image(image, tmp_path / f"opaque{suffix}")
    image.putpixel((0, 0), (0, 0, 0, 254))
    with pytest.raises(ImageError, match="PNG or WebP"):
        write_image(image, tmp_path / f"glass{suffix}")
    assert os.listdir(tmp_path) == [f"opaque{suffix}"]


def test_nothing_is_overwritten_without_force(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"precious")
    for attempt in (lambda: check_target(target), lambda: write_image(photo(), target)):
        with pytest.raises(ImageError, match=r"a\.png: it already exists; use --force"):
            attempt()
    assert target.read_bytes() == b"precious"
    check_target(target, force=True)
    write_image(photo(), target, force=True)
    assert read_image(target).size == (24, 16)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_file_that_appears_while_writing_survives(tmp_path):
    target = tmp_path / "a.png"
    with pytest.raises(FileExistsError), publish(target, force=False) as file:
        file.write(b"late")
        target.write_bytes(b"first")
    assert target.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_folders_without_hard_links(number, tmp_path, monkeypatch):
    def no_links(*_: object) -> None:  # as on FAT, which cannot be mounted here
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    write_image(photo(), tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (24, 16)
    with pytest.raises(FileExistsError), publish(tmp_path / "b.png", False) as file:
        file.write(b"late")
        (tmp_path / "b.png").write_bytes(b"first")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]
    assert (tmp_path / "b.png").read_bytes() == b"first"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "wide.webp"
    target.write_bytes(b"old")
    with pytest.raises(ImageError, match=r"cannot write .*wide\.webp"):
        write_image(Image.new("RGB", (16_400, 1)), target, force=True)  # WebP's limit is 16383
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["wide.webp"]


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "ppm", "jp2", "webp", "avif", "png", "tif"])
def test_a_full_disk_leaves_no_half_photo(suffix, tmp_path):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    photo = Image.fromarray(noise)
    write_image(photo, tmp_path / f"whole.{suffix}")
    size = (tmp_path / f"whole.{suffix}").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))  # as a disk that is full
    try:
        with pytest.raises(ImageError, match=f"cannot write .*half.{suffix}: File too large"):
            write_image(photo, tmp_path / f"half.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [f"whole.{suffix}"]


def test_targets_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for target, force, reason in [
        (tmp_path / "none" / "a.png", False, "its folder is missing; create it"),
        (tmp_path / "folder.png", True, "it is a folder"),
        (tmp_path / "a.xyz", False, r"\.xyz is not a format .*use \.jpg, \.png, \.webp"),
        (tmp_path / "a", False, r"without a suffix .*use \.jpg"),
        (tmp_path / ("x" * 300 + ".png"), False, "cannot write"),
    ]:
        for attempt in (check_target, lambda t, f: write_image(photo(), t, force=f)):
            with pytest.raises(ImageError, match=reason):
                attempt(target, force)
    with pytest.raises(ImageError, match="not a regular file"):
        write_image(photo(), Path(os.devnull), format="png", force=True)
    assert os.listdir(tmp_path) == ["folder.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ImageError, match="no permission"):
        check_target(tmp_path / "a.png")


def test_written_files_have_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_image(photo(), tmp_path / "a.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_force_writes_through_a_link(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(photo(), tmp_path / "link.png", force=True)
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "real.png").size == (24, 16)


# ---- names


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("photo.jpg", "photo.color.jpg"), ("PHOTO.JPG", "PHOTO.color.JPG"),
        ("in/a.b.tiff", "in/a.b.color.tiff"), ("a.bmp", "a.color.bmp"), ("a.gif", "a.color.png"),
        ("a.heic", "a.color.png"), ("a.nef", "a.color.png"), ("scan", "scan.color.png"),
    ],
)  # fmt: skip
def test_default_target(source, target):
    assert default_target(Path(source), "color") == Path(target)


def test_list_images(tmp_path):
    for name in ("b.JPG", "a/z.png", "a.webp", ".hidden.png", ".git/x.png", "note.txt", "c.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert found == ["a/z.png", "a.webp", "b.JPG", "c.gif"]
    inside_hidden = list_images(tmp_path / ".git")  # hidden only counts below the root asked for
    assert [path.name for path in inside_hidden] == ["x.png"]
    with pytest.raises(ImageError, match="no such folder"):
        list_images(tmp_path / "none")
