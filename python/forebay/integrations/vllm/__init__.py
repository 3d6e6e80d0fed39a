"""vLLM: `ForebayConnector` stands between the engine and its own KV memory, `ForebayTier` behind vLLM's CPU tier.

    --kv-transfer-config '{"kv_connector": "ForebayConnector", "kv_connector_module_path": "forebay.integrations.vllm",
                           "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}'

Which of the two, and what each can be told, stands in docs/engines/vllm.md. Each is imported only when it is asked for, so that a vLLM that
lacks one of the two interfaces can still use the other.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ForebayConnector", "ForebayTier"]


def __getattr__(name: str) -> Any:
    if name == "ForebayConnector":
        from forebay.integrations.vllm.connector import ForebayConnector

        return ForebayConnector
    if name == "ForebayTier":
        from forebay.integrations.vllm.tier import ForebayTier

        return ForebayTier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
