"""What all adapters share: a connection that may be down, a namespace named after its fingerprint, and the line that says how it goes.

Nothing here knows an engine. An adapter never raises into its engine and never holds it past a deadline, so what is wrong with the node is
logged here once and is a miss everywhere else, unless `strict` asks for the exception.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import forebay
from forebay import Fingerprint
from forebay.integrations import _settings

#: Seconds between two tries to reach a node that was not there when the engine started. After that the client looks for it by itself.
RECONNECT_S = 1.0
#: Seconds between two lines of a report.
REPORT_S = 60.0
#: Hints in line. They are worth nothing when they are late, so what comes on top is dropped.
HINTS_MAX = 64


def default_address() -> str:
    """`FOREBAY_CONNECT`, or the socket that `forebay serve` makes without flags."""
    address = os.environ.get("FOREBAY_CONNECT")
    if address:
        return address
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return f"unix:{runtime}/forebay.sock"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"unix:{data}/forebay/forebay.sock"


def digest_text(*texts: str) -> str:
    """A short digest of texts, for a field of a fingerprint that would not fit its 256 bytes."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


class Link:
    """A client and a namespace that may not be there yet.

    The first try is made at once; if the node is not there, a thread goes on trying, so that an engine starts and serves without it. Where even
    the first one must not be waited for (in_background), that thread makes it, too; is_opening is true until it is over. What trying again cannot mend (another fingerprint, no credential) is said once and leaves the adapter without a namespace: all is missed.
    """

    def __init__(
        self,
        fingerprint: Fingerprint,
        *,
        engine: str,
        address: str | None = None,
        namespace: str | None = None,
        create: bool = True,
        cls: str = "cache",
        quota: int | str | None = None,
        ttl_s: int | None = None,
        strict: bool = False,
        logger: logging.Logger | None = None,
        client: forebay.Client | None = None,
        token_file: str | None = None,
        in_background: bool = False,
        **client_options: Any,
    ) -> None:
        self.fingerprint = fingerprint
        self._logger = logger or logging.getLogger("forebay")
        given = {"address": address, "namespace": namespace, "quota": quota, "ttl_s": ttl_s, "token_file": token_file}
        if "region_bytes" in client_options:
            given["region_bytes"] = client_options.pop("region_bytes")
        settings: dict[str, Any] = {}
        wrong = ""
        try:
            settings = _settings.checked(given, _settings.LINK, "the configuration")
        except forebay.InvalidArgument as error:
            if strict:
                raise
            wrong = str(error)
        address, namespace, token_file = (settings.get(name) for name in ("address", "namespace", "token_file"))
        if "region_bytes" in settings:
            client_options["region_bytes"] = settings["region_bytes"]
        self.address = client.address if client is not None else address or default_address()
        if self.address.startswith("tcp:"):
            # Engines start workers by themselves, so what all of them are to find may stand in the environment, as for the command line.
            client_options["token_file"] = token_file or os.environ.get("FOREBAY_TOKEN_FILE")
        # Whatever makes KV bytes interchangeable is in the fingerprint and so in the name: other weights are another namespace by themselves.
        self.name = namespace or fingerprint.namespace_name(engine)
        self.client = client
        #: None until the node was reached. A plain attribute: looking costs nothing.
        self.namespace: forebay.Namespace | None = None
        self._create: dict[str, Any] = {"create": create, "cls": cls, "quota": settings.get("quota"), "ttl_s": settings.get("ttl_s")} if create else {}
        self._options = client_options
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_opening = False
        if wrong:
            self._logger.error("forebay: %s; all is computed", wrong)
        elif strict:
            self._open()
        elif in_background:
            self.is_opening = True
            self._begin()
        elif not self._try(first=True):
            self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._keep_trying, name="forebay-link", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        if self.client is None:
            self.client = forebay.Client(self.address, **self._options)
        self.namespace = self.client.namespace(self.name, fingerprint=self.fingerprint, **self._create)

    def reopen(self) -> None:
        """Opens the namespace anew, after it was deleted. Raises what is wrong; the old one stays until then, and misses."""
        assert self.client is not None, "a link that was never there"
        self.namespace = self.client.namespace(self.name, fingerprint=self.fingerprint, **self._create)

    def beside(self, part: str) -> forebay.Namespace:
        """Another namespace of the same fingerprint, which is made if need be: for a part of the blocks that is counted and limited by itself. Waits for
        the node; raises what is wrong."""
        assert self.client is not None, "a link that was never there"
        return self.client.namespace(f"{self.name[: 64 - 1 - len(part)]}-{part}", fingerprint=self.fingerprint, **self._create)

    def _try(self, first: bool) -> bool:
        """True when there is nothing more to try."""
        try:
            self._open()
        except (forebay.ConnectionFailed, forebay.DeadlineExceeded, forebay.NodeRefused) as error:
            if first:
                self._logger.warning("forebay: %s; until the node is there, all is computed", error)
            return False
        except forebay.ForebayError as error:
            self._logger.error("forebay: the namespace %r cannot be used, so all is computed: %s", self.name, error)
            return True
        if not first:
            self._logger.info("forebay: the node at %s is there", self.address)
        return True

    def _keep_trying(self) -> None:
        try:
            if self.is_opening and self._try(first=True):
                return
            self.is_opening = False
            while not self._closed.wait(RECONNECT_S):
                if self._try(first=False):
                    return
        except Exception:
            self._logger.exception("forebay: the namespace %r cannot be opened, so all is computed", self.name)
        finally:
            self.is_opening = False

    def close(self) -> None:
        """Stops trying. The client goes when its last user does."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * RECONNECT_S)
        self.namespace = None
        self.client = None


class Hints:
    """`touch` and other calls whose answer nobody waits for, made on a thread of their own. What comes while the line is full is dropped."""

    def __init__(self, name: str = "forebay-hints", length: int = HINTS_MAX) -> None:
        self._line: queue.Queue[Callable[[], object] | None] = queue.Queue(maxsize=length)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, call: Callable[[], object]) -> bool:
        """False when it was dropped."""
        try:
            self._line.put_nowait(call)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Makes what is in line, within the time."""
        with contextlib.suppress(queue.Full):
            self._line.put(None, timeout=timeout_s)
        self._thread.join(timeout=timeout_s)

    def _run(self) -> None:
        while (call := self._line.get()) is not None:
            with contextlib.suppress(Exception):
                call()


#: Why a node keeps nothing of what is put, where a person can mend it, and how. Other refusals pass by themselves.
_REFUSALS = {
    "quota": "its quota is full, or smaller than a block: delete it (`forebay namespace delete`) and start again with a larger `quota`, or name another `namespace`",
    "full": "the drives are full of blocks that are kept for good: forget some of them, or give the node more room (`forebay serve --capacity`)",
    "too_large": "a block is larger than the node takes: fewer tokens for each block, or a new drive with larger segments (`forebay serve --segment`)",
    "namespace": "it was deleted while it was in use: start the engine again",
}


class Refusals:
    """Says once for each reason why the node keeps nothing of what is put."""

    def __init__(self, link: Link, logger: logging.Logger) -> None:
        self._link, self._logger = link, logger
        self._said: set[str] = set()

    def saw(self, *reasons: str) -> None:
        """Blocks were refused for these reasons."""
        for reason in reasons:
            if reason in self._said or reason not in _REFUSALS:
                continue
            self._said.add(reason)
            self._logger.warning("forebay: blocks for the namespace %s are refused (%s), so they are computed again each time: %s", self._link.name, reason, _REFUSALS[reason])

    def look(self) -> None:
        """The same, from what the client has counted: where answers say only that a block was refused."""
        client = self._link.client
        if client is not None and len(self._said) < len(_REFUSALS):
            self.saw(*(reason for reason, count in client.stats()["put"]["refused"].items() if count))


#: Seconds between two reports of prompts. What is not told yet is lost with the engine.
PROMPTS_S = 1.0


class Prompts:
    """What became of prompts, for the node's usage log: summed, and told once a second. Nothing is told twice; what could not be told is told with the next."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("requests", "prompt_tokens", "engine_tokens", "used_tokens"), 0)
        self._next = 0.0

    def add(self, prompt_tokens: int, *, engine_tokens: int = 0, used_tokens: int = 0) -> None:
        """One request: of its prompt, so many tokens were in the engine's own memory and so many were loaded; the rest is computed."""
        self.back({"requests": 1, "prompt_tokens": prompt_tokens, "engine_tokens": engine_tokens, "used_tokens": used_tokens})

    def back(self, counts: dict[str, int]) -> None:
        """What was taken and could not be told."""
        for name, count in counts.items():
            self._counts[name] += count

    def take(self, *, at_once: bool = False) -> dict[str, int] | None:
        """What is to be told: once a second, if there is anything."""
        now = time.monotonic()
        if not self._counts["requests"] or (now < self._next and not at_once):
            return None
        self._next = now + PROMPTS_S
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return counts

    def tell(self, space: forebay.Namespace | None, *, at_once: bool = False) -> None:
        """Tells it now, for callers who may wait 20 ms."""
        counts = self.take(at_once=at_once) if space is not None else None
        if space is not None and counts is not None and not space.report(**counts):
            self.back(counts)


class Report:
    """What an adapter counted, and the line that says it: each minute in which something happened, and at the end."""

    def __init__(self, link: Link, logger: logging.Logger | None = None, every_s: float = REPORT_S) -> None:
        self._link = link
        self._logger = logger or logging.getLogger("forebay")
        self.refusals = Refusals(link, self._logger)
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._said: dict[str, int] = {}
        #: How often was decided what, for adapters that decide.
        self.reasons: dict[str, int] = {}
        self.counts = dict.fromkeys(("asked", "hits", "loaded", "load_failed", "stored", "present", "refused", "dropped", "prefetched"), 0)
        self._taken = dict(self.counts)

    def add(self, **counts: int) -> None:
        """Adds to the counts: blocks asked for, found, loaded, failed to load, stored, present already, refused, dropped before they were put."""
        for name, count in counts.items():
            self.counts[name] += count

    def fresh(self) -> dict[str, int]:
        """What was counted since the last call, for an engine's own metrics: names as in `add`. Cheap where it is nothing."""
        if self.counts == self._taken:
            return {}
        fresh = {name: count - self._taken.get(name, 0) for name, count in self.counts.items()}
        self._taken = dict(self.counts)
        return {name: count for name, count in fresh.items() if count}

    def decided(self, reason: str) -> None:
        """Counts a decision."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def put(self, outcomes: Iterable[object]) -> None:
        """Counts what a put answered."""
        for outcome in outcomes:
            if isinstance(outcome, forebay.Refused):
                self.counts["refused"] += 1
                self.refusals.saw(outcome.value)
            elif outcome is forebay.Stored.EXISTS:
                self.counts["present"] += 1
            else:
                self.counts["stored"] += 1

    def line(self) -> str:
        """The line."""
        counts = self.counts
        rate = "no block was asked for"
        if counts["asked"]:
            rate = f"{100 * counts['hits'] / counts['asked']:.1f} % of {counts['asked']:,} blocks asked for were hits"
        fields = self._link.fingerprint
        # Not every engine tells all of them.
        told = [f"model {fields.model}", f"weights {fields.weights[:12] or 'unknown'}", fields.dtype]
        if fields.block_tokens:
            told.append(f"blocks of {fields.block_tokens} tokens")
        about = ", ".join(filter(None, told))
        rest = ", ".join(
            f"{counts[name]:,} {words}"
            for name, words in (
                ("loaded", "loaded"),
                ("load_failed", "failed to load and were computed"),
                ("stored", "stored"),
                ("present", "there already"),
                ("refused", "refused"),
                ("dropped", "not put for lack of room"),
                ("prefetched", "prefetched for requests that waited"),
            )
            if counts[name]
        )
        if self.reasons:
            rest += "; requests: " + "; ".join(f"{count:,} {reason}" for reason, count in sorted(self.reasons.items()))
        away = "" if self._link.namespace is not None else "; the node is not there"
        return f"forebay: namespace {self._link.name} ({about}): {rate}{', ' + rest if rest else ''}{away}"

    def tick(self) -> None:
        """Says the line if a minute is over and something happened in it. Cheap enough for each step of an engine."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        if self.counts != self._said:
            self.say()

    def say(self) -> None:
        """Says it now."""
        self._said = dict(self.counts)
        self._logger.info("%s", self.line())
