"""Forebay: a mesh of DRAM and NVMe that keeps KV caches.

    import forebay

    client = forebay.Client("unix:/tmp/forebay.sock")
    space = client.namespace("default")
    key = space.key(b"the engine's own hash of a block")
    space.put([key], [b"its bytes"])
    for block in space.get([key]):
        if block:
            bytes(block)            # verified where they lie
        else:
            print("compute it again:", block)

Calls block without the GIL, end by their deadline, and can be interrupted with Ctrl-C. ``forebay.aio`` has the same verbs as coroutines,
``Client.queue`` has them for loops of one's own.
"""

from __future__ import annotations

import os as _os

from . import fingerprint
from ._errors import (
    ConnectionBroken,
    ConnectionFailed,
    CredentialRefused,
    DeadlineExceeded,
    ForebayError,
    ForgetFailed,
    ForkedClient,
    InvalidArgument,
    NamespaceDiffers,
    NamespaceError,
    NamespaceExists,
    NamespaceUnknown,
    NodeRefused,
    RegionFull,
    VersionMismatch,
)
from ._forebay import (
    Block,
    CallQueue,
    Client,
    Hashes,
    Jobs,
    LentMemory,
    Matched,
    Namespace,
    Place,
    Plan,
    Presence,
    Region,
    Spans,
    __version__,
    _forked,
)
from ._words import Landing, Miss, Refused, Stored, Tier, TooSmall
from .fingerprint import Fingerprint

__all__ = [
    "Block",
    "CallQueue",
    "Client",
    "ConnectionBroken",
    "ConnectionFailed",
    "CredentialRefused",
    "DeadlineExceeded",
    "Fingerprint",
    "ForebayError",
    "ForgetFailed",
    "ForkedClient",
    "Hashes",
    "InvalidArgument",
    "Jobs",
    "Landing",
    "LentMemory",
    "Matched",
    "Miss",
    "Namespace",
    "NamespaceDiffers",
    "NamespaceError",
    "NamespaceExists",
    "NamespaceUnknown",
    "NodeRefused",
    "Place",
    "Plan",
    "Presence",
    "Refused",
    "Region",
    "RegionFull",
    "Spans",
    "Stored",
    "Tier",
    "TooSmall",
    "VersionMismatch",
    "__version__",
    "fingerprint",
]

# A child has the parent's memory and none of its threads: clients made before are refused there.
_os.register_at_fork(after_in_child=_forked)

# Where they are found is where they are from, in tracebacks and documentation.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("forebay._"):
        globals()[_name].__module__ = "forebay"
del _name
