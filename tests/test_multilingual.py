"""Trees in the official layouts of MLS and AISHELL-3, generated, through stages 0 to 9: results by language."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
import yaml
from conftest import REPOSITORY
from tiny_musa import GENERATOR

from espnet_musa.corpora import mini, mini_voices
from espnet_musa.corpora.espeak import Espeak
from espnet_musa.data.datadir import SAMPLE_RATE
from espnet_musa.report import languages, markdown, tables

pytestmark = pytest.mark.slow
RECIPE = REPOSITORY / "egs/mls_multilingual/conf/recipe.yaml"
NAMES = {"de": "german", "es": "spanish_opus"}
TRAINING = {
    "codec_conf": {"generator_conf": GENERATOR, "lambda_adv": 0.0, "lambda_fm": 0.0, "lambda_sem": 0.0},
    "segment_length": 6400, "language_temperature": 2.0, "batch_size": 4, "num_iters_per_epoch": 4, "max_epoch": 1,
    "num_workers": 0, "optim_conf": {"lr": 1.0e-3},
}  # fmt: skip
SYSTEM = {"description": "tiny", "reference": "-", "anonymizer": "musa", "train": "tiny"}


def say(
    espeak: Espeak, language: str, gender: str, voice: mini_voices.Voice, sentence: str, utt: str
) -> np.ndarray:
    line = mini_voices.Line(utt, "s", gender, language, "neu", sentence, voice)
    return mini_voices.render(espeak, line, 0)


def mls(root: Path, espeak: Espeak) -> None:
    """German as FLAC and Spanish as Opus: two women and two men for each of train and test, two books each."""
    for index, (language, name) in enumerate(NAMES.items()):
        folder = root / f"mls_{name}"
        rows = " SPEAKER | GENDER | PARTITION | MINUTES | BOOK ID | TITLE | CHAPTER\n"
        for split, first, utts in (("train", 10, 2), ("test", 20, 3)):
            texts, segments = "", ""
            pool = mini._sentences(language, "codec" if split == "train" else "trial")
            for gender in "fm":
                for rank, voice in enumerate(mini_voices.draw(0, f"{language} {split}", gender, 2)):
                    speaker = str(1000 * index + first + 2 * rank + "fm".index(gender))
                    for number in range(2 * utts):
                        book = str(500 + number % 2)
                        utt = f"{speaker}_{book}_{number:06d}"
                        rows += f" {speaker} | {gender.upper()} | {split} | 1.0 | {book} | T | C\n"
                        place = folder / split / "audio" / speaker / book
                        place.mkdir(parents=True, exist_ok=True)
                        wav = say(espeak, language, gender, voice, pool[number], utt)
                        if "opus" in name:
                            sf.write(place / f"{utt}.opus", wav, SAMPLE_RATE, format="OGG", subtype="OPUS")
                        else:
                            sf.write(place / f"{utt}.flac", wav, SAMPLE_RATE)
                        texts += f"{utt}\t{mini.transcript(pool[number])}\n"
                        segments += f"{utt}\thttp://x/{book}.mp3\t1.0\t{1.0 + len(wav) / SAMPLE_RATE:.2f}\n"
            (folder / split / "transcripts.txt").write_text(texts, encoding="utf-8")
            (folder / split / "segments.txt").write_text(segments, encoding="utf-8")
        (folder / "metainfo.txt").write_text(rows, encoding="utf-8")


def aishell3(root: Path, espeak: Espeak) -> None:
    """The test part: two women and two men, six utterances each, 44.1 kHz."""
    from pypinyin import Style, lazy_pinyin

    info, content = "# speaker\n", ""
    pool = [mini.transcript(s) for s in mini._sentences("cmn", "trial")]
    for gender, word in (("f", "female"), ("m", "male")):
        for rank, voice in enumerate(mini_voices.draw(0, "aishell", gender, 2)):
            speaker = f"SSB{1 + rank + 10 * 'fm'.index(gender):04d}"
            info += f"{speaker}\tB\t{word}\tnorth\n"
            for number, sentence in enumerate(pool):
                utt = f"{speaker}{number:04d}"
                wav = say(espeak, "cmn", gender, voice, sentence, utt)
                place = root / "test/wav" / speaker
                place.mkdir(parents=True, exist_ok=True)
                wav = soxr.resample(wav, SAMPLE_RATE, 44100)
                sf.write(place / f"{utt}.wav", 0.9 * wav, 44100)
                sound = lazy_pinyin(sentence, style=Style.TONE3, neutral_tone_with_five=True)
                pairs = " ".join(f"{c} {p}" for c, p in zip(sentence, sound, strict=True))
                content += f"{utt}.wav\t{pairs}\n"
    (root / "test/content.txt").write_text(content, encoding="utf-8")
    (root / "spk-info.txt").write_text(info, encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The recipe after stage 9: its own configuration, fewer systems and only evaluators that need no download."""
    base = tmp_path_factory.mktemp("many")
    with Espeak() as espeak:
        mls(base / "corpora/MLS", espeak)
        aishell3(base / "corpora/data_aishell3", espeak)
    place = base / "mls_multilingual"
    for folder in ("conf/train", "conf/systems"):
        (place / folder).mkdir(parents=True)
    (place / "conf/recipe.yaml").write_text(RECIPE.read_text())
    (place / "conf/train/tiny.yaml").write_text(yaml.safe_dump(TRAINING))
    (place / "conf/systems/tiny.yaml").write_text(yaml.safe_dump(SYSTEM))
    sets = [
        "gvd.params={encoder: resemblyzer, model: recipe}", "pitch.params.tracker=dio", "report.examples=1",
        "corpora.mls.enroll_seconds=4", "corpora.aishell3.enroll_seconds=4", "corpora.mls.impostors=0",
        "corpora.aishell3.impostors=0",
    ]  # fmt: skip
    command = [
        REPOSITORY / "run.sh", "--config", "conf/recipe.yaml", "--mls", base / "corpora", "--languages", "de es",
        "--aishell3", base / "corpora", "--systems", "orig b2_mcadams tiny",
        "--evaluators", "asv_resemblyzer gvd pitch", "--nj", "1",
    ]  # fmt: skip
    command += [word for one in sets for word in ("--set", one)]
    environment = {**os.environ, "CALLED_FROM": str(place)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Seen and unseen languages" in done.stdout
    return place


@pytest.fixture(scope="module")
def results(root: Path) -> dict:
    return json.loads((root / "exp/report/results.json").read_text())


def test_one_column_a_language_and_the_unseen_one_apart(results):
    assert languages.unseen(results) == {"cmn"}
    shown = dict(languages.by_metric(results))
    assert list(shown) == [
        "asv_resemblyzer: EER %", "gvd: De-ID", "gvd: G_VD dB", "pitch: pitch correlation",
    ]  # fmt: skip
    for title, table in shown.items():
        assert table.columns == [("de",), ("es",), ("mean",), ("cmn", "unseen")], title
        assert all(cell != tables.NONE for row in table.rows for cell in row.cells), title
    eer = shown["asv_resemblyzer: EER %"]
    attacks = ("ignorant (OA)", "lazy-informed (AA)")
    assert [row.keys for row in eer.rows] == [
        ("test", a, s) for a in attacks for s in ("orig", "b2_mcadams", "tiny")
    ]
    assert eer.rows[0].lower_bound and not eer.rows[1].lower_bound


def test_means_of_languages_in_closed_form(results):
    for privacy in (True, False):
        found = languages.measured(results, privacy)
        assert found
        for mean in (m for m in found if m["language"] == languages.MEAN):
            own = [
                m for m in found if all(m[k] == mean[k] for k in ("system", "evaluator", "name", "condition"))
            ]
            values = {m["language"]: m["value"] for m in own}
            assert set(values) == {"de", "es", "cmn", "mean"}
            assert values["mean"] == pytest.approx(
                (values["de"] + values["es"]) / 2
            )  # without the unseen one
            assert not any("aishell3" in part for part in mean["parts"]) and len(mean["parts"]) == 4
    eers = [m for m in results["metrics"] if m["name"] == "eer" and m["group"] in ("f", "m")]
    assert len(eers) == 3 * 2 * (
        1 + 2 * 3
    )  # a set of each gender and language: OO, and three conditions a system


def test_seen_and_unseen_stand_side_by_side(results, root):
    table = languages.summary(results)
    wanted = [("test", row, s) for row in ("mean", "cmn, unseen") for s in ("orig", "b2_mcadams", "tiny")]
    assert [row.keys for row in table.rows] == wanted
    assert [head[0] for head in table.columns] == [
        "asv_resemblyzer: EER %", "asv_resemblyzer: EER %", "gvd: De-ID", "gvd: G_VD dB", "pitch: pitch correlation",
    ]  # fmt: skip
    text = (root / "exp/report/RESULTS.md").read_text()
    assert text == markdown.render(results)
    assert "## Languages" in text and "| cmn, unseen |" in text and "Unseen: cmn" in text
    page = (root / "exp/report/report.html").read_text()
    assert 'id="languages"' in page and "cmn, unseen" in page


def test_this_runs_rows_stand_beside_the_papers(results):
    text = markdown.render(results)
    multilingual = text[text.index("### MUSA, multilingual") : text.index("### MUSA, unseen")]
    unseen = text[text.index("### MUSA, unseen") : text.index("### MUSA, ablation")]
    assert "this run: asv" in multilingual and "this run: asv" in unseen
    (mean,) = [
        m for m in languages.measured(results, True)
        if (m["system"], m["name"], m["language"]) == ("orig", "eer", "mean")
    ]  # fmt: skip
    assert tables.show(mean) in multilingual


def test_training_heard_both_languages(root):
    log = (root / "exp/models/tiny/train.log").read_text()
    assert "languages at temperature 2: de " in log and ", es " in log and "cmn" not in log
    texts = (root / "dump/aishell3_test_trials_f/text").read_text(encoding="utf-8")
    assert "这碗汤还需要放一点盐" in texts
