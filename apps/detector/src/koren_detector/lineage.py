"""Which code makes the accident score's features: weights fit the code that they were trained with, or measured on."""

from __future__ import annotations

import ast
import hashlib
from importlib.resources import files
from typing import Any

_FEATURES = "motion"


def feature_modules() -> tuple[str, ...]:
    """The names of the modules of this package that make tracks, ground and features.

    motion.py and what it imports from the package, in alphabetical order.

    Raises OSError when the package was installed without its source.
    """
    return tuple(sorted(_feature_sources()))


def feature_code_hash() -> str:
    """SHA-256 of the code of feature_modules(), as hexadecimal digits.

    Comments, documentation and formatting do not change it; names, numbers and statements do.

    Raises OSError when the package was installed without its source.
    """
    return hash_of(_feature_sources())


def hash_of(sources: dict[str, str]) -> str:
    """SHA-256 of the code of named modules, given as source text. Raises SyntaxError."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\n{_shape(ast.parse(sources[name]))!r}\n".encode())
    return digest.hexdigest()


def _feature_sources() -> dict[str, str]:
    """The source text of each of feature_modules()."""
    found: dict[str, str] = {}
    left = [_FEATURES]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = files("koren_detector").joinpath(f"{name}.py").read_text()
            left += [
                node.module
                for node in ast.walk(ast.parse(found[name]))
                if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
            ]
    return found


def _shape(node: Any) -> Any:
    """The node as nested lists. Empty fields are left out, since newer versions of Python add some."""
    if isinstance(node, list):
        return [_shape(part) for part in node if not _documents(part)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, _shape(value)) for name, value in ast.iter_fields(node) if value is not None]
    return [type(node).__name__, *(field for field in fields if field[1] != [])]


def _documents(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
