"""What an engine's interface looks like, as text to be compared; and the table of versions that docs/engines/README.md shows.

Engines call these interfaces experimental. What one calls with other arguments than before is found by a test, by name, and not in production. When a
change has been looked at, `FOREBAY_ACCEPT=1` writes down what the installed wheel has, and its row of the table.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forebay.integrations import _versions

HERE = Path(__file__).parent
ACCEPT = os.environ.get("FOREBAY_ACCEPT") == "1"
BEGIN, END = "<!-- versions -->\n", "<!-- end of versions -->"
HEAD = "| engine | package tested | version | known to work | adapter, in `forebay.integrations` | interface |\n|---|---|---|---|---|---|\n"


def parameters(method: Any) -> str:
    """Names, kinds and defaults; what types are called may change freely."""
    if isinstance(method, property):
        return "property"
    signature = inspect.signature(getattr(method, "__func__", method))
    shown = [str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in signature.parameters.values() if parameter.name != "self"]
    return f"({', '.join(shown)})"


def methods(of: type) -> dict[str, Any]:
    """A class's own."""
    return {name: member for name, member in vars(of).items() if callable(member) or isinstance(member, property | classmethod | staticmethod)}


def interface(hooks: list[tuple[str, type, type]], values: list[Any]) -> str:
    """Each hook is the adapter's name, the class it implements and the adapter; values are what is handed to and fro."""
    lines = []
    for adapter, base, ours in hooks:
        for name, member in sorted(methods(base).items()):
            if name.startswith("__") and name != "__init__":
                continue
            must = " abstract" if getattr(member, "__isabstractmethod__", False) else ""
            taken = f" <- {adapter}" if name in vars(ours) else ""
            lines.append(f"{base.__name__}.{name}{parameters(member)}{must}{taken}")
    for value in values:
        if dataclasses.is_dataclass(value):
            lines.append(f"{value.__name__}: {', '.join(field.name for field in dataclasses.fields(value))}")
        elif isinstance(value, type) and issubclass(value, Enum):
            lines.append(f"{value.__name__}: {', '.join(value.__members__)}")
        else:
            lines.append(f"{value.__qualname__}{parameters(value)}")
    return "\n".join(lines) + "\n"


def check(engine: str, found: str) -> None:
    """The interface is the one that was accepted."""
    golden = HERE / f"signatures/{engine}.txt"
    if ACCEPT:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    text = f"{engine}'s interface has changed: look at each line, mend the adapter, then run with FOREBAY_ACCEPT=1"
    assert golden.exists() and found == golden.read_text(), text


def check_arguments(hooks: list[tuple[str, type, type]]) -> None:
    """Each method of an adapter takes what the interface gives it."""
    for _, base, ours in hooks:
        for name, member in methods(base).items():
            if name not in vars(ours) or name == "__init__" or isinstance(member, property):
                continue
            theirs = list(inspect.signature(getattr(member, "__func__", member)).parameters.values())
            mine = inspect.signature(getattr(vars(ours)[name], "__func__", vars(ours)[name]))
            assert [p.name for p in theirs] == list(mine.parameters), f"{ours.__name__}.{name}"


def pinned(environment: str, package: str) -> str:
    """The version that an environment has."""
    lines = (HERE / f"environments/{environment}.txt").read_text().splitlines()
    (found,) = [line.split("==")[1] for line in lines if line.startswith(f"{package}==")]
    return found


def check_row(engine: str, package: str, environment: str, adapter: str, hook: str) -> None:
    """The installed version is the pinned one, and the document names it."""
    installed = version(package)
    assert installed == pinned(environment, package)
    name = engine.partition(",")[0]
    assert _versions.is_known(name, installed), "the range that the adapter calls known has the release that is tested"
    row = f"| {engine} | {package} | {installed} | {_versions.said(name)} | `{adapter}` | {hook} |\n"
    document = HERE.parents[2] / "docs/engines/README.md"
    before, rest = document.read_text().split(BEGIN)
    shown, after = rest.split(END)
    if ACCEPT:
        # In the order of names, whichever environment writes its row first.
        rows = [line + "\n" for line in shown.removeprefix(HEAD).splitlines() if not line.startswith(f"| {engine} |")]
        shown = HEAD + "".join(sorted([*rows, row], key=str.lower))
        document.write_text(before + BEGIN + shown + END + after)
    assert shown.startswith(HEAD) and row in shown, "run with FOREBAY_ACCEPT=1 to write the table anew"
