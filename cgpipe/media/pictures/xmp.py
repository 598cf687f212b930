"""XMP packets, corrected to describe the picture that is written."""

from __future__ import annotations

import re

_PROMISES = {
    "its gain map (HDR)": (
        b"http://ns.adobe.com/hdr-gain-map/1.0/",
        b"http://ns.apple.com/HDRGainMap/1.0/",
        b"http://ns.apple.com/pixeldatainfo/1.0/",
    ),
    "its motion photo": (b"http://ns.google.com/photos/1.0/camera/",),
    "its depth map": (
        b"http://ns.google.com/photos/1.0/depthmap/",
        b"http://ns.google.com/photos/1.0/image/",
        b"http://ns.google.com/photos/dd/1.0/device/",
    ),
    "": (
        b"http://ns.google.com/photos/1.0/container/",
        b"http://ns.google.com/photos/1.0/container/item/",
        b"http://ns.adobe.com/xmp/note/",  # a further part of the packet, which holds such pictures
    ),
}
"""Data elsewhere in the file that a packet refers to, by namespace."""

_LARGE = 1 << 20  # bytes; a larger packet that needs a correction is dropped


def upright(packet: bytes) -> bytes:
    """The packet with an orientation of 1."""
    return re.sub(rb'(tiff:Orientation(?:\s*=\s*["\']|>))[2-8]', rb"\g<1>1", packet)


def of_size(packet: bytes, height: int, width: int) -> bytes:
    """The packet with another size where it says one."""
    for names, pixels in ((b"PixelXDimension|ImageWidth", width), (b"PixelYDimension|ImageLength", height)):
        told = rb"((?:exif|tiff):(?:" + names + rb")(?:\s*=\s*[\"']|>))\d+"
        packet = re.sub(told, rb"\g<1>" + str(pixels).encode(), packet)
    return packet


def without_promises(packet: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The packet without references to further pictures in the file, which are not written; and their names."""
    announced = [(name, uri) for name, uris in _PROMISES.items() for uri in uris if uri in packet]
    if not announced:
        return packet, ()
    notes = tuple(dict.fromkeys(name for name, _ in announced if name))
    if len(packet) > _LARGE:
        return b"", notes
    for _, uri in announced:
        declared = rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(uri) + rb"[\"']"
        for prefix in set(re.findall(declared, packet)):
            packet = _without(packet, re.escape(prefix), declared)
    return packet, notes


def _without(packet: bytes, prefix: bytes, declared: bytes) -> bytes:
    """The packet without the elements and attributes of a namespace."""
    for pattern in (
        rb"<" + prefix + rb":([\w.-]+)(?:\s[^>]*)?(?<!/)>.*?</" + prefix + rb":\1\s*>",
        rb"<" + prefix + rb":[^>]*/>",
        rb"\s+" + prefix + rb":[\w.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*')",
        rb"\s+" + declared,
    ):
        packet = re.sub(pattern, b"", packet, flags=re.DOTALL)
    return packet
