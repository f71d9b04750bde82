"""Reads the package's docstrings for the API page: griffe takes ``Examples:`` for code but not ``Example:``, and knows no Sphinx roles."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|mod|data|meth|attr):`(~?)([\w.]+)`")


def _name(role: re.Match[str]) -> str:
    short, path = role[1], role[2]
    return f"`{path.rpartition('.')[2] if short else path}`"


def plain(text: str) -> str:
    """A docstring as griffe's Google parser and Markdown understand it; a block after ``::`` stays indented, which is code in Markdown too."""
    text = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return ROLE.sub(_name, text)


class PlainDocstrings(griffe.Extension):  # griffe finds extensions by this base
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute that was read."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
