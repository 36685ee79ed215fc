"""The formats of photo files: their suffixes, what each one can hold, and how it is saved."""

from dataclasses import dataclass

# What is written: the suffixes, and the format that each one means.
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".jp2": "JPEG2000",
    ".ppm": "PPM",
}  # fmt: skip
# What is only read. HEIC needs an extra package, but is listed all the same: better a failure that
# is reported than a photo silently left out.
READ_ONLY = {".gif", ".jfif", ".heic", ".heif", ".pgm", ".pbm", ".tga", ".j2k", ".dng"}

# The columns of photos in parquet files and hub data sets: the first that is there is taken.
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")


@dataclass(frozen=True)
class Holds:
    """What a format can hold besides 8-bit RGB, and the quality it is saved with by default."""

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
NOTHING = Holds()  # any other format that Pillow writes, by its name


def find_format(name: str) -> str:
    """jpg, JPEG or .jpg -> Pillow's name for the format; an unknown one in capitals."""
    return FORMATS.get(f".{name.lower().lstrip('.')}", name.upper())
