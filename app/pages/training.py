"""Training: what the optimiser minimised, term by term, in the defender's and attacker's hands."""

from app.pages._base import Page

PAGE = Page(
    name="training",
    label="Training",
    question="How did each term of the objective go while the model trained?",
    path="/training",
)
