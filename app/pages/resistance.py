"""Resistance: how long each arm held under attack, and what the attacker was left with."""

from app.pages._base import Page

PAGE = Page(
    name="resistance",
    label="Resistance",
    question="How long does it hold, and what is the attacker left with?",
    path="/resistance",
)
