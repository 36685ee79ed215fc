"""TIFFs of every layout: read to the written values, or refused with the reason; never black."""

import io
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from condiff.errors import ImageError
from condiff.photos import ifd
from condiff.photos.photo import Photo
from condiff.photos.reading import read_photo

RNG = np.random.default_rng(0)
Y, X = np.mgrid[0:40, 0:56]
DEEP = np.rint(
    (np.stack([np.sin(X / (5 + c) + Y / 9) for c in range(3)], axis=2) * 0.45 + 0.5) * 65_535
).astype(np.uint16)
SHALLOW = (DEEP >> 8).astype(np.uint8)
GREY = np.ascontiguousarray(DEEP[..., 1])


def written(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    order = {k: options.pop(k) for k in ("byteorder", "bigtiff") if k in options}
    tifffile.imwrite(file, array, **order, **options)
    return file.getvalue()


def read(data: bytes, **options: int) -> Photo:
    return read_photo(io.BytesIO(data), **options)


def in_levels(photo: Photo) -> np.ndarray:
    """Its pixels in levels of 8 bits, as floating point."""
    return photo.pixels / (257 if photo.is_deep else 1)


RGB = {"photometric": "rgb"}
SIXTEEN = {
    "plain": (DEEP, RGB),
    "big-endian": (DEEP, RGB | {"byteorder": ">"}),
    "BigTIFF": (DEEP, RGB | {"bigtiff": True}),
    "planes": (np.moveaxis(DEEP, 2, 0), RGB | {"planarconfig": 2}),
    "tiles": (DEEP, RGB | {"tile": (16, 32)}),
    "tiles in planes": (np.moveaxis(DEEP, 2, 0), RGB | {"planarconfig": 2, "tile": (16, 32)}),
    "Deflate, differences": (DEEP, RGB | {"compression": 8, "predictor": True}),
    "LZW": (DEEP, RGB | {"compression": "lzw"}),
    "LZW, differences, big-endian": (
        DEEP, RGB | {"compression": "lzw", "predictor": True, "byteorder": ">"},
    ),
    "PackBits": (DEEP, RGB | {"compression": "packbits"}),
    "Zstandard": (DEEP, RGB | {"compression": "zstd", "predictor": True}),
    "LZMA, strips": (DEEP, RGB | {"compression": "lzma", "rowsperstrip": 7}),
    "32 bits": (DEEP.astype(np.uint32) * 65_537, RGB),
    "float": ((DEEP / 65_535).astype("f4"), RGB),
    "float, differences": ((DEEP / 65_535).astype("f4"), RGB | {"compression": 8, "predictor": 3}),
    "double": (DEEP / 65_535, RGB),
    "grey": (GREY, {}),
    "grey, white is zero, big-endian": (
        65_535 - GREY, {"photometric": "miniswhite", "byteorder": ">"},
    ),
    "grey of 32 bits": (GREY.astype(np.uint32) * 65_537, {}),
    "grey double": (GREY / 65_535, {}),
    "five channels": (
        np.dstack([DEEP, GREY, GREY]), RGB | {"extrasamples": [0, 0]},
    ),
    "infrared": (np.dstack([DEEP, GREY]), RGB | {"extrasamples": [0]}),
    "infrared plane": (
        np.moveaxis(np.dstack([DEEP, GREY]), 2, 0),
        RGB | {"extrasamples": [0], "planarconfig": 2},
    ),
    "grey and a mask": (
        np.dstack([GREY, GREY]), {"photometric": "minisblack", "extrasamples": [0]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIXTEEN)
def test_deep_tiffs_of_every_layout_keep_their_values(name):
    array, options = SIXTEEN[name]
    photo = read(written(array, **options))
    expected = DEEP if "grey" not in name else np.repeat(GREY[..., None], 3, axis=2)
    assert photo.alpha is None
    assert np.abs(photo.pixels.astype(int) - expected).max() <= 1  # of 65,535
    left_out = any(word in name for word in ("infrared", "five", "mask"))
    assert left_out == ("left out" in " ".join(photo.info.get("warnings", ())))


def test_half_floats_are_as_precise_as_they_can_be():
    photo = read(written((GREY / 65_535).astype("f2")))
    assert np.abs(photo.pixels[..., 0].astype(int) - GREY).max() <= 65_535 / 2**11


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_grey_of_odd_depths_reaches_from_black_to_white(bits):
    pytest.importorskip("imagecodecs")  # to write it
    values = (GREY >> (16 - bits)).astype(np.uint8 if bits <= 8 else np.uint16)
    values[0, :2] = 0, 2**bits - 1
    photo = read(written(values, bitspersample=bits))
    assert np.abs(in_levels(photo)[..., 0] - values * (255 / (2**bits - 1))).max() <= 0.5
    assert photo.is_deep == (bits > 8)


@pytest.mark.parametrize("order", [None, ">"])
def test_alpha_lies_where_extra_samples_say(order):
    alpha = np.full_like(GREY, 40_000)
    both = np.dstack([DEEP, GREY, alpha])  # infrared first, then transparency
    photo = read(
        written(both, extrasamples=[0, 2], **RGB, **({"byteorder": order} if order else {}))
    )
    assert np.array_equal(photo.pixels, DEEP) and np.array_equal(photo.alpha, alpha)
    grey = read(written(np.dstack([GREY, alpha]), photometric="minisblack", extrasamples=[2]))
    assert np.array_equal(grey.pixels[..., 2], GREY) and np.array_equal(grey.alpha, alpha)


def test_colours_multiplied_by_alpha_are_divided_again():
    half = np.full_like(GREY, 32_768)
    data = written(np.dstack([DEEP // 2, half]), extrasamples=[1], **RGB)
    assert np.abs(read(data).pixels.astype(int) - DEEP).max() <= 3


CODECS = {
    "jpeg": 45, "webp": 40, "png": 0, "jpeg2000": 0, "jpegxl": 12, "jpegxr": 12, "lerc": 0,
    "aperio_jp2000_rgb": 0, "aperio_jp2000_ycbc": 0, "lzw": 0, "packbits": 0, "adobe_deflate": 0,
}  # fmt: skip  # the error that each one may make


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_every_compression_is_read_to_the_picture(name, tile):
    pytest.importorskip("imagecodecs")  # to write it
    options = RGB | ({"tile": tile} if tile else {})
    try:
        data = written(SHALLOW, compression=name, **options)
    except (KeyError, ValueError) as error:
        pytest.skip(f"tifffile does not write it: {error}")
    error = np.abs(in_levels(read(data)) - SHALLOW)
    assert error.max() <= CODECS[name] and error.mean() <= 3


@pytest.mark.parametrize("name", ["lerc", "jpegxr", "jpeg2000", "jpegxl"])
def test_without_imagecodecs_the_compression_and_the_command_are_named(name, monkeypatch):
    pytest.importorskip("imagecodecs")
    data = written(DEEP if name == "jpeg2000" else SHALLOW, compression=name, **RGB)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    names = {"lerc": "LERC", "jpegxr": "JPEG XR", "jpeg2000": "JPEG 2000",
             "jpegxl": "JPEG XL"}  # fmt: skip
    with pytest.raises(ImageError, match=rf"{names[name]}, which needs imagecodecs: pip install"):
        read(data)


@pytest.mark.parametrize("name", ["lzw", "zstd", "packbits", "webp", "png", "jpeg2000"])
def test_common_compressions_need_no_extra(name, monkeypatch):
    pytest.importorskip("imagecodecs")  # to write it
    data = written(SHALLOW, compression=name, **RGB)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert np.abs(in_levels(read(data)) - SHALLOW).mean() <= 3


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "zstd", "jpeg", "lerc", "png"])
def test_a_strip_that_cannot_be_decoded_is_never_black(compression):
    pytest.importorskip("imagecodecs")
    data = bytearray(written(SHALLOW, compression=compression, rowsperstrip=8, **RGB))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        page = tiff.pages[0]
        start, size = page.dataoffsets[2], page.databytecounts[2]
        counts = page.tags[279]
        wide = 4 if counts.dtype.name == "LONG" else 2
    broken = data[:start] + b"\x07" * size + data[start + size :]
    with pytest.raises(ImageError, match="strip 3, compressed by .* cannot be decoded"):
        read(bytes(broken))
    at = counts.valueoffset + 2 * wide
    data[at : at + wide] = bytes(wide)  # a sparse file: no bytes at all
    with pytest.raises(ImageError, match="strip 3 is empty"):
        read(bytes(data))


def test_uncompressed_strips_that_are_cut_short_are_refused():
    data = written(SHALLOW, rowsperstrip=8, **RGB)
    with pytest.raises(ImageError, match="strip 5.*too short|strip 5 is empty"):
        read(data[: len(data) - 8 * 56 * 3 // 2])


def test_an_unknown_compression_is_named():
    data = bytearray(written(SHALLOW, **RGB))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        at = tiff.pages[0].tags[259].valueoffset
    data[at : at + 2] = struct.pack("<H", 34661)
    with pytest.raises(ImageError, match="JBIG, which nothing here reads; save it as another TIFF"):
        read(bytes(data))


# ---- colours


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["cielab", "icclab"])
def test_lab_agrees_with_littlecms(bits, kind):
    lab = np.stack(
        [X // 20 * 20 + 40, (Y - 20) * 2 // 3, (X - 28) // 2], axis=2
    )  # colours that sRGB holds
    deep = bits == 16
    white = {("cielab", 16): 65_535, ("icclab", 16): 65_280}.get((kind, bits), 255)
    stored = np.rint(lab * ([white / 100, 256, 256] if deep else [2.55, 1, 1])).astype(int)
    if kind == "icclab":
        stored[..., 1:] += 1 << (bits - 1)
    data = written(stored.astype(f"u{bits // 8}"), photometric=kind)  # negative a and b wrap
    for_cms = np.rint(lab * [2.55, 1, 1]).astype(int).astype(np.uint8)
    image = Image.frombytes("LAB", (56, 40), for_cms.tobytes())
    profile = ImageCms.createProfile
    expected = ImageCms.profileToProfile(image, profile("LAB"), profile("sRGB"), outputMode="RGB")
    error = np.abs(in_levels(read(data)) - np.asarray(expected))
    assert error.mean() < 0.7 and error.max() <= 3


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize("compression", [1, 8, 5])
def test_subsampled_ycbcr_that_is_no_jpeg(subsampling, compression):
    across, down = subsampling
    flat = np.kron(RNG.integers(0, 256, (40 // 8, 56 // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    ycc = np.asarray(Image.fromarray(flat).convert("YCbCr"))
    luma = ycc[..., 0].reshape(40 // down, down, 56 // across, across).transpose(0, 2, 1, 3)
    units = [luma.reshape(40 // down, 56 // across, -1), ycc[::down, ::across, 1:]]
    packed = np.concatenate(units, axis=2).tobytes()
    if compression == 8:
        packed = zlib.compress(packed)
    elif compression == 5:
        packed = pytest.importorskip("imagecodecs").lzw_encode(packed)
    tags = {
        256: (56,), 257: (40,), 258: (8, 8, 8), 259: (compression,), 262: (6,), 273: (8,),
        277: (3,), 278: (40,), 279: (len(packed),), 284: (1,), 530: (across, down),
    }  # fmt: skip
    directory = {tag: ifd.short(*values, order="<") for tag, values in tags.items()}
    at = 8 + len(packed) + len(packed) % 2
    data = b"II*\0" + struct.pack("<I", at) + packed + bytes(len(packed) % 2)
    photo = read(data + ifd.pack_directory(directory, order="<", start=at))
    assert (
        np.abs(
            photo.pixels.astype(int) - np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))
        ).max()
        <= 1
    )


def test_palettes_of_16_and_of_8_bits():
    index = (SHALLOW[..., 0] // 16).astype(np.uint8)
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    for table in (colours * 257, colours):
        photo = read(written(index, photometric="palette", colormap=table))
        assert np.array_equal(photo.pixels, colours.T[index].astype(np.uint8))


@pytest.mark.skipif(not shutil.which("convert"), reason="needs ImageMagick")
@pytest.mark.parametrize(
    ("array", "options"),
    [
        (GREY, {"photometric": "miniswhite", "byteorder": ">"}),
        (GREY.astype(np.uint32) * 65_537, {}),
        (GREY / 65_535, {}),
        (np.dstack([DEEP, GREY]), RGB | {"extrasamples": [0]}),
    ],
)
def test_imagemagick_reads_the_same(array, options, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(written(array, **options))
    command = [
        "convert",
        str(path),
        "-alpha",
        "off",
        "-colorspace",
        "sRGB",
        "-depth",
        "16",
        "rgb:-",
    ]
    raw = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    theirs = np.frombuffer(raw, "<u2").reshape(40, 56, 3).astype(int)
    assert np.abs(read_photo(path).pixels.astype(int) - theirs).max() <= 1


# ---- pages


def pages(*described: tuple[np.ndarray, dict]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array, options in described:
            writer.write(array, **options)
    return file.getvalue()


@pytest.mark.parametrize("software", ["", "SilverFast 9"])
def test_a_scanners_infrared_page_and_thumbnail_are_no_pages(software):
    small = np.ascontiguousarray(SHALLOW[::2, ::2])
    named = RGB | ({"software": software} if software else {})
    data = bytearray(
        pages((DEEP, named), (small, RGB | {"subfiletype": 1}), (GREY, {"subfiletype": 2}))
    )
    if not software:  # as a mask, which tifffile writes of one bit only
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
            data[tiff.pages[2].tags[254].valueoffset] = 4
    data = bytes(data)
    assert np.array_equal(read(data).pixels, DEEP)
    with pytest.raises(ImageError, match="no page 2"):
        read(data, page=2)


def test_the_picture_below_a_thumbnail_is_the_photo():
    small = np.ascontiguousarray(SHALLOW[::2, ::2])
    data = pages((small, RGB | {"subfiletype": 1, "subifds": 1}), (DEEP, RGB))
    assert np.array_equal(read(data).pixels, DEEP)


def test_each_page_has_its_own_tags():
    data = pages((SHALLOW, RGB | {"resolution": (100, 100)}),
                 (DEEP, RGB | {"resolution": (300, 300), "resolutionunit": "INCH"}))  # fmt: skip
    photo = read(data, page=2)
    assert photo.is_deep and photo.metadata.dpi == (300, 300)


# ---- raw


def sensor(values: np.ndarray) -> bytes:
    tags = [(33421, 3, 2, (2, 2), False), (33422, 1, 4, b"\0\1\1\2", False)]
    small = np.ascontiguousarray(SHALLOW[::4, ::4])
    return pages((small, RGB | {"subfiletype": 1, "subifds": 1}),
                 (values, {"photometric": 32803, "extratags": tags}))  # fmt: skip


def test_a_sensors_pixels_are_developed_or_refused_by_name(monkeypatch):
    pytest.importorskip("rawpy")
    values = np.full((80, 120), 8_000, np.uint16)
    values[:, 60:] = 30_000
    data = sensor(values)
    photo = read(data)
    assert photo.size == (120, 80) and photo.is_deep  # not the thumbnail's 14 x 10
    left, right = photo.pixels[:, 5:50].mean(), photo.pixels[:, 70:115].mean()
    assert left < right / 1.5
    with pytest.raises(ImageError, match="--max-pixels"):
        read(data, max_pixels=5_000)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match="raw file.*darktable.*pip install"):
        read(data)


@pytest.mark.parametrize(
    "head", [b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx ", b"IIRO\x08\0\0\0", b"IIU\0\x08\0\0\0"]
)
def test_raw_files_that_are_no_tiffs_are_named(head):
    pytest.importorskip("rawpy")
    with pytest.raises(ImageError, match="raw file .* that LibRaw does not read"):
        read(head + bytes(2000))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("first", ["low", "high"])
@pytest.mark.parametrize("kind", ["uint", "int", "float"])
def test_samples_of_24_bits_are_read_in_either_order_of_bytes(
    order: str, first: str, kind: str
) -> None:
    """libtiff has them in the file's byte order, ImageMagick the highest byte first in any file."""
    imagecodecs = pytest.importorskip("imagecodecs")
    noise = RNG.integers(0, 256, DEEP.shape).astype(np.uint32)
    if kind == "float":
        packed = imagecodecs.float24_encode((DEEP / 65_535).astype("f4"), byteorder="<")
        low_first = np.frombuffer(packed, np.uint8).reshape(-1, 3)
    else:
        values = (DEEP.astype(np.uint32) << 8 | noise) >> (kind == "int")
        low_first = values.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    data = (low_first if first == "low" else low_first[:, ::-1]).tobytes()
    whole = {"uint": "u4", "int": "i4", "float": "f4"}[kind]
    page = written(np.zeros(DEEP.shape, whole), photometric="rgb", byteorder=order)
    with tifffile.TiffFile(io.BytesIO(page)) as file:
        tags = file.pages[0].tags
        at, bits = tags[273].value[0], tags[258].valueoffset
    changed = bytearray(page)
    changed[at : at + len(data)] = data
    changed[bits : bits + 6] = struct.pack(f"{order}3H", 24, 24, 24)
    photo = read(bytes(changed))
    assert photo.is_deep
    assert np.abs(photo.pixels.astype(int) - DEEP).max() <= 2


def test_signed_integers_of_32_and_64_bits_span_their_range() -> None:
    for kind, shift in (("i4", 15), ("i8", 47)):
        photo = read(written(DEEP.astype(kind) << shift, **RGB))
        assert np.abs(photo.pixels.astype(int) - DEEP).max() <= 1


def test_a_chain_of_pages_that_leads_back_ends_there() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(3):
            writer.write(SHALLOW, contiguous=False, metadata=None, **RGB)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as opened:
        pages = list(opened.pages)
        first, last = pages[0].offset, pages[-1].offset
    after = last + 2 + 12 * struct.unpack_from("<H", file.getvalue(), last)[0]
    data = bytearray(file.getvalue())
    data[after : after + 4] = struct.pack("<I", first)
    with pytest.raises(ImageError, match="3 pages"):
        read(bytes(data))
    assert np.array_equal(read(bytes(data), page=3).pixels, SHALLOW)


def test_values_that_are_no_numbers_are_told_of():
    values = np.linspace(0.2, 0.8, 40 * 56, dtype=np.float32).reshape(40, 56)
    values[3, 4:8] = np.nan
    values[5, 5], values[6, 6] = np.inf, -np.inf
    data = written(values)
    photo = read(data)
    assert photo.pixels[3, 4:8].max() == 0
    assert (photo.pixels[5, 5] == photo.pixels.max()).all()
    assert (photo.pixels[6, 6] == 0).all()
    nan, infinite = photo.info["warnings"]
    assert nan == "0.18% of its values are not numbers (NaN), now black"
    assert infinite == "0.089% of its values are infinite, now white or black"
    whole = np.nan_to_num(values, nan=0.2, posinf=0.8, neginf=0.2)
    assert "warnings" not in read(written(whole)).info
    with pytest.raises(ImageError, match="not numbers"):
        read(data, strict=True)
    with pytest.raises(ImageError, match="none of its values is a number"):
        read(written(np.full((8, 8), np.nan, np.float32)))
