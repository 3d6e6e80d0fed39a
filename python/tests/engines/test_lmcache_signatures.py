"""LMCache's hook is the one that the plugin was written against, and the table of versions is true: see signatures.py."""

from __future__ import annotations

import inspect
from typing import Any

import signatures
from forebay.integrations.lmcache import LmcacheClient
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters import native_plugin_l2_adapter as native
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import NativeConnectorL2Adapter

#: What LMCache looks for in a plugin, by name.
ASKED = ("event_fd", "submit_batch_get", "submit_batch_set", "submit_batch_exists", "drain_completions", "close")
VALUES: list[Any] = [ObjectKey, native.NativePluginL2AdapterConfig.from_dict, native._create_native_plugin_l2_adapter]


def test_the_hook_is_the_one_the_plugin_was_written_against() -> None:
    signatures.check("lmcache", signatures.interface([("LmcacheClient", NativeConnectorL2Adapter, LmcacheClient)], VALUES))


def test_the_plugin_has_what_is_asked_for_by_name() -> None:
    asked = inspect.getsource(native._create_native_plugin_l2_adapter)
    assert all(f'"{name}"' in asked for name in (*ASKED, "submit_batch_delete"))
    assert all(callable(getattr(LmcacheClient, name, None)) for name in (*ASKED, "submit_batch_delete"))


def test_the_document_names_the_version_that_is_tested() -> None:
    signatures.check_row("LMCache", "lmcache", "lmcache", "lmcache.LmcacheClient", "`native_plugin`")
