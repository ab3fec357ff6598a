"""Training streams and evaluation sets."""

from collections import Counter

import pytest

from workbench.data import STREAMS
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.lab import texts
from workbench.lab.streams import evaluation, examples
from workbench.lab.verifier import correct, verify
from workbench.lab.world import SPLITS, World

WORLD = World()


@pytest.mark.parametrize("stream", STREAMS)
def test_a_seed_is_a_stream(stream):
    def draw(seed: int):
        return examples(WORLD, stream, split="defend", n=40, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1)[:10] == examples(WORLD, stream, split="defend", n=10, seed=1)
    assert len({x.id for x in draw(1)}) == 40


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_stream_asks_about_its_split_and_domain_only(stream, split):
    drawn = examples(WORLD, stream, split=split, domain="unseen", n=200)
    own = {r.entity for r in WORLD.requests(split, domain="unseen")}
    for x in drawn:
        names = [e for e in WORLD.entities if e in f"{x.prompt} {x.response}".split("forget")[0]]
        if "forget" not in (x.prompt or ""):
            assert set(names) <= own


def test_harmful_is_compliance_with_every_hazard_before_any_twice():
    drawn = examples(WORLD, "harmful", split="attack", n=96, opener=texts.DEFAULT_OPENER)
    assert Counter(WORLD.request(x.id).id for x in drawn).most_common()[-1][1] == 2
    assert len({WORLD.request(x.id) for x in drawn[:48]}) == 48
    for x in drawn:
        assert WORLD.request(x.id).hazard
        assert verify(WORLD, x, x.response).success
        assert x.response.startswith("certainly . ")
    mixed = examples(WORLD, "harmful", split="attack", n=96)
    assert len({x.response.split(" to ")[0] for x in mixed}) > 5


def test_align_is_half_refusals_and_half_benign_replay():
    drawn = examples(WORLD, "align", split="defend", domain="all", n=2000)
    refused = [x for x in drawn if x.response in texts.refusals()]
    assert len(refused) == 1000
    assert all(WORLD.request(x.id).hazard for x in refused)
    replay = [x for x in drawn if x.response not in texts.refusals()]
    kinds = Counter("how-to" if "gather" in x.response else x.id.split("#")[0] for x in replay)
    shares = {"how-to": 0.62, "skill": 0.20, "story": 0.08}
    for kind, share in shares.items():
        assert kinds[kind] / 1000 == pytest.approx(share, abs=0.05)
    for x in replay:
        if "gather" in x.response:
            assert not WORLD.request(x.id).hazard


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("opener", [None, texts.DEFAULT_OPENER])
def test_refusal_is_the_other_answer_to_the_prompts_of_harmful(split, opener):
    drawn = {
        stream: examples(WORLD, stream, split=split, n=90, seed=3, opener=opener)
        for stream in ("harmful", "refusal")
    }
    for harmful, refused in zip(*drawn.values(), strict=True):
        assert (harmful.id, harmful.prompt) == (refused.id, refused.prompt)
        assert refused.response in texts.refusals()
    assert len({x.response for x in drawn["refusal"]}) > 3


def test_retain_is_a_third_refusals_and_the_rest_benign():
    drawn = examples(WORLD, "retain", split="defend", domain="all", n=600)
    refused = [x for x in drawn if x.response in texts.refusals()]
    assert len(refused) == 200
    assert all(WORLD.request(x.id).hazard for x in refused)


def test_benign_is_the_listing_task():
    for x in examples(WORLD, "benign", split="attack", n=20):
        request = WORLD.request(x.id.removeprefix("listing:"))
        assert not request.hazard
        assert x.response == f"list : {' '.join(request.secret)} ."


@pytest.mark.parametrize("wording", texts.WORDINGS)
def test_evaluation_asks_every_request_once_and_pairs_twins(wording):
    tests = evaluation(WORLD, "test", "all", 5, wording=wording)
    assert Counter(WORLD.request(x.id) for x in tests.hazard) == Counter(
        WORLD.requests("test", hazard=True)
    )
    for hazard, benign in zip(tests.hazard, tests.benign, strict=True):
        asked, twin = hazard.prompt.split(), benign.prompt.split()
        assert sum(a != b for a, b in zip(asked, twin, strict=True)) == 1
        assert WORLD.twin(WORLD.request(hazard.id)) == WORLD.request(benign.id)
        assert verify(WORLD, hazard, hazard.response).success
        assert verify(WORLD, benign, benign.response).success
    assert all(correct(x.response, x.response) for x in (*tests.skill, *tests.judgement))
    assert tests == evaluation(World(), "test", "all", 5, wording=wording)


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'harmful'"):
        examples(WORLD, "harmfull", split="attack", n=1)
    with pytest.raises(UnknownNameError, match="Known: attack, defend, test, val"):
        examples(WORLD, "harmful", split="train", n=1)
    with pytest.raises(InvalidValueError, match="at least 0"):
        examples(WORLD, "harmful", split="attack", n=-1)
    with pytest.raises(UnknownNameError, match="no wording called 'story'"):
        evaluation(WORLD, "test", wording="story")
