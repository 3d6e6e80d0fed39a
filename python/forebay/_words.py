"""What a call answers for each key, in the words of the metrics.

Each is a string and can be compared with one. What a caller can go on with is true, what it cannot is false: ``if outcome`` asks whether the block
is there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Tier(enum.StrEnum):
    """Where a hit is. True."""

    DRAM = "dram"
    """In the node's memory."""
    NVME = "nvme"
    """On the node's drive."""


class Miss(enum.StrEnum):
    """Why a key is not served. False. A miss is an outcome, not an error: compute the block."""

    ABSENT = "absent"
    """Never seen, forgotten, or evicted too long ago to be remembered."""
    EVICTED = "evicted"
    EXPIRED = "expired"
    DEADLINE = "deadline"
    """Not finished before the call's deadline, or the call was cancelled."""
    CORRUPT = "corrupt"
    """The bytes did not match their sums. They were dropped, never handed over."""
    NAMESPACE = "namespace"
    """The namespace does not exist any more."""
    NOT_MINE = "not_mine"
    QUOTA = "quota"
    BUSY = "busy"
    """The node's queues are full, or the queue has as many calls as it may."""
    UNAVAILABLE = "unavailable"
    """The node could not be reached, or its drive failed."""

    def __bool__(self) -> bool:
        return False


class Stored(enum.StrEnum):
    """How a put block is kept. True."""

    CACHED = "cached"
    """It may vanish at any time; if it is served, it is right."""
    DURABLE = "durable"
    """It survives ``kill -9`` and power loss."""
    EXISTS = "exists"
    """A block of this key is there already; this one's bytes were not moved."""


class Refused(enum.StrEnum):
    """Why a block was not kept. False."""

    ADMISSION = "admission"
    QUOTA = "quota"
    FULL = "full"
    TOO_LARGE = "too_large"
    """0 bytes, or more than the node's largest block (64 MiB at most)."""
    NAMESPACE = "namespace"
    BUSY = "busy"
    DEADLINE = "deadline"
    """Not finished before the deadline. It may be kept all the same; what is served later is right."""
    UNAVAILABLE = "unavailable"
    """The node could not be reached, its drive failed, or the bytes changed while they were put."""

    def __bool__(self) -> bool:
        return False


class Landing(enum.StrEnum):
    """How a hit's bytes came."""

    DIRECT = "direct"
    """The drive wrote them where they are."""
    BOUNCE = "bounce"
    """Through the node's memory."""
    STREAM = "stream"
    """Through a socket."""


@dataclass(frozen=True, slots=True)
class TooSmall:
    """The block is there, and the buffer it was to be copied into is shorter. False; ask again with ``need`` bytes."""

    need: int
    """Bytes of the block."""

    def __bool__(self) -> bool:
        return False
