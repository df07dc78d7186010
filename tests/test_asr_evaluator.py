"""WER and CER of a set: the reference itself, groups, languages, files, both sides, and refusals before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import GENDERS, make_set, tone

from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators import asr
from espnet_musa.evaluators.asr import Asr, pooled
from espnet_musa.evaluators.base import Metric, Resources
from espnet_musa.report.results import _means

TEXT = {"a-0": "don't stop", "b-0": "ein kleiner Bär", "c-0": "red green blue", "d-0": "今天早上"}
LANGUAGE = {"a-0": "en", "b-0": "de", "c-0": "en", "d-0": "cmn"}


class Parrot:
    """A recognizer that knows utterances by their length in samples and says what it was told to say."""

    languages = frozenset({"en", "de", "cmn"})
    about, batch_s = "a parrot", 1.5

    def __init__(self, says: dict[int, str]) -> None:
        self.says, self.asked = says, 0

    def transcribe(self, wavs, languages) -> list[str]:
        self.asked += 1
        return [self.says[len(wav)] for wav in wavs]


def sounds(shift: float = 0.0) -> dict[str, np.ndarray]:
    return {utt: tone(0.5 + 0.1 * i, 120.0 + shift, i) for i, utt in enumerate(TEXT)}


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    path = make_set(tmp_path / "set", sounds(), GENDERS, {"split": "dev"}, text=TEXT, utt2lang=LANGUAGE)
    return DataDir.read(path, "audio")


def parrot(data: DataDir, monkeypatch: pytest.MonkeyPatch, **says: str) -> Parrot:
    """Make every evaluator load a parrot that says the references, but for `says`."""
    texts = data.table("text") | {utt.replace("_", "-"): text for utt, text in says.items()}
    bird = Parrot({len(data.load(utt)): text for utt, text in texts.items()})
    monkeypatch.setattr(asr, "load", lambda *_: bird)
    return bird


def by_group(metrics: list[Metric], name: str) -> dict[str, float]:
    return {m.group: m.value for m in metrics if m.name == name}


def test_reference_gives_zero(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bird = parrot(data, monkeypatch, a_0="Don’t, stop!")
    metrics = Asr().score(data, None, tmp_path, Resources())
    assert by_group(metrics, "wer") == dict.fromkeys(("f", "m", "all", "en", "de"), 0.0)
    assert by_group(metrics, "cer") == dict.fromkeys(("f", "m", "all", "en", "de", "cmn"), 0.0)
    assert bird.asked > 1  # in batches
    lines = (tmp_path / "text").read_text(encoding="utf-8").splitlines()
    assert lines == ["a-0 DON'T STOP", "b-0 ein kleiner bär", "c-0 RED GREEN BLUE", "d-0 今天早上"]
    assert "a parrot" in metrics[0].notes and "cmn: NFC, Chinese characters only" in metrics[0].notes


def test_counts_and_groups(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parrot(data, monkeypatch, c_0="red blue", b_0="kein kleiner bär ja", d_0="今天晚上")
    metrics = Asr().score(data, None, tmp_path, Resources())
    wer, cer = by_group(metrics, "wer"), by_group(metrics, "cer")
    assert wer["f"] == pytest.approx(100 * 2 / 5)
    assert wer["m"] == pytest.approx(100 * 1 / 3)
    assert wer["all"] == pytest.approx(100 * 3 / 8)
    assert cer["cmn"] == 25.0
    (whole,) = [m for m in metrics if (m.name, m.group) == ("wer", "all")]
    assert whole.n == {
        "words": 8, "substitutions": 1, "deletions": 1, "insertions": 1, "utterances": 3, "speakers": 3,
    }  # fmt: skip
    assert whole.low <= whole.value <= whole.high
    assert "wer all 37.50 3 8 1 1 1" in (tmp_path / "wer").read_text().splitlines()
    assert "wer c 33.33 1 3 0 1 0" in (tmp_path / "wer").read_text().splitlines()


def test_the_copy_is_what_is_heard(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Text and languages are the original's; the sound is the copy's."""
    longer = {utt: tone(1.5 + 0.1 * i, 99.0, i) for i, utt in enumerate(TEXT)}
    copy = DataDir.read(make_set(tmp_path / "copy", longer, GENDERS, {}), "audio")
    bird = Parrot({len(copy.load(utt)): "stop" for utt in TEXT})
    monkeypatch.setattr(asr, "load", lambda *_: bird)
    metrics = Asr(languages=["en"]).score(data, copy, tmp_path, Resources())
    assert by_group(metrics, "wer")["f"] == 50.0
    assert "2 utterances in other languages are not scored" in metrics[0].notes


def test_what_cannot_be_scored_is_skipped(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bird = parrot(data, monkeypatch)
    bird.languages = frozenset({"fr"})
    assert Asr().score(data, None, tmp_path, Resources()) == []
    mute = DataDir.read(make_set(tmp_path / "mute", sounds(), GENDERS, {}), "audio")
    assert Asr().score(mute, None, tmp_path, Resources()) == []
    assert bird.asked == 0


def test_refusals_come_before_any_work(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bird = parrot(data, monkeypatch)
    text = TEXT | {"a-0": "...", "c-0": "12"}
    empty = make_set(tmp_path / "empty", sounds(), GENDERS, {}, text=text, utt2lang=LANGUAGE)
    with pytest.raises(UserError, match=r"nothing is left of '...' once normalised(?s:.*)'c-0'"):
        Asr().score(DataDir.read(empty, "audio"), None, tmp_path, Resources())
    less = {utt: wav for utt, wav in sounds().items() if utt != "b-0"}
    copy = DataDir.read(make_set(tmp_path / "less", less, GENDERS, {}), "audio")
    with pytest.raises(UserError, match="'b-0': only in one of the two sets"):
        Asr().score(data, copy, tmp_path, Resources())
    with pytest.raises(UserError, match="does not speak 'fr'"):
        Asr(languages=["fr"]).score(data, None, tmp_path, Resources())
    assert bird.asked == 0


@pytest.mark.parametrize(
    "arguments", [{"backend": "sphinx"}, {"metrics": ["per"]}, {"normalization": "none"}], ids=str
)
def test_bad_arguments(arguments: dict):
    with pytest.raises(UserError, match="unknown"):
        Asr(**arguments)


def test_missing_models(data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path))
    for backend in ("wav2vec2", "whisper"):
        with pytest.raises(UserError, match=r"fetch from https://huggingface\.co"):
            Asr(backend=backend).score(data, None, tmp_path, Resources())


def metric(**changes) -> dict:
    n = {"words": 100, "substitutions": 5, "deletions": 3, "insertions": 2, "utterances": 9, "speakers": 4}
    whole = Metric("wer", 10.0, "%", "x_f", "dev", "f", "", n, 8.0, 12.0, "note")
    return {"system": "s", "evaluator": "e", **dataclasses.replace(whole, **changes).to_dict(), "parts": []}


def test_sets_of_one_gender_are_pooled():
    """10 errors in 100 words and 90 in 300: 25 %, not the mean 20 %."""
    n = {"words": 300, "substitutions": 90, "deletions": 0, "insertions": 0, "utterances": 9, "speakers": 4}
    male = metric(value=30.0, set="x_m", group="m", n=n, low=26.0, high=33.0)
    (found,) = _means([metric(), male], {"x_f": "c", "x_m": "c"})
    assert (found["value"], found["group"], found["parts"]) == (25.0, "all", ["x_f", "x_m"])
    assert found["n"]["words"] == 400 and found["n"]["substitutions"] == 95
    assert found["low"] == pytest.approx(25 - np.hypot(0.25 * 2, 0.75 * 4))
    assert found["high"] == pytest.approx(25 + np.hypot(0.25 * 2, 0.75 * 3))
    assert found["notes"] == "note"
    names = {f.name for f in dataclasses.fields(Metric)}
    bare = [
        Metric.from_dict({k: v for k, v in m.items() if k in names} | {"low": None}) for m in (metric(), male)
    ]
    assert pooled(*bare).low is None
