"""Results coded like their sources; pages and frames; HEIC; the flags of `condiff colorize`."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from condiff.cli import main
from condiff.errors import ImageError
from condiff.photos import writing
from condiff.photos.formats import FORMATS, HOLDS, MAX_PIXELS, find_format, is_photo
from condiff.photos.opening import NOT_BY_PILLOW
from condiff.photos.photo import Photo
from condiff.photos.provenance import SOURCE_TYPE
from condiff.photos.reading import read_image, read_photo
from condiff.photos.writing import write_photo

from .conftest import make_photo


def saved(image: Image.Image, format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def test_names_and_suffixes_mean_the_same_format():
    assert {find_format(n) for n in ("jpg", ".JPG", "JPEG", "jpeg")} == {"JPEG"}
    assert find_format("potato") == "POTATO"
    assert set(HOLDS) <= set(FORMATS.values())


# ---- JPEG


def coding_of(file: io.BytesIO) -> tuple[list, int, bool]:
    with Image.open(file) as image:
        tables = [list(table) for _, table in sorted(image.quantization.items())]
        return tables, JpegImagePlugin.get_sampling(image), bool(image.info.get("progressive"))


@pytest.mark.parametrize("quality", [30, 75, 92, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_coded_like_its_source(quality, subsampling, progressive):
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    source = saved(make_photo(48, 40), "JPEG", **options)
    result = io.BytesIO()
    write_photo(read_photo(source), result, format="jpg")
    assert coding_of(result) == coding_of(source)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_grey_jpeg_gets_its_own_luma_and_as_good_a_chroma(quality):
    source = saved(make_photo(48, 40).convert("L"), "JPEG", quality=quality)
    result = io.BytesIO()
    write_photo(read_photo(source), result, format="jpg")
    (luma,), _, _ = coding_of(source)
    tables, sampling, _ = coding_of(result)
    assert tables[0] == luma and sampling == 0
    expected, _, _ = coding_of(saved(make_photo(48, 40), "JPEG", quality=quality))
    assert np.abs(np.subtract(tables[1], expected[1])).max() <= 1 + 0.02 * max(expected[1])
    assert writing.estimate_scale(tuple(expected[0])) == pytest.approx(
        sum(luma) / writing.LUMA_SUM, rel=1e-6
    )


def test_an_avif_keeps_the_colours_of_single_pixels(tmp_path):
    """4:4:4: with 4:2:0 neighbours would share their chroma."""
    columns = np.zeros((16, 32, 3), np.uint8)
    columns[:, ::2] = (200, 60, 60)
    columns[:, 1::2] = (60, 60, 200)
    write_photo(Photo(columns), tmp_path / "a.avif", quality=95)
    assert np.abs(read_photo(tmp_path / "a.avif").pixels.astype(int) - columns).max() < 30


def test_a_lossless_webp_keeps_the_colours_of_transparent_pixels(tmp_path):
    pixels = np.asarray(make_photo(24, 16))
    source = io.BytesIO()
    image = Image.fromarray(np.dstack([pixels, np.zeros((16, 24), np.uint8)]))
    image.save(source, "WEBP", lossless=True, exact=True)
    photo = read_photo(source.getvalue())
    write_photo(photo, tmp_path / "a.webp")
    assert np.array_equal(read_photo(tmp_path / "a.webp").pixels, photo.pixels)
    assert np.array_equal(photo.pixels, pixels)


def test_quality_overrides_the_sources(tmp_path):
    photo = read_photo(saved(make_photo(48, 40), "JPEG", quality=30))
    for suffix in (".jpg", ".webp", ".avif"):
        sizes = []
        for quality in (20, 98):
            write_photo(photo, tmp_path / f"{quality}{suffix}", quality=quality)
            sizes.append((tmp_path / f"{quality}{suffix}").stat().st_size)
        assert sizes[0] < sizes[1]
    tables, _, _ = coding_of(io.BytesIO((tmp_path / "98.jpg").read_bytes()))
    assert tables == coding_of(saved(make_photo(48, 40), "JPEG", quality=98))[0]


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_stays_lossless_if_it_was(lossless):
    photo = make_photo(48, 40)
    read = read_photo(
        saved(photo, "WEBP", lossless=lossless, exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(6))
    )
    result = io.BytesIO()
    write_photo(read, result, format="webp")
    same = np.array_equal(np.asarray(Image.open(result).convert("RGB")), read.pixels)
    assert same == lossless


# ---- pages and frames


def frames(count: int) -> list[Image.Image]:
    return [make_photo(30, 20, seed=n) for n in range(count)]


@pytest.mark.parametrize("format", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_of_several_pages_one_must_be_chosen(format):
    first, *others = frames(3)
    file = saved(first, format, save_all=True, append_images=others, **(
        {"lossless": True} if format == "WEBP" else {}
    ))  # fmt: skip
    with pytest.raises(ImageError, match="has 3 pages or frames.*--page 1 to --page 3"):
        read_photo(file)
    with pytest.raises(ImageError, match="no page 4; choose --page 1 to --page 3"):
        read_photo(io.BytesIO(file.getvalue()), page=4)
    for page, frame in enumerate([first, *others], 1):
        got = read_photo(io.BytesIO(file.getvalue()), page=page).pixels.astype(int)
        assert np.abs(got - np.asarray(frame)).mean() < (14 if format in ("GIF", "AVIF") else 1e-9)
    assert read_image(io.BytesIO(file.getvalue())).size == (30, 20)  # for training: the first


def test_pages_of_16_bits():
    import tifffile

    pages = np.random.default_rng(0).integers(0, 65_536, (3, 10, 12, 3), dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, pages, photometric="rgb")
    for number in range(3):
        photo = read_photo(io.BytesIO(file.getvalue()), page=number + 1)
        assert np.array_equal(photo.pixels, pages[number])


def test_a_thumbnail_page_is_no_page():
    import tifffile

    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.asarray(make_photo(30, 20)), photometric="rgb")
        writer.write(np.asarray(make_photo(15, 10)), photometric="rgb", subfiletype=1)
    assert read_photo(io.BytesIO(file.getvalue())).size == (30, 20)


def test_a_phone_photo_with_a_gain_map_is_one_photo():
    first, second = frames(2)
    photo = read_photo(saved(first, "MPO", save_all=True, append_images=[second]))
    assert photo.size == (30, 20) and photo.metadata.format == "JPEG"


# ---- HEIC


def test_heic_is_read_or_the_extra_is_named(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(40)
    try:
        import pillow_heif
    except ImportError:
        with pytest.raises(ImageError, match=r"HEIC.*pip install .*heif"):
            read_photo(io.BytesIO(heic))
        return
    with pytest.raises(ImageError, match="damaged|known format"):
        read_photo(io.BytesIO(heic))
    pillow_heif.from_pillow(make_photo(64, 48)).save(tmp_path / "a.heic", quality=95)
    photo = read_photo(tmp_path / "a.heic")
    assert np.abs(photo.pixels.astype(int) - np.asarray(make_photo(64, 48))).mean() < 4
    assert photo.metadata.format == "HEIF"


def ramps() -> np.ndarray:
    """A smooth picture (48,64,3) of 16 bits with 3072 levels, 0 and 65,535 among them."""
    ramp = np.linspace(0, 65_535, 48 * 64).reshape(64, 48).T
    return np.rint(np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])).astype(np.uint16)


@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16", "I;16"])
def test_a_heic_of_ten_bits_is_read_in_sixteen(mode):
    pillow_heif = pytest.importorskip("pillow_heif")
    given = ramps()
    alpha = given[..., 0]
    content = {"RGB;16": given, "RGBA;16": np.dstack([given, alpha]), "I;16": alpha}[mode]
    file = io.BytesIO()
    heif = pillow_heif.from_bytes(mode=mode, size=(64, 48), data=content.tobytes())
    heif.save(file, quality=-1, chroma=444)
    photo = read_photo(file.getvalue())
    wanted = np.dstack([alpha] * 3) if mode == "I;16" else given
    assert photo.pixels.dtype == np.uint16
    assert np.abs(photo.pixels.astype(int) - wanted).max() < 130  # two levels of ten bits
    assert len(np.unique(photo.pixels)) > 600
    assert photo.pixels.max() > 65_400
    if mode == "RGBA;16":
        assert np.abs(photo.alpha.astype(int) - alpha).max() < 130


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_avif_of_more_than_eight_bits_is_read_in_sixteen(bits, mode, monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    given = ramps()
    alpha = given[..., 0]
    content = {"RGB": given, "RGBA": np.dstack([given, alpha]), "L": alpha}[mode]
    data = imagecodecs.avif_encode(content >> (16 - bits), bitspersample=bits, level=100)
    photo = read_photo(data)
    wanted = np.dstack([alpha] * 3) if mode == "L" else given
    assert photo.pixels.dtype == np.uint16
    assert np.abs(photo.pixels.astype(int) - wanted).max() <= 65_535 / (2**bits - 1)
    if mode == "RGBA":
        assert np.abs(photo.alpha.astype(int) - alpha).max() <= 65_535 / (2**bits - 1)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert read_photo(data).pixels.dtype == np.uint8
    assert read_photo(saved(make_photo(8, 8), "AVIF")).pixels.dtype == np.uint8


def test_an_hdr_avif_is_told(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    data = imagecodecs.avif_encode(ramps() >> 6, bitspersample=10, level=100)
    at = data.index(b"colrnclx")
    pq = data[: at + 10] + (16).to_bytes(2, "big") + data[at + 12 :]
    assert any("HDR" in note for note in read_photo(pq).info["warnings"])
    assert not read_photo(data).info.get("warnings")


# ---- the command


@pytest.fixture
def run(tiny_folder, tmp_path, capsys):
    def colorize(*words: str) -> tuple[int, str, str]:
        options = ["-m", str(tiny_folder), "--device", "cpu", "--steps", "2", "--size", "32"]
        code = main(["colorize", *words, *options, "--seed", "3"])
        found = capsys.readouterr()
        return code, found.out, found.err

    return colorize


def test_the_result_says_that_a_model_made_its_colours_unless_told_not_to(run, tmp_path):
    make_photo(40, 30).save(tmp_path / "a.png")
    for name, flags in (("noted", ()), ("plain", ("--no-provenance",))):
        assert run(str(tmp_path / "a.png"), "-o", str(tmp_path / f"{name}.png"), *flags)[0] == 0
    with Image.open(tmp_path / "noted.png") as image:
        record = json.loads(image.text["condiff"])
        assert (record["seed"], record["steps"], record["model"]) == (3, 2, "tiny")
        assert SOURCE_TYPE in image.info["xmp"].decode()
        assert str(tmp_path) not in str(image.text), "no path of this machine"
    with Image.open(tmp_path / "plain.png") as image:
        assert "condiff" not in image.text and "xmp" not in image.info


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_the_same_seed_gives_the_same_bytes_in_every_format(run, suffix, tmp_path):
    make_photo(40, 30).save(tmp_path / "a.png", icc_profile=gray_profile(), dpi=(300, 300))
    for name in ("b", "c"):
        assert run(str(tmp_path / "a.png"), "-o", str(tmp_path / f"{name}.{suffix}"))[0] == 0
    assert (tmp_path / f"b.{suffix}").read_bytes() == (tmp_path / f"c.{suffix}").read_bytes()


def gray_profile() -> bytes:
    from .test_photo import gamma_profile

    return gamma_profile(2.2)


def test_limits_and_pages_have_flags(run, tmp_path):
    make_photo(40, 30).save(tmp_path / "a.png")
    target = str(tmp_path / "b.png")
    code, _, err = run(str(tmp_path / "a.png"), "-o", target, "--max-pixels", "1000")
    assert code == 1 and "--max-pixels 1200" in err
    for flag, mode in (("--mask", "L"), ("--hints", "RGBA")):
        picture = tmp_path / f"{flag[2:]}.png"
        Image.new(mode, (80, 60)).save(picture)
        code, _, err = run(
            str(tmp_path / "a.png"), "-o", target, flag, str(picture), "--max-pixels", "1200"
        )
        assert code == 1 and "--max-pixels 4800" in err
    first, second = frames(2)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    code, _, err = run(str(tmp_path / "a.tif"), "-o", target)
    assert code == 1 and "--page 2" in err
    assert run(str(tmp_path / "a.tif"), "-o", target, "--page", "2")[0] == 0
    code, _, err = run(str(tmp_path / "a.png"), "-o", target, "--page", "2", "--force")
    assert code == 1 and "it has no page 2; it has only one" in err
    assert MAX_PIXELS == 200_000_000


def test_what_a_format_cannot_hold_is_said(run, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    make_photo(40, 30).save(tmp_path / "a.jpg", exif=exif)
    _, _, err = run(str(tmp_path / "a.jpg"), "-o", str(tmp_path / "b.bmp"))
    assert "b.bmp: this format has no place for EXIF, XMP" in err
    _, _, err = run(str(tmp_path / "a.jpg"), "-o", str(tmp_path / "b.tif"))
    assert "no place" not in err


def test_quality_is_a_flag(run, tmp_path):
    make_photo(40, 30).save(tmp_path / "a.jpg", quality=90)
    for quality in ("20", "99"):
        target = tmp_path / f"{quality}.jpg"
        assert run(str(tmp_path / "a.jpg"), "-o", str(target), "--quality", quality)[0] == 0
    assert (tmp_path / "20.jpg").stat().st_size < (tmp_path / "99.jpg").stat().st_size


def test_an_image_of_pillow_keeps_its_metadata_through_the_photo():
    image = read_image(saved(make_photo(40, 30), "PNG", dpi=(300, 300)))
    photo = Photo.from_image(image)
    assert photo.metadata.dpi == pytest.approx((300, 300), abs=0.1)
    assert np.array_equal(photo.to_image(), image)


NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow identifies these, but decodes none


def test_every_suffix_that_is_opened_is_listed():
    Image.init()
    opened = (Image.OPEN.keys() | {"MPO"}) - NOT_BY_PILLOW - NO_PICTURES
    suffixes = [s for s, format in Image.registered_extensions().items() if format in opened]
    assert len(suffixes) > 50
    assert [suffix for suffix in suffixes if not is_photo(f"a{suffix}")] == []
