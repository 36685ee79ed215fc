"""The formats of photo files: their suffixes, what each can store, and how it is saved."""

import os
from dataclasses import dataclass

MAX_PIXELS = 200_000_000  # of a photo that is read, unless a caller wants more

# Formats that are written: suffix and format.
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG",
    ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
    ".jp2": "JPEG2000", ".ppm": "PPM",
}  # fmt: skip
# Raw files of cameras.
RAW = {
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc",
    ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2",
    ".srf", ".srw", ".x3f",
}  # fmt: skip
# Formats that are only read: all that Pillow opens, and more. HEIC, JPEG XL and raw files need an
# extra package, but are always listed, so that a missing package is reported instead of photos
# being skipped silently.
READ_ONLY = RAW | {
    ".gif", ".heic", ".heif", ".hif", ".heics", ".heifs", ".pgm", ".pbm", ".pnm", ".pfm", ".j2k",
    ".j2c", ".jpc", ".jpf", ".jpx", ".jls", ".jxl", ".psd", ".psb", ".mpo", ".apng", ".avifs",
    ".btf", ".dib", ".pcx", ".dcx", ".tga", ".icb", ".vda", ".vst", ".sgi", ".rgb", ".rgba", ".bw",
    ".ras", ".pcd", ".ico", ".cur", ".icns", ".qoi", ".dds", ".blp", ".ftc", ".ftu", ".fli", ".flc",
    ".gbr", ".iim", ".im", ".msp", ".pxr", ".xbm", ".xpm",
}  # fmt: skip

# Names of photo columns in parquet files and hub data sets: the first that exists is used.
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")


@dataclass(frozen=True)
class Holds:
    """What a format can store besides 8-bit RGB, and its default quality."""

    alpha: bool = False
    deep: bool = False  # 16 bits a channel
    profile: bool = False  # ICC
    exif: bool = False
    xmp: bool = False
    dpi: bool = False
    quality: int | None = None


HOLDS = {
    "JPEG": Holds(profile=True, exif=True, xmp=True, dpi=True, quality=95),
    "PNG": Holds(alpha=True, deep=True, profile=True, exif=True, xmp=True, dpi=True),
    "TIFF": Holds(alpha=True, deep=True, profile=True, exif=True, xmp=True, dpi=True),
    "WEBP": Holds(alpha=True, profile=True, exif=True, xmp=True, quality=95),
    "AVIF": Holds(alpha=True, profile=True, exif=True, xmp=True, quality=90),
    "JPEG2000": Holds(alpha=True),
    "BMP": Holds(dpi=True),
}
# The longest side in pixels that a format can be saved with. AVIF's encoders accept 65,536, but
# libavif, and so browsers and Pillow, decode 32,768 at most; libpng has one limit for both.
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768, "GIF": 65_535, "PNG": 1_000_000}
NOTHING = Holds()  # any other format that Pillow writes, by its name


def is_photo(name: str) -> bool:
    """Whether a name is that of a photo; the file is not opened, so broken links count."""
    return os.path.splitext(name)[1].lower() in FORMATS.keys() | READ_ONLY


def find_format(name: str) -> str:
    """jpg, JPEG or .jpg -> Pillow's name for the format; an unknown one in capitals."""
    return FORMATS.get(f".{name.lower().lstrip('.')}", name.upper())


# First bytes of files that are not photos, or not readable ones: offset, bytes, name.
KNOWN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF"), (0, b"%!PS", "PostScript"), (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"<svg", "an SVG drawing"), (0, b"<?xml", "XML, perhaps an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page"), (0, b"<html", "a web page"), (0, b"gimp xcf", "GIMP's XCF"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"), (0, b"II\xbc", "JPEG XR"), (0, b"AT&TFORM", "DjVu"),
    (128, b"DICM", "DICOM"), (0, b"SIMPLE  =", "FITS"), (0, b"PK\3\4", "a ZIP archive"),
    (0, b"Rar!", "a RAR archive"), (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"), (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"), (0, b"BPG\xfb", "BPG"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"), (0, b"FLIF", "FLIF"),
    (0, b"\xf5\x46\x4c\x49", "FLIF"), (4, b"ftypqt", "a video (QuickTime)"),
    (4, b"ftypisom", "a video (MP4)"), (4, b"ftypmp4", "a video (MP4)"),
    (4, b"ftypM4V", "a video (MP4)"), (4, b"ftyp3g", "a video (3GP)"),
    (4, b"ftyp", "a video, or a picture of an unknown kind (ISO base media)"),
    (0, b"P7\n", "PAM"), (0, b"PF\n", "a portable float map"), (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"), (0, b"\x80\x2a\x5f\xd7", "Cineon"), (0, b"\x8bJNG", "JNG"),
    (0, b"\x8aMNG", "MNG"), (0, b"id=ImageMagick", "ImageMagick's MIFF"), (0, b"\x97JB2", "JBIG2"),
    (0, b"Paint Shop Pro", "Paint Shop Pro's"), (0, b"\0\xffKA", "Affinity's"),
    (0, b"\x89HDF", "HDF5"), (0, b"\xd0\xcf\x11\xe0", "an Office document, or FlashPix"),
)  # fmt: skip


def name_content(head: bytes) -> str | None:
    """The kind of a file with these first 256 bytes, if it is one that is not read."""
    for offset, start, name in KNOWN:
        if head[offset:].lower().startswith(start.lower()):
            return name
    return None


# First bytes of formats that are read, for damaged files that no decoder opens.
READ: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG"), (0, b"\x89PNG", "a PNG"), (8, b"WEBP", "a WebP"),
    (0, b"GIF8", "a GIF"), (4, b"jP  \r\n", "a JPEG 2000"), (0, b"\xff\x4f\xff", "a JPEG 2000"),
    (4, b"ftypavif", "an AVIF"), (4, b"ftypavis", "an AVIF"), (4, b"ftypmif1", "a HEIC"),
    (4, b"ftyphei", "a HEIC"), (4, b"ftyphev", "a HEIC"), (4, b"ftypmsf1", "a HEIC"),
    (0, b"II*\0", "a TIFF"), (0, b"MM\0*", "a TIFF"), (0, b"8BPS", "a PSD"),
    (0, b"\xff\x0a", "a JPEG XL"), (4, b"JXL \r\n", "a JPEG XL"), (0, b"BM", "a BMP"),
)  # fmt: skip


def name_known(head: bytes) -> str | None:
    """The format of a file with these first 256 bytes, if it is one that is read."""
    return next((name for at, start, name in READ if head[at:].startswith(start)), None)
