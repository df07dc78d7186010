"""The generated corpus: same bytes always, sets as promised, voices and emotions that differ, clear failures."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from espnet_musa.corpora import mini, mini_voices
from espnet_musa.corpora.espeak import Espeak
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import SAMPLE_RATE, DataDir
from espnet_musa.errors import UserError

SMALL = {
    "train_speakers": 1,
    "train_utterances": 4,
    "eval_speakers": 2,
    "enroll_utterances": 2,
    "trial_utterances": 2,
    "codec_speakers": 1,
    "codec_utterances": 2,
}
VARIANT = "language variant\nname speaker\npitch 90 130\nbreath 0 4 4 4 4 4 4\nflutter 8\nroughness 4\n"


def generate(place: Path, **arguments) -> dict[str, DataDir]:
    names = mini.prepare(place / "data", audio=place / "audio", **{**SMALL, **arguments})
    return {name: DataDir.read(place / "data" / name) for name in names}


def content(audio: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(audio.glob("*.wav"))}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, dict[str, DataDir]]:
    place = tmp_path_factory.mktemp("mini")
    return place, generate(place)


# --- sets ---------------------------------------------------------------------------------------------------------


def test_default_size_is_the_documented_one():
    train = mini._cast(0, "train", 1, 12, 0)
    evaluation = mini._cast(0, "eval", 13, 6, len(mini.ROTA) // 2)
    codec = mini._cast(0, "codec", 19, 24, len(mini.ROTA) // 2)
    for speakers in (train, evaluation, codec):
        assert {s.language for s in speakers} == set(mini_voices.LANGUAGES)
    assert len({s.name for s in (*train, *evaluation, *codec)}) == 2 * (12 + 6 + 24)
    assert len({s.voice for s in codec}) == 48
    impostors = {s.language for s in evaluation if s.rank == 5}
    assert impostors == {"en"}  # they share a language with an enrolled speaker


def test_sets_are_disjoint_and_complete(corpus):
    _, sets = corpus
    assert list(sets) == ["mini_train", "mini_enrolls", "mini_trials", "mini_codec"]
    assert [d.meta.role for d in sets.values()] == ["attack_train", "enroll", "trial", "train"]
    train, enrolls, trials, codec = sets.values()
    assert trials.meta.enroll == "mini_enrolls"
    speakers = {name: set(d.table("utt2spk").values()) for name, d in sets.items()}
    assert not speakers["mini_train"] & speakers["mini_trials"]
    assert not speakers["mini_codec"] & (speakers["mini_train"] | speakers["mini_trials"])
    assert len(speakers["mini_trials"] - speakers["mini_enrolls"]) == 2  # an impostor of each gender
    assert not {*enrolls.utts} & {*trials.utts}
    assert set(enrolls.table("enrolls")) == set(enrolls.utts)
    texts = [set(d.table("text").values()) for d in (train, enrolls, trials, codec)]
    assert not any(a & b for a, b in itertools.combinations(texts, 2))
    assert set(train.table("utt2emo").values()) == set(mini_voices.EMOTIONS)


def test_trials_are_the_cross_product_within_each_gender(corpus):
    place, sets = corpus
    rows = [line.split() for line in (place / "data/mini_trials/trials").read_text().splitlines()]
    enrolls, trials = sets["mini_enrolls"], sets["mini_trials"]
    sex, owner = trials.table("spk2gender"), trials.table("utt2spk")
    wanted = {
        (s, u) for s in set(enrolls.table("utt2spk").values()) for u in trials.utts if sex[s] == sex[owner[u]]
    }
    assert {(s, u) for s, u, _ in rows} == wanted and len(rows) == len(wanted)
    assert all((kind == "target") == (owner[u] == s) for s, u, kind in rows)


def test_sentences():
    seen: set[str] = set()
    for language in mini_voices.LANGUAGES:
        parts = {part: mini._sentences(language, part) for part in (*mini.SHARES, "codec")}
        sentences = [s for part in parts.values() for s in part]
        assert len(sentences) == (80 if language == "en" else 44)
        assert len(parts["enroll"]) >= 4 and len(parts["trial"]) >= 6 and len(parts["train"]) >= 10
        texts = {mini.transcript(s) for s in sentences}
        assert len(texts) == len(sentences) and "" not in texts and not texts & seen
        seen |= texts


def test_the_set_for_systems_may_be_left_out_or_speak_some_languages(corpus, tmp_path):
    place, _ = corpus
    without = generate(tmp_path / "none", codec_speakers=0)
    assert list(without) == ["mini_train", "mini_enrolls", "mini_trials"]
    assert (
        content(tmp_path / "none/audio").items() < content(place / "audio").items()
    )  # the others stay as they are
    some = generate(tmp_path / "some", codec_speakers=3, codec_utterances=1, codec_languages=["nl", "fr"])
    assert set(some["mini_codec"].table("utt2lang").values()) == {"nl", "fr"}
    for wrong, message in ((["nl", "jp"], "unknown language 'jp'; known: cmn, de"), ([], "is empty")):
        with pytest.raises(UserError, match=message):
            generate(tmp_path / "wrong", codec_languages=wrong)


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("C'è una lettera per te!", "c'è una lettera per te"),
        ("As-tu entendu ? Oui,  moi.", "as-tu entendu oui moi"),
        ("¿Oíste los truenos?", "oíste los truenos"),
        ("昨天夜里你听见雷声了吗？", "昨天夜里你听见雷声了吗"),
    ],
)
def test_transcript(sentence, text):
    assert mini.transcript(sentence) == text


# --- sound --------------------------------------------------------------------------------------------------------


def test_recordings_are_plausible(corpus):
    _, sets = corpus
    for data in sets.values():
        for utt, path in data.table("wav.scp").items():
            wav, rate = read_audio(path)
            assert rate == SAMPLE_RATE
            assert 1.0 < len(wav) / rate < 7.0, utt
            assert 0.05 < np.abs(wav).max() <= mini_voices.PEAK + 1e-4, utt  # heard, not clipped
            silent = np.diff(np.flatnonzero(np.diff(np.r_[0, wav == 0, 0])))[::2]
            assert silent.max(initial=0) < 8, utt  # samples of digital silence in a row
            frames = wav[: len(wav) // 400 * 400].reshape(-1, 400).std(axis=1)
            assert 20 * np.log10(np.quantile(frames, 0.9) / frames.min()) > 20, utt  # speech stands out


def test_emotions_and_genders_are_heard():
    """Fundamental frequency and level of one sentence by one voice in four moods; women speak higher than men."""
    import pyworld

    pitch, level = {}, {}
    with Espeak() as espeak:
        for gender, (voice,) in ((g, mini_voices.draw(0, "test", g, 1)) for g in "fm"):
            for emotion in mini_voices.EMOTIONS:
                text = "The morning train is late again today."
                line = mini_voices.Line("u", "s", gender, "en", emotion, text, voice)
                wav = mini_voices.render(espeak, line, 0).astype(np.float64)
                f0, _ = pyworld.dio(wav, SAMPLE_RATE, f0_floor=60, f0_ceil=500)
                pitch[gender, emotion] = np.median(f0[f0 > 0])
                level[gender, emotion] = wav.std()
    for gender in "fm":
        assert pitch[gender, "sad"] < pitch[gender, "neu"] < pitch[gender, "ang"] < pitch[gender, "hap"]
        assert level[gender, "sad"] < level[gender, "neu"] < level[gender, "ang"]
    assert all(pitch["f", emotion] > 1.3 * pitch["m", emotion] for emotion in mini_voices.EMOTIONS)


@pytest.mark.slow
def test_voices_can_be_told_apart(tmp_path):
    """Verification of the default corpus by an encoder that never saw it: clearly possible, for each gender."""
    from espnet_musa.evaluators.encoders import Resemblyzer
    from espnet_musa.metrics.eer import eer

    sets = {}
    for name in mini.prepare(tmp_path / "data", audio=tmp_path / "audio", codec_speakers=0):
        sets[name] = DataDir.read(tmp_path / "data" / name)
    encoder, vectors = Resemblyzer(), {}
    for name in ("mini_enrolls", "mini_trials"):
        scp = sets[name].table("wav.scp")
        vectors |= dict(zip(scp, encoder.embed([read_audio(path)[0] for path in scp.values()]), strict=True))
    enrolls = sets["mini_enrolls"].table("utt2spk")
    for gender in "fm":
        scores = {"target": [], "nontarget": []}
        for line in (tmp_path / "data/mini_trials/trials").read_text().splitlines():
            speaker, utt, kind = line.split()
            if speaker.startswith(gender):
                model = sum(vectors[u] for u, s in enrolls.items() if s == speaker)
                scores[kind].append(float(model @ vectors[utt] / np.linalg.norm(model)))
        assert len(scores["target"]) == 30 and len(scores["nontarget"]) == 150
        assert eer(np.array(scores["target"]), np.array(scores["nontarget"])).eer < 0.12


# --- same bytes, whatever happens ---------------------------------------------------------------------------------


def test_an_utterance_does_not_depend_on_those_before():
    requests = [("Hello there.", "en-us", VARIANT, 170, 7), ("Guten Tag.", "de", VARIANT, 150, 8)]
    with Espeak() as one, Espeak() as two:
        forwards = [one.say(*request) for request in [*requests, requests[0]]]
        backwards = [two.say(*request) for request in reversed(requests)]
        other = two.say(*requests[0][:-1], 9)
    np.testing.assert_array_equal(forwards[0], backwards[1])
    np.testing.assert_array_equal(forwards[1], backwards[0])
    np.testing.assert_array_equal(forwards[0], forwards[2])
    assert not np.array_equal(
        forwards[0][: len(other)], other[: len(forwards[0])]
    )  # the voice does hold noise


def test_bytes_do_not_depend_on_jobs_and_do_on_seed(corpus, tmp_path):
    place, _ = corpus
    generate(tmp_path / "one", jobs=1)
    generate(tmp_path / "three", jobs=3)
    generate(tmp_path / "seed", seed=1)
    first = content(place / "audio")
    assert content(tmp_path / "one" / "audio") == first == content(tmp_path / "three" / "audio")
    other = content(tmp_path / "seed" / "audio")
    assert not set(other.values()) & set(first.values())


def test_second_run_makes_only_what_is_missing(tmp_path):
    generate(tmp_path)
    audio = tmp_path / "audio"
    before = content(audio)
    times = {p.name: p.stat().st_mtime_ns for p in audio.glob("*.wav")}
    lost = next(iter(times))
    (audio / lost).unlink()
    generate(tmp_path)
    assert content(audio) == before
    assert [n for n, t in times.items() if (audio / n).stat().st_mtime_ns != t] == [lost]


def test_other_arguments_replace_the_audio(tmp_path):
    old = generate(tmp_path)["mini_trials"].utts
    new = generate(tmp_path, trial_utterances=1)["mini_trials"].utts
    gone = set(old) - set(new)
    assert gone and not any((tmp_path / "audio" / f"{utt}.wav").exists() for utt in gone)


def test_killed_run_resumes(corpus, tmp_path):
    """SIGKILL in the middle: every file under its final name is whole, and the next run makes the same corpus."""
    place, _ = corpus
    audio, partial = tmp_path / "audio", tmp_path / "audio.partial"
    program = f"""
        from pathlib import Path
        from espnet_musa.corpora import mini, mini_voices
        mini.prepare(Path({str(tmp_path / "data")!r}), audio=Path({str(audio)!r}), jobs=1, **{SMALL!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=REPOSITORY)
    until = time.monotonic() + 60
    while len(list(partial.glob("*.wav"))) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not audio.exists()
    wanted, found = content(place / "audio"), content(partial)
    assert 3 <= len(found) < len(wanted)
    assert found.items() <= wanted.items()
    kept = {p.name: p.stat().st_mtime_ns for p in partial.glob("*.wav")}
    (partial / ".x.wav.1.tmp").write_bytes(b"half")
    generate(tmp_path)
    assert content(audio) == wanted
    assert all((audio / name).stat().st_mtime_ns == made for name, made in kept.items())
    assert not list(audio.glob(".*.tmp"))


# --- failures -----------------------------------------------------------------------------------------------------

BROKEN = {
    "not installed": ("raise ImportError('no module')", "is not installed"),
    "not a library": ("get_library_path = lambda: __file__\nget_data_path = lambda: '.'", "cannot be loaded"),
    "data missing": (
        "import pathlib, site, sysconfig\n"
        "real = pathlib.Path(sysconfig.get_paths()['purelib']) / 'espeakng_loader'\n"
        "get_library_path = lambda: str(real / 'libespeak-ng.so')\n"
        "get_data_path = lambda: str(pathlib.Path(__file__).parent)",
        "data of espeakng-loader cannot be used",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_espeak_is_one_clear_error(case, tmp_path, monkeypatch):
    code, message = BROKEN[case]
    package = tmp_path / "path" / "espeakng_loader"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), str(REPOSITORY)]))
    with pytest.raises(UserError, match=message) as error:
        generate(tmp_path)
    assert "hint: reinstall it: pip install" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "audio").exists()


def test_unknown_language_and_death_are_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed program leaves its folder of links behind
    with Espeak() as espeak, pytest.raises(UserError, match="no language 'tlh'"):
        espeak.say("nuqneH", "tlh", VARIANT, 170, 1)
    with Espeak() as espeak:
        espeak._process.kill()
        with pytest.raises(UserError, match="ended with code -9"):
            espeak.say("Hello.", "en-us", VARIANT, 170, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_speakers": 0}, "train_speakers is 0; expected at least 1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"codec_speakers": -1}, "codec_speakers is -1; expected at least 0"),
        ({"impostors": 2}, "impostors is 2; expected 0 to 1"),
    ],
)
def test_numbers_out_of_range(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(tmp_path, **arguments)


# --- by language --------------------------------------------------------------------------------------------------


def test_sets_of_one_language_each(tmp_path):
    spoken = {"codec_languages": ["nl", "pl"], "train_languages": ["nl", "pl", "cmn"], "train_speakers": 3}
    sets = generate(tmp_path, eval_languages="nl pl cmn", romanize=True, impostors=1, **spoken)
    names = [f"mini_{code}_{part}" for part in ("enrolls", "trials") for code in ("nl", "pl", "cmn")]
    assert list(sets) == ["mini_train", *names, "mini_codec"]
    assert set(sets["mini_codec"].table("utt2lang").values()) == {"nl", "pl"}  # Mandarin is held out
    assert set(sets["mini_train"].table("utt2lang").values()) == {"nl", "pl", "cmn"}
    people = []
    for code in ("nl", "pl", "cmn"):
        enrolls, trials = sets[f"mini_{code}_enrolls"], sets[f"mini_{code}_trials"]
        assert trials.meta.enroll == enrolls.name and set(trials.table("utt2lang").values()) == {code}
        assert sorted(trials.table("spk2gender").values()) == ["f", "f", "m", "m"]
        assert sorted(enrolls.table("spk2gender").values()) == ["f", "m"]  # one of each gender is an impostor
        rows = [line.split() for line in (trials.path / "trials").read_text().splitlines()]
        assert len(rows) == 2 * 2 * 2 and {row[2] for row in rows} == {"target", "nontarget"}
        people += [*trials.table("spk2gender")]
    assert len(people) == len(set(people)) == 12
    assert all(text.isascii() for text in sets["mini_cmn_trials"].table("text").values())
    plain = generate(tmp_path / "plain", eval_languages=["cmn"], codec_speakers=0)["mini_cmn_trials"]
    assert not any(text.isascii() for text in plain.table("text").values())
    for option in ("eval_languages", "train_languages"):
        with pytest.raises(UserError, match=f"{option}: unknown language 'jp'; known: cmn, de"):
            generate(tmp_path / "wrong", **{option: ["jp"]})
        with pytest.raises(UserError, match=f"{option} is empty"):
            generate(tmp_path / "wrong", **{option: []})
