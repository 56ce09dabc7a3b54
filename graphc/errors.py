"""The one family of errors that graphc raises on purpose: what, where, why, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphError(Exception):
    """Something graphc refuses to do.

    Args:
        what: the action that was refused, in one line.
        where: node, module path, file and line, or recipe key.
        why: the reason.
        hint: what the reader can do about it.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        rows = [("where", self.where), ("why", self.why), ("what to do", self.hint)]
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in rows if text)])


class CaptureError(GraphError):
    """The model could not be turned into a Program."""


class SliceError(GraphError):
    """An axis cannot be cut as asked."""


class VerifyError(GraphError):
    """A Program does not keep its contract."""


class RecipeError(GraphError):
    """A recipe, an option or a name in it is wrong."""


class EmitError(GraphError):
    """An artifact could not be written, or is not equal to its Program."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to a wrong one, or list a few of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"known: {shown}" if names else "there are none"
