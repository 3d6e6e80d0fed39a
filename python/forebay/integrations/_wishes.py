"""What a request asks of Forebay: `kv_transfer_params={"forebay": {...}}` in vLLM, arguments of
`PrefixCache.generate` in transformers. SGLang and LMCache hand their storage nothing of a request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

_logger = logging.getLogger("forebay")
_HINTS = ("tool", "turn", "done")


@dataclass(frozen=True, slots=True)
class Wishes:
    """See the module."""

    #: When the blocks will be used again: after a tool call, a person's turn, not at all, or in so many seconds.
    hint: str | float | None = None
    #: Nothing stored is used for it.
    skip_read: bool = False
    #: Nothing of it is stored.
    skip_write: bool = False
    #: How long it may wait for a load; None: as long as the adapter's configuration says.
    deadline_ms: float | None = None


NONE = Wishes()


def wishes(params: Mapping[str, object] | None) -> Wishes:
    """What the parameters of a request say. What is none of it is said once in the log and ignored: a wish must not fail a request."""
    given = (params or {}).get("forebay")
    if given is None:
        return NONE
    if not isinstance(given, Mapping):
        _say(f'"forebay" in a request\'s parameters is a mapping, not {given!r}')
        return NONE
    unknown = sorted(set(given) - {"hint", "skip_read", "skip_write", "deadline_ms"})
    if unknown:
        _say(f'a request asks for {unknown[0]!r}; it can ask for hint, skip_read, skip_write and deadline_ms')
    hint, deadline_ms = given.get("hint"), given.get("deadline_ms")
    is_number = isinstance(hint, (int, float)) and not isinstance(hint, bool) and 0 <= hint < 2**32
    if hint is not None and hint not in _HINTS and not is_number:
        _say(f'a request\'s hint is "tool", "turn", "done" or seconds, not {hint!r}')
        hint = None
    if deadline_ms is not None and not (isinstance(deadline_ms, (int, float)) and 0 < deadline_ms <= 60_000):
        _say(f"a request's deadline_ms is more than 0 and at most 60,000, not {deadline_ms!r}")
        deadline_ms = None
    return Wishes(
        hint if isinstance(hint, str) else None if hint is None else float(hint),
        bool(given.get("skip_read", False)),
        bool(given.get("skip_write", False)),
        float(deadline_ms) if isinstance(deadline_ms, (int, float)) else None,
    )


_said: set[str] = set()
#: Different complaints that are remembered: a client that makes up new ones all the time is not listened to.
_SAID_MAX = 64


def _say(text: str) -> None:
    if text not in _said and len(_said) < _SAID_MAX:
        _said.add(text)
        _logger.warning("forebay: %s; ignored", text)
