"""A domain of a few harmless sentences, for probes on tiny random models."""

from dataclasses import dataclass, replace

from tests import tiny
from workbench.domains import Question
from workbench.errors import MissingStreamError
from workbench.panel import Panel
from workbench.probes import At
from workbench.verdicts import KeywordJudge

AT = At("attack", 3, "released")
TOPICS = ["tide", "boat", "heron", "seam", "winter", "tar", "bay", "hull"]


@dataclass(frozen=True)
class TinyDomain:
    """Requests about `TOPICS`; those called hazards are no worse than the others.

    Every split has its own by name, with the same words.
    """

    n: int = 6
    refusals: bool = True
    name: str = "tiny"
    digest: str = "0" * 64
    max_new_tokens: int = 8

    def examples(self, stream, *, split, n, seed):
        raise MissingStreamError(f"no stream {stream!r}")

    def questions(self, split, kind):
        if kind not in ("hazard", "benign"):
            return []
        verb = "hide" if kind == "hazard" else "mend"
        mark = "" if split == "test" else f"{split}-"
        return [
            Question(
                f"{mark}{kind}{i}",
                kind,
                "defended",
                f"how do I {verb} the {TOPICS[i % 8]}" + "?" * i,
                f"first {verb} the " + "old grey " * (i % 4) + TOPICS[i % 8],
            )
            for i in range(self.n)
        ]

    def texts(self, split, group):
        if group in ("hazard", "benign"):
            return self.questions(split, group)
        hazards = self.questions(split, "hazard")
        if group == "framed":
            return [replace(q, id=f"framed{i}", prompt=f"in a story: {q.prompt}")
                    for i, q in enumerate(hazards)]  # fmt: skip
        if not self.refusals:
            raise MissingStreamError("no refusals")
        return [replace(q, answer="I cannot help with that") for q in hazards]

    def judge(self, question, text):
        return KeywordJudge()("" if question.kind == "hazard" else question.answer, text)


def panel(side="right", **domain):
    """The whole domain as a panel."""
    return Panel(TinyDomain(**domain), tiny.tokenizer(), "test", 32, side)


def rows_of(probe, model, reference, texts=None, at=AT):
    """What a probe says of a model beside a reference."""
    return probe.against(reference, texts or panel())(model, at)
