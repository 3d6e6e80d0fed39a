"""What an adapter is told in its engine's configuration. JSON has no types, so each value is looked at here, and what it cannot be is said in one sentence
that names it, what it may be and what it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from forebay import InvalidArgument

#: As in the command line's sizes.
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
#: A namespace that holds no block is a mistake, mostly of somebody who meant another unit.
QUOTA_BYTES_MIN = 4096
#: Larger than any drive or time, and small enough for every interface behind this.
_SIZE_MAX = 1 << 62
_SECONDS_MAX = (1 << 32) - 1
_MILLISECONDS_MAX = 24 * 3600 * 1000

Check = Callable[[str, Any], Any]
"""Takes a setting's name and value, and gives the value back as what it stands for. Raises InvalidArgument."""


def size(name: str, value: Any, least: int = 1) -> int:
    """Bytes: a number, or text as the command line takes it (`20GiB`)."""
    nbytes = value if _is_whole(value) else None
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]+)", value.strip())
        if match is not None and match[2] in _UNITS:
            nbytes = int(match[1]) * _UNITS[match[2]] if match[1].isdigit() else int(float(match[1]) * _UNITS[match[2]])
    if nbytes is None or not least <= nbytes <= _SIZE_MAX:
        raise InvalidArgument(f'{name} is a size, as "20GiB" or a number of bytes, of at least {least:,}, not {_shown(value)}')
    return int(nbytes)


def quota(name: str, value: Any) -> int:
    """Bytes of a namespace."""
    return size(name, value, QUOTA_BYTES_MIN)


def seconds(name: str, value: Any) -> int:
    """Whole ones."""
    if not _is_whole(value) or not 1 <= value <= _SECONDS_MAX:
        raise InvalidArgument(f"{name} is a whole number of seconds from 1 on, not {_shown(value)}")
    return int(value)


def milliseconds(name: str, value: Any) -> float:
    """Any part of a day."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MILLISECONDS_MAX:
        raise InvalidArgument(f"{name} is a number of milliseconds above 0 and at most {_MILLISECONDS_MAX:,}, not {_shown(value)}")
    return float(value)


def text(name: str, value: Any) -> str:
    """Anything but nothing."""
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} is a text, not {_shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """JSON's own."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name} is true or false, not {_shown(value)}")
    return value


def anything(name: str, value: Any) -> Any:
    """What is looked at elsewhere."""
    del name
    return value


#: What each adapter tells its `Link`.
LINK: dict[str, Check] = {"address": text, "token_file": text, "namespace": text, "quota": quota, "ttl_s": seconds, "region_bytes": size}


def checked(given: Mapping[str, Any], known: Mapping[str, Check], where: str) -> dict[str, Any]:
    """Those that are set, each as what it stands for. where: the setting that all of these are in. Raises InvalidArgument for the first that cannot be."""
    for name in sorted(set(given) - set(known), key=str):
        raise InvalidArgument(f"{where} has {_shown(name)}, which Forebay does not know; it knows {', '.join(known)}")
    return {name: known[name](name, value) for name, value in given.items() if value is not None}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
