"""Enrolment and trial sets by rule, after the VoicePrivacy Challenge's LibriSpeech lists.

What the organisers' lists of dev-clean and test-clean hold (29 of 40 speakers enrolled in each):

- the enrolment utterances of a speaker come from one chapter, a random part of it, 75 to 90 s (49 to 119);
- the trials are all utterances of the speaker's other chapters, so that enrolment and trial are two sessions;
- a speaker with a single chapter (10 and 11 of the 40) is not enrolled and serves as an impostor only;
- every enrolled speaker is tried against every trial utterance of the same gender.

The rule here does the same for any corpus whose utterances carry a session (chapter, book, recording date, text).
Every draw is a pure function of (seed, corpus, speaker), so another subset of the speakers changes no draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import UserError
from ..seed import generator

SAME_SESSION_SHARE = 0.3  # share of the utterances enrolled where a speaker has a single session
NAMED = 20  # speakers that a note lists at most


@dataclass(frozen=True)
class Utterance:
    """What the rule needs to know of an utterance; `session` separates enrolment from trials, `seconds` > 0."""

    id: str
    speaker: str
    gender: str
    session: str
    seconds: float


Trial = tuple[str, str, bool]  # enrolled speaker, trial utterance, same speaker?


@dataclass(frozen=True)
class Selection:
    """Result of the rule: sorted enrolment utterances, and by gender the trials and the trial utterances.

    `notes` are sentences for people (and for meta.yaml): genders left out, same-session speakers, impostors.
    """

    enrolls: list[str]
    trials: dict[str, list[Trial]]
    trial_utts: dict[str, list[str]]
    notes: list[str]


def select(
    utterances: Iterable[Utterance],
    *,
    seed: int,
    corpus: str,
    enroll_seconds: float = 75.0,
    impostors: float = 0.25,
) -> Selection:
    """Choose enrolment utterances and cross-product trials within each gender.

    Args:
        utterances: all utterances of the evaluation part; ids unique, one gender per speaker.
        seed: the recipe's seed.
        corpus: name mixed into every draw.
        enroll_seconds: speech to enrol a speaker with; drawn until reached or the session is used up, > 0.
        impostors: share of each gender's speakers to leave unenrolled, rounded down, 0 <= share < 1. Speakers of a
            single session come first; only a remainder is drawn.

    Returns:
        The selection. A gender without a target and a non-target trial is left out, with a note.

    Raises:
        UserError: if an argument is out of range, an id occurs twice or a speaker has two genders.
    """
    if enroll_seconds <= 0:
        raise UserError(f"enroll_seconds is {enroll_seconds}", expected="seconds of speech, more than 0")
    if not 0 <= impostors < 1:
        raise UserError(f"impostors is {impostors}", expected="a share of the speakers, 0 <= share < 1")
    enrolls: list[str] = []
    trials: dict[str, list[Trial]] = {}
    trial_utts: dict[str, list[str]] = {}
    notes: list[str] = []
    for gender, speakers in sorted(_by_gender(utterances).items()):
        chosen, same_session = _choose_enrolled(speakers, seed, corpus, impostors)
        enrolled = {spk: _enroll(speakers[spk], seed, corpus, enroll_seconds) for spk in chosen}
        tried = {
            utt.id: spk
            for spk, utts in speakers.items()
            for utt in (enrolled[spk][1] if spk in enrolled else utts)
        }
        pairs = cross_product(enrolled, tried)
        if not pairs:
            notes.append(
                f"gender {gender}: no trials, {len(speakers)} speaker(s) of whom {len(enrolled)} enrollable"
            )
            continue
        enrolls += [utt.id for part, _ in enrolled.values() for utt in part]
        trials[gender], trial_utts[gender] = pairs, sorted(tried)
        rest = len(speakers) - len(enrolled)
        notes.append(f"gender {gender}: {len(enrolled)} speakers enrolled, {rest} impostors only")
        if same_session:
            notes.append(
                f"gender {gender}: same-session trials (a single session, its first utterances enrolled) for "
                f"{len(same_session)} speaker(s): {' '.join(same_session[:NAMED])}"
                f"{' ...' if len(same_session) > NAMED else ''}"
            )
    return Selection(sorted(enrolls), trials, trial_utts, notes)


def cross_product(enrolled: Iterable[str], tried: Mapping[str, str]) -> list[Trial]:
    """Every enrolled speaker against every trial utterance, sorted.

    Args:
        enrolled: speakers.
        tried: trial utterance -> its speaker.

    Returns:
        The trials; none if they would not hold both target and non-target ones.
    """
    pairs = [(spk, utt, tried[utt] == spk) for spk in sorted(enrolled) for utt in sorted(tried)]
    return pairs if len({same for _, _, same in pairs}) == 2 else []


def _by_gender(utterances: Iterable[Utterance]) -> dict[str, dict[str, list[Utterance]]]:
    """{gender: {speaker: utterances sorted by id}}, checked."""
    gender_of: dict[str, str] = {}
    seen: set[str] = set()
    table: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utt in sorted(utterances, key=lambda u: u.id):
        if utt.id in seen:
            raise UserError("the utterance occurs twice", utt=utt.id)
        if gender_of.setdefault(utt.speaker, utt.gender) != utt.gender:
            raise UserError(f"speaker {utt.speaker} has two genders", utt=utt.id)
        seen.add(utt.id)
        table[utt.gender][utt.speaker].append(utt)
    return table


def _choose_enrolled(
    speakers: dict[str, list[Utterance]], seed: int, corpus: str, impostors: float
) -> tuple[list[str], list[str]]:
    """The speakers to enrol, sorted, and those of them whose trials will be of the enrolment session."""
    several = sorted(spk for spk, utts in speakers.items() if len({utt.session for utt in utts}) > 1)
    # With fewer than two speakers of several sessions the organisers' way leaves nothing to compare: fall back
    # to splitting single sessions, and say so.
    fallback = len(several) < 2
    able = sorted(spk for spk, utts in speakers.items() if len(utts) > 1) if fallback else several
    excess = int(impostors * len(speakers)) - (len(speakers) - len(able))
    drop = sorted(able, key=lambda spk: generator(seed, corpus, spk, "impostor").random())[: max(0, excess)]
    chosen = [spk for spk in able if spk not in drop]
    return chosen, [spk for spk in chosen if spk not in several]


def _enroll(
    utts: list[Utterance], seed: int, corpus: str, enroll_seconds: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Split one speaker's utterances (sorted by id) into enrolment and trial; some of a session may be in neither."""
    sessions: dict[str, list[Utterance]] = defaultdict(list)
    for utt in utts:
        sessions[utt.session].append(utt)
    if len(sessions) == 1:
        first = utts[: max(1, int(SAME_SESSION_SHARE * len(utts)))]
        first = _until(first, enroll_seconds)
        return first, utts[len(first) :]
    seconds = {name: sum(utt.seconds for utt in part) for name, part in sessions.items()}
    enough = [name for name in sessions if seconds[name] >= enroll_seconds]
    # the shortest session that suffices leaves most to the trials; without one, the longest there is
    name = (
        min(enough, key=lambda n: (seconds[n], n)) if enough else max(sessions, key=lambda n: (seconds[n], n))
    )
    order = generator(seed, corpus, utts[0].speaker, "enrolment").permutation(len(sessions[name]))
    drawn = _until([sessions[name][i] for i in order], enroll_seconds)
    return drawn, [utt for utt in utts if utt.session != name]


def _until(utts: list[Utterance], seconds: float) -> list[Utterance]:
    """The first utterances that together reach `seconds`, or all."""
    total = 0.0
    for count, utt in enumerate(utts, start=1):
        total += utt.seconds
        if total >= seconds:
            return utts[:count]
    return utts
