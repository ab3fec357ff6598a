"""Frontier: what the arms of the store pay for resistance, all beside one another."""

from app.pages._base import Page

PAGE = Page(
    name="frontier",
    label="Frontier",
    question="What does resistance cost?",
    path="/frontier",
)
