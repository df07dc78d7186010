"""Enrolment and trials by rule: disjoint, other sessions, cross product, and close to the organisers' lists."""

from __future__ import annotations

from collections import defaultdict

import pytest

from espnet_musa.corpora.trial_rule import Utterance, cross_product, select
from espnet_musa.corpora.vpc_lists import LISTS
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError


def speaker(name: str, gender: str, sessions: dict[str, list[float]]) -> list[Utterance]:
    return [
        Utterance(f"{name}-{session}-{i:02d}", name, gender, session, seconds)
        for session, durations in sessions.items()
        for i, seconds in enumerate(durations)
    ]


def many(genders: str = "ff", sessions: int = 2, utts: int = 6) -> list[Utterance]:
    return [
        utt
        for i, gender in enumerate(genders)
        for utt in speaker(f"s{i}", gender, {f"c{c}": [10.0] * utts for c in range(sessions)})
    ]


def chosen_speakers(selection, gender: str) -> set[str]:
    return {spk for spk, _, _ in selection.trials[gender]}


def test_enrolment_is_the_shortest_session_that_suffices_and_trials_the_others():
    long = {"a": [10.0] * 9, "b": [10.0] * 5, "c": [10.0] * 3}
    pool = speaker("s0", "f", long) + speaker("s1", "f", {"a": [10.0], "b": [5.0]})
    got = select(pool, seed=0, corpus="x", enroll_seconds=40, impostors=0)
    own = [utt for utt in got.enrolls if utt.startswith("s0")]
    assert len(own) == 4 and all(utt.startswith("s0-b-") for utt in own)  # 4 x 10 s of session b
    # s1 has too little anywhere: all of its longest session
    assert [utt for utt in got.enrolls if utt.startswith("s1")] == ["s1-a-00"]
    wanted = sorted([f"s0-a-{i:02d}" for i in range(9)] + [f"s0-c-{i:02d}" for i in range(3)] + ["s1-b-00"])
    assert got.trial_utts["f"] == wanted
    assert got.trials["f"] == [(s, u, u.startswith(s)) for s in ("s0", "s1") for u in wanted]


def test_speakers_of_one_session_are_the_first_impostors():
    pool = many("ffff") + speaker("one", "f", {"c0": [10.0] * 5})
    got = select(pool, seed=0, corpus="x", impostors=0.2)
    assert chosen_speakers(got, "f") == {"s0", "s1", "s2", "s3"}
    assert sum(utt.startswith("one-") for utt in got.trial_utts["f"]) == 5
    assert not any("same-session" in note for note in got.notes)


@pytest.mark.parametrize(
    ("count", "share", "enrolled"), [(8, 0.25, 6), (7, 0.25, 6), (3, 0.25, 3), (8, 0.0, 8)]
)
def test_share_of_impostors_is_rounded_down(count, share, enrolled):
    got = select(many("m" * count), seed=1, corpus="x", impostors=share)
    assert len(chosen_speakers(got, "m")) == enrolled


def test_single_sessions_are_split_and_reported():
    got = select(many("fff", sessions=1, utts=10), seed=0, corpus="x", enroll_seconds=75)
    assert got.enrolls == [f"s{s}-c0-{i:02d}" for s in range(3) for i in range(3)]  # the first 30 %
    assert len(got.trial_utts["f"]) == 21
    assert [note for note in got.notes if "same-session" in note and "s0 s1 s2" in note]
    capped = select(many("fff", sessions=1, utts=10), seed=0, corpus="x", enroll_seconds=15)
    assert len(capped.enrolls) == 6


def test_gender_without_possible_trials_is_left_out_with_a_note():
    got = select(many("fffm"), seed=0, corpus="x")
    assert set(got.trials) == {"f"} and not any(utt.startswith("s3") for utt in got.enrolls)
    assert [note for note in got.notes if note.startswith("gender m: no trials")]
    assert not select(many("ffff", sessions=1, utts=1), seed=0, corpus="x").trials


def test_draws_depend_on_seed_and_corpus_and_not_on_order_or_other_speakers():
    pool = many("ffffff", utts=20)
    first = select(pool, seed=3, corpus="x", impostors=0)
    assert select(pool[::-1], seed=3, corpus="x", impostors=0) == first
    assert select(pool, seed=4, corpus="x", impostors=0).enrolls != first.enrolls
    assert select(pool, seed=3, corpus="y", impostors=0).enrolls != first.enrolls
    part = select([u for u in pool if u.speaker != "s5"], seed=3, corpus="x", impostors=0)
    assert part.enrolls == [utt for utt in first.enrolls if not utt.startswith("s5")]


def test_cross_product_wants_both_kinds():
    assert cross_product(["a"], {"a1": "a"}) == []
    assert cross_product(["a"], {"b1": "b"}) == []
    assert cross_product(["a"], {"b1": "b", "a1": "a"}) == [("a", "a1", True), ("a", "b1", False)]


@pytest.mark.parametrize(
    ("pool", "options", "message"),
    [
        (many("ff"), {"enroll_seconds": 0.0}, "enroll_seconds"),
        (many("ff"), {"impostors": 1.0}, "impostors"),
        (many("ff") + many("f"), {}, "occurs twice"),
        (many("ff") + speaker("s0", "m", {"z": [1.0]}), {}, "two genders"),
    ],
)
def test_bad_input(pool, options, message):
    with pytest.raises(UserError, match=message):
        select(pool, seed=0, corpus="x", **options)


@pytest.mark.real
@pytest.mark.parametrize("split", ["dev", "test"])
def test_close_to_the_official_lists(real_speech, split):
    """On the organisers' own utterances our rule enrols nearly as many speakers, as long, from the same chapters."""
    dirs = {
        name: DataDir.read(real_speech / "vpc_lists" / name, required=("utt2spk",)) for name in LISTS[split]
    }
    official = dirs[f"libri_{split}_enrolls"]
    pool = {}
    for data in dirs.values():
        for utt, spk in data.table("utt2spk").items():
            gender, seconds = data.table("spk2gender")[spk], data.table("utt2dur")[utt]
            pool[utt] = Utterance(utt, spk, gender, utt.rsplit("-", 1)[0], seconds)
    got = select(pool.values(), seed=0, corpus="x")
    ours, theirs = ({pool[utt].speaker for utt in utts} for utts in (got.enrolls, official.utts))
    assert abs(len(ours) - len(theirs)) <= 1  # they: 29
    impostors = {utt.speaker for utt in pool.values()} - theirs
    assert len(impostors - ours) >= 10  # they: 11, nearly all of a single chapter
    seconds = defaultdict(float)
    for utt in got.enrolls:
        seconds[pool[utt].speaker] += pool[utt].seconds
    assert 75 <= sum(seconds.values()) / len(seconds) <= 95  # they: 78 and 93
    for gender in "fm":
        trials = got.trials[gender]
        count = len((dirs[f"libri_{split}_trials_{gender}"].path / "trials").read_text().splitlines())
        assert 0.8 < len(trials) / count < 1.25
        assert not set(got.enrolls) & {utt for _, utt, _ in trials}
