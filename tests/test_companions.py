"""Data that phones add to a picture: gain maps, videos, depth. Results contain none of it."""

import hashlib
import io
import json
import re
import struct

import pytest
from PIL import Image

from condiff.cli import main
from condiff.photos.metadata import EXTENDED_XMP
from condiff.photos.reading import read_photo

from .conftest import make_photo

NAMES = {
    "C": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "DC": "http://ns.google.com/photos/dd/1.0/container/",
    "DItem": "http://ns.google.com/photos/dd/1.0/item/",
    "Device": "http://ns.google.com/photos/dd/1.0/device/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "OpCamera": "http://ns.oplus.com/photos/1.0/camera/",
    "MiCamera": "http://ns.xiaomi.com/photos/1.0/camera/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "dc": "http://purl.org/dc/elements/1.1/",
}
# Names and structures that no result may contain.
STALE = re.compile(
    rb"hdrgm|GainMap|gain-map|21496|MPF\0|Container|MotionPhoto|MicroVideo|OLivePhoto|ftypmp42"
    rb"|DItem|Device:|dd/1\.0|GDepth|MiCamera|HasExtendedXMP|xmp/extension"
)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\1\0mdat" + bytes(248)


def packet(attributes: str, body: str = "") -> bytes:
    """An XMP packet with these properties and dc:source in its description."""
    used = (name for name in NAMES if re.search(rf"[<\s/]{name}:", f" {attributes} {body}"))
    spaces = " ".join(f'xmlns:{name}="{NAMES[name]}"' for name in {*used, "dc"})
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        f'syntax-ns#"><rdf:Description rdf:about="" {spaces} {attributes} dc:source="attic">'
        f"{body}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def directory(prefix: str, item: str, *semantics: str) -> str:
    items = "".join(
        f'<rdf:li rdf:parseType="Resource"><{prefix}:Item {item}:Mime="image/jpeg"'
        f' {item}:Semantic="{semantic}" {item}:Length="999"/></rdf:li>'
        for semantic in ("Primary", *semantics)
    )
    return f"<{prefix}:Directory><rdf:Seq>{items}</rdf:Seq></{prefix}:Directory>"


def jpeg(seed: int = 0, size: tuple[int, int] = (60, 44), **options: object) -> bytes:
    file = io.BytesIO()
    make_photo(*size, seed=seed).save(file, "JPEG", **options)
    return file.getvalue()


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments before its tables."""
    at = data.index(b"\xff\xdb")
    added = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return data[:at] + added + data[at:]


def multi_picture(first: bytes, *others: bytes, kind: int = 0) -> bytes:
    """JPEGs as one file with the index of CIPA DC-007, whose offsets count from its header."""
    count = 1 + len(others)
    fixed = 4 + 8 + 2 + 3 * 12 + 4 + 16 * count  # "MPF", header, three tags, entries
    at = first.index(b"\xff\xdb")
    start = at + 4 + 4  # of the header, in the file
    length = len(first) + 4 + fixed
    entries = struct.pack("<IIIHH", 0x030000, length, 0, 0, 0)
    for other in others:
        entries += struct.pack("<IIIHH", kind, len(other), length - start, 0, 0)
        length += len(other)
    head = b"MPF\0II*\0" + struct.pack("<IH", 8, 3)
    head += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    head += struct.pack("<HHII", 0xB001, 4, 1, count)
    head += struct.pack("<HHIII", 0xB002, 7, 16 * count, 8 + 2 + 36 + 4, 0) + entries
    return with_segments(first, (0xE2, head)) + b"".join(others)


def extended(main_packet: str, more: bytes) -> bytes:
    """A JPEG whose packet continues in a second one."""
    name = hashlib.md5(more).hexdigest().upper()
    data = jpeg(xmp=packet(f'{main_packet} xmpNote:HasExtendedXMP="{name}"'))
    body = EXTENDED_XMP + name.encode() + struct.pack(">II", len(more), 0) + more
    return with_segments(data, (0xE1, body))


HDR = 'hdrgm:Version="1.0"'
ISO = (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")
MAP = with_segments(jpeg(1, (30, 22), xmp=packet(f'{HDR} hdrgm:GainMapMax="2.3"')), ISO)
MOTION = 'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" '
FILES = {
    "Ultra HDR": (
        multi_picture(
            with_segments(jpeg(xmp=packet(HDR, directory("C", "Item", "GainMap"))), ISO), MAP
        ),
        ["HDR gain map is not"],
    ),
    "a gain map by ISO 21496-1 alone": (
        multi_picture(with_segments(jpeg(), ISO), with_segments(jpeg(1, (30, 22)), ISO)),
        ["HDR gain map is not"],
    ),
    "a motion photo": (
        jpeg(xmp=packet(MOTION, directory("C", "Item", "MotionPhoto"))) + MP4,
        ["motion video is not"],
    ),
    "a micro video": (
        jpeg(xmp=packet('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="280"')) + MP4,
        ["motion video is not"],
    ),
    "a live photo of OPPO": (
        jpeg(xmp=packet('OpCamera:OLivePhotoVersion="2" OpCamera:VideoLength="280"')) + MP4,
        ["motion video is not"],
    ),
    "an HDR motion photo": (
        multi_picture(
            jpeg(xmp=packet(f"{HDR} {MOTION}", directory("C", "Item", "GainMap", "MotionPhoto"))),
            MAP,
        )
        + MP4,
        ["HDR gain map is not", "motion video is not"],
    ),
    "dynamic depth": (
        jpeg(
            xmp=packet(
                "",
                directory("DC", "DItem", "Depth")
                + '<Device:Cameras><rdf:Seq><rdf:li rdf:parseType="Resource"/></rdf:Seq>'
                "</Device:Cameras>",
            )
        )
        + jpeg(2),
        ["depth map is not"],
    ),
    "two views": (multi_picture(jpeg(), jpeg(3), kind=0x020002), ["further pictures are not"]),
    "a preview": (multi_picture(jpeg(), jpeg(0, (30, 22)), kind=0x010001), []),
    "Xiaomi's pictures": (
        jpeg(xmp=packet("MiCamera:XMPMeta=\"&lt;?xml version='1.0'?&gt;\"")) + jpeg(2),
        ["further pictures are not"],
    ),
}


@pytest.fixture
def run(tiny_folder, tmp_path, capsys):
    def call(data: bytes, suffix: str) -> tuple[bytes, str]:
        (tmp_path / "in.jpg").write_bytes(data)
        command = ["colorize", str(tmp_path / "in.jpg"), "-o", str(tmp_path / f"out{suffix}"), "-f"]
        flags = ["-m", str(tiny_folder), "--steps", "1", "--size", "32", "--device", "cpu"]
        assert main([*command, *flags]) == 0
        return (tmp_path / f"out{suffix}").read_bytes(), capsys.readouterr().err

    return call


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("name", FILES)
def test_nothing_stale_is_left_and_stderr_says_what_is_not_kept(
    name, suffix, run, run_exiftool, tmp_path
):
    data, says = FILES[name]
    written, err = run(data, suffix)
    assert re.findall(r"its ([\w ]+? (?:is|are) not) kept", err) == says
    assert not STALE.search(written), STALE.search(written)
    if b"attic" in data:
        assert b"attic" in written  # the rest of the packet
    if suffix == ".jpg":
        assert written.endswith(b"\xff\xd9") and written.count(b"\xff\xd8\xff") == 1
    if run_exiftool:
        printed = run_exiftool("-j", "-a", "-G1", "-ee", tmp_path / f"out{suffix}")
        (tags,) = json.loads(printed)
        groups = {tag.partition(":")[0] for tag in tags}
        assert not groups & {"MPF0", "MPImage1", "MPImage2", "XMP-hdrgm", "XMP-GContainer"}
        assert "Warning" not in {tag.partition(":")[2] for tag in tags}


def test_the_source_files_are_what_they_are_meant_to_be():
    for name in ("a gain map by ISO 21496-1 alone", "two views", "a preview"):
        with Image.open(io.BytesIO(FILES[name][0])) as image:
            assert (image.format, image.n_frames) == ("MPO", 2)
            image.seek(1)
            image.load()
    assert all(STALE.search(data) for data, _ in FILES.values())


@pytest.mark.parametrize("inside", ['GDepth:Data="', 'hdrgm:GainMapMax="'])
def test_extended_xmp_stays_true_in_a_jpeg_and_leaves_nothing_elsewhere(inside, run):
    more = packet(f'{inside}{"QUJD" * 10_000}"')
    data = extended('GDepth:Format="RangeInverse" GDepth:Mime="image/jpeg"', more)
    written, err = run(data, ".jpg")
    photo = read_photo(written)
    name = hashlib.md5(photo.metadata.extended_xmp).hexdigest().upper().encode()
    assert b"attic" in photo.metadata.extended_xmp
    assert written.count(name) == 2 and b'HasExtendedXMP="' + name in photo.metadata.xmp
    if "GDepth" in inside:
        assert photo.metadata.extended_xmp == more and "not kept" not in err
    else:
        assert b"hdrgm" not in written and "its HDR gain map is not kept" in err
    for suffix in (".png", ".webp", ".tif"):
        written, err = run(data, suffix)
        assert not STALE.search(written) and b"attic" in written
        assert "no place for extended XMP" in err


def test_of_several_extended_packets_the_one_that_is_named_is_read():
    more = packet('GDepth:Data="QUJD"')
    other = EXTENDED_XMP + b"0" * 32 + struct.pack(">II", 9, 0) + b"other one"
    photo = read_photo(with_segments(extended("", more), (0xE1, other)))
    assert photo.metadata.extended_xmp == more and "warnings" not in photo.info


def as_auxiliary(data: bytes, urn: bytes) -> bytes:
    """A HEIC with alpha whose auxiliary picture has another type (ISO/IEC 23008-12, 6.5.8)."""
    old = b"urn:mpeg:hevc:2015:auxid:1"
    longer = len(urn) - len(old)
    at = data.index(old)
    changed = bytearray(data[:at] + urn + data[at + len(old) :])
    for box in (b"auxC", b"ipco", b"iprp", b"meta"):
        place = data.index(box) - 4
        size = int.from_bytes(data[place : place + 4], "big") + longer
        changed[place : place + 4] = size.to_bytes(4, "big")
    place = changed.index(b"iloc") + 4
    version, sizes, more = changed[place], changed[place + 4], changed[place + 5]
    wide, length, base = sizes >> 4, sizes & 15, more >> 4
    assert version == 0 and base == 4  # an offset an item, and one of each extent from there
    place += 8
    for _ in range(int.from_bytes(changed[place - 2 : place], "big")):
        moved = int.from_bytes(changed[place + 4 : place + 8], "big") + longer
        changed[place + 4 : place + 8] = moved.to_bytes(4, "big")
        place += 10 + int.from_bytes(changed[place + 8 : place + 10], "big") * (wide + length)
    return bytes(changed)


@pytest.mark.parametrize(
    ("urn", "says"),
    [
        ("urn:com:apple:photo:2020:aux:hdrgainmap", "its HDR gain map is not kept"),
        ("urn:iso:std:iso:ts:21496:-1", "its HDR gain map is not kept"),
        ("urn:mpeg:hevc:2015:auxid:2", "its depth map is not kept"),
        ("urn:com:apple:photo:2018:aux:portraiteffectsmatte", "its mattes are not kept"),
    ],
)
def test_what_lies_beside_the_picture_of_a_heic_is_told_without_xmp(urn, says):
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = make_photo(40, 30)
    photo.putalpha(128)
    file = io.BytesIO()
    pillow_heif.from_pillow(photo).save(file)
    read = read_photo(as_auxiliary(file.getvalue(), urn.encode()))
    assert read.info["warnings"] == (says,) and read.alpha is None


def test_further_pictures_of_a_heic_are_told_of():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pictures = pillow_heif.from_pillow(make_photo(40, 30))
    pictures.add_from_pillow(make_photo(40, 30, seed=1))
    pictures.save(file)
    assert read_photo(file.getvalue()).info["warnings"] == ("its further pictures are not kept",)


def test_a_gain_map_of_a_heic_is_told_of():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(make_photo(40, 30)).save(file)
    data = file.getvalue()
    size = int.from_bytes(data[:4], "big")
    assert "warnings" not in read_photo(data).info
    photo = read_photo(data[:16] + data[16:size].replace(b"miaf", b"tmap") + data[size:])
    assert photo.info["warnings"] == ("its HDR gain map is not kept",)
