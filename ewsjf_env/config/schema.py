"""JSON Schema of settings, for editors and the documentation.

Ranges and defaults come from the fields, descriptions from the strings below them and from the
docstrings of the classes.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(cls: type, title: str) -> dict[str, Any]:
    """The schema of the files that hold settings of this class, every property described."""
    schema = TypeAdapter(cls).json_schema(schema_generator=_Described)
    return {"$schema": DIALECT, **schema, "title": title}


class _Described(GenerateJsonSchema):
    """Pydantic's schema of a dataclass with the strings below its fields; no other key is valid."""

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        """See pydantic."""
        made = super().dataclass_schema(schema)
        cls = schema["cls"]
        told = inspect.getdoc(cls) or ""
        made = {**made, "description": told.split("\n\n")[0], "additionalProperties": False}
        for name, text in descriptions(cls).items():
            if name in made.get("properties", {}):
                made["properties"][name]["description"] = text
        return made


@functools.cache
def descriptions(cls: type) -> Mapping[str, str]:
    """The string below each field of a dataclass, by name; those of its bases, too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not object:
            found |= _in_module(base.__module__).get(base.__qualname__, {})
    return found


@functools.cache
def _in_module(module: str) -> dict[str, dict[str, str]]:
    """Strings below the fields of the classes of a module, by class and field."""
    imported = importlib.import_module(module)
    tree = ast.parse(inspect.getsource(imported))
    return {node.name: _below(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _below(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(told))),
            ):
                found[name] = " ".join(told.split())
    return found
