"""What `help()` and notebooks show: every public name says what it is, and what it says at run time is what the stub says to editors."""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay
from forebay import _forebay, aio, fingerprint

#: Verbs whose arguments can be wrong, or whose node may not be there: their callers want to know what is raised.
RAISING = (forebay.Client, forebay.Namespace)


def stubs() -> dict[str, str]:
    """What the stub says, by qualified name. What a constructor takes stands behind what its class is, as Python shows it."""
    text = Path(_forebay.__file__).with_name("_forebay.pyi").read_text()
    # These aliases are newer than the oldest Python that runs this.
    tree = ast.parse(re.sub(r"(?m)^type (\w+) =", r"\1 =", text))
    said: dict[str, str] = {}

    def visit(node: ast.Module | ast.ClassDef, prefix: str) -> None:
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                doc = ast.get_docstring(each)
                if doc is not None and each.name == "__new__":
                    said[prefix[:-1]] += "\n\n" + doc
                elif each.name == "__new__" or not each.name.startswith("__"):
                    said[prefix + each.name] = doc or said.get(prefix + each.name, "")
                if isinstance(each, ast.ClassDef):
                    visit(each, f"{each.name}.")

    visit(tree, "")
    return said


def public(of: object, prefix: str) -> Iterator[tuple[str, object]]:
    """A class and what is public in it, of its own."""
    yield prefix, of
    if inspect.isclass(of) and not issubclass(of, enum.Enum):
        for name, member in vars(of).items():
            shown = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and (callable(shown) or inspect.isdatadescriptor(shown)) and not inspect.ismemberdescriptor(shown):
                yield f"{prefix}.{name}", shown


def test_no_public_name_is_without_a_docstring() -> None:
    modules = ((forebay, forebay.__all__), (aio, aio.__all__), (fingerprint, ["Fingerprint", "weights_digest"]))
    silent = []
    for module, names in modules:
        named = [(name, getattr(module, name)) for name in names if name != "__version__"]
        everything = [("", module), *(pair for name, it in named for pair in public(it, name))]
        silent += [f"{module.__name__}.{name}" for name, it in everything if not (inspect.getdoc(it) or "").strip()]
    assert silent == []
    assert "_forebay.pyi" not in "".join(filter(None, (it.__doc__ for it in vars(_forebay).values() if inspect.isclass(it))))


def test_the_stub_says_what_the_module_says() -> None:
    said = stubs()
    assert len(said) > 100 and {"Client", "Client.node_stats", "Namespace.get", "Block.tier", "hash_file"} <= set(said)
    for name, doc in said.items():
        it: object = _forebay
        for part in name.split("."):
            it = getattr(it, part)
        assert inspect.getdoc(it) == doc, name


@pytest.mark.parametrize("cls", RAISING)
def test_every_verb_says_what_it_raises(cls: type) -> None:
    verbs = [name for name, it in vars(cls).items() if not name.startswith("_") and callable(it)]
    assert len(verbs) >= 9
    assert [name for name in verbs if not re.search(r"\bRaises [A-Z]", getattr(cls, name).__doc__)] == []
    raised = {word for name in verbs for words in re.findall(r"\bRaises ([^.]*)\.", getattr(cls, name).__doc__) for word in re.findall(r"\b[A-Z]\w+", words)}
    assert all(hasattr(forebay, word) or word == "BufferError" for word in raised), raised
