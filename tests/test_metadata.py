"""Metadata of results, read by exiftool if it is installed, and by Pillow."""

import io
import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from condiff.errors import ImageError
from condiff.photos import ifd, png, tiff, xmp
from condiff.photos.metadata import Metadata, iptc_record, without
from condiff.photos.photo import Photo
from condiff.photos.provenance import SOURCE_TYPE, add_provenance
from condiff.photos.reading import read_photo
from condiff.photos.writing import losses, write_photo

SUFFIXES = ["jpg", "png", "webp", "avif", "tif"]
WITH_IPTC = {"jpg", "png", "tif"}
exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")


def picture(width: int = 24, height: int = 16) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 9, y * 9, (x + y) * 5], axis=2).astype(np.uint8))


def info_of(path: Path) -> dict:
    """What Pillow finds in a file, with its texts."""
    with Image.open(path) as image:
        image.load()
        return image.info | {"text": getattr(image, "text", {})}


GIVEN = {
    "EXIF:Make": "Canon", "EXIF:Model": "EOS 5D", "EXIF:Orientation": 6, "EXIF:Artist": "A. Person",
    "EXIF:DateTimeOriginal": "2001:02:03 04:05:06", "EXIF:ExposureTime": 0.005, "EXIF:FNumber": 2.8,
    "EXIF:ISO": 400, "EXIF:ExifImageWidth": 24, "EXIF:ExifImageHeight": 16,
    "EXIF:LensModel": "a lens", "EXIF:UserComment": "hello", "EXIF:GPSLatitude": 48.1,
    "EXIF:GPSLatitudeRef": "N", "EXIF:GPSLongitude": 11.5, "EXIF:GPSLongitudeRef": "E",
    "EXIF:SubSecTimeOriginal": 12, "EXIF:InteropIndex": "R98",
    "XMP-dc:Creator": "A. Person", "XMP-dc:Title": "Ein Käfer", "XMP-xmp:Rating": 4,
    "XMP-tiff:Orientation": 6, "XMP-iptcExt:PersonInImage": "Somebody", "XMP-photoshop:City": "Ulm",
}  # fmt: skip
IPTC = {"IPTC:Caption-Abstract": "A caption", "IPTC:City": "Ulm", "IPTC:Keywords": "beetle"}


@pytest.fixture
def tags_of(run_exiftool):
    """tags_of(path): the tags that exiftool reads, numbers as numbers, without their group."""
    return lambda path: json.loads(run_exiftool("-json", "-n", "-G1", "-a", path))[0]


def camera_file(run_exiftool, folder: Path, suffix: str) -> Path:
    """A small photo as from a camera, its metadata written by exiftool."""
    path = folder / f"camera.{suffix}"
    picture().save(path, dpi=(300, 300))
    given = GIVEN | (IPTC if suffix in WITH_IPTC else {})
    given |= {"Comment": "a comment"} if suffix in ("jpg", "png") else {}
    options = [f"-{name}={value}" for name, value in given.items()]
    run_exiftool("-m", "-n", *options, path)
    return path


@exiftool
@pytest.mark.parametrize(
    ("source", "target"),
    [("jpg", suffix) for suffix in SUFFIXES]
    + [("png", "png"), ("png", "jpg"), ("tif", "tif"), ("tif", "jpg"), ("tif", "webp")]
    + [("webp", "webp"), ("avif", "avif"), ("avif", "jpg")],
)
def test_everything_a_format_has_room_for_arrives(source, target, run_exiftool, tags_of, tmp_path):
    path = camera_file(run_exiftool, tmp_path, source)
    write_photo(read_photo(path), tmp_path / f"out.{target}")
    before, after = tags_of(path), tags_of(tmp_path / f"out.{target}")
    turned = {"ExifIFD:ExifImageWidth": 16, "ExifIFD:ExifImageHeight": 24}
    for name, value in before.items():
        group, tag = name.split(":") if ":" in name else ("", name)
        if tag == "Orientation":
            expected = 1 if group == "XMP-tiff" or target != "avif" else None
        elif group.startswith(("ExifIFD", "GPS", "XMP-", "InteropIFD", "IPTC")):
            expected = value if source == "avif" else turned.get(name, value)  # AVIF has its own
            if group == "IPTC" and target not in WITH_IPTC:
                expected = None
        elif group == "IFD0" and tag in ("Make", "Model", "Artist"):
            expected = value
        else:
            continue
        assert after.get(name) == expected, name
    if source in ("jpg", "png") and target in ("jpg", "png"):
        comment = {k.split(":")[1]: v for k, v in after.items() if ":" in k}["Comment"]
        assert comment == "a comment"


@exiftool
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exiftool_finds_no_fault_that_was_not_there(suffix, run_exiftool, tmp_path):
    path = camera_file(run_exiftool, tmp_path, "jpg")
    photo = read_photo(path)
    noted = add_provenance(photo.metadata, model="colorize", seed=3, settings={"steps": 4})
    write_photo(replace(photo, metadata=noted), tmp_path / f"out.{suffix}")
    flags = ["-validate", "-error", "-warning", "-a"]
    printed = run_exiftool(*flags, tmp_path / f"out.{suffix}").splitlines()
    assert printed[0].startswith("Validate")
    faults = [line for line in printed[1:] if "not allowed in TIFF" not in line]
    # exiftool 12.57 does not know Adobe's Deflate as a TIFF compression, nor AVIF's rules
    known = ("Compression", "GPSProcessingMethod", "IPTC-NAA")
    assert [line for line in faults if not any(word in line for word in known)] == []


# ---- EXIF


def exif_block(order: str, orientation: int = 6, note: bytes = b"maker" * 20) -> bytes:
    """Orientation, a maker note and sizes, with a thumbnail's directory behind."""

    def short(value: int) -> ifd.Entry:
        return ifd.Entry(3, 1, struct.pack(f"{order}H", value))

    inner = {
        0x927C: ifd.Entry(7, len(note), note),
        ifd.COLOR_SPACE: short(65_535),
        ifd.WIDTH: ifd.Entry(4, 1, struct.pack(f"{order}I", 24)),
        ifd.HEIGHT: short(16),
    }
    make = ifd.Entry(2, 6, b"Canon\0")
    first = {0x010F: make, ifd.ORIENTATION: short(orientation), 0x8769: ifd.Entry(4, 1, inner)}
    block = bytearray(ifd.pack_exif(first, order))
    end = len(ifd.PREFIX) + 8 + 2 + 12 * 3
    struct.pack_into(f"{order}I", block, end, len(block) - len(ifd.PREFIX))
    thumbnail = {0x0201: ifd.Entry(4, 1, struct.pack(f"{order}I", 0))}
    return bytes(block) + ifd.pack_directory(thumbnail, order=order, start=0)


@pytest.mark.parametrize("order", "<>")
def test_an_exif_block_changes_only_where_it_would_lie(order):
    block = exif_block(order)
    changed = ifd.normalise_exif(block, turned=True, converted=True)
    exif = Image.Exif()
    exif.load(changed)
    inner = exif.get_ifd(0x8769)
    assert exif[ifd.ORIENTATION] == 1 and exif[0x010F] == "Canon"
    assert (inner[ifd.WIDTH], inner[ifd.HEIGHT], inner[ifd.COLOR_SPACE]) == (16, 24, 1)
    assert inner[0x927C] == b"maker" * 20
    assert not exif.get_ifd(1), "the thumbnail shows the old picture"
    assert len(changed) == len(block)
    different = [i for i, (a, b) in enumerate(zip(block, changed, strict=True)) if a != b]
    assert len(different) < 24 and changed.count(b"maker") == block.count(b"maker")
    upright = exif_block(order, orientation=1)
    same = ifd.normalise_exif(upright, turned=False, converted=False)
    assert sum(a != b for a, b in zip(upright, same, strict=True)) <= 4  # the thumbnail's offset


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_maker_notes_keep_their_place(suffix, tmp_path):
    picture().save(tmp_path / f"a.{suffix}", exif=exif_block("<"))
    write_photo(read_photo(tmp_path / f"a.{suffix}"), tmp_path / f"b.{suffix}")
    before, after = (info_of(tmp_path / f"{name}.{suffix}")["exif"] for name in "ab")
    assert before.index(b"maker") == after.index(b"maker")


def test_orientation_is_dropped_without_moving_values():
    block = exif_block(">")
    dropped = ifd.drop_orientation(block)
    exif = Image.Exif()
    exif.load(dropped)
    assert ifd.ORIENTATION not in exif and exif[0x010F] == "Canon"
    assert dropped.index(b"maker") == block.index(b"maker")


@pytest.mark.parametrize("order", "<>")
def test_tiff_tags_of_no_known_meaning_stay(order, tmp_path):
    private = {65_000: ifd.Entry(12, 2, struct.pack(f"{order}2d", 0.1, -7))}
    exif = ifd.pack_exif(
        private | {0x8769: ifd.Entry(4, 1, {0x9003: ifd.Entry(2, 4, b"day\0")})}, order
    )
    photo = Photo(np.asarray(picture()), metadata=Metadata(exif=exif))
    for name in ("a.tif", "b.tif"):
        write_photo(photo, tmp_path / name)
        photo = read_photo(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            assert opened.tag_v2[65_000] == (0.1, -7)
            assert opened.getexif().get_ifd(0x8769)[0x9003] == "day"
            assert np.array_equal(np.asarray(opened), np.asarray(picture()))


# ---- profiles


def wide_profile() -> bytes:
    """An RGB profile that is not sRGB: sRGB with red and blue swapped."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = {tag: srgb.index(tag) for tag in (b"rXYZ", b"bXYZ")}
    swapped = srgb.replace(b"sRGB", b"swap").replace("sRGB".encode("utf-16-be"), b"\0s\0w\0a\0p")
    other = bytearray(swapped)
    for here, there in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        other[at[here] : at[here] + 4] = there
    return bytes(other)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_photo_with_a_profile_gets_srgbs_and_one_without_gets_none(suffix, tmp_path):
    source = tmp_path / f"wide.{suffix}"
    picture().save(source, icc_profile=wide_profile())
    for name in ("first", "second"):
        write_photo(read_photo(source), tmp_path / f"{name}.{suffix}")
    with Image.open(tmp_path / f"first.{suffix}") as written:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(written.info["icc_profile"]))
        assert profile.profile.profile_description.startswith("sRGB")
    first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes(), "LittleCMS would put the time into it"
    picture().save(source)
    write_photo(read_photo(source), tmp_path / f"plain.{suffix}")
    with Image.open(tmp_path / f"plain.{suffix}") as written:
        assert "icc_profile" not in written.info


# ---- XMP and provenance

PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="urn:me" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:iptc="IPTC" tiff:Orientation="6"'
    ' iptc:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/negativeFilm">'
    "<dc:title>Käfer &amp; Co</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
).replace("IPTC", xmp.NAMESPACES["Iptc4xmpExt"])


def parsed(packet: bytes) -> dict[str, list[str]]:
    """Every property of a packet by its full name, as an XML parser sees it."""
    from xml.etree import ElementTree

    found: dict[str, list[str]] = {}
    text = packet.decode("utf-16" if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    for description in ElementTree.fromstring(text).iter(f"{{{xmp.RDF}}}Description"):
        for name, value in description.attrib.items():
            found.setdefault(name, []).append(value)
        for child in description:
            found.setdefault(child.tag, []).append(child.text or "")
    return found


SOURCE = f"{{{xmp.NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_provenance_is_merged_into_what_is_there(encoding):
    metadata = Metadata(xmp=PACKET.encode(encoding))
    for seed in (1, 2):  # a second run replaces the first one's note
        metadata = add_provenance(metadata, model="a<b", seed=seed, settings={"steps": 4})
        found = parsed(metadata.xmp)
        assert found[SOURCE] == [SOURCE_TYPE]
        assert found["{http://purl.org/dc/elements/1.1/}title"] == ["Käfer & Co"]
        assert found[f"{{{xmp.NAMESPACES['condiff']}}}Seed"] == [str(seed)]
        assert found[f"{{{xmp.NAMESPACES['condiff']}}}Model"] == ["a<b"]
        assert set(found[f"{{{xmp.RDF}}}about"]) == {"urn:me"}
        assert len(metadata.text) == 1
    assert metadata.xmp.decode(encoding).count("Description") == 4


@pytest.mark.parametrize(
    "packet",
    [b"", b"no XML", b"\xff\xff\xff", b'<a/>', b'<r:RDF xmlns:r="%s"/>' % xmp.RDF.encode()],
)  # fmt: skip
def test_a_packet_that_is_missing_empty_or_broken_gives_a_whole_one(packet):
    merged = add_provenance(Metadata(xmp=packet), model="m", seed=0, settings={}).xmp
    assert parsed(merged)[SOURCE] == [SOURCE_TYPE]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_provenance_is_in_the_file(suffix, tmp_path):
    noted = add_provenance(Metadata(), model="colorize", seed=7, settings={"steps": 4})
    write_photo(Photo(np.asarray(picture()), metadata=noted), tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as written:
        assert parsed(written.info["xmp"])[SOURCE] == [SOURCE_TYPE]
        if suffix == "png":
            assert json.loads(written.info["condiff"])["seed"] == 7


@exiftool
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exiftool_reads_the_provenance(suffix, tags_of, tmp_path):
    noted = add_provenance(Metadata(), model="colorize", seed=7, settings={"steps": 4})
    write_photo(Photo(np.asarray(picture()), metadata=noted), tmp_path / f"a.{suffix}")
    tags = tags_of(tmp_path / f"a.{suffix}")
    assert tags["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert tags["XMP-condiff:Seed"] == 7


GAIN = "http://ns.adobe.com/hdr-gain-map/1.0/"
NUMBERS = range(40_000)
CRAFTED = {
    "elements without an end": f'<a xmlns:g="{GAIN}">' + "<g:Map>" * 100_000,
    "elements of different names": f'<a xmlns:g="{GAIN}">' + "".join(f"<g:a{n}>" for n in NUMBERS),
    "tags without an end": f'<a xmlns:g="{GAIN}">' + "<g:Map " * 100_000,
    "tags with a common end": f'<a xmlns:g="{GAIN}">' + "<g:Map " * 100_000 + ">",
    "many prefixes": "".join(f' xmlns:g{n}="{GAIN}"' for n in NUMBERS) + ' g7:Map="1"',
    "many prefixes of the note": "".join(
        f' xmlns:c{n}="{xmp.NAMESPACES["condiff"]}"' for n in NUMBERS
    )
    + "<c:Seed " * 300_000
    + "</rdf:RDF>",
    "notes without an end": "<condiff:Seed>" * 100_000 + "</rdf:RDF>",
    "starts of RDF": "<r:RDF " * 100_000,
    "starts of RDF with its name": f"<r:RDF {xmp.RDF}" * 20_000,
    "starts of descriptions": '\n <rdf:Description rdf:about="" xmlns:' * 80_000 + "</rdf:RDF>",
    "extended": f'<a xmlns:n="{xmp.NOTE}" n:HasExtendedXMP="0">' + "<n:HasExtendedXMP>" * 60_000,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_packet_made_to_keep_a_reader_busy_is_read_at_once(name):
    """Patterns that begin anew at every tag would take minutes for each of these."""
    packet = CRAFTED[name].encode()
    merged = add_provenance(Metadata(xmp=packet), model="m", seed=0, settings={}).xmp
    assert SOURCE_TYPE.encode() in merged
    left, _ = xmp.drop_promises(packet)
    assert b' g7:Map="1"' not in left
    assert b"HasExtendedXMP=" not in xmp.drop_extension(packet)


def test_an_xmp_packet_too_long_for_jpeg_loses_its_padding_only(tmp_path):
    padded = PACKET.replace("<?xpacket end", "\n" + " " * 70_000 + "<?xpacket end")
    metadata = add_provenance(Metadata(xmp=padded.encode()), model="m", seed=0, settings={})
    write_photo(Photo(np.asarray(picture()), metadata=metadata), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as written:
        assert "Käfer" in written.info["xmp"].decode()


# ---- texts and comments


def test_png_texts_stay_as_they_are(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "a title")
    texts.add_text("Author", "somebody", zip=True)
    texts.add_itxt("Description", "Käfer", "de", "Beschreibung")
    picture().save(tmp_path / "a.png", pnginfo=texts)
    photo = read_photo(tmp_path / "a.png")
    write_photo(photo, tmp_path / "b.png")
    assert [kind for kind, _ in photo.metadata.text] == [b"tEXt", b"zTXt", b"iTXt"]
    with Image.open(tmp_path / "b.png") as written:
        assert written.text == info_of(tmp_path / "a.png")["text"]
        assert written.text["Description"].lang == "de"


def test_comments_travel_between_formats(tmp_path):
    picture().save(tmp_path / "a.jpg", comment="Käfer")
    write_photo(read_photo(tmp_path / "a.jpg"), tmp_path / "b.png")
    write_photo(read_photo(tmp_path / "b.png"), tmp_path / "c.jpg")
    write_photo(read_photo(tmp_path / "c.jpg"), tmp_path / "d.tif")
    assert info_of(tmp_path / "b.png")["text"]["Comment"] == "Käfer"
    assert info_of(tmp_path / "c.jpg")["comment"] == "Käfer".encode()
    assert read_photo(tmp_path / "d.tif").metadata.exif.count("Käfer".encode()) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow warns and continues
def test_broken_metadata_does_not_cost_the_photo(tmp_path):
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40):
        picture().save(tmp_path / "a.webp", exif=exif)
        write_photo(read_photo(tmp_path / "a.webp"), tmp_path / "b.tif", force=True)
        assert read_photo(tmp_path / "b.tif").size == (24, 16)


# ---- blocks in ImageMagick's raw profiles


def png_with(chunks: list[png.Chunk]) -> bytes:
    """A small PNG with these chunks after its header."""
    plain, file = io.BytesIO(), io.BytesIO()
    picture().save(plain, "PNG")
    png.write_with_chunks(plain.getbuffer(), chunks, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_a_raw_profile_turns_the_photo_as_an_exif_chunk_does(name):
    block = exif_block("<")
    photo = read_photo(png_with([png.raw_profile_chunk(name, block)]))
    expected = read_photo(png_with([(b"eXIf", block.removeprefix(b"Exif\0\0"))]))
    assert photo.size == expected.size == (16, 24)
    assert np.array_equal(photo.pixels, expected.pixels)
    assert photo.metadata.exif == expected.metadata.exif and not photo.metadata.text


def test_raw_profiles_of_xmp_colours_and_iptc_are_read():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'
    resource = b"8BIM" + struct.pack(">HHI", 1028, 0, 4) + b"iptc"
    photo = read_photo(
        png_with(
            [
                png.raw_profile_chunk("APP1", b"http://ns.adobe.com/xap/1.0/\0" + packet),
                png.raw_profile_chunk("icc", wide_profile()),
                png.raw_profile_chunk("iptc", resource),
                png.text_chunk("Author", "somebody"),
            ]
        )
    )
    assert photo.metadata.xmp == packet and photo.metadata.profiled
    assert iptc_record(photo.metadata.photoshop) == b"iptc"
    assert [png.keyword(chunk) for chunk in photo.metadata.text] == [b"Author"]
    assert "warnings" not in photo.info


def test_a_damaged_raw_profile_costs_no_other_text():
    kind, content = png.raw_profile_chunk("exif", exif_block("<"))
    digits = png.read_text((kind, content)).replace("49", "4!", 1)
    texts = [(b"tEXt", b"Raw profile type exif\0" + digits.encode())]
    photo = read_photo(png_with([*texts, png.text_chunk("Author", "somebody")]))
    assert [png.keyword(chunk) for chunk in photo.metadata.text] == [b"Author"]
    assert photo.info["warnings"] == ("its Raw profile type exif is damaged and is not kept",)


def test_texts_that_another_format_has_no_place_for_are_named():
    texts = [png.text_chunk(name, "text") for name in ("Author", "Copyright", "Comment")]
    photo = read_photo(png_with(texts))
    assert losses(photo, "png") == ""
    assert losses(photo, "jpg") == "the PNG's texts (Author, Copyright)"


def test_all_comments_of_a_jpeg_are_kept(tmp_path):
    file = io.BytesIO()
    picture().save(file, "JPEG", comment="first")
    data = file.getvalue()
    at = data.index(b"\xff\xfe")
    second = b"\xff\xfe" + struct.pack(">H", 8) + b"second"
    photo = read_photo(data[:at] + second + data[at:])
    assert photo.metadata.comment == "second\nfirst"


def test_iptc_behind_other_programs_resources_is_kept():
    def resource(signature, number, data):
        return signature + struct.pack(">HHI", number, 0, len(data)) + data

    before = resource(b"MeSa", 7000, b"ab")
    block = before + resource(b"8BIM", 1028, b"iptc")
    assert iptc_record(block) == b"iptc"
    cut = block + resource(b"8BIM", 2000, b"x" * 40)[:20]  # the last one is cut short
    assert iptc_record(cut) == b"iptc" and without(cut, set()) == block


def test_a_tiff_with_a_broken_exif_pointer_keeps_its_pixels_and_other_tags():
    file = io.BytesIO()
    pointer = struct.pack("<I", 0x7FFFFFFF)
    tags = {0x010F: ifd.Entry(2, 8, b"a maker\0"), 0x8769: ifd.Entry(4, 1, pointer)}
    tiff.write_tiff(file, np.asarray(picture()), tags, order="<")
    data = file.getvalue()
    photo = read_photo(data)
    assert np.array_equal(photo.pixels, np.asarray(picture()))
    assert b"a maker" in photo.metadata.exif
    assert photo.info["warnings"] == ("its EXIF is damaged and not all of it is kept",)
    with pytest.raises(ImageError, match="its EXIF is damaged"):
        read_photo(data, strict=True)
