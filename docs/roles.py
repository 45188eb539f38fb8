"""Roles in docstrings, such as ``:func:`` before a name, shown as code."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|attr|mod):`~?\.?([\w.]+)`")


class Roles(Extension):
    """Turn the roles of a docstring into Markdown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of anything that has one."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
