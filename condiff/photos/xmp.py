"""Adds properties to XMP packets as text, so that nothing else in a packet changes.

XMP Specification Part 1 (ISO 16684-1), serialised as RDF/XML.
"""

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

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
CODECS = ("utf-8", "utf-16")


def merge_properties(packet: bytes, properties: Mapping[str, str]) -> bytes:
    """The packet with these properties ("prefix:name" -> text), added or in place of old ones.

    A packet that is no RDF gives way to a new one.
    """
    text, codec = _decode(packet)
    end = re.search(rf"</(\w+):RDF\s*>|<(\w+):RDF\b[^>]*?{re.escape(RDF)}[^>]*/>", text)
    if end is None:
        text, codec = EMPTY, "utf-8"
        end = re.search(r"</(rdf):RDF>", text)
        assert end is not None
    if end[1] is None:  # <rdf:RDF …/>, which holds nothing
        opened = end[0].removesuffix("/>") + f"></{end[2]}:RDF>"
        text = text[: end.start()] + opened + text[end.end() :]
    rdf = end[1] or end[2]
    for name in properties:
        prefix, local = _prefixes_in(text, name), name.split(":")[1]
        text = re.sub(rf"<{prefix}:{local}\b[^>]*?/>|<({prefix}):{local}\b.*?</\1:{local}\s*>",
                      "", text, flags=re.S)  # fmt: skip
        text = re.sub(rf"\s{prefix}:{local}\s*=\s*(\"[^\"]*\"|'[^']*')", "", text)
    # Remove what an earlier call left empty, or every run would add one more.
    text = re.sub(rf'\n <{rdf}:Description {rdf}:about="[^"]*" xmlns:[^>]*>\s*'
                  rf"</{rdf}:Description>(?=\n)", "", text)  # fmt: skip
    about = re.search(rf"{rdf}:about\s*=\s*(\"[^\"<]*\"|'[^'<]*')", text)
    subject = about[1] if about else '""'
    prefixes = sorted({name.split(":")[0] for name in properties})
    spaces = " ".join(f'xmlns:{prefix}="{NAMESPACES[prefix]}"' for prefix in prefixes)
    lines = [f"  <{name}>{escape(value)}</{name}>" for name, value in properties.items()]
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
    """The packet with tiff:Orientation 1, where it has one."""
    text, codec = _decode(packet)
    upright = re.sub(r"(tiff:Orientation(?:\s*=\s*[\"']|>))\s*[2-8]", r"\g<1>1", text)
    return packet if upright == text else upright.encode(codec)


def _decode(packet: bytes) -> tuple[str, str]:
    """The text of a packet and its encoding."""
    for codec in CODECS:
        try:
            return packet.decode(codec).rstrip("\0"), codec
        except UnicodeDecodeError:
            continue
    return "", "utf-8"


def _prefixes_in(text: str, name: str) -> str:
    """A pattern of the prefixes that the packet uses for the namespace of "prefix:name"."""
    prefix = name.split(":")[0]
    uri = re.escape(NAMESPACES[prefix])
    bound = re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{uri}[\"']", text)
    return "(?:" + "|".join(sorted({prefix, *map(re.escape, bound)})) + ")"
