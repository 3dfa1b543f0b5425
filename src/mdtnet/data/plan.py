"""What the packets of a video file say before any is decoded, and decoding only what is needed by it.

A `Plan` is trusted for H.264, HEVC, VP9 and AV1 in MP4 and Matroska, where a packet is one frame, and only while times
are whole and parameters of the codec do not change in between. All that decodes is compared with it: a decoded frame
that is not the next one by its packets, or is damaged, is a `PlanError`, and the file is decoded from its start.
"""

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import dropwhile, pairwise
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from mdtnet.data.archive import file_stamp
from mdtnet.data.bitstream import CLOSED, LAYERS, OPEN, SETS, SPARE, UNKNOWN, facts_reader
from mdtnet.data.container import SMALLEST_FRAME, Part, missing_at_end, packets_of

NO_TIME = np.iinfo(np.int64).min
DELAY = 16  # frames that a decoder may hold back, in all these codecs


class PlanError(Exception):
    """The file is not as its packets said."""


class Group(NamedTuple):
    """Packets that are decoded together, by their numbers in the file; the first is a start."""

    packets: list[int]
    times: list[int]
    """Presentation times of all frames that they give, sorted: those before the first packet's do not count."""


@dataclass(frozen=True)
class Plan:
    """Packets of a video stream, in the order of the file; arrays `[N]`, empty where the plan is not `trusted`."""

    seconds: np.ndarray
    """Presentation times in seconds after the first one, sorted; a guess where the plan is not trusted."""
    pts: np.ndarray
    """Presentation times in units of the stream, int64."""
    dts: np.ndarray
    """Decoding times, likewise."""
    starts: np.ndarray
    """OPEN, CLOSED, or 0 where decoding cannot begin."""
    spare: np.ndarray
    """Packets that no other frame refers to, bool."""
    base: Fraction
    """Unit of the stream's times, in seconds."""
    until: float
    """Seconds after the first frame up to which packets were read; infinite: all of them."""

    @property
    def trusted(self) -> bool:
        """Whether packet = frame can be expected."""
        return len(self.pts) > 0

    @cached_property
    def order(self) -> np.ndarray:
        """Packets in the order in which they are shown."""
        return np.argsort(self.pts)

    def inside(self, part: Part) -> np.ndarray:
        """Positions of the frames of a part, in the order in which they are shown."""
        return np.flatnonzero(part.inside(self.seconds))

    def to_prove(self, part: Part) -> np.ndarray:
        """Positions to decode to know a part: its frames, the first of the file, from which times count, and those
        around the part whose damage decoding from the start of the file would see too."""
        inside = self.inside(part)
        last = min(inside[-1] + 1 + DELAY, len(self.pts) - 1)
        return np.unique([0, *range(max(inside[0] - 1, 0), last + 1)])

    @cached_property
    def begins(self) -> np.ndarray:
        """Where decoding begins to get each packet right: the start before; of an open GOP the one before that."""
        places = np.concatenate([[0, 0], np.flatnonzero(self.starts)])  # the file's own beginning is always right
        last = np.searchsorted(places[2:], np.arange(len(self.pts)), side="right") + 1
        return np.where(self.starts[places[last]] == CLOSED, places[last], places[last - 1])

    def groups(self, positions: np.ndarray) -> list[Group]:
        """What to decode for the frames at these positions, in the order in which they are shown."""
        wanted = np.sort(self.order[positions])
        ends = 1 + np.flatnonzero(self.begins[wanted[1:]] > wanted[:-1] + 1)
        return [self._group(some) for some in np.split(wanted, ends)]

    def _group(self, wanted: np.ndarray) -> Group:
        start = self.begins[wanted[0]]
        needed = ~self.spare[start : wanted[-1] + 1]
        needed[0] = needed[wanted - start] = True
        packets = start + np.flatnonzero(needed)
        times = np.sort(self.pts[packets])
        return Group(packets.tolist(), times[times >= (self.pts[start] if start else times[0])].tolist())


def decode(
    plan: Plan, groups: list[Group], container: InputContainer, stream: VideoStream
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Position, in the order in which they are shown, and frame: of all frames that the groups give.

    Raises:
        PlanError: the file is not as its packets said, or damaged here.
        av.FFmpegError, OSError: it cannot be read.
    """
    shown = plan.pts[plan.order]
    size = stream.codec_context.width, stream.codec_context.height
    for group in groups:
        position = iter(np.searchsorted(shown, group.times).tolist())
        expected = iter(group.times)
        for packet in _packets(plan, group.packets, container, stream):
            for frame in stream.decode(packet):
                if frame.pts is None or frame.is_corrupt or (frame.width, frame.height) != size:
                    raise PlanError
                if frame.pts < group.times[0]:
                    continue
                if frame.pts != next(expected, None):
                    raise PlanError
                yield next(position), frame
        if next(expected, None) is not None:
            raise PlanError


def _packets(
    plan: Plan, wanted: list[int], container: InputContainer, stream: VideoStream
) -> Iterator[av.Packet | None]:
    """The packets of these numbers, then None: what the decoder still holds.

    Raises:
        PlanError: the packets of the file are not those of the plan.
    """
    start, needed = wanted[0], set(wanted)
    times = plan.pts[start : wanted[-1] + 1].tolist()
    container.seek(int(plan.dts[start]), stream=stream)
    packets = packets_of(container, stream)
    packets = dropwhile(lambda packet: packet.pts is not None and packet.pts < times[0], packets)
    for number, (time, packet) in enumerate(zip(times, packets), start):
        if packet.pts != time:
            raise PlanError
        if number in needed:
            yield packet
    yield None


# ---- from a file to its plan ------------------------------------------------------------------------------


def scan(container: InputContainer, stream: VideoStream, end: float | None = None) -> Plan:
    """Read the packets of a file that was just opened, to its end or until all that follow are after `end` seconds.

    Raises:
        av.FFmpegError, OSError: they cannot be read.
    """
    facts_of = facts_reader(container, stream)
    rows: list[tuple[int, int, int]] = []  # pts, dts, facts
    base = Fraction(stream.time_base or 1)
    until, last, left = np.inf, np.inf, DELAY
    if facts_of is None and container.format.name == "avi" and (count := _indexed(stream)):  # quicker than packets
        return _guess(np.full(count, NO_TIME), base, until, stream)
    for packet in packets_of(container, stream):
        size, pts, dts = packet.size, packet.pts, packet.dts
        if size < SMALLEST_FRAME or packet.is_discard:
            facts_of = None if size else facts_of  # the last packet is empty
            continue
        facts_of = None if pts is None or packet.is_corrupt else facts_of
        facts = facts_of(memoryview(packet), packet.is_keyframe) if facts_of else UNKNOWN
        if not rows and end is not None:
            last = (pts or 0) + end / base
        rows.append((NO_TIME if pts is None else pts, NO_TIME if dts is None else dts, facts))
        left -= dts is not None and dts > last
        if left < 0:
            until = end or 0.0
            break
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return _trusted(table, base, until, stream) or _guess(table[:, 0], base, until, stream)


def _indexed(stream: VideoStream) -> int:
    """Packets with a frame by the index of a file; 0 without one."""
    return sum(entry.size >= SMALLEST_FRAME for entry in stream.index_entries)


def _guess(pts: np.ndarray, base: Fraction, until: float, stream: VideoStream) -> Plan:
    """Times alone; where there is none, by the position in the stream."""
    by_position = np.arange(len(pts)) / float(stream.average_rate or 25)
    seconds = np.sort(np.where(pts == NO_TIME, by_position, pts * float(base)))
    none = np.empty(0, dtype=np.int64)
    return Plan(seconds - seconds[:1].sum(), none, none, none, none, base, until)


def _trusted(table: np.ndarray, base: Fraction, until: float, stream: VideoStream) -> Plan | None:
    pts, dts, facts = table.T.copy()
    if not len(pts) or (facts & UNKNOWN).any():
        return None
    without = int(np.argmax(dts != NO_TIME))  # Matroska has none until pictures can be reordered
    dts[:without] = dts[without] - np.arange(without, 0, -1)
    starts = _starts(pts, facts)
    if not _whole_times(pts, dts) or (facts[starts == 0] & SETS).any():
        return None
    seconds = _seconds(pts, base)
    if until == np.inf and missing_at_end(stream, len(pts), float(seconds[-1])):
        return None
    spare = (facts & SPARE > 0) & (not (facts & LAYERS).any())
    return Plan(seconds, pts, dts, starts, spare, base, until)


def _seconds(pts: np.ndarray, base: Fraction) -> np.ndarray:
    times = np.sort(pts).astype(np.float64) * base.numerator / base.denominator  # as PyAV has them
    return times - times[0]


def _whole_times(pts: np.ndarray, dts: np.ndarray) -> bool:
    return bool(
        (dts != NO_TIME).all() and (np.diff(dts) > 0).all() and (pts >= dts).all() and len(np.unique(pts)) == len(pts)
    )


def _starts(pts: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """Kind of each packet: a start of which all packets before are shown earlier, and all after it later if CLOSED."""
    highest = np.maximum.accumulate(pts)
    lowest = np.minimum.accumulate(pts[::-1])[::-1]
    after_all = np.concatenate([[True], highest[:-1] < pts[1:]])
    starts = np.where(after_all, facts & (OPEN | CLOSED), 0)
    starts = np.where((starts == CLOSED) & (lowest < pts), OPEN, starts)
    without = (facts & SETS == 0) & (np.cumsum(facts & SETS > 0) > 0)  # parameters may have changed before
    starts[without] = 0
    places = np.flatnonzero(starts)
    for before, place in pairwise(places.tolist()):
        if starts[place] == OPEN and lowest[place] <= pts[before]:
            starts[place] = 0
    return starts


# ---- plans that are kept ----------------------------------------------------------------------------------

HEAD = struct.Struct("<QQdqq")
"""Before a kept plan: its bytes, packets, `until`, time base."""
PROBES = 8  # neighbouring slots in which a plan may stand


class Plans:
    """Trusted plans of files, kept in memory until that is full; with shared memory all processes see them.

    A plan is found by the path, size and time of change of its file. `slots`, int64 `[n, 2]`, are keys and places in
    `room`, uint8 `[m]`, whose first eight bytes say how much of it is used; both begin as zeros.
    """

    def __init__(self, slots: Any, room: Any, lock: Any) -> None:
        self._slots, self._room, self._lock = slots, room, lock

    def of(self, part: Part, container: InputContainer, stream: VideoStream) -> Plan | None:
        """The plan of a video file that was just opened, at least up to the end of the part, and it may be left at
        another place; None where its packets cannot be read."""
        key = _key(part.path)
        found = self._get(key)
        if found and found.until >= (np.inf if part.end is None else part.end):
            return found
        try:
            plan = scan(container, stream, None if found else part.end)  # of a second part: there will be more
        except (av.FFmpegError, OSError):
            return None
        if plan.trusted and self._lock.acquire(False):  # a process may have died with the lock
            try:
                self._keep(key, plan)
            finally:
                self._lock.release()
        return plan

    def _get(self, key: int) -> Plan | None:
        slots, room = np.asarray(self._slots), np.asarray(self._room)
        for slot in _slots_of(key, len(slots)):
            if slots[slot, 0] == key:
                return _unpacked(room[slots[slot, 1] :])
        return None

    def _keep(self, key: int, plan: Plan) -> None:
        slots, room, packed = np.asarray(self._slots), np.asarray(self._room), _packed(plan)
        used = max(int(room[:8].view(np.int64)[0]), 8)
        free = [slot for slot in _slots_of(key, len(slots)) if slots[slot, 0] in (key, 0)]
        if not free or used + len(packed) > len(room):
            return
        room[used : used + len(packed)] = np.frombuffer(packed, dtype=np.uint8)
        room[:8].view(np.int64)[0] = used + len(packed)
        slots[free[0], 1] = used
        slots[free[0], 0] = key  # last: other processes look at it without the lock


def _key(path: str) -> int:
    size, changed = file_stamp(path)
    text = f"{os.path.abspath(path)}\0{size}\0{changed}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha1(text).digest()[:8], "little", signed=True) or 1


def _slots_of(key: int, count: int) -> list[int]:
    return [(key + probe) % count for probe in range(min(PROBES, count))]


def _packed(plan: Plan) -> bytes:
    rows = np.stack([plan.pts - plan.dts, np.diff(plan.dts, prepend=0), plan.starts | plan.spare * SPARE])
    packed = zlib.compress(rows.tobytes(), 1)
    return HEAD.pack(len(packed), len(plan.pts), plan.until, plan.base.numerator, plan.base.denominator) + packed


def _unpacked(room: np.ndarray) -> Plan | None:
    size, count, until, numerator, denominator = HEAD.unpack(room[: HEAD.size].tobytes())
    try:
        data = zlib.decompress(room[HEAD.size : HEAD.size + size].tobytes())  # which has a checksum
        ahead, steps, facts = np.frombuffer(data, dtype=np.int64).reshape(3, count)
    except (zlib.error, ValueError):
        return None
    dts, base = np.cumsum(steps), Fraction(numerator, denominator)
    pts = dts + ahead
    return Plan(_seconds(pts, base), pts, dts, facts & (OPEN | CLOSED), facts & SPARE > 0, base, until)


OWN = Plans(np.zeros((4096, 2), dtype=np.int64), np.zeros(2**24, dtype=np.uint8), threading.Lock())
"""Those of this process alone."""
