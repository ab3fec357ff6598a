"""Reinforcement: how undecided a model's own answers are, and how far that can move it."""

from app.pages._base import Page

PAGE = Page(
    name="reinforcement",
    label="RL fuel",
    question="How much can reinforcement learning still move it?",
    path="/reinforcement",
)
