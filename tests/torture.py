"""Fill a folder with all kinds of photos and files that programs fail on.

    python tests/torture.py FOLDER

Every mode, format, profile and orientation, 16 bits, pages, broken and hostile files, odd names,
links and depth.
"""

import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

MODES = {
    "1": "png", "L": "jpg", "LA": "png", "P": "png", "PA": "png", "RGB": "jpg", "RGBA": "png",
    "CMYK": "jpg", "YCbCr": "jpg", "LAB": "tif", "I;16": "png", "I": "tif", "F": "tif",
}  # fmt: skip
FORMATS = ("jpg", "jpeg", "png", "webp", "avif", "tif", "bmp", "jp2", "ppm", "gif", "tga", "pgm")
NAMES = (
    "with space",
    "Grüße",
    "-rf",
    "new\nline",
    "tab\there",
    "'quoted\"",
    "$HOME",
    "*?[a]",
    "日本",
    "x" * 240,
)
DEPTH = 20


def make_torture(folder: Path) -> dict[str, str]:
    """Fill a folder; returns the files that cannot be coloured, each with a word of the reason."""
    folder = folder.absolute()  # target of links
    photo = _photo(24, 20)
    for mode, suffix in MODES.items():
        _in_mode(photo, mode).save(_place(folder, f"modes/{mode.replace(';', '')}.{suffix}"))
    for suffix in FORMATS:
        mode = "L" if suffix == "pgm" else "RGB"
        photo.convert(mode).save(_place(folder, f"formats/as-{suffix}.{suffix}"))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        photo.save(_place(folder, f"turned/{turn}.JPG"), exif=exif)
    for name in NAMES:
        photo.save(_place(folder, f"names/{name}.png"))
    photo.save(_place(folder, "/".join(["deep", *map(str, range(DEPTH)), "down.png"])))
    photo.save(_place(folder, "folder.jpg/inside.jpg"))
    _photo(1, 1).save(_place(folder, "shapes/dot.png"))
    _photo(700, 2).save(_place(folder, "shapes/panorama.png"))
    Image.new("RGB", (30, 20)).save(_place(folder, "shapes/black.png"))
    for name, profile in _profiles().items():
        photo.save(_place(folder, f"profiles/{name}.jpg"), icc_profile=profile)
        photo.save(_place(folder, f"profiles/{name}.tif"), icc_profile=profile)
    photo.convert("CMYK").save(_place(folder, "profiles/cmyk.tif"), icc_profile=_profiles()["srgb"])
    deep = np.asarray(photo).astype(np.uint16) * 257
    for channels, suffix in ((3, "png"), (3, "tif"), (4, "png"), (4, "tif")):
        alpha = np.full((*deep.shape[:2], channels - 3), 40_000, np.uint16)
        pixels = np.concatenate([deep, alpha], axis=2)
        cv2.imwrite(str(_place(folder, f"deep/{channels}.{suffix}")), pixels)
    photo.save(_place(folder, "odd/bad-profile.jpg"), icc_profile=b"no profile")
    photo.save(_place(folder, "odd/bad-exif.jpg"), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    photo.save(_place(folder, "odd/is-a-jpeg.png"), format="JPEG")
    _place(folder, "notes.txt").write_text("no photo")
    photo.save(_place(folder, ".hidden.jpg"))
    photo.save(_place(folder, ".hidden/photo.jpg"))
    return _make_broken(folder, photo)


def _make_broken(folder: Path, photo: Image.Image) -> dict[str, str]:
    whole = BytesIO()
    _photo(64, 64).save(whole, "JPEG")
    _place(folder, "broken/cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    _place(folder, "broken/empty.jpg").touch()
    _place(folder, "broken/text.jpg").write_text("no photo")
    _place(folder, "broken/noise.png").write_bytes(np.random.default_rng(0).bytes(2000))
    _place(folder, "broken/bomb.png").write_bytes(_bomb())
    _place(folder, "broken/wide.jpg").write_bytes(_stretch(whole.getvalue()))
    _place(folder, "broken/page.jpg").write_text("<html><script>alert(1)</script></html>")
    _place(folder, "broken/drawing.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    frames = [photo, photo.transpose(Image.Transpose.ROTATE_180)]
    for suffix in ("tif", "gif", "webp", "png"):
        path = _place(folder, f"pages/two-{suffix}.{suffix}")
        photo.save(path, save_all=True, append_images=frames[1:])
    reasons = {
        "broken/cut.jpg": "cut short",
        "broken/empty.jpg": "empty",
        "broken/text.jpg": "known format",
        "broken/noise.png": "known format",
        "broken/bomb.png": "megapixels",
        "broken/wide.jpg": "megapixels",
        "broken/page.jpg": "a web page",
        "broken/drawing.png": "an SVG drawing",
    }
    reasons |= {f"pages/two-{s}.{s}": "2 pages" for s in ("tif", "gif", "webp", "png")}
    links = folder / "links"
    links.mkdir()
    (links / "nowhere.jpg").symlink_to("gone.jpg")
    (links / "itself.jpg").symlink_to("itself.jpg")
    (links / "loop").symlink_to(folder, target_is_directory=True)
    (links / "photo.jpg").symlink_to(folder / "formats" / "as-jpg.jpg")
    reasons |= {"links/nowhere.jpg": "nowhere", "links/itself.jpg": "loop", "links/loop": "loop"}
    os.mkfifo(folder / "broken" / "pipe.jpg")
    reasons["broken/pipe.jpg"] = "not a regular file"
    if os.geteuid():  # root may read everything
        photo.save(_place(folder, "broken/secret.jpg"))
        (folder / "broken" / "secret.jpg").chmod(0)
        (folder / "closed").mkdir(mode=0)
        reasons |= {"broken/secret.jpg": "permission", "closed": "cannot be listed"}
    strange = os.fsencode(folder / "names") + b"/latin-\xfc.png"
    with open(strange, "wb") as file:
        photo.save(file, "PNG")
    return reasons


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(40, 216, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def _in_mode(photo: Image.Image, mode: str) -> Image.Image:
    grey = np.asarray(photo.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    if mode == "LAB":
        return Image.merge("LAB", [photo.convert("L"), *[Image.new("L", photo.size, 128)] * 2])
    if mode == "PA":
        return photo.convert("P").convert("PA").convert("RGBA").quantize(16)
    return photo.convert(mode)


def _profiles() -> dict[str, bytes]:
    """sRGB, one with red and blue swapped, and one that is for Lab."""
    made = {"srgb": ImageCms.createProfile("sRGB"), "lab": ImageCms.createProfile("LAB")}
    profiles = {name: ImageCms.ImageCmsProfile(profile).tobytes() for name, profile in made.items()}
    swapped = (
        profiles["srgb"].replace(b"sRGB", b"swap").replace("sRGB".encode("utf-16-be"), b"swapswap")
    )
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    first, second = min(red, blue), max(red, blue)
    tags = swapped[second : second + 4], swapped[first : first + 4]
    profiles["wide"] = (
        swapped[:first] + tags[0] + swapped[first + 4 : second] + tags[1] + swapped[second + 4 :]
    )
    return profiles


def _stretch(jpeg: bytes) -> bytes:
    """A JPEG whose header promises 65,000 x 65,000 pixels."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", 65_000, 65_000) + jpeg[start + 4 :]


def _bomb() -> bytes:
    """A PNG whose header promises 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data
        chunks += struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


if __name__ == "__main__":
    for name, reason in make_torture(Path(sys.argv[1])).items():
        print(f"{name}: {reason}")
