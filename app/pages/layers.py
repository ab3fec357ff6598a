"""Layers: at which depth, and at which token, two checkpoints stop thinking alike."""

from app.pages._base import Page

PAGE = Page(
    name="layers",
    label="Layers",
    question="At which layer, and at which token, do checkpoints part?",
    path="/layers",
)
