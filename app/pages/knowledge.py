"""Knowledge: what a model still tells once its refusal is taken away."""

from app.pages._base import Page

PAGE = Page(
    name="knowledge",
    label="Knowledge",
    question="Is the knowledge gone, or only out of reach?",
    path="/knowledge",
)
