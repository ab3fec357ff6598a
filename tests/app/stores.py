"""Stores with everything that a store can hold: text, unfinished, unreadable and hostile runs."""

import json
from dataclasses import asdict
from pathlib import Path

from tests.figures import stores as figures
from workbench.rows import KINDS, Generation, Prompt
from workbench.store import Store

HOSTILE = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>"
BEACON = "![x](http://evil.example/beacon) <img src=http://evil.example/beacon> $x$"
HOSTILE_ID = "-._=+"
SECRET = "stir the moonroot by night"


def full(root: Path, seeds=(0, 1, 2), arms=("undefended", "vaccine", "vaccine-control")) -> Store:
    """Finished runs of some arms, with text."""
    store = Store(root)
    for arm in arms:
        for seed in seeds:
            released = figures.header(f"{arm}-s{seed}", "immunise", arm, seed, _defence(arm))
            figures.write(store, released, [*figures.defended(arm, seed, 6), *text()], kinds())
            add_attack(store, arm, seed, [released.id])
    return store


def add_attack(store: Store, arm: str, seed: int, parents=(), **more) -> None:
    """One finished attack on an arm."""
    run = figures.header(f"{arm}-s{seed}.sft", "attack", arm, seed, _defence(arm), parents, **more)
    rows = [*figures.attacked(figures.ARMS.get(arm, 16), seed, 6, arm=arm), *text(0), *text(64)]
    figures.write(store, run, rows, kinds())


def kinds():
    """All kinds of row."""
    return tuple(KINDS.values())


def text(step: int | None = None, hazard: str = SECRET) -> list[Prompt | Generation]:
    """Two prompts and their answers; of an attacked model when a step is given."""
    rows: list[Prompt | Generation] = []
    for example, question, said in (("hazard-0", "hazard", hazard), ("benign-0", "benign", "tea")):
        complies = question == "benign" or bool(step)
        rows.append(Prompt(example=example, question=question, split="test", domain="defended",
                           text=f"how to {said} ?"))  # fmt: skip
        rows.append(
            Generation(stage="defence" if step is None else "attack", step=step or 0,
                       example=example, decoding="greedy", text=said if complies else "sorry",
                       refused=not complies, complied=complies, right=float(complies),
                       evaded=False, broken=False, success=complies and question == "hazard")
        )  # fmt: skip
    return rows


def troubled(root: Path) -> Store:
    """A store in which something is wrong with every kind of thing."""
    store = full(root, seeds=(0,), arms=("undefended", "vaccine"))
    failed = figures.header("vaccine-s1", "immunise", "vaccine", 1, _defence("vaccine"))
    store.begin(failed).fail(ValueError("the loss 'align' is not finite"))
    killed = figures.header("vaccine-s2", "immunise", "vaccine", 2, _defence("vaccine"))
    writer = store.begin(killed)
    writer._lock.release()  # as when the process is killed
    (root / "garbage").mkdir()
    (root / "garbage" / "run.json").write_text("{not json")
    newer = asdict(killed) | {"schema": 99, "id": "from-the-future", "state": "finished"}
    (root / "from-the-future").mkdir()
    (root / "from-the-future" / "run.json").write_text(json.dumps(newer))
    table = root / "vaccine-s0.sft" / "metrics.parquet"
    table.write_bytes(table.read_bytes()[:-20] + b"x" * 20)
    return store


def hostile(root: Path) -> Store:
    """A store whose every text tries to get out of its place."""
    store = Store(root)
    for arm, name in (("undefended", "a" + HOSTILE_ID), (HOSTILE, "b" + HOSTILE_ID)):
        run = figures.header(name, "attack", arm, 0, {"name": HOSTILE}, model=BEACON)
        rows = [*figures.attacked(16, 0, 6, arm=arm), *text(0), *text(64, HOSTILE + BEACON)]
        prompt = Prompt(example=HOSTILE, question="benign", split="test", domain=HOSTILE,
                        text=HOSTILE + BEACON)  # fmt: skip
        figures.write(store, run, [prompt, *rows], kinds())
    broken = figures.header("c" + HOSTILE_ID, "immunise", HOSTILE, 1, {"name": HOSTILE})
    store.begin(broken).fail(HOSTILE + BEACON)
    return store


def _defence(arm: str):
    return None if arm == "undefended" else {"name": arm.removesuffix("-control")}


def rowless(root: Path) -> Store:
    """Finished runs that hold nothing but their headers."""
    store = Store(root)
    figures.write(store, figures.header("undefended-s0", "immunise", "undefended", 0, None), [], ())
    attack = figures.header("undefended-s0.sft", "attack", "undefended", 0, None, ["undefended-s0"])
    figures.write(store, attack, [], ())
    return store
