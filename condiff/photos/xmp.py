"""Adds properties to XMP packets as text, so that nothing else in a packet changes.

XMP Specification Part 1 (ISO 16684-1), serialised as RDF/XML. All patterns take linear time: a
packet may have megabytes, and may be made to keep a reader busy.
"""

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from html import escape  # xml.sax would bring urllib and ssl

NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "condiff": "urn:condiff:provenance:1.0#",
}
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">\n'
    '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
# Properties on data outside the packet, which a result does not contain: namespace, properties, and
# a name for the data.
PROMISES = (
    ("http://ns.google.com/photos/1.0/container/", r"Directory", "further pictures"),
    ("http://ns.google.com/photos/dd/1.0/container/", r"Directory", "further pictures"),
    ("http://ns.google.com/photos/dd/1.0/device/", r"\w+", "depth map"),
    ("http://ns.apple.com/depthData/1.0/", r"\w+", "depth map"),
    ("http://ns.apple.com/pixeldatainfo/1.0/", r"\w+", "further pictures"),
    ("http://ns.xiaomi.com/photos/1.0/camera/", r"XMPMeta", "further pictures"),
    ("http://ns.oplus.com/photos/1.0/camera/", r"(?:MotionPhoto|OLivePhoto|VideoLength)\w*",
     "motion video"),
    ("http://ns.adobe.com/hdr-gain-map/1.0/", r"\w+", "HDR gain map"),
    ("http://ns.apple.com/HDRGainMap/1.0/", r"\w+", "HDR gain map"),
    ("http://ns.google.com/photos/1.0/camera/", r"(?:MotionPhoto|MicroVideo)\w*", "motion video"),
)  # fmt: skip
# Of items in a directory.
SEMANTICS = {"GainMap": "HDR gain map", "MotionPhoto": "motion video", "Depth": "depth map"}
# Namespaces described in the main packet, with their data in an extended one.
EXTENDED = tuple(
    f"http://ns.google.com/photos/1.0/{name}/" for name in ("depthmap", "image", "audio")
)
NOTE = "http://ns.adobe.com/xmp/note/"
CODECS = ("utf-8", "utf-16")


def merge_properties(packet: bytes, properties: Mapping[str, str]) -> bytes:
    """Add or replace properties ("prefix:name" -> text) of a packet.

    A packet that is not RDF is replaced by a new one.
    """
    text, codec = _decode(packet)
    ends = re.finditer(r"</(\w+):RDF\s*>|<(\w+):RDF\b[^<>]*/>", text)
    end = next((end for end in ends if end[1] or RDF in end[0]), None)
    if end is None:
        text, codec = EMPTY, "utf-8"
        end = re.search(r"</(rdf):RDF>", text)
        assert end is not None
    if end[1] is None:  # <rdf:RDF …/>, empty
        opened = end[0].removesuffix("/>") + f"></{end[2]}:RDF>"
        text = text[: end.start()] + opened + text[end.end() :]
    rdf = end[1] or end[2]
    for name in properties:
        prefix, local = name.split(":")
        text, _ = _drop(text, {prefix} | _prefixes(text, NAMESPACES[prefix]), local)
    # Remove elements that an earlier call emptied, or every run would add one more.
    text = re.sub(rf'\n <{rdf}:Description {rdf}:about="[^"]*" xmlns:[^<>]*>\s*'
                  rf"</{rdf}:Description>(?=\n)", "", text)  # fmt: skip
    about = re.search(rf"{rdf}:about\s*=\s*(\"[^\"<]*\"|'[^'<]*')", text)
    subject = about[1] if about else '""'
    prefixes = sorted({name.split(":")[0] for name in properties})
    spaces = " ".join(f'xmlns:{prefix}="{NAMESPACES[prefix]}"' for prefix in prefixes)
    lines = [
        f"  <{name}>{escape(value, quote=False)}</{name}>" for name, value in properties.items()
    ]
    added = "\n".join(
        [
            f"\n <{rdf}:Description {rdf}:about={subject} {spaces}>",
            *lines,
            f" </{rdf}:Description>\n",
        ]
    )
    at = text.rindex(f"</{rdf}:RDF")
    return (text[:at].rstrip() + added + text[at:]).encode(codec)


def set_upright(packet: bytes) -> bytes:
    """The packet with tiff:Orientation 1, if it contains an orientation."""
    text, codec = _decode(packet)
    upright = re.sub(r"(tiff:Orientation(?:\s*=\s*[\"']|>))\s*[2-8]", r"\g<1>1", text)
    return packet if upright == text else upright.encode(codec)


def drop_promises(packet: bytes) -> tuple[bytes, list[str]]:
    """Drop properties on data outside the packet; returns it with the names of that data."""
    text, codec = _decode(packet)
    names: list[str] = []
    for uri, local, what in PROMISES:
        text, dropped = _drop(text, _prefixes(text, uri), local)
        if not dropped:
            continue
        removed = "".join(dropped)
        inside = [w for n, w in SEMANTICS.items() if n in removed]
        names += inside if what == "further pictures" and inside else [what]
    if names:
        for uri, *_ in PROMISES:
            text = _undeclare(text, rf"{re.escape(uri)}(?:item/)?")
        text = _undeclare(text, r"http://ns\.google\.com/photos/dd/1\.0/\w+/")
    return (text.encode(codec), list(dict.fromkeys(names))) if names else (packet, [])


def extension_id(packet: bytes) -> str:
    """The MD5 of the extended XMP that a packet names, or an empty string."""
    text, _ = _decode(packet)
    _, dropped = _drop(text, _prefixes(text, NOTE), "HasExtendedXMP")
    found = re.search(r"[0-9A-Fa-f]{32}", "".join(dropped))
    return found[0] if found else ""


def rename_extension(packet: bytes, name: str) -> bytes:
    """The packet with another MD5 as the name of the extended one."""
    text, codec = _decode(packet)
    return text.replace(extension_id(packet), name).encode(codec)


def drop_extension(packet: bytes) -> bytes:
    """The packet without the reference to an extended one and the description of its content."""
    text, codec = _decode(packet)
    text, dropped = _drop(text, _prefixes(text, NOTE), "HasExtendedXMP")
    if not dropped:
        return packet
    for uri in (NOTE, *EXTENDED):
        text, _ = _drop(text, _prefixes(text, uri), r"\w+")
        text = _undeclare(text, re.escape(uri))
    return text.encode(codec)


def _undeclare(text: str, uri: str) -> str:
    """Remove declarations of unused prefixes of a namespace (a pattern)."""
    used = {match[1] for match in re.finditer(r"[<\s/]([\w.-]+):", text)}

    def keep(match: re.Match) -> str:
        return match[0] if match[1] in used else ""

    return re.sub(rf"\sxmlns:([\w.-]+)\s*=\s*[\"']{uri}[\"']", keep, text)


def _prefixes(text: str, uri: str) -> set[str]:
    """The prefixes that a packet declares for a namespace."""
    return set(re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(uri)}[\"']", text))


def _drop(text: str, prefixes: set[str], local: str) -> tuple[str, list[str]]:
    """Remove properties (a pattern of their local names); returns the text and the removed parts.

    Properties are elements or attributes.
    """
    if not prefixes:
        return text, []
    kept, dropped, at = [], [], 0
    for start, end in _find_elements(text, prefixes, local):
        kept.append(text[at:start])
        dropped.append(text[start:end])
        at = end

    def take(match: re.Match) -> str:
        if match[1] not in prefixes:
            return match[0]
        dropped.append(match[0])
        return ""

    attribute = rf"\s([\w.-]+):{local}\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    return re.sub(attribute, take, "".join([*kept, text[at:]])), dropped


def _find_elements(text: str, prefixes: set[str], local: str) -> Iterator[tuple[int, int]]:
    """The places of elements, each up to the next end tag of its name; those inside are left out.

    Elements without an end are left out, too.
    """
    ends: dict[str, list[int]] = defaultdict(list)
    for tag in re.finditer(rf"</([\w.-]+:{local})\s*>", text):
        ends[tag[1]].append(tag.end())
    bracket = done = 0  # the first > after the tag's name, and the end of the last element
    for tag in re.finditer(rf"<(([\w.-]+):{local})\b", text):
        if tag[2] not in prefixes or tag.start() < done:
            continue
        if bracket <= tag.end():
            bracket = text.find(">", tag.end()) + 1
        if not bracket:
            return
        same = ends.get(tag[1], [])
        after = bisect(same, tag.end())
        if text[bracket - 2] == "/":
            done = bracket
        elif after < len(same):
            done = same[after]
        else:
            continue
        yield tag.start(), done


def _decode(packet: bytes) -> tuple[str, str]:
    """The text of a packet and its encoding."""
    for codec in CODECS:
        try:
            return packet.decode(codec).rstrip("\0"), codec
        except UnicodeDecodeError:
            continue
    return "", "utf-8"
