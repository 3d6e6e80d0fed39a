from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, final, overload

from typing_extensions import Buffer, CapsuleType

from ._words import Landing, Miss, Refused, Stored, Tier, TooSmall
from .fingerprint import Fingerprint

__version__: str

type _Key = bytes | str
"""16 bytes, or 32 hexadecimal digits."""
type _Keys = Buffer | Iterable[_Key] | Hashes
"""Keys in order, or one contiguous buffer of rows of 16 bytes (``bytes``, or a NumPy array of shape (n, 16) and dtype uint8), which is faster; or an
engine's own hashes, of which keys are made where the call is made."""
type _Buffers = Iterable[Buffer] | Spans
"""One contiguous buffer for each key, or spans of regions."""
type _Reuse = Literal["tool", "turn", "done"] | float
"""When a block will be used again: after a tool call (seconds), after a person's turn (minutes, or never), not at all, or in so many seconds."""

def _forked() -> None:
    """Tells the package that this process is a fork's child. Called by Python itself."""

def hash_file(path: str | PathLike[str], /) -> str:
    """The BLAKE3 hash of a file's content, 64 hexadecimal digits. Raises OSError."""

def hash_bytes(data: Buffer, /) -> str:
    """The BLAKE3 hash of bytes, 64 hexadecimal digits. Raises BufferError."""

@final
class Client:
    """Connections to a mesh, shared by everything made from it. Any number of threads may use one client, and a process may have many.

    A forked child cannot use its parent's: whatever it does with it, or with what was made from it, raises ForkedClient.
    """

    def __new__(
        cls,
        address: str,
        *,
        token_file: str | PathLike[str] | None = None,
        deadline_ms: float | None = None,
        region_bytes: int | None = None,
        patience_ms: float | None = None,
        connections: int | None = None,
        spin_us: int | None = None,
        block_bytes_hint: int | None = None,
    ) -> Client:
        """Connects to a node. It may go and come again later: the client finds it by itself.

        address: ``unix:PATH`` or ``tcp:HOST:PORT``.
        token_file: file with the credential for TCP.
        deadline_ms: how long a call may take unless it says itself; 5,000 by default, 60,000 at most.
        region_bytes: most memory for blocks held and in flight; 256 MiB by default. Past it blocks come through sockets, which is slower.
        patience_ms: how long a call tries to reach a node that is down before it answers ``unavailable``; 250 by default.
        connections: most connections to one shard; 16 by default.
        spin_us: longest spin before a wait; 150 by default, 0 never spins.
        block_bytes_hint: length that blocks are expected to have before the first one was seen; 64 KiB by default.

        Raises ConnectionFailed, CredentialRefused, VersionMismatch, DeadlineExceeded, InvalidArgument.
        """

    @property
    def address(self) -> str:
        """Where it is connected to, as ``unix:PATH`` or ``tcp:HOST:PORT``."""

    def namespace(
        self,
        name: str,
        /,
        *,
        create: bool = False,
        fingerprint: Fingerprint | Mapping[str, object] | None = None,
        cls: Literal["cache", "durable"] = "cache",
        quota: int | None = None,
        ttl_s: int | None = None,
    ) -> Namespace:
        """Opens a namespace; with ``create``, makes it first if it is not there.

        fingerprint: what makes its blocks interchangeable. A namespace that was made with another one is refused. None expects nothing.
        cls: the promise it makes: ``cache`` may lose blocks, ``durable`` may not. Only looked at with ``create``.
        quota: most bytes on drives, with padding. Only looked at with ``create``.
        ttl_s: seconds that its blocks live unless their put says otherwise. Only looked at with ``create``.

        Raises NamespaceUnknown, NamespaceDiffers, NamespaceExists, InvalidArgument, ConnectionBroken, DeadlineExceeded.
        """

    def namespaces(self) -> list[dict[str, Any]]:
        """The tenant's namespaces, as ``Namespace.describe`` gives them.

        Raises ConnectionBroken, DeadlineExceeded, ForkedClient.
        """

    def delete_namespace(self, name: str, /) -> None:
        """Deletes a namespace and forgets its blocks.

        Raises NamespaceUnknown, ConnectionBroken, DeadlineExceeded, ForkedClient.
        """

    def region(self, nbytes: int, /) -> Region:
        """Memory of the library's own: what is put from there is not copied on the way to a node of this machine. It counts against
        ``region_bytes`` until it and all views of it are gone. Its bytes are whatever was there.

        nbytes: its length, 1 or more.

        Raises RegionFull, InvalidArgument, ForkedClient.
        """

    def lend(self, fd: int, nbytes: int, /, *, how: Literal["copied", "direct"] = "copied") -> LentMemory:
        """Lends the first ``nbytes`` of a file in memory that the engine keeps its blocks in, so that gets bring blocks to places in it.

        fd: a memfd, or a file on tmpfs, sealed against shrinking (``F_SEAL_SHRINK``). It is duplicated; closing it later is the caller's affair.
        how: ``copied``: blocks come through memory of the client's own, with one verifying copy. ``direct``: the drive writes to the places where it
            can; then a place whose landing has not ended when its call does is withheld. At most 16 memories are lent ``direct`` at a time.

        Dropping it and its places ends the lending. If something is withheld then, it may still be written to.

        Raises InvalidArgument, ForkedClient.
        """

    def queue(self, *, calls_max: int = 256, patient: bool = False) -> CallQueue:
        """Calls to be submitted and drained.

        calls_max: most that are unfinished at a time; one more is answered ``busy``.
        patient: for loops to which submitting must cost little. For 30 ms after a call no thread is woken for another, which takes 8 to 30
        microseconds; it begins within 0.2 ms, when the thread that made the last one looks again.

        Raises InvalidArgument, ForkedClient.
        """

    def wait_reachable(self, timeout_ms: float = 5000.0) -> bool:
        """Waits until no node is taken for dead, at most ``timeout_ms`` (60,000 at most); true when so.

        Raises InvalidArgument, ForkedClient.
        """

    def stats(self) -> dict[str, Any]:
        """What this client has counted, in keys, by verb and outcome: for each verb ``asked`` is the sum of the others. Asks no node.

        Raises ForkedClient.
        """

    def node_stats(self) -> dict[str, Any]:
        """The node's own statistics, as ``forebay stat --json`` prints them.

        Raises ConnectionFailed (ConnectionBroken where it was there before), DeadlineExceeded, ForkedClient.
        """

@final
class Namespace:
    """The scope of keys, opened. Its verbs take many keys at once: one call of many keys is faster than many calls.

    A key is 16 bytes, or 32 hexadecimal digits. Keys are any sequence of them, one contiguous buffer of rows of 16 bytes (``bytes``, or a NumPy array
    of shape (n, 16) and dtype uint8), or ``Hashes``. What a verb says of a key is an outcome, never an exception: ``Miss`` and ``Refused`` say why.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    def describe(self) -> dict[str, Any]:
        """``name``, ``cls``, ``quota`` (bytes), ``ttl_s`` and ``fingerprint``. Raises ForkedClient."""

    def key(self, engine_hash: Buffer, /) -> bytes:
        """The key (16 bytes) for an engine's own hash of a block: nobody outside the namespace can compute it.

        Raises BufferError (not contiguous), ForkedClient.
        """

    def keys(self, engine_hashes: Iterable[Buffer], /) -> bytes:
        """Keys for many hashes, as one run of rows of 16 bytes. Every verb takes it as it is.

        Raises BufferError (not contiguous), ForkedClient.
        """

    def content_key(self, content: Buffer, /) -> bytes:
        """The key (16 bytes) for content itself, as ``forebay put`` makes it.

        Raises BufferError (not contiguous), ForkedClient.
        """

    @overload
    def get(
        self, keys: _Keys, /, *, into: None = None, deadline_ms: float | None = None, reuse: _Reuse | None = None
    ) -> list[Block | Miss]: ...
    @overload
    def get(
        self, keys: _Keys, /, *, into: _Buffers, deadline_ms: float | None = None, reuse: _Reuse | None = None
    ) -> list[int | Miss | TooSmall]:
        """Gets blocks, in the order of the keys: for each a verified ``Block``, or why there is none.

        into: one writable buffer for each key. Blocks are copied there, once, and verified there; the answer is the bytes written, or ``TooSmall``.
            Without a hit a buffer's content is unspecified. After the call nothing writes there any more.
        deadline_ms: how long it may take, more than 0 and at most 60,000; the client's unless said otherwise. What is not there by then is a miss.
        reuse: when the blocks will be used again.

        Raises InvalidArgument, BufferError (a buffer that is not contiguous), ForkedClient.
        """

    def get_lent(
        self,
        keys: _Keys,
        places: Sequence[Place],
        /,
        *,
        deadline_ms: float | None = None,
        reuse: _Reuse | None = None,
    ) -> list[int | Miss | TooSmall]:
        """Gets blocks into places of memory that was lent, one for each key: for each the bytes that lie there, verified, or why there are none. Without a
        hit a place's content is unspecified, and so is what lies behind a block.

        A place is the call's while it lasts, and its object's again afterwards, also when the call ended by an exception, unless it is withheld:
        then look at ``Place.is_withheld``, let go of the object, and take the range anew when the node has been reached again. In no place that is
        not withheld does anything write after the call.

        Raises InvalidArgument (a place that is looked at, in another call, or withheld), ForkedClient.
        """

    def get_ranges(
        self,
        keys: _Keys,
        ranges: Sequence[tuple[int, int]],
        /,
        *,
        deadline_ms: float | None = None,
        reuse: _Reuse | None = None,
    ) -> list[Block | Miss]:
        """Gets bytes ``start`` to ``stop`` of each block, in the order of the keys: for each a verified ``Block`` of these bytes, or why there is none. What
        lies behind a block's end is left out.

        ranges: one (start, stop) for each key, in bytes, with start <= stop.
        deadline_ms, reuse: as for ``get``.

        Raises InvalidArgument, ForkedClient.
        """

    def put(
        self,
        keys: _Keys,
        buffers: _Buffers,
        /,
        *,
        tokens: int = 0,
        chain: int = 0,
        parent: _Key | None = None,
        position: int | None = None,
        ttl_s: float | None = None,
        reuse: _Reuse | None = None,
        deadline_ms: float | None = None,
        caller_keeps: bool = False,
    ) -> list[Stored | Refused]:
        """Puts blocks of 1 byte to 64 MiB, one buffer for each key. The first complete put of a key wins; a later one is told ``exists`` before
        its bytes move. The buffers must not change until the call returns.

        tokens: how many each block holds.
        chain: 64 bits that name the sequence the blocks belong to.
        position: blocks before the first of these in their sequence; says that the keys follow one another.
        parent: the key before the first of these.
        ttl_s: seconds that the blocks live.
        reuse: when they will be used again.
        deadline_ms: as for ``get``. What is not stored by then is refused.
        caller_keeps: the caller has the blocks in memory of its own too, so they leave the node's DRAM as soon as they are written, until
            somebody else asks for them.

        Raises InvalidArgument, BufferError (a buffer that is not contiguous), ForkedClient.
        """

    def put_group(
        self,
        key: _Key,
        parts: Mapping[str, Buffer],
        /,
        *,
        ttl_s: float | None = None,
        reuse: _Reuse | None = None,
        deadline_ms: float | None = None,
    ) -> Stored | Refused:
        """Puts 1 to 64 named parts as one block under one version: all or none. Names have 1 to 16 bytes, parts 64 MiB together at most.
        ``Block.part`` reads them. The buffers must not change until the call returns.

        ttl_s: seconds that the block lives.
        reuse: when it will be used again.
        deadline_ms: as for ``get``.

        Raises InvalidArgument, BufferError (a part that is not contiguous), ForkedClient.
        """

    def match_prefix(self, keys: _Keys, /, *, hold_ms: float | None = None, deadline_ms: float | None = None) -> Matched:
        """How many of the first keys are all there, and a lease on them.

        hold_ms: how long they are held for a get: 2,000 by default, 30,000 at most, 0 not at all.
        deadline_ms: as for ``get``.

        Raises InvalidArgument, ForkedClient.
        """

    def contains(self, keys: _Keys, /, *, deadline_ms: float | None = None) -> list[Tier | Miss]:
        """What a get of each key would answer now, without bytes and without a lease: the tier, or why it would miss.

        deadline_ms: as for ``get``.

        Raises InvalidArgument, ForkedClient.
        """

    def touch(self, keys: _Keys, /, *, reuse: _Reuse | None = None) -> None:
        """Says that blocks were used without being fetched, heads of chains first. Nobody answers; 20 ms at most.

        reuse: when they will be used again.

        Raises InvalidArgument, ForkedClient.
        """

    def prefetch(self, keys: _Keys, /, *, within_ms: float = 5000.0) -> None:
        """Asks for blocks to be brought from NVMe to DRAM within ``within_ms`` (60,000 at most). Nobody answers; 20 ms at most.

        Raises InvalidArgument, ForkedClient.
        """

    def report(self, *, prompt_tokens: int, engine_tokens: int = 0, used_tokens: int = 0, requests: int = 1) -> bool:
        """Says what became of requests' prompts, for the node's usage log: of their tokens, so many were found in the engine's own memory, so many
        taken from what the node served, the rest computed. Nobody answers; 20 ms at most.

        Returns: true when it is on its way, and is not to be said again; false when it was not said and can be said together with the next.

        Raises InvalidArgument (where it does not add up), ForkedClient.
        """

    def forget(self, keys: _Keys, /, *, deadline_ms: float | None = None) -> list[bool]:
        """Forgets keys, durably: true for each that was there.

        deadline_ms: as for ``get``.

        Raises ForgetFailed (asking again is safe), InvalidArgument, ForkedClient.
        """

    def plan_fetch(self, keys: _Keys, /, *, deadline_ms: float | None = None) -> Plan:
        """What a get of these keys would take now, as far as this client's own gets tell.

        deadline_ms: as for ``get``, of the question. Keys that nothing is known of by then are missing in the plan.

        Raises InvalidArgument, ForkedClient.
        """

    def expect_fetch(self, *, dram_bytes: int = 0, nvme_bytes: int = 0) -> Plan:
        """The same of so many bytes, without asking the node: for whoever knows from ``match_prefix`` what lies where, and weighs several lengths.
        What that question queued for counts for a second.

        Raises ForkedClient.
        """

    def expect_fetches(self, nbytes: Sequence[tuple[int, int]], /) -> list[tuple[float, float]]:
        """The same of several at once: for each (bytes of DRAM, bytes of NVMe) the ``seconds`` and the ``confidence`` of its plan.

        Raises ForkedClient.
        """

    def learn_fetch(self, seconds: float, /, *, dram_bytes: int = 0, nvme_bytes: int = 0) -> None:
        """Tells what a get took that another client made, for this one's plans: engines plan in one process and fetch in others.

        seconds: how long it took, 0 or more.

        Raises InvalidArgument, ForkedClient.
        """

    def stats(self) -> dict[str, Any]:
        """``client``: what the whole client has counted (``Client.stats``). ``namespace``: as ``describe``. Raises ForkedClient."""

@final
class Block:
    """A hit: verified bytes, in memory of the client's that is this object's alone until it and all views of it are gone.

    It is a writable buffer of unsigned bytes, shape (nbytes,): ``memoryview(block)``, ``numpy.frombuffer(block, dtype)``,
    ``torch.frombuffer(block, dtype=dtype)``, ``from_dlpack(block)`` see it without a copy; ``bytes(block)`` copies. True.
    """

    @property
    def key(self) -> bytes:
        """Its key, 16 bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes here: the block's, or those of the range that was asked for."""

    @property
    def block_nbytes(self) -> int:
        """Bytes of the whole block."""

    @property
    def offset(self) -> int:
        """First byte of these bytes in the block: 0 unless a range was asked for."""

    @property
    def tier(self) -> Tier:
        """Where it was found."""

    @property
    def landing(self) -> Landing:
        """How its bytes came."""

    @property
    def tokens(self) -> int:
        """Tokens that it holds, as its put said; 0 if it did not."""

    @property
    def version(self) -> int:
        """64 bits that tell which put of the key this is. Parts of two versions are never to be combined."""

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """Named parts: first byte in the block, and bytes."""

    def part(self, name: str, /) -> memoryview:
        """The bytes of a part. Raises InvalidArgument when they are not here."""

    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class Region:
    """Memory for many blocks, seen as one buffer of unsigned bytes, shape (nbytes,), by NumPy and torch too.

    *Owned* regions come from ``Client.region``; *borrowed* ones are memory of the engine's.
    """

    @staticmethod
    def borrow(buffer: Buffer, /) -> Region:
        """The engine's memory: any contiguous buffer of any shape and type. It stays exported while the region lives.

        Raises BufferError (not contiguous).
        """

    @property
    def nbytes(self) -> int:
        """Its bytes. Also ``len(region)``."""

    @property
    def readonly(self) -> bool:
        """Whether the memory may only be read: then blocks are put from there and not got into it."""

    @property
    def is_owned(self) -> bool:
        """Whether it is the library's own memory."""

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Some of its bytes. Raises InvalidArgument when they are not inside."""

    def spans(self, offsets: Sequence[int], nbytes: int) -> Spans:
        """``nbytes`` bytes at each of these offsets, for ``put`` and ``get(into=...)``: cheaper than as many views.

        Raises InvalidArgument when they are not inside.
        """

    def rows(self, numbers: Buffer, nbytes: int, *, first: int = 0, count: int | None = None) -> Spans:
        """The same for a region that is rows of ``nbytes``: numbers of rows, as a contiguous buffer of 32-bit or 64-bit integers.

        first, count: only so many of the numbers, from this one on; all of them unless said otherwise.

        Raises InvalidArgument when they are not inside, or no such integers.
        """

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class Spans:
    """Places for blocks in one region, or, joined, in several: a block may lie in as many places as an engine's page has tensors."""

    @staticmethod
    def joined(*spans: Spans) -> Spans:
        """The first block is the bytes of the first place of each, one behind the other, and so on: one block in the store, put by one copy and
        got by one verifying copy, whole or not at all. Raises InvalidArgument when they do not have as many places each."""

    @property
    def regions(self) -> list[Region]:
        """The regions that the places are in."""

    def __len__(self) -> int:
        """Blocks."""

@final
class LentMemory:
    """Memory of the engine's that blocks come into. See ``Client.lend``."""

    @staticmethod
    def room_for(block_nbytes: int, /) -> int:
        """Bytes of a place in which a block of so many bytes can land directly: there is padding and a trailer behind it.

        Raises InvalidArgument.
        """

    @property
    def nbytes(self) -> int:
        """Bytes that were lent."""

    @property
    def withheld_nbytes(self) -> int:
        """Bytes that were in places and may still be written to, those of calls under way among them."""

    def place(self, offset: int, nbytes: int) -> Place:
        """Takes a range of it, from a multiple of 4 KiB on, for one owner. The engine touches its bytes through the place only, until the place is gone.

        Raises InvalidArgument when some of it lies outside, is in another place, or is withheld.
        """

@final
class Place:
    """A range of lent memory, a writable buffer of unsigned bytes, shape (nbytes,). It is free again when the object and all views of it are gone.

    While a call has it, or when it is withheld, asking for a view raises BufferError.
    """

    @property
    def offset(self) -> int:
        """First byte in the lent memory."""

    @property
    def nbytes(self) -> int:
        """Its bytes. Also ``len(place)``."""

    @property
    def is_withheld(self) -> bool:
        """A node may still write there. The object is of no use any more; its range can be had again when that has ended."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Hashes:
    """An engine's own hashes, for whoever must not take long: making keys of thousands takes milliseconds, and is left to the thread that makes the
    call. Goes wherever keys go."""

    def __new__(
        cls,
        rows: Buffer | list[bytes] | tuple[bytes, ...],
        width: int,
        /,
        *,
        suffixes: Sequence[bytes] | None = None,
        first: int = 0,
        count: int | None = None,
    ) -> Hashes:
        """rows: hashes of ``width`` bytes each, one behind the other, or as an object each. ``bytes`` are kept as they are, anything else is copied.
        suffixes: each hash is a key with each of these behind it, hash by hash; one empty suffix unless said otherwise.
        first, count: only so many of the rows, from this one on; all of them unless said otherwise.

        Raises InvalidArgument.
        """

    @property
    def width(self) -> int:
        """Bytes of a hash."""

    @staticmethod
    def joined(*hashes: Hashes) -> Hashes:
        """One behind the other; nothing is copied. They have one width and the same suffixes. Raises InvalidArgument."""

    def __len__(self) -> int:
        """Keys."""

@final
class Jobs:
    """Gets and puts of many blocks each, between a namespace and the rows of a region, handed over a few blocks at a time: for callers with a loop of
    their own that may not take long.

    A job has a ticket of the queue, drained once, when nothing of it is left: ``bytes``, one for each block, as ``submit_get(..., packed=True)`` and
    ``submit_put(..., packed=True)`` answer. The rows are the job's until then. Its hashes and rows are kept as they are, and must not change; what
    cannot be read any more when its turn comes is missed or refused.
    """

    def __new__(cls, queue: CallQueue, region: Region, row_nbytes: int, /, *, call_blocks: int = 1, calls_max: int = 3) -> Jobs:
        """What is handed over at once becomes at most ``calls_max`` calls, side by side, of at least ``call_blocks`` blocks. Raises InvalidArgument."""

    def __len__(self) -> int:
        """Blocks that are not handed over."""

    def get(
        self,
        namespace: Namespace,
        hashes: list[bytes] | tuple[bytes, ...],
        rows: Buffer,
        /,
        *,
        suffix: bytes | None = None,
        deadline_ms: float | None = None,
        reuse: _Reuse | None = None,
    ) -> int:
        """A job: blocks, one for each hash, into the rows of these numbers (32-bit or 64-bit integers); its ticket. suffix: stands behind every hash. The
        deadline is that of each call, and begins when it is handed over. Raises InvalidArgument, ForkedClient."""

    def put(
        self,
        namespace: Namespace,
        hashes: list[bytes] | tuple[bytes, ...],
        rows: Buffer,
        /,
        *,
        suffix: bytes | None = None,
        tokens: int = 0,
        chain: int = 0,
        parent: bytes | None = None,
        ends: dict[bytes, int] | None = None,
        reuse: _Reuse | None = None,
        deadline_ms: float | None = None,
        caller_keeps: bool = False,
    ) -> int:
        """The same, out of them. ends: where each hash's block ends in the sequence, in tokens, by which those of a chain that follow one another are
        told from others; parent: the hash of the block before the first. Raises InvalidArgument, ForkedClient."""

    def hand_over(self, blocks: int, /) -> int:
        """At most so many blocks, of the jobs that came first; how many. What the queue has no room for is missed or refused."""

    def drop_rest(self) -> int:
        """All that is not handed over is missed or refused; how many blocks."""

@final
class Presence:
    """What is known of many hashes of one length, for whoever is asked of one at a time and must not take long: 0 it is missing, 3 it is being
    asked for, anything else is an answer of ``CallQueue.submit_contains(..., packed=True)``."""

    def __new__(cls, width: int, /) -> Presence:
        """width: bytes of a hash. Raises InvalidArgument."""

    def __len__(self) -> int:
        """Hashes."""

    def state(self, hash: bytes, /) -> int:
        """What is known of it. One that was never seen becomes part of the next question; one of another length is missing."""

    @property
    def first(self) -> bytes | None:
        """The one that was seen first."""

    def question(self) -> Hashes | None:
        """Those that became part of a question since the last one was taken; None if there are none."""

    def answer(self, first: int, states: bytes, /) -> int:
        """What is known now of the hashes from number ``first`` on, in the order in which they were seen; how many are there. Raises InvalidArgument."""

    def lost(self, hash: bytes, /) -> None:
        """It is missing after all, unless it is being asked for."""

@final
class Matched:
    """What ``match_prefix`` found."""

    @property
    def n(self) -> int:
        """The first ``n`` keys were all there when their shards looked. Also ``len(matched)``."""

    @property
    def tiers(self) -> list[Tier]:
        """Where each of them was."""

    @property
    def packed_tiers(self) -> bytes:
        """The same, one byte for each key: 0 DRAM, 1 NVMe."""

    @property
    def nvme(self) -> int:
        """How many of them were on NVMe."""

    @property
    def leased(self) -> int:
        """How many of them are held. Fewer than ``n`` when a shard has no room for more leases."""

    @property
    def gap(self) -> Miss | None:
        """Why the key behind them was missed; None if all were there."""

    def __len__(self) -> int: ...

@final
class Plan:
    """What ``plan_fetch`` expects."""

    @property
    def seconds(self) -> float:
        """That a get would take, missing keys left out."""

    @property
    def dram_bytes(self) -> int:
        """Bytes that would come from DRAM."""

    @property
    def nvme_bytes(self) -> int:
        """Bytes that would come from NVMe."""

    @property
    def missing(self) -> int:
        """Keys that it would not bring."""

    @property
    def confidence(self) -> float:
        """How far to believe it: 0 (nothing like it was ever fetched) to 1."""

@final
class CallQueue:
    """Calls for a loop of one's own: ``submit_*`` gives a ticket at once, ``fileno()`` is readable while there are answers, ``drain()`` takes them.

    A call's buffers are the call's until ``drain`` has given its ticket, also when it was cancelled. At most 16 calls are made side by side;
    the others wait in line, and their deadlines with them. ``submit_*`` raises what its verb says of arguments (InvalidArgument, BufferError) at once,
    and nothing else but ForkedClient; what the call itself raises comes out of ``drain``.
    """

    def fileno(self) -> int:
        """The descriptor that is readable while there are answers. It is the queue's: do not close it. Raises ForkedClient."""

    @property
    def pending(self) -> int:
        """Tickets that were not drained yet."""

    def drain(self) -> list[tuple[int, Any]]:
        """Finished tickets, each with what the blocking verb would have returned, or the exception it would have raised. Never blocks."""

    def wait(self, timeout_ms: float = 5000.0) -> bool:
        """Waits until there is something to drain, at most ``timeout_ms`` (60,000 at most); true when so.

        Raises InvalidArgument, ForkedClient.
        """

    def cancel(self, ticket: int, /) -> bool:
        """Ends a call soon (within 50 ms), with ``deadline`` for what is unanswered; its ticket is drained as any other. False if there is no
        such ticket."""

    def submit_get(
        self,
        namespace: Namespace,
        keys: _Keys,
        /,
        *,
        into: _Buffers | None = None,
        deadline_ms: float | None = None,
        reuse: _Reuse | None = None,
        packed: bool = False,
    ) -> int:
        """``Namespace.get``. packed: with ``into``, the answer is ``bytes``, one for each key: 1 where the buffer was filled to its end, else 0."""

    def submit_put(
        self,
        namespace: Namespace,
        keys: _Keys,
        buffers: _Buffers,
        /,
        *,
        tokens: int = 0,
        chain: int = 0,
        parent: _Key | None = None,
        position: int | None = None,
        ttl_s: float | None = None,
        reuse: _Reuse | None = None,
        deadline_ms: float | None = None,
        caller_keeps: bool = False,
        packed: bool = False,
    ) -> int:
        """``Namespace.put``. packed: the answer is ``bytes``, one for each key: 0 refused, 1 cached, 2 durable, 3 exists."""

    def submit_get_ranges(
        self,
        namespace: Namespace,
        keys: _Keys,
        ranges: Sequence[tuple[int, int]],
        /,
        *,
        deadline_ms: float | None = None,
        reuse: _Reuse | None = None,
    ) -> int:
        """``Namespace.get_ranges``."""

    def submit_put_group(
        self,
        namespace: Namespace,
        key: _Key,
        parts: Mapping[str, Buffer],
        /,
        *,
        ttl_s: float | None = None,
        reuse: _Reuse | None = None,
        deadline_ms: float | None = None,
    ) -> int:
        """``Namespace.put_group``."""

    def submit_contains(
        self, namespace: Namespace, keys: _Keys, /, *, deadline_ms: float | None = None, packed: bool = False
    ) -> int:
        """``Namespace.contains``. packed: the answer is ``bytes``, one for each key: 0 where it is missed, 1 in DRAM, 2 on NVMe."""

    def submit_plan(self, namespace: Namespace, keys: _Keys, /, *, deadline_ms: float | None = None) -> int:
        """``Namespace.plan_fetch``."""

    def submit_match(
        self, namespace: Namespace, keys: _Keys, /, *, hold_ms: float | None = None, deadline_ms: float | None = None
    ) -> int:
        """``Namespace.match_prefix``."""

    def submit_touch(self, namespace: Namespace, keys: _Keys, /, *, reuse: _Reuse | None = None) -> int:
        """``Namespace.touch``; its answer is None. Dropped when the queue is full."""

    def touch(self, namespace: Namespace, keys: _Keys, /, *, reuse: _Reuse | None = None) -> bool:
        """The same without a ticket, for whoever has no use for the end of it. False when it was dropped."""

    def submit_prefetch(self, namespace: Namespace, keys: _Keys, /, *, within_ms: float = 5000.0) -> int:
        """``Namespace.prefetch``; its answer is None. Dropped when the queue is full."""

    def submit_report(
        self, namespace: Namespace, /, *, prompt_tokens: int, engine_tokens: int = 0, used_tokens: int = 0, requests: int = 1
    ) -> int:
        """``Namespace.report``; false also when the queue is full."""

    def submit_forget(self, namespace: Namespace, keys: _Keys, /, *, deadline_ms: float | None = None) -> int:
        """``Namespace.forget``."""
