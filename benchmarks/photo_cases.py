"""Results of condiff and other programs for photos that readers misread: a Markdown table.

    python benchmarks/photo_cases.py FOLDER --before OLD_CHECKOUT

Numbers are means of R, G and B, or of grey, in levels of 8 bits. Files with "python_api" in their
name are opened by Pillow, those with "to_avif" are also written. `--before` is a folder that
contains an older condiff package. exiftool, ImageMagick, tifffile, imagecodecs and LittleCMS are
run if they are installed and the file is of their kind.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

OLD = """
import sys, json, io, numpy as np
from pathlib import Path
from PIL import Image
try:
    try:
        from condiff.photos.reading import read_photo, as_photo
        from condiff.photos.writing import write_photo
    except ImportError:
        from condiff.images.files import read_photo, write_photo
        from condiff.images.photo import Photo
        as_photo = Photo.from_image
    name = sys.argv[1]
    photo = as_photo(Image.open(name)) if "python_api" in name else read_photo(Path(name))
    if "to_avif" in name:
        write_photo(photo, io.BytesIO(), format="AVIF")
    pixels = photo.pixels
    found = [pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, photo.alpha is not None]
    white = np.iinfo(pixels.dtype).max
    print(json.dumps([found, (pixels.reshape(-1, 3).mean(0) * 255 / white).tolist(),
                      list(map(str, photo.info.get("warnings", ())))]))
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def main() -> None:
    """Parse the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path, help="a folder with an older condiff package")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    heads = ["file", *(["before"] if arguments.before else []), "now", "other readers"]
    print("|".join(["", *heads, ""]).replace("|", " | ").strip())
    print("|" + "---|" * len(heads))
    for path in sorted(arguments.folder.iterdir()):
        cells = [path.name]
        if arguments.before:
            cells.append(read_by(arguments.before, path))
        cells += [read_by(here, path), "; ".join(ask_others(path, here))]
        print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)


def read_by(package: Path, path: Path) -> str:
    """The result of a condiff package's reader for a file."""
    command = [sys.executable, "-W", "ignore", "-c", OLD, str(path.resolve())]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True)
    answer = json.loads(done.stdout or '"it crashed"')
    if isinstance(answer, str):
        kind, _, why = answer.partition(": ")
        if kind != "ImageError":
            return f"{answer}, a traceback"
        return "refused: " + why.removeprefix(f"cannot read {path.resolve()}: ")
    (width, height, bits, alpha), means, warnings = answer
    found = f"{describe(np.array(means))}, {bits} bits, {width} x {height}"
    return found + ", alpha" * alpha + "".join(f"; warning: {text}" for text in warnings)


def describe(means: NDArray) -> str:
    """Means of R, G and B; one number if they are equal."""
    some = means if np.ptp(means) > 0.05 else means[:1]
    return " ".join(f"{value:.1f}" for value in some)


def ask_others(path: Path, here: Path) -> list[str]:
    """The results of the other programs for a file."""
    found = []
    for ask in (ask_imagemagick, ask_tifffile, ask_imagecodecs, ask_littlecms):
        with suppress(Exception):  # not its kind of file
            if answer := ask(path):
                found.append(answer)
    if answer := ask_exiftool(path, here):
        found.append(answer)
    return found


def ask_imagemagick(path: Path) -> str:
    """The means of the first picture, or the first line of the error."""
    form = "%[fx:255*mean.r] %[fx:255*mean.g] %[fx:255*mean.b] %w x %h\n"
    command = ["convert", f"{path}[0]", "-alpha", "off", "-colorspace", "sRGB", "-format", form]
    done = subprocess.run([*command, "info:"], capture_output=True, text=True)
    error = done.stderr.split("`")[0].removeprefix("convert: ").strip(" .")
    if done.stdout.split() and "Unsupported" not in error:
        return f"ImageMagick {describe(np.array(done.stdout.split()[:3], float))}"
    return f'ImageMagick: "{error}"' if error else ""


def ask_tifffile(path: Path) -> str:
    """The means of the first page's samples over their range."""
    if path.suffix != ".tif":
        return ""  # of raw files the first page is a thumbnail
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        samples = np.atleast_3d(page.asarray())
        samples = np.moveaxis(samples, 0, 2) if page.planarconfig == 2 else samples
        whole = 1 if samples.dtype.kind == "f" else 2**page.bitspersample - 1
        kind = getattr(page.photometric, "name", page.photometric)
    means = samples.reshape(-1, samples.shape[2]).mean(0) * (255 / whole)
    return f"tifffile: {kind} " + " ".join(f"{mean:.1f}" for mean in means)


def ask_imagecodecs(path: Path) -> str:
    """The means of files that are not TIFFs, and of JPEGs that an 8-bit libjpeg does not read."""
    import imagecodecs

    data = path.read_bytes()
    if path.suffix == ".jxl":
        samples, white = imagecodecs.jpegxl_decode(data), 255
    elif "12bit" in path.name:
        samples, white = imagecodecs.jpeg_decode(data), 4095
    else:
        return ""
    samples = np.atleast_3d(samples)
    return f"imagecodecs {describe(samples.reshape(-1, samples.shape[2]).mean(0) * 255 / white)}"


def ask_littlecms(path: Path) -> str:
    """The means after the profile in a PNG, or a TIFF's CIELab, was applied in 8 bits."""
    if path.suffix == ".tif":
        import tifffile

        with tifffile.TiffFile(path) as file:
            if file.pages.first.photometric != 8:
                return ""
            values = file.pages.first.asarray()
        lab = np.rint(values.view(np.int16) / 256).astype(np.int16)
        lab[..., 0] = np.rint(values[..., 0] * (255 / 65_535))
        image: Image.Image = Image.fromarray(lab.astype(np.uint8), "LAB")
        source = ImageCms.createProfile("LAB")
    else:
        with Image.open(path) as image:
            image.load()
        profile = image.info.get("icc_profile", b"")
        if not profile:
            return ""
        if profile[16:20] == b"GRAY" and image.mode == "RGB":
            return "LittleCMS: the profile is for grey, the pixels are RGB"
        if image.mode in ("I;16", "I"):
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    result = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    return f"LittleCMS {describe(np.asarray(result).reshape(-1, 3).mean(0))}"


WANTED = ("ImageWidth", "ImageHeight", "BitsPerSample", "PhotometricInterpretation", "Compression")
PROMISES = ("HasExtendedXMP", "hdrgm", "Container", "MPF", "MotionPhoto")


def ask_exiftool(path: Path, here: Path) -> str:
    """Structure of raw files, orientation, and metadata that the source and the result declare."""
    if not shutil.which("exiftool"):
        return ""
    text = run_exiftool(path)
    if path.suffix in (".dng", ".nef"):
        rows = [
            line for line in text.splitlines()
            if line.startswith("[SubIFD") and any(f" {name} " in f"{line} " for name in WANTED)
        ]  # fmt: skip
        return "exiftool: " + ", ".join(
            re.sub(r"\s+", " ", row[row.index("]") + 1 :].strip()) for row in rows
        )
    if turn := re.search(r"Orientation\s+: (Rotate.*)", text):
        return f"exiftool: {turn[1]}"
    promised = [name for name in PROMISES if name in text]
    if not promised:
        return ""
    code = (
        "import sys; from pathlib import Path; from condiff import read_photo, write_photo;"
        "write_photo(read_photo(sys.argv[1]), Path(sys.argv[2]), force=True)"
    )
    target = Path("/tmp") / f"photo_cases.{os.getpid()}.jpg"
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(target)],
        env={**os.environ, "PYTHONPATH": str(here)},
        check=True,
    )
    left = [name for name in PROMISES if name in run_exiftool(target)]
    target.unlink()
    return (
        f"exiftool: {', '.join(promised)} in the source, {', '.join(left) or 'none'} in the result"
    )


def run_exiftool(path: Path) -> str:
    """exiftool's full output for a file, with groups and the namespaces of XMP."""
    command = ["exiftool", "-a", "-u", "-G1", "-s", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
