"""Tokens: where in the response a checkpoint differs, how deep it refuses, what it then says."""

from app import answers
from app.pages._base import Page

PAGE = Page(
    name="tokens",
    label="Tokens",
    question="Where in the response do checkpoints differ, and what do they say?",
    path="/tokens",
    after=answers.card,
    register=answers.register,
)
