"""Reads TIFFs of any layout, and writes them with unknown tags unchanged.

TIFF 6.0, with technical notes 2 (Deflate) and 3 (floating-point differencing), BigTIFF, and the
registered compressions. Strips and tiles are decoded one by one; if one cannot be decoded, an
error is raised: no pixels are invented. tifffile reads the structure; this module, Pillow and, if
installed, imagecodecs decode.
"""

import ctypes
import io
import itertools
import logging
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

from condiff.arrays import Pixels
from condiff.errors import install_command
from condiff.files import reason_of
from condiff.photos import icc, ifd
from condiff.photos.ifd import Directory, Entry, long, pack_directory, short
from condiff.photos.opening import caught_stderr, open_image, register_jxl
from condiff.photos.photo import Unreadable, strips, to_8_bits, to_16_bits, to_array

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAX_PAGES = 10_000
MAX_PIECE = 4 << 30  # bytes of a strip or tile in memory
MAX_CHANNELS = 32
RAW_PHOTOMETRIC = {32803, 34892}  # a sensor's pixels, and those of a linear DNG
WHITE_IS_ZERO, PALETTE, CMYK, YCBCR, LABS = 0, 3, 5, 6, (8, 9, 10)
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}  # channels of each kind
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # SampleFormat; 4 is undefined
DEFLATE = {8, 32946}
BY_LIBTIFF = {5, 32773, 34925, 50000}  # LZW, PackBits, LZMA, Zstandard: bytes in, bytes out
PICTURES = {2, 3, 4, 7}  # CCITT and JPEG, which need the page's tags
FILES = {
    33003: "JPEG2000", 33005: "JPEG2000", 34712: "JPEG2000", 34927: "WEBP", 50001: "WEBP",
    34933: "PNG", 50002: "JXL", 52546: "JXL",
}  # fmt: skip  # each strip or tile is a whole file
PICTURE_TAGS = (258, 259, 262, 266, 277, 284, 292, 293, 347, 529, 530, 531, 532)
NAMES = {
    2: "CCITT RLE", 3: "CCITT fax 3", 4: "CCITT fax 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG",
    8: "Deflate", 32946: "Deflate", 32773: "PackBits", 33003: "JPEG 2000 (Aperio)",
    33005: "JPEG 2000 (Aperio)", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34927: "WebP",
    34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 32809: "ThunderScan",
    32908: "PixarFilm", 32909: "PixarLog", 34661: "JBIG", 34715: "JBIG2", 34713: "Nikon NEF",
    32767: "Sony ARW", 65535: "Pentax PEF", 34892: "lossy JPEG of DNG", 22610: "JPEG XR",
}  # fmt: skip
REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))

# The errors and warnings of read_photo replace the messages of these libraries.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False
with suppress(AttributeError, OSError):  # a separate libtiff still writes to stderr
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


def open_tiff(file: BinaryIO) -> "TiffFile":
    """The structure of a TIFF; tifffile's errors are raised unchanged."""
    import tifffile

    file.seek(0)
    return tifffile.TiffFile(file)


def read_chain(tiff: "TiffFile") -> "list[TiffPage]":
    """All pages in order, until the chain breaks off or returns to an earlier page."""
    chain: dict[int, Any] = {}
    with suppress(Exception):  # the chain breaks off: earlier pages are kept
        for page in itertools.islice(tiff.pages, MAX_PAGES):
            if page.offset in chain:
                break
            chain[page.offset] = page
    return list(chain.values()) or [tiff.pages.first]


def list_pages(chain: "list[TiffPage]") -> "list[TiffPage]":
    """The pages without thumbnails, masks and a scanner's infrared pictures.

    If the first one is a thumbnail, as in raw files, the pages below it are included.
    """
    full = [page for page in chain if _is_full(page)]
    if not _is_full(chain[0]):
        full += [sub for sub in list_below(chain) if _is_full(sub)]
    first = full[0] if full else chain[0]
    if "silverfast" in str(first.software).lower() and first.samplesperpixel >= 3:
        full = [p for p in full if p.samplesperpixel >= 3]
    return full or chain[:1]


def list_below(pages: "list[TiffPage]") -> "list[TiffPage]":
    """The pages in the sub-directories of pages."""
    found: list[Any] = []
    for page in pages:
        with suppress(Exception):  # not a valid sub-directory
            found += itertools.islice(page.pages or (), MAX_PAGES)
    return found


def _is_full(page: "TiffPage") -> bool:
    reduced = _number(page, 254) & 0b101 or _number(page, 255, 1) == 2
    return not reduced


def is_raw(chain: "list[TiffPage]") -> bool:
    """Whether a file contains raw sensor pixels, which must be developed."""
    pages = chain + list_below(chain)
    return any(_number(page, 262, -1) in RAW_PHOTOMETRIC for page in pages)


def _number(page: "TiffPage", tag: int, default: int = 0) -> int:
    """The first value of an integer tag."""
    value = page.tags.valueof(tag, default)
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, int) else default


def read_resolution(page: "TiffPage") -> tuple[float, ...]:
    """Dots per inch across and down, or nothing."""
    scale = {2: 1.0, 3: 2.54}.get(_number(page, 296, 2))
    values = [page.tags.valueof(tag) for tag in (282, 283)]
    if scale is None or not all(isinstance(v, tuple) and len(v) == 2 and v[1] for v in values):
        return ()
    return tuple(round(v[0] / v[1] * scale, 4) for v in values)


def read_page(page: "TiffPage", file: BinaryIO, notes: list[str]) -> tuple[Pixels, Pixels | None]:
    """(H,W,3) sRGB and (H,W) alpha or None, not turned; uint16 above 8 bits.

    Raises Unreadable, naming the compression, if a strip or tile cannot be decoded. `notes` gets
    a sentence for each part that was left out.
    """
    kind = _number(page, 262, -1)
    channels = page.samplesperpixel
    if kind not in COLOURS or channels < COLOURS[kind] and not (kind in LABS and channels == 1):
        raise Unreadable(f"its colours ({_kind_name(page)}) are not read; save it as RGB")
    count = min(COLOURS[kind], channels)
    extra = [int(e) for e in page.extrasamples]
    extra += [0] * (channels - count - len(extra))
    found = next((n for n, e in enumerate(extra[: channels - count]) if e in (1, 2)), None)
    left_out = channels - count - (found is not None)
    if left_out:
        which = "a further channel" if left_out == 1 else f"{left_out} further channels"
        notes.append(f"{which} (infrared or a mask, as scanners add) was left out")
    samples = _decode(page, file, [*range(count)] + ([] if found is None else [count + found]))
    colour = samples[..., :count]
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 16
    profile = page.tags.valueof(34675)
    profile = profile if isinstance(profile, bytes) else b""
    pixels = _to_colours(colour, kind, bits, profile, page, notes)
    if found is None:
        return pixels, None
    alpha = _to_levels(np.ascontiguousarray(samples[..., count]), bits, notes)
    if alpha.dtype != pixels.dtype:
        pixels = pixels.astype(np.uint16) * 257 if pixels.dtype == np.uint8 else pixels
        alpha = alpha.astype(np.uint16) * 257 if alpha.dtype == np.uint8 else alpha
    if extra[found] == 1:  # premultiplied colours
        pixels = _unmultiply(pixels, alpha)
    return pixels, alpha


def _unmultiply(pixels: Pixels, alpha: Pixels) -> Pixels:
    most = np.iinfo(pixels.dtype).max
    result = np.empty_like(pixels)
    for strip in strips(*pixels.shape[:2]):
        scale = most / np.maximum(alpha[strip], 1).astype(np.float32)
        result[strip] = np.rint(np.minimum(pixels[strip] * scale[..., None], most))
    return result


def _kind_name(page: "TiffPage") -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _to_colours(
    colour: NDArray, kind: int, bits: int, profile: bytes, page: "TiffPage", notes: list[str]
) -> Pixels:
    """Samples of any kind -> (H,W,3) sRGB, uint8 or uint16."""
    if kind in LABS:
        return _lab(colour, kind, bits)
    if kind == PALETTE:
        levels = _look_up(colour[..., 0], bits, page)
    else:
        levels = _to_levels(colour, bits, notes)
        if kind == WHITE_IS_ZERO:
            levels = np.iinfo(levels.dtype).max - levels
    if kind == CMYK:
        inks = to_8_bits(levels)
        image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
        return to_array(icc.image_to_srgb(image, profile, notes))
    if levels.shape[2] == 1:
        levels = levels[..., 0]
    return icc.array_to_srgb(np.ascontiguousarray(levels), profile, notes)


def _to_levels(values: NDArray, bits: int, notes: list[str]) -> Pixels:
    """Samples of any type -> uint8 up to 8 bits, else uint16, each over its whole range."""
    if values.dtype.kind == "u" and bits <= 8:
        return values if bits == 8 else np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    if values.dtype.kind == "u" and bits <= 16:
        if bits == 16:
            return values
        table = np.rint(np.arange(1 << bits) * (65_535 / (2**bits - 1))).astype(np.uint16)
        return table[values]
    if values.dtype.kind == "u" and values.dtype.itemsize * 8 != bits:  # such as 24 bits
        return (values >> (bits - 16)).astype(np.uint16)
    if values.dtype.kind == "i" and values.dtype.itemsize < 4 and values.min() >= 0:
        white = np.iinfo(values.dtype).max
        return np.rint(values.astype(np.float32) * (65_535 / white)).astype(np.uint16)
    return to_16_bits(values, deep=values.dtype.kind != "f", notes=notes)


def _look_up(index: NDArray, bits: int, page: "TiffPage") -> Pixels:
    """Palette colours; tables of 8-bit values, as some programs write, are detected."""
    table = np.asarray(page.tags.valueof(320, ()), np.uint16)
    if bits > 16 or table.size != 3 << bits or index.dtype.kind != "u":
        raise Unreadable("its palette is damaged; get a whole copy")
    table = table.reshape(3, -1).T
    table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
    return table[index]


def _lab(colour: NDArray, kind: int, bits: int) -> Pixels:
    """CIELab (a* and b* signed) and ICCLab (offset by half the range), under D50."""
    if bits not in (8, 16):
        raise Unreadable(f"its Lab colours have {bits} bits; save it as RGB")
    values = colour.astype(np.float32)
    half, unit = (1 << bits - 1), (1 if bits == 8 else 256)
    white = 255 if bits == 8 else 65_535 if kind == 8 else 65_280
    lab = np.zeros((*colour.shape[:2], 3), np.float32)
    lab[..., 0] = values[..., 0] * (100 / white)
    for channel in range(1, colour.shape[2]):
        a = values[..., channel]
        if kind == 8:
            a = np.where(a >= half, a - 2 * half, a) if colour.dtype.kind == "u" else a
        else:
            a = a - half
        lab[..., channel] = a / unit
    pixels = icc.lab_to_srgb(lab)
    return to_8_bits(pixels) if bits == 8 else pixels


def _decode(page: "TiffPage", file: BinaryIO, kept: Sequence[int]) -> NDArray:
    """(H,W,n) of a page's n `kept` channels, in the machine's byte order, from all its pieces."""
    height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
    if page.imagedepth != 1 or channels > MAX_CHANNELS:
        raise Unreadable("it is a volume of pictures, not a photo; save one of them as a TIFF")
    if page.compression == 6:
        return _decode_old_jpeg(page, file)[..., kept]
    planar = page.planarconfig == 2 and channels > 1
    per = 1 if planar else channels
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        rows, columns = min(page.rowsperstrip or height, height), width
    if rows < 1 or columns < 1:
        raise Unreadable("its tiles are damaged; get a whole copy")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 16
    if rows * columns * per * bits > MAX_PIECE * 8:
        raise Unreadable("its tiles are above 4 gigabytes; save it with smaller ones")
    down, across = -(-height // rows), -(-width // columns)
    offsets, counts = page.dataoffsets, page.databytecounts
    pieces = down * across * (channels if planar else 1)
    if len(offsets) < pieces or len(counts) < len(offsets) and page.compression != 1:
        raise Unreadable(f"{pieces - len(offsets)} of its strips are missing; get a whole copy")
    result: NDArray | None = None
    for number in range(pieces):
        plane, place = divmod(number, down * across)
        if planar and plane not in kept:
            continue
        top, left = place // across * rows, place % across * columns
        high = rows if page.is_tiled else min(rows, height - top)
        shape = (high, columns, per)
        size = counts[number] if number < len(counts) else 0
        samples = _decode_piece(page, file, number, (offsets[number], size), shape)
        if result is None:
            result = np.empty((height, width, len(kept)), samples.dtype)
        target = result[top : top + high, left : left + columns]
        samples = samples[: target.shape[0], : target.shape[1]]
        if planar:
            target[..., kept.index(plane)] = samples[..., 0]
        else:
            target[:] = samples if channels == len(kept) else samples[..., kept]
    assert result is not None
    return result


def _decode_piece(
    page: "TiffPage", file: BinaryIO, number: int, place: tuple[int, int],
    shape: tuple[int, int, int],
) -> NDArray:  # fmt: skip
    """(rows, columns, channels) of one strip or tile."""
    compression = int(page.compression)
    name = NAMES.get(compression, f"compression {compression}")
    piece = f"{'tile' if page.is_tiled else 'strip'} {number + 1}"
    bits = page.bitspersample
    stride = (shape[1] * shape[2] * bits + 7) // 8 if isinstance(bits, int) else 0
    offset, count = place
    file.seek(offset)
    data = file.read(shape[0] * stride if compression == 1 and stride else count)
    if not data or not offset:
        raise Unreadable(f"its {piece} is empty; get a whole copy")
    try:
        if isinstance(bits, int) and compression in {1, *DEFLATE, *BY_LIBTIFF}:
            if page.fillorder == 2:
                data = data.translate(REVERSED)
            if _number(page, 262) == YCBCR and bits == 8 and shape[2] == 3:
                return _decode_ycbcr(data, page, compression, shape)
            data = _decompress(data, compression, (shape[0], stride))
            if len(data) < shape[0] * stride:
                raise ValueError("it is too short")
            return _unpack(data, page, shape, stride)
        if compression in PICTURES and bits in (1, 8):
            samples = _decode_picture(data, page, file, shape)
        elif compression in FILES and bits == 8 and _opens(FILES[compression]):
            samples = _decode_file(data, compression, shape)
        else:
            samples = _decode_by_imagecodecs(data, page, number, name)
    except Unreadable:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # codecs raise many errors on damaged data
        raise Unreadable(
            f"its {piece}, compressed by {name}, cannot be decoded ({reason_of(error)}); get a"
            " whole copy"
        ) from None
    if samples.shape[0] < shape[0] and not page.is_tiled or samples.shape[2] != shape[2]:
        raise Unreadable(
            f"its {piece}, compressed by {name}, is {samples.shape}, not {shape}; get a whole copy"
        )
    return samples


def _decode_ycbcr(
    data: bytes, page: "TiffPage", compression: int, shape: tuple[int, int, int]
) -> NDArray:
    """(rows, columns, 3) RGB of YCbCr (TIFF 6.0, section 21), with BT.601's weights."""
    rows, columns, _ = shape
    sampled = page.tags.valueof(530)
    # Without the tag the specification means (2, 2), but most writers without it mean (1, 1).
    for across, down in [sampled] if sampled else [(1, 1), (2, 2)]:
        if across not in (1, 2, 4) or down not in (1, 2, 4):
            raise ValueError("its subsampling is damaged")
        high, wide, unit = -(-rows // down), -(-columns // across), across * down + 2
        try:
            flat = _decompress(data, compression, (1, high * wide * unit))
            units = np.frombuffer(flat, np.uint8, high * wide * unit).reshape(high, wide, unit)
            break
        except (OSError, ValueError, zlib.error):
            if sampled or across == 2:
                raise
    luma = units[..., :-2].reshape(high, wide, down, across).transpose(0, 2, 1, 3)
    chroma = units[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    ycc = np.dstack([luma.reshape(high * down, wide * across), chroma])[:rows, :columns]
    ends = page.tags.valueof(532, ())  # black and white of each, as fractions
    if len(ends) == 12 and all(ends[1::2]):
        black, white = (np.array(ends[n::4], float) / ends[n + 1 :: 4] for n in (0, 2))
        if (white > black).all():
            scaled = (ycc - black) * ([255, 127, 127] / (white - black)) + [0, 128, 128]
            ycc = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return to_array(Image.frombytes("YCbCr", (columns, rows), ycc.tobytes()).convert("RGB"))


def _decompress(data: bytes, compression: int, size: tuple[int, int]) -> bytes:
    """The bytes of a strip or tile; `size` is its rows and bytes a row."""
    rows, stride = size
    if compression == 1:
        return data[: rows * stride]
    if compression in DEFLATE:
        return zlib.decompressobj().decompress(data, rows * stride)
    tags = {
        256: long(stride, order="<"), 257: long(rows, order="<"), 258: short(8, order="<"),
        259: short(compression, order="<"), 262: short(1, order="<"), 277: short(1, order="<"),
    }  # fmt: skip
    with open_image(_wrap(data, tags, rows, "<"), ("TIFF",)) as image:
        return image.tobytes()


def _wrap(data: bytes, tags: Directory, rows: int, order: str) -> io.BytesIO:
    """A TIFF of one strip."""
    at = 8 + len(data) + len(data) % 2
    tags = tags | {
        273: long(8, order=order), 278: long(rows, order=order),
        279: long(len(data), order=order),
    }  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    directory = pack_directory(tags, order=order, start=at)
    return io.BytesIO(head + data + bytes(len(data) % 2) + directory)


def _unpack(data: bytes, page: "TiffPage", shape: tuple[int, int, int], stride: int) -> NDArray:
    """Bytes -> samples of 1 to 64 bits, with the predictor undone."""
    rows, columns, channels = shape
    bits, predictor = page.bitspersample, int(page.predictor)
    kind = KINDS.get(int(page.sampleformat or 1))
    order = page.parent.byteorder
    if kind is None or kind == "f" and bits not in (16, 24, 32, 64):
        raise Unreadable(f"its samples (format {page.sampleformat}, {bits} bits) are not read")
    if predictor not in (1, 2, 3) or predictor == 3 and kind != "f" or not 1 <= bits <= 64:
        raise Unreadable(f"its predictor {predictor} does not fit its samples")
    raw = np.frombuffer(data, np.uint8, rows * stride)
    if bits not in (8, 16, 32, 64):
        if predictor != 1:
            raise Unreadable(f"its predictor {predictor} does not fit samples of {bits} bits")
        if bits == 24:
            return _unpack_24(raw.reshape(*shape, 3), kind)
        values = _unpack_bits(raw.reshape(rows, stride), bits, columns * channels).reshape(shape)
        if kind == "u":
            return values
        size = values.dtype.itemsize  # signed: shifted to the range of their type
        return (values << (8 * size - bits)).astype(values.dtype).view(f"i{size}")
    size = bits // 8
    if predictor == 3:  # the bytes of a row, the highest of all samples first, as differences
        steps = raw.reshape(rows, columns * size, channels)
        planes = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, size, columns * channels)
        values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")
        return values.astype(f"f{size}").reshape(shape)
    whole = raw.view(f"{order}u{size}").reshape(shape).astype(f"u{size}", copy=False)
    if predictor == 2:
        whole = np.cumsum(whole, axis=1, dtype=whole.dtype)
    return whole.view(f"{kind}{size}")


def _unpack_24(samples: NDArray, kind: str) -> NDArray:
    """(rows, columns, channels, 3) bytes -> uint32, int32, or float32.

    libtiff and GDAL use the file's byte order; ImageMagick and tifffile always put the highest byte
    first. The lowest byte is taken as first if neighbours then differ clearly less. Floats have 7
    bits of exponent and 16 of mantissa (technical note 3), so their bits sort in the same way.
    """
    wide = samples.astype(np.int32)
    high_first = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    low_first = wide[..., 2] << 16 | wide[..., 1] << 8 | wide[..., 0]
    steps = [np.abs(np.diff(v, axis=1)).sum(dtype=np.int64) for v in (high_first, low_first)]
    values = (low_first if steps[1] < 0.9 * steps[0] else high_first).astype(np.uint32)
    if kind == "u":
        return values
    if kind == "i":
        return (values << 8).view(np.int32)
    exponent = values >> 16 & 0x7F
    single = values >> 23 << 31 | (exponent + 64) << 23 | (values & 0xFFFF) << 7
    return np.where(exponent == 0, 0, single).astype(np.uint32).view(np.float32)


def _unpack_bits(rows: NDArray, bits: int, count: int) -> NDArray:
    """(rows, bytes) -> (rows, count) of numbers of so many bits each, highest bit first."""
    wide = 8 if bits <= 8 else 16 if bits <= 16 else 32 if bits <= 32 else 64
    result = np.empty((len(rows), count), f"u{wide // 8}")
    step = max(1, (1 << 20) // max(1, count))
    for top in range(0, len(rows), step):
        own = rows[top : top + step]
        flat = np.unpackbits(own, axis=1, count=count * bits).reshape(len(own), count, bits)
        padded = np.zeros((len(own), count, wide), np.uint8)
        padded[..., wide - bits :] = flat
        packed = np.packbits(padded, axis=2).view(f">u{wide // 8}")
        result[top : top + step] = packed[..., 0]
    return result


def _decode_picture(
    data: bytes, page: "TiffPage", file: BinaryIO, shape: tuple[int, int, int]
) -> NDArray:
    """A strip or tile of CCITT, JPEG or subsampled YCbCr, as a TIFF of its own, by libtiff."""
    tiff = page.parent
    directory = ifd.read_directory(
        file, page.offset, order=tiff.byteorder, big=tiff.is_bigtiff
    )  # fmt: skip
    order, kind, bits = tiff.byteorder, _number(page, 262), page.bitspersample
    tags = {tag: directory[tag] for tag in PICTURE_TAGS if tag in directory}
    if shape[2] == 1 or kind not in (YCBCR, CMYK):  # unconverted samples
        tags[262] = short(1 if shape[2] == 1 else 2, order=order)
    tags |= {
        256: long(shape[1], order=order), 257: long(shape[0], order=order),
        258: short(*[bits] * shape[2], order=order), 277: short(shape[2], order=order),
        284: short(1, order=order),
    }  # fmt: skip
    with open_image(_wrap(data, tags, shape[0], order), ("TIFF",)) as image:
        image.load()
        samples = np.asarray(image)
        return samples.reshape(*samples.shape[:2], -1).astype(np.uint8)


def _decode_file(data: bytes, compression: int, shape: tuple[int, int, int]) -> NDArray:
    """A strip or tile that is a whole WebP, JPEG 2000, PNG or JPEG XL."""
    format = FILES[compression]
    with open_image(io.BytesIO(data), (format,)) as image:
        if image.width * image.height > max(4 * shape[0] * shape[1], 1 << 16):
            raise ValueError("it is larger than the page says")
        samples = np.asarray(image)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.dtype != np.uint8:
        raise ValueError(f"its samples are {samples.dtype}")
    if compression == 33003 and samples.shape[2] == 3 and not _mixes_colours(data):
        ycc = Image.frombytes("YCbCr", samples.shape[1::-1], samples.tobytes())
        samples = to_array(ycc.convert("RGB"))
    if format == "WEBP" and samples.shape[2] == 3 and shape[2] == 4:  # WebP drops an opaque alpha
        samples = np.dstack([samples, np.full(samples.shape[:2], 255, np.uint8)])
    return samples


def _opens(format: str) -> bool:
    """Whether Pillow opens a format here."""
    try:
        if format == "JXL":
            register_jxl()
    except Unreadable:
        return False
    return True


def _mixes_colours(codestream: bytes) -> bool:
    """Whether the components of a JPEG 2000 codestream are declared a transform of RGB."""
    at = codestream.find(b"\xff\x52")  # COD: length, style, progression, layers, the transform
    return at >= 0 and codestream[at + 8 : at + 9] == b"\1"


def _decode_by_imagecodecs(data: bytes, page: "TiffPage", number: int, name: str) -> NDArray:
    """Other compressions, by imagecodecs; Unreadable, naming it, if it is not installed."""
    from tifffile import TIFF

    if _number(page, 262) != 2 and page.is_subsampled and page.compression != 7:
        raise Unreadable("its colours are subsampled; save it as RGB")
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        raise Unreadable(
            f"its pixels are compressed by {name}, which needs imagecodecs:"
            f" {install_command('tiff')}"
        ) from None
    if page.compression not in TIFF.DECOMPRESSORS:
        raise Unreadable(
            f"its pixels are compressed by {name}, which nothing here reads; save it as another"
            " TIFF with the program that made it"
        )
    tables = {"jpegtables": page.jpegtables} if page.compression == 7 else {}
    try:
        with caught_stderr():
            decoded, _, _ = page.decode(data, number, **tables)
    except MemoryError:
        raise ValueError("it asks for too much memory") from None
    if decoded is None:
        raise ValueError("it is empty")
    return np.asarray(decoded)[0]


def _decode_old_jpeg(page: "TiffPage", file: BinaryIO) -> NDArray:
    """A page of old-style JPEG, with tables elsewhere in the file, by Pillow's libtiff."""
    file.seek(0)
    try:
        with open_image(file, ("TIFF",)) as image:
            image.seek(page.index)
            image.load()
            samples = np.asarray(image)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError) as error:
        raise Unreadable(
            f"its pixels are compressed by old-style JPEG, which cannot be decoded here"
            f" ({reason_of(error)}); save it as another TIFF with the program that made it"
        ) from None
    return samples.reshape(*samples.shape[:2], -1)


STRIP_BYTES = 1 << 20
LEVEL = 1  # of zlib; 5 takes half as long again and does not pack 16-bit photos better


def write_tiff(
    file: BinaryIO, pixels: NDArray[Any], tags: Mapping[int, Entry], *, order: str = "<"
) -> None:
    """Write (H,W,3) or, with alpha, (H,W,4) of uint8 or uint16, and the given tags."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    rows = max(1, STRIP_BYTES // (width * channels * pixels.dtype.itemsize))
    file.write((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0))
    at, offsets, sizes = 8, [], []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows]
        difference = strip.copy()
        difference[:, 1:] -= strip[:, :-1]  # modulo the range, as the format requires
        data = zlib.compress(difference.astype(f"{order}u{bits // 8}").tobytes(), LEVEL)
        file.write(data)
        offsets.append(at)
        sizes.append(len(data))
        at += len(data)
    if at % 2:
        file.write(b"\0")
        at += 1
    directory: Directory = {
        **tags,
        256: long(width, order=order), 257: long(height, order=order),
        258: short(*[bits] * channels, order=order), 259: short(8, order=order),
        262: short(2, order=order), 273: long(*offsets, order=order),
        277: short(channels, order=order), 278: long(rows, order=order),
        279: long(*sizes, order=order), 284: short(1, order=order), 317: short(2, order=order),
    }  # fmt: skip
    if channels == 4:
        directory[338] = short(2, order=order)  # unassociated alpha
    packed = pack_directory(directory, order=order, start=at)
    if at + len(packed) >= 1 << 32:
        raise ValueError("a TIFF is limited to 4 GB")
    file.write(packed)
    file.seek(4)
    file.write(struct.pack(f"{order}I", at))
