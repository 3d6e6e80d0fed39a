"""LMCache: a `native_plugin` behind its server or its engine, for chunks that LMCache's own memory has let go.

    --l2-adapter '{"type": "native_plugin", "module_path": "forebay.integrations.lmcache", "class_name": "LmcacheClient",
                   "adapter_params": {"address": "unix:/run/user/1000/forebay.sock", "weights": "path/to/model"}}'

LMCache names chunks by model, rank, group, hash and salt; the name is the engine's hash here. It does not know the weights, so they are named in
`adapter_params`: a folder, a file, or a digest. LMCache polls one descriptor and drains; it is never held up, and what fails is a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import forebay
from forebay import Fingerprint
from forebay.integrations import _model, _settings, _versions
from forebay.integrations._common import Hints, Link, Report

#: Calls that were not drained yet; one more is answered as a failure.
CALLS_MAX = 1024
#: Salts with a namespace of their own, of the 4,096 that a node has for all. Later ones share one, where the salt in the key keeps them apart.
SALTS_MAX = 64
#: Of a salt's SHA-256 in the name of its namespace: salts are secrets, and names of namespaces are not.
SALT_DIGITS = 16


def _logger() -> logging.Logger:
    """LMCache gives each logger a handler of its own, and the root none: what is said elsewhere below a warning is never seen."""
    try:
        from lmcache.logging import init_logger
    except ImportError:
        return logging.getLogger("forebay")
    return init_logger("forebay.lmcache")


_LOGGER = _logger()

Completion = tuple[int, bool, str, list[bool] | None]
Told = Callable[[int, list[Any]], Completion]
"""Makes the completion of a call from its future and the answer for each key."""
Submit = Callable[[forebay.CallQueue, forebay.Namespace, bytes, Sequence[int]], int]
"""Hands the keys at these numbers over, which have these names there; the ticket."""


@dataclass
class _Call:
    """One call of LMCache's: a part of it for each salt in it."""

    future: int
    keys: Sequence[str]
    told: Told
    submit: Submit
    answers: list[Any]
    #: Parts that were not answered.
    waiting: int = 0
    #: Why a part of it failed, and so all of it.
    why: str | None = None


@dataclass
class _Part:
    call: _Call
    #: Numbers of its keys in the call.
    at: list[int]


_SETTINGS: dict[str, _settings.Check] = {
    **_settings.LINK,
    "weights": _settings.text,
    "weights_digest": _settings.text,
    "model": _settings.text,
    "deadline_ms": _settings.milliseconds,
    "l1_keeps": _settings.flag,
    "strict": _settings.flag,
}


def salt_of(key: str) -> str:
    """The `cache_salt` of LMCache's key `model@rank@group@hash[@salt]`, none of which has an `@` in it."""
    return key.rpartition("@")[2] if key.count("@") == 4 else ""


class LmcacheClient:
    """What LMCache calls a native client.

    Args:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        token_file: with the credential for TCP; `FOREBAY_TOKEN_FILE` if left out.
        weights: what the KV belongs to: a folder or file of weights, or `weights_digest` instead.
        weights_digest: a text that changes whenever the weights do, where they are not files on this machine.
        model: a name for the fingerprint; the last part of `weights` if left out.
        namespace, quota, ttl_s: as for the other adapters.
        deadline_ms: how long a call may take.
        l1_keeps: LMCache's own memory keeps what is stored, so the node's DRAM does not; false for `--l2-store-policy skip_l1`.
        strict: raise at the start when the node is not there or something here cannot be, instead of serving without it.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        token_file: str | None = None,
        weights: str | None = None,
        weights_digest: str | None = None,
        model: str | None = None,
        namespace: str | None = None,
        quota: int | None = None,
        ttl_s: int | None = None,
        region_bytes: int | None = None,
        deadline_ms: float = 5000.0,
        l1_keeps: bool = True,
        strict: bool = False,
        **unknown: Any,
    ) -> None:
        given: dict[str, Any] = {"address": address, "token_file": token_file, "namespace": namespace, "quota": quota, "ttl_s": ttl_s, "region_bytes": region_bytes}
        given |= {"weights": weights, "weights_digest": weights_digest, "model": model, "deadline_ms": deadline_ms, "l1_keeps": l1_keeps, "strict": strict, **unknown}
        self._link: Link | None = None
        self._report: Report | None = None
        try:
            settings = _settings.checked(given, _SETTINGS, "adapter_params")
            self._deadline_ms, self._l1_keeps = settings["deadline_ms"], settings["l1_keeps"]
            fingerprint = _fingerprint(weights, weights_digest, model)
        except (OSError, ValueError) as error:
            if strict:
                raise
            _LOGGER.error("forebay: %s; until then LMCache serves without it", error)
        else:
            of_link = {name: settings[name] for name in _settings.LINK if name in settings}
            self._link = Link(fingerprint, engine="lmcache", strict=strict, logger=_LOGGER, **of_link)
            self._report = Report(self._link, _LOGGER)
        self._queue: forebay.CallQueue | None = None
        # One descriptor for the client's answers, which come when the node is there, and for those that are given here.
        self._poll = select.epoll()
        self._own = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._own, select.EPOLLIN)
        self._lock = threading.Lock()
        self._last = 0
        self._pending: dict[int, _Part] = {}
        #: Calls that were not drained.
        self._under_way = 0
        self._failed: list[Completion] = []
        #: By the digits of their salts: namespaces, or what waits until one is open.
        self._salted: dict[str, forebay.Namespace | list[_Part]] = {}
        self._opener = Hints("forebay-salts", SALTS_MAX)

    def event_fd(self) -> int:
        """Readable while there is something to drain."""
        return self._poll.fileno()

    def submit_batch_get(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Loads chunks into this memory; answers for each key whether it is whole and verified there."""
        sizes = [len(view) for view in memoryviews]

        def told(future: int, answer: list[Any]) -> Completion:
            good = [got == size for got, size in zip(answer, sizes, strict=True)]
            if self._report is not None:
                self._report.add(asked=len(sizes), hits=sum(good), loaded=sum(good))
            return future, True, "", good

        def submit(queue: forebay.CallQueue, space: forebay.Namespace, names: bytes, at: Sequence[int]) -> int:
            return queue.submit_get(space, names, into=[memoryviews[number] for number in at], deadline_ms=self._deadline_ms)

        return self._submit(keys, told, submit)

    def submit_batch_set(self, keys: Sequence[str], memoryviews: Sequence[memoryview]) -> int:
        """Stores chunks; the memory is the call's until it is drained."""

        def told(future: int, answer: list[Any]) -> Completion:
            if self._report is not None:
                self._report.put(answer)
            refused = [str(outcome) for outcome in answer if not outcome]
            return future, not refused, f"refused: {refused[0]}" if refused else "", [bool(outcome) for outcome in answer]

        def submit(queue: forebay.CallQueue, space: forebay.Namespace, names: bytes, at: Sequence[int]) -> int:
            chunks = [memoryviews[number] for number in at]
            return queue.submit_put(space, names, chunks, deadline_ms=self._deadline_ms, caller_keeps=self._l1_keeps)

        return self._submit(keys, told, submit)

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Answers for each key whether it is there."""

        def submit(queue: forebay.CallQueue, space: forebay.Namespace, names: bytes, at: Sequence[int]) -> int:
            del at
            return queue.submit_contains(space, names, deadline_ms=self._deadline_ms)

        return self._submit(keys, lambda future, answer: (future, True, "", [bool(seen) for seen in answer]), submit)

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Forgets chunks."""

        def submit(queue: forebay.CallQueue, space: forebay.Namespace, names: bytes, at: Sequence[int]) -> int:
            del at
            return queue.submit_forget(space, names, deadline_ms=self._deadline_ms)

        return self._submit(keys, lambda future, answer: (future, True, "", [bool(was) for was in answer]), submit)

    def _submit(self, keys: Sequence[str], told: Told, submit: Submit) -> int:
        with self._lock:
            self._last += 1
            call = _Call(self._last, keys, told, submit, [None] * len(keys))
            # Mostly one salt.
            salts: dict[str, list[int]] = {}
            for number, key in enumerate(keys):
                salts.setdefault(salt_of(key), []).append(number)
            parts = [(_Part(call, at), salt) for salt, at in salts.items()]
            call.waiting, why = len(parts), self._why_not()
            if not parts:
                self._failed.append(told(call.future, []))
                os.eventfd_write(self._own, 1)
                return call.future
            self._under_way += 1
            for part, salt in parts:
                if why:
                    self._fail(part, why)
                else:
                    self._begin(part, salt)
            return call.future

    def _why_not(self) -> str:
        if self._link is None:
            return "the store is not used, as the log said at the start"
        if self._link.namespace is None or self._link.client is None:
            return "the node is not there"
        return "" if self._under_way < CALLS_MAX else "too many calls are under way"

    def _begin(self, part: _Part, salt: str) -> None:
        """Hands a part over, or has it wait until its salt's namespace is open."""
        assert self._link is not None and self._link.namespace is not None
        space: forebay.Namespace | None = self._link.namespace
        if salt:
            name = hashlib.sha256(salt.encode()).hexdigest()[:SALT_DIGITS]
            if name not in self._salted and len(self._salted) < SALTS_MAX and self._opener.give(lambda: self._open(name)):
                self._salted[name] = []
            known = self._salted.get(name, space)
            if isinstance(known, list):
                known.append(part)
                return
            space = known
        assert space is not None
        self._hand_over(part, space)

    def _hand_over(self, part: _Part, space: forebay.Namespace) -> None:
        link, call = self._link, part.call
        assert link is not None
        try:
            if link.client is None:
                raise forebay.ConnectionFailed("the node is not there")
            if self._queue is None:
                self._queue = link.client.queue(calls_max=CALLS_MAX)
                self._poll.register(self._queue.fileno(), select.EPOLLIN)
            names = space.keys([call.keys[number].encode() for number in part.at])
            self._pending[call.submit(self._queue, space, names, part.at)] = part
        except forebay.ForebayError as error:
            self._fail(part, str(error))

    def _fail(self, part: _Part, why: str) -> None:
        """A part that was not handed over."""
        failed = self._finished(part, forebay.ConnectionFailed(why))
        if failed:
            self._failed += failed
            os.eventfd_write(self._own, 1)

    def _open(self, name: str) -> None:
        """On a thread of its own: opens the namespace of a salt and begins what waits for it."""
        link, space, why = self._link, None, ""
        try:
            assert link is not None
            space = link.beside(name)
        except (forebay.ConnectionFailed, forebay.DeadlineExceeded, forebay.NodeRefused) as error:
            why = str(error)
        except Exception as error:
            _LOGGER.error("forebay: a salt gets no namespace of its own and shares that of the others, keys apart: %s", error)
            space = link.namespace if link is not None else None
        with self._lock:
            waiting = self._salted.pop(name, [])
            assert isinstance(waiting, list)
            if space is not None:
                self._salted[name] = space
            for part in waiting:
                if space is None:
                    self._fail(part, why)
                else:
                    self._hand_over(part, space)

    def drain_completions(self) -> list[Completion]:
        """What is finished. Never waits."""
        with self._lock:
            done, self._failed = self._failed, []
            if done:
                os.eventfd_read(self._own)
            if self._queue is not None:
                for ticket, answer in self._queue.drain():
                    done += self._finished(self._pending.pop(ticket), answer)
        if self._report is not None:
            self._report.tick()
        return done

    def _finished(self, part: _Part, answer: Any) -> list[Completion]:
        """The call's completion, if this was the last part of it."""
        call = part.call
        call.waiting -= 1
        if isinstance(answer, Exception):
            call.why = call.why or str(answer)
        else:
            for number, each in zip(part.at, answer, strict=True):
                call.answers[number] = each
        if call.waiting:
            # Its memory may still be written to.
            return []
        self._under_way -= 1
        if call.why is not None:
            return [(call.future, False, call.why, [False] * len(call.keys))]
        return [call.told(call.future, call.answers)]

    def close(self) -> None:
        """Waits for stores under way, each at most its deadline."""
        self._opener.close()
        queue = self._queue
        while queue is not None and queue.pending:
            queue.wait(timeout_ms=1000.0)
            self.drain_completions()
        if self._report is not None:
            self._report.say()
        self._poll.close()
        os.close(self._own)
        self._queue = None
        if self._link is not None:
            self._link.close()


def _fingerprint(weights: str | None, digest: str | None, model: str | None) -> Fingerprint:
    """Raises ValueError and OSError where the weights cannot be told from others."""
    if weights is None and digest is None:
        raise ValueError('the weights that the KV belongs to are not named: add "weights" (a folder or file) or "weights_digest" to adapter_params')
    try:
        digest = digest or forebay.fingerprint.weights_digest(str(weights))
    except (OSError, ValueError) as error:
        raise ValueError(f'{error}: adapter_params takes as "weights" a folder or file that can be read here, or "weights_digest" instead') from error
    release = "unknown"
    with contextlib.suppress(metadata.PackageNotFoundError):
        _versions.look("LMCache", metadata.version("lmcache"))
        release = ".".join(metadata.version("lmcache").split(".")[:2])
    return Fingerprint(
        model=(model or (os.path.basename(os.path.normpath(weights)) if weights else "named by its weights"))[-200:],
        weights=digest[:256],
        # LMCache's server knows nothing of the engine's settings: what else changes KV is for `weights_digest`.
        layout=f"lmcache native 1, release {release}, config {_model.config_digest(weights)}",
        hash="lmcache key",
    )
