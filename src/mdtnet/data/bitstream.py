"""Bytes of a packet -> whether decoding can begin there, and whether other frames refer to it: H.264, HEVC, VP9, AV1.

Only the first bytes of each unit are read. Whatever is not built as expected is UNKNOWN: such a file is decoded from
its start.
"""

import struct
from collections.abc import Callable

from av.container import InputContainer
from av.video.stream import VideoStream

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
OPEN, CLOSED = 1, 2
"""Decoding can begin here: of what is shown later than this frame; of all that follows."""
SPARE, SETS, LAYERS, UNKNOWN = 4, 8, 16, 32
"""No other frame refers to it; it brings parameters of the codec; it is in a layer above the lowest; not understood."""
UNIT = struct.Struct(">IH")
FactsOf = Callable[[memoryview, bool], int]
"""The bytes of a packet, and whether the container calls it a key frame -> a sum of the constants above."""


def facts_reader(container: InputContainer, stream: VideoStream) -> FactsOf | None:
    """The function for the packets of a stream; None where a packet need not be one frame."""
    codec = stream.codec_context
    if container.format.name not in CONTAINERS:
        return None
    name = codec.codec.canonical_name
    extra = codec.extradata or b""
    if name == "h264" and len(extra) > 6 and extra[0] == 1 and extra[4] & 3 == 3:  # lengths of four bytes
        return _h264
    if name == "hevc" and len(extra) > 22 and extra[0] == 1 and extra[21] & 3 == 3:
        return _hevc
    return {"vp9": _vp9, "av1": _av1}.get(name)


def _units(data: memoryview) -> list[int]:
    """The first two bytes of each NAL unit, each after its length in four bytes; none where lengths do not fit."""
    heads, place, size = [], 0, len(data)
    while place + UNIT.size <= size:
        length, head = UNIT.unpack_from(data, place)
        heads.append(head)
        place += 4 + length
    return heads if place == size else []


def _h264(data: memoryview, key: bool) -> int:
    """Decoding begins at IDR pictures alone: after a recovery point FFmpeg reports frames that it lacks as damage.

    Source: ITU-T H.264, 7.3.1 and 7.4.1.
    """
    pictures, facts = set(), SPARE
    for head in _units(data):
        kind = head >> 8 & 31
        if head & 0x8000 or kind in (2, 3, 4):  # damaged, or a picture in partitions
            return UNKNOWN
        if kind in (1, 5):
            pictures.add(kind)
            if head & 0x6000:
                facts &= ~SPARE
        elif kind in (7, 8, 13, 15):
            facts |= SETS
    if not pictures:
        return UNKNOWN
    return facts | CLOSED if key and pictures == {5} else facts


def _hevc(data: memoryview, key: bool) -> int:
    """Source: ITU-T H.265, 7.3.1.2 and 7.4.2.2."""
    pictures, facts = set(), SPARE
    for head in _units(data):
        kind = head >> 9 & 63
        if head & 0x8000:
            return UNKNOWN
        if kind < 32:
            pictures.add(kind)
            if kind > 15 or kind % 2:
                facts &= ~SPARE
            if head & 7 != 1:
                facts |= LAYERS
        elif kind < 35:
            facts |= SETS
    if not pictures:
        return UNKNOWN
    if key and (pictures <= {19, 20} or pictures == {21}):
        facts |= OPEN if pictures == {21} else CLOSED
    return facts


def _vp9(data: memoryview, key: bool) -> int:
    """A key frame of profile 0 that is shown. Source: VP9 bitstream specification 0.6, 6.2."""
    return CLOSED if key and data[0] & 0xFE == 0x82 else 0


def _av1(data: memoryview, key: bool) -> int:
    """A sequence header before a key frame that is shown. Source: AV1 bitstream specification, 5.3 and 5.9."""
    place, sets = 0, False
    while key and place + 2 < len(data):
        header = data[place]
        kind, place = header >> 3 & 15, place + (2 if header & 4 else 1)
        length = len(data) - place
        if header & 2:
            length, place = _leb128(data, place)
        sets |= kind == 1
        if kind in (3, 6):
            return CLOSED | SETS if sets and place < len(data) and data[place] >> 4 == 1 else 0
        place += length
    return 0


def _leb128(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the place after it."""
    number, shift = 0, 0
    while place < len(data):
        number |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if not data[place - 1] & 128:
            break
    return number, place
