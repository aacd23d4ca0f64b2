"""What the site's pages take from elsewhere: the page of public names from the code, formulas as MathML."""

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- public names -->"
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
FORMULA = re.compile(r"\$([^$\n]+)\$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    parts = CODE.split(markdown)  # text and code by turns
    parts[::2] = [FORMULA.sub(lambda found: convert(found[1]), text) for text in parts[::2]]
    return "".join(parts).replace(MARK, "\n\n".join(_sections()))


def _sections() -> list[str]:
    """A heading for each package in the order of the data, an entry for each of its public names."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in ast.walk(ast.parse((ROOT / "lsf_jax" / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lsf_jax."):
            package = str(node.module).split(".")[1]
            found[package] += [_entry(str(node.module), alias.name) for alias in node.names]
    return [f"## {package}\n\n" + "\n\n".join(entries) for package, entries in found.items()]


def _entry(module: str, name: str) -> str:
    """A mkdocstrings block, or a line for what has no docstring of its own (one of several names in an assignment)."""
    return f"::: {module}.{name}" if name in _defined(module) else f"### {name}\n\nA constant of `{module}`."


def _defined(module: str) -> set[str]:
    """The names that a module defines one at a time, as mkdocstrings can see them."""
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}
    return names - {None}
