"""What goes wrong with a call as a whole. Misses and refusals are no errors: they are outcomes, for each key."""

from __future__ import annotations


class ForebayError(Exception):
    """The root of all of them. Its text says what happened, why, and what to try."""


class InvalidArgument(ForebayError, ValueError):
    """A name, key, buffer, part or number that cannot be."""


class ConnectionFailed(ForebayError, ConnectionError):
    """Nothing answers at the address."""


class ConnectionBroken(ConnectionFailed):
    """The connection broke and could not be made anew in time."""


class CredentialRefused(ForebayError, PermissionError):
    """The node does not accept the token."""


class VersionMismatch(ForebayError):
    """Node and client have no version of the protocol in common, or the node speaks another one."""


class NamespaceError(ForebayError):
    """A namespace is not what the caller takes it for."""


class NamespaceUnknown(NamespaceError, LookupError):
    """There is no namespace of that name."""


class NamespaceDiffers(NamespaceError):
    """It has another fingerprint than the one that is expected."""


class NamespaceExists(NamespaceError):
    """It exists with another class, quota, time to live or fingerprint than it was to be created with."""


class NodeRefused(ForebayError):
    """The node refused for a reason of its own."""


class DeadlineExceeded(ForebayError, TimeoutError):
    """The node did not answer in time."""


class ForgetFailed(ForebayError):
    """Some keys could not be forgotten durably. Asking again is safe."""


class RegionFull(ForebayError, MemoryError):
    """The client's memory for blocks is taken; see ``region_bytes``."""


class ForkedClient(ForebayError, RuntimeError):
    """The process has forked since the client was made. The child needs a client of its own."""
