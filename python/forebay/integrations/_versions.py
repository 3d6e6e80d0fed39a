"""Which versions of each engine the adapters are known to work with. The interfaces call themselves experimental, so a version outside is said once,
in one line, and used all the same: what an adapter cannot do with it is computed."""

from __future__ import annotations

import logging
import re

_LOGGER = logging.getLogger("forebay")

#: First and last release that the tests have run. A test compares the installed one's interface with the one the adapters were written against.
KNOWN: dict[str, tuple[str, str]] = {
    "LMCache": ("0.5.6", "0.5.6"),
    "SGLang": ("0.5.23", "0.5.23"),
    "transformers": ("5.19", "5.19"),
    "vLLM": ("0.32", "0.32"),
}

_said: set[str] = set()


def numbers(version: str) -> tuple[int, ...]:
    """`0.32.1+cpu` is (0, 32, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def is_known(engine: str, version: str) -> bool:
    """Whether a release lies in the range, whose ends name all that begin like them."""
    first, last = (numbers(end) for end in KNOWN[engine])
    found = numbers(version)
    return found >= first and found[: len(last)] <= last


def said(engine: str) -> str:
    """The range as people read it."""
    first, last = KNOWN[engine]
    return first if first == last else f"{first} to {last}"


def look(engine: str, version: str) -> None:
    """Says it once if this release is none that the tests have run."""
    if is_known(engine, version) or engine in _said:
        return
    _said.add(engine)
    _LOGGER.warning(
        "forebay: this is %s %s, and the adapter is tested with %s; its interfaces change between releases, so look whether blocks are stored and loaded",
        engine,
        version,
        said(engine),
    )
