"""Drift: where in the model, and when, an attack moves what it reads."""

from app.pages._base import Page

PAGE = Page(
    name="drift",
    label="Drift",
    question="Where does the attack move the model’s states?",
    path="/drift",
)
