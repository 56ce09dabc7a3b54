"""Strict: parts of a recipe, which refuse keys that they do not have."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a recipe; its fields are its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
