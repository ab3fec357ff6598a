"""Weights: how far the weights are from another checkpoint's, part by part, and at which angle."""

from app.pages._base import Page

PAGE = Page(
    name="weights",
    label="Weights",
    question="Where do the weights differ, and in which direction?",
    path="/weights",
)
