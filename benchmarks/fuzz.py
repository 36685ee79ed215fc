"""Test if damaged photos crash, hang or fill the memory: reads and writes mutated files.

    python benchmarks/fuzz.py --count 20000          one process, ten seconds and 2 GB a file
    python benchmarks/fuzz.py --only 4711            one mutation again; --keep DIR saves its file

Each number always gives the same mutation of the same file: bits flipped, bytes replaced by
extremes, blocks swapped, zeroed, repeated, ends cut off. Prints the count of each outcome, and the
numbers of the failures: traceback, crash, hang, memory, stderr.
"""

import argparse
import collections
import io
import os
import resource
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from condiff.photos.xmp import merge_properties

SECONDS, MEMORY = 10, 2 << 30
GOOD = ("ok", "refused")
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01")


def make_seeds() -> dict[str, bytes]:
    """Small files of every readable kind, by name, without those whose package is missing."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:48]
    waves = np.stack([np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)], axis=2)
    colour = (waves * 60_000 / 2 + 32_768 + rng.integers(-900, 900, (32, 48, 3))).astype(np.uint16)
    seeds = dict(_by_pillow(Image.fromarray((colour >> 8).astype(np.uint8))))
    for add in (_tiffs, _codecs, _others):
        with suppress(ImportError):
            seeds |= add(colour)
    return seeds


def _by_pillow(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "seed"
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    xmp = merge_properties(b"", {"condiff:Seed": "1"})
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = {"exif": exif, "icc_profile": icc}
    rows: list[tuple[str, str, str, dict]] = [
        ("jpeg", "RGB", "JPEG", kept | {"xmp": xmp, "comment": b"seed"}),
        ("jpeg progressive", "RGB", "JPEG", {"progressive": True, "exif": exif}),
        ("jpeg grey", "L", "JPEG", {}), ("jpeg cmyk", "CMYK", "JPEG", {}),
        ("png", "RGB", "PNG", kept), ("png alpha", "RGBA", "PNG", {}), ("png grey", "L", "PNG", {}),
        ("png palette", "P", "PNG", {}), ("png bits", "1", "PNG", {}),
        ("png frames", "RGB", "PNG", frames), ("webp", "RGB", "WEBP", kept | {"xmp": xmp}),
        ("webp lossless", "RGBA", "WEBP", {"lossless": True}),
        ("webp frames", "RGB", "WEBP", frames),
        ("avif", "RGB", "AVIF", kept), ("gif", "P", "GIF", {}),
        ("gif frames", "RGB", "GIF", frames),
        ("bmp", "RGB", "BMP", {}), ("bmp palette", "P", "BMP", {}), ("tga", "RGB", "TGA", {}),
        ("tga rle", "RGB", "TGA", {"compression": "tga_rle"}), ("jp2", "RGB", "JPEG2000", {}),
        ("ppm", "RGB", "PPM", {}), ("pgm", "L", "PPM", {}), ("ico", "RGBA", "ICO", {}),
        ("tiff ccitt", "1", "TIFF", {"compression": "group4"}),
        ("tiff jpeg", "RGB", "TIFF", {"compression": "jpeg"}),
        ("tiff pages", "RGB", "TIFF", frames), ("tiff cmyk", "CMYK", "TIFF", {}),
        ("tiff lzw", "RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("tiff ycbcr", "YCbCr", "TIFF", {}), ("tiff lab", "LAB", "TIFF", {}),
        ("tiff palette", "P", "TIFF", {}),
        ("tiff profile", "RGB", "TIFF", kept),
    ]  # fmt: skip
    for name, mode, format, options in rows:
        file = io.BytesIO()
        image.convert("RGB").convert(mode).save(file, format, **options)
        yield name, file.getvalue()


def _tiffs(colour: np.ndarray) -> dict[str, bytes]:
    import tifffile

    grey = np.ascontiguousarray(colour[..., 1])
    with_ir = np.dstack([colour, grey])
    rows: dict[str, tuple[np.ndarray, dict]] = {
        "tiff 16": (colour, {"photometric": "rgb"}),
        "tiff 16 planes": (np.moveaxis(colour, 2, 0), {"photometric": "rgb", "planarconfig": 2}),
        "tiff 16 tiles": (colour, {"photometric": "rgb", "tile": (16, 16), "compression": 8,
                                   "predictor": True}),
        "tiff big-endian": (colour, {"photometric": "rgb", "byteorder": ">", "bigtiff": True}),
        "tiff infrared": (with_ir, {"photometric": "rgb", "extrasamples": [0]}),
        "tiff alpha": (with_ir, {"photometric": "rgb", "extrasamples": [1]}),
        "tiff float": ((colour / 65_535).astype("f4"), {"photometric": "rgb"}),
        "tiff half": ((grey / 65_535).astype("f2"), {}),
        "tiff white is zero": (grey, {"photometric": "miniswhite"}),
        "tiff lab 16": (colour, {"photometric": "cielab"}),
        "tiff raw": (grey, {"photometric": 32803, "extratags": [
            (33421, 3, 2, (2, 2), False), (33422, 1, 4, b"\0\1\1\2", False)]}),
    }  # fmt: skip
    seeds = {}
    for name, (array, options) in rows.items():
        file = io.BytesIO()
        order = {k: options.pop(k) for k in ("byteorder", "bigtiff") if k in options}
        tifffile.imwrite(file, array, **order, **options)
        seeds[name] = file.getvalue()
    return seeds


def _codecs(colour: np.ndarray) -> dict[str, bytes]:
    import imagecodecs
    import tifffile

    shallow = (colour >> 8).astype(np.uint8)
    seeds = {
        "jpeg 12-bit": imagecodecs.jpeg_encode(colour >> 4, bitspersample=12),
        "jpeg lossless": imagecodecs.ljpeg_encode(shallow[..., 1]),
        "jxl": imagecodecs.jpegxl_encode(shallow),
        "png 16": imagecodecs.png_encode(colour),
        "jp2 16": imagecodecs.jpeg2k_encode(colour),
    }
    for code in ("zstd", "lzma", "packbits", "webp", "png", "jpegxl", "jpeg2000", "lerc", "jpegxr"):
        file = io.BytesIO()
        tifffile.imwrite(file, shallow, photometric="rgb", compression=code)
        seeds[f"tiff {code}"] = file.getvalue()
    file = io.BytesIO()
    tifffile.imwrite(file, colour[..., 1] >> 4, bitspersample=12)
    return seeds | {"tiff 12-bit": file.getvalue()}


def _others(colour: np.ndarray) -> dict[str, bytes]:
    import struct

    import pillow_heif

    shallow = (colour >> 8).astype(np.uint8)
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(shallow)).save(file, quality=80)
    height, width, _ = colour.shape
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 16, 3) + bytes(12)
    planes = np.moveaxis(colour, 2, 0).astype(">u2").tobytes()
    rle = b"".join(
        bytes([width - 1]) + row.tobytes() for row in np.moveaxis(shallow, 2, 0).reshape(-1, width)
    )
    counts = struct.pack(f">{3 * height}H", *[width + 1] * (3 * height))
    packed = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3) + bytes(12)
    return {
        "heic": file.getvalue(),
        "psd 16": head + b"\0\0" + planes,
        "psd packed": packed + b"\0\1" + counts + rle,
    }


def mutate(number: int, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    """The name of a seed file, and its mutation with this number."""
    rng = np.random.default_rng(number)
    names = sorted(seeds)
    name = names[number % len(names)]
    data = bytearray(seeds[name])
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 300)))
        size = int(rng.integers(1, 40))
        kind = int(rng.integers(8))
        if kind <= 1:
            for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
                data[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:  # a header's field
            wide = int(rng.choice([1, 2, 4]))
            data[at : at + wide] = EXTREMES[int(rng.integers(len(EXTREMES)))] * wide
        elif kind == 3:
            data[at : at + 4] = rng.integers(0, 256, 4, np.uint8).tobytes()
        elif kind == 4:
            del data[max(1, at) :]
        elif kind == 5:
            other = int(rng.integers(len(data)))
            first, second = data[at : at + size], data[other : other + size]
            data[at : at + size], data[other : other + size] = second, first
        elif kind == 6:
            data[at : at + size] = bytes(size)
        else:
            data[at:at] = data[at : at + size]
        if not data:
            break
    return name, bytes(data)


def run_one(data: bytes) -> str:
    """Read and write one file: ok, refused, memory, or a traceback."""
    from condiff.errors import ImageError
    from condiff.photos.reading import read_photo
    from condiff.photos.writing import write_photo

    try:
        photo = read_photo(io.BytesIO(data), page=1)
        format = (
            photo.metadata.format if photo.metadata.format in ("JPEG", "TIFF", "WEBP") else "PNG"
        )
        write_photo(photo, io.BytesIO(), format=format if photo.alpha is None else "PNG")
    except ImageError as error:
        return "refused" if "\n" not in str(error) else f"traceback: two lines: {error!r}"
    except MemoryError:
        return "memory"
    except BaseException:  # this program searches for all others
        return "traceback: " + " | ".join(traceback.format_exc().splitlines()[-7:])
    return "ok"


def work() -> None:
    """The worker: numbers from stdin, outcomes to stdout, in lines."""
    answers = os.fdopen(os.dup(1), "w")
    caught = os.open(os.environ["FUZZ_STDERR"], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(caught, 1)
    os.dup2(caught, 2)
    seeds = make_seeds()
    run_one(next(iter(seeds.values())))  # everything is imported now
    os.ftruncate(caught, 0)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, data = mutate(int(line), seeds)
        outcome = run_one(data)
        sys.stderr.flush()
        if os.fstat(caught).st_size and outcome in GOOD:
            os.lseek(caught, 0, os.SEEK_SET)
            outcome = f"stderr: {os.read(caught, 300)!r}"
        os.ftruncate(caught, 0)
        os.lseek(caught, 0, os.SEEK_SET)
        print(f"{name}\t{outcome}", file=answers, flush=True)


class Worker:
    """One process that runs mutations, restarted after a crash or a hang."""

    def __init__(self, scratch: str) -> None:
        command = [sys.executable, "-X", "faulthandler", __file__, "--work"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "FUZZ_STDERR": scratch},
        )  # fmt: skip
        assert self.process.stdout
        self.process.stdout.readline()

    def run(self, number: int) -> str:
        """The seed's name and the outcome of one mutation."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{number}\n")
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        answer = self.process.stdout.readline() if ready else ""
        if answer:
            return answer.rstrip("\n")
        self.process.kill()
        code = self.process.wait()
        return "?\thang" if not ready else f"?\tcrash {code}"

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


def main() -> None:
    """Parse the arguments, run the mutations, print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--start", type=int, default=0, help="the first number")
    parser.add_argument("--only", type=int, nargs="+", help="these numbers, in this process")
    parser.add_argument("--keep", type=Path, help="a folder for the files of --only")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
    elif arguments.only:
        seeds = make_seeds()
        for number in arguments.only:
            name, data = mutate(number, seeds)
            if arguments.keep:
                (arguments.keep / f"{number}.{name.split()[0]}").write_bytes(data)
            print(number, name, run_one(data), flush=True)
    else:
        sys.exit(1 if run_all(range(arguments.start, arguments.start + arguments.count)) else 0)


def run_all(numbers: range) -> int:
    """The number of failures among the mutations; all outcomes are counted and printed."""
    counts: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    scratch = f"/tmp/fuzz.{os.getpid()}.stderr"
    worker = Worker(scratch)
    for number in numbers:
        if worker.ended:
            worker = Worker(scratch)
        name, outcome = worker.run(number).split("\t", 1)
        kind = outcome.split(":")[0].split(" ")[0]
        counts[kind] += 1
        if kind not in GOOD:
            print(f"{number} {name}: {outcome}", flush=True)
    worker.process.kill()
    Path(scratch).unlink(missing_ok=True)
    seconds = time.monotonic() - started
    print(f"{len(numbers)} mutations in {seconds:.0f} s:", dict(counts.most_common()))
    return sum(n for kind, n in counts.items() if kind not in GOOD)


if __name__ == "__main__":
    main()
