"""The VoicePrivacy layout of anonymized data and results: complete, reproducible, and never original speech."""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import voice
from tiny_sets import GENDERS, make_set

from espnet_musa import config, registry, stamp
from espnet_musa.anonymizers.base import Anonymizer
from espnet_musa.bin import pack as verb
from espnet_musa.config import Recipe
from espnet_musa.data.audio import read_audio, write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators.base import Metric
from espnet_musa.pipeline import importing, vpc_results
from espnet_musa.pipeline.anonymize import Run, shard
from espnet_musa.pipeline.pack import pack

EVALUATORS = {
    "ready": {"evaluator": "asv"},
    "trained": {"evaluator": "asv", "train": "asv_ecapa_mini"},
    "semi": {"evaluator": "asv", "train": "asv_ecapa_mini", "attacker": "semi"},
    "words": {"evaluator": "pitch"},  # what is scored here is written by hand
    "emotions": {"evaluator": "pitch"},
}
RECIPE = Recipe("test", ("orig", "mine"), tuple(EVALUATORS), {}, seed=2)
SETS = {
    "libri_dev_enrolls": {"role": "enroll", "split": "dev"},
    "libri_dev_trials_f": {"role": "trial", "split": "dev", "enroll": "libri_dev_enrolls"},
    "libri_dev_trials_m": {"role": "trial", "split": "dev", "enroll": "libri_dev_enrolls"},
    "IEMOCAP_dev": {"role": "utility", "split": "dev"},
    "train-clean-360": {"role": "attack_train", "split": "train"},
}


class Backwards(Anonymizer):
    """Speech backwards."""

    def convert(self, wav, target, rng):
        """See the base class."""
        return wav[::-1].copy()


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A recipe's directory after stage 5: five sets and the system `mine`."""
    monkeypatch.setitem(registry.ANONYMIZERS, "backwards", f"{__name__}:Backwards")
    write(
        tmp_path / "conf/systems/mine.yaml", {"description": "d", "reference": "r", "anonymizer": "backwards"}
    )
    for name, values in EVALUATORS.items():
        write(tmp_path / f"conf/evaluators/{name}.yaml", {"description": name, **values})
    write(tmp_path / "conf/recipe.yaml", {**config.to_dict(RECIPE), "options": {}})
    for name, meta in SETS.items():
        speakers = [s for s, g in GENDERS.items() if name[-2:] not in ("_f", "_m") or g == name[-1]]
        utts = [f"{s}-{name[:3]}-{i}" for s in speakers for i in range(2)]
        tables = {"text": dict.fromkeys(utts, "A TEXT"), "utt2lang": dict.fromkeys(utts, "en")}
        if name == "libri_dev_enrolls":
            utts = [f"{s}-enr-{i}" for s in speakers for i in range(2)]
            tables = {"enrolls": utts}
        if meta["role"] == "trial":
            tables["trials"] = [(s, u, u[0] == s) for s in speakers for u in utts]
        if name == "IEMOCAP_dev":
            tables |= {"utt2emo": {u: "ang" for u in utts}, "spk2fold": {s: "1" for s in speakers}}
        wavs = {u: voice(sum(u.encode()), 0.5, 100 + 30 * "abcd".index(u[0])) for u in utts}
        make_set(tmp_path / "dump" / name, wavs, GENDERS, meta, **tables)
    run = Run(RECIPE, tmp_path, "mine")
    run.plan(force=False)
    shard([run], (1, 1), "cpu")
    run.finish()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def eers(set_: str, **values: float) -> list[Metric]:
    return [Metric("eer", v, "%", set_, "dev", set_[-1], c) for c, v in values.items()]


def scored(root: Path, system: str, evaluator: str, metrics: list[Metric], files: dict[str, str]) -> Path:
    """What stage 8 would leave."""
    inputs = {}
    for name in SETS:
        if SETS[name]["role"] != "attack_train":
            made = (
                None if system == "orig" else DataDir.read(root / "exp" / system / "data" / name).fingerprint
            )
            inputs[name] = [DataDir.read(root / "dump" / name).fingerprint, made]
    out = root / "exp" / system / "score" / evaluator
    partial = stamp.begin(out, "score", {"inputs": inputs})
    for name, text in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text(text)
    stamp.write_json(partial / "metrics.json", {"metrics": [m.to_dict() for m in metrics]})
    stamp.finish(out, "score", counts={}, seconds=0.0)
    return out


@pytest.fixture
def scores(root: Path) -> Path:
    """Scores of every kind; the EERs of original speech are those of vpc_protocol 3.7."""
    f, m = "libri_dev_trials_f", "libri_dev_trials_m"
    lists = {f"{f}/{c}/scores": f"a a-lib-0 0.5 {c}\n" for c in ("oo", "oa", "aa")}
    scored(root, "mine", "ready", eers(f, oo=1.0), lists)
    trained = eers(f, oo=10.511, oa=50.0, aa=30.0) + eers(m, oo=0.931, oa=49.0, aa=29.0)
    scored(root, "mine", "trained", trained, lists)
    scored(root, "mine", "semi", eers(f, aa=12.91) + eers(m, aa=2.045), {f"{f}/aa/scores": "a a-lib-0 0.7\n"})
    for system, errors in (("mine", 3), ("orig", 1)):
        counts = {"substitutions": errors, "deletions": 1, "insertions": 0}
        words = [
            Metric("wer", 0.0, "%", name, "dev", "all", n=counts | {"words": n})
            for name, n in ((f, 100), (m, 60))
        ]
        scored(root, system, "words", words, {f"{f}/text": "a-lib-0 HEARD\n", f"{f}/wer": "# wer\n"})
        recalls = [
            Metric(f"recall_{e}", v * errors, "%", "IEMOCAP_dev", "dev")
            for e, v in (("ang", 20.25), ("sad", 10.0))
        ]
        scored(
            root,
            system,
            "emotions",
            [Metric("uar", 23.0265 * errors, "%", "IEMOCAP_dev", "dev"), *recalls],
            {},
        )
    return root


def test_data_directories(root):
    out = pack(RECIPE, root, "mine", force=False)
    assert out == root / "exp/mine/pack"
    place = out / "data/libri_dev_trials_f_mine"
    original, made = DataDir.read(root / "dump/libri_dev_trials_f"), root / "exp/mine/data/libri_dev_trials_f"
    assert sorted(p.stem for p in (place / "wav").iterdir()) == original.utts
    for utt in original.utts:
        assert (place / "wav" / f"{utt}.wav").read_bytes() == (made / "wav" / f"{utt}.wav").read_bytes()
    lines = (place / "wav.scp").read_text().splitlines()
    assert lines[0] == "a-lib-0 data/libri_dev_trials_f_mine/wav/a-lib-0.wav"
    assert (place / "spk2utt").read_text().splitlines()[0] == "a a-lib-0 a-lib-1"
    assert (place / "trials").read_text() == (original.path / "trials").read_text()
    assert {p.name for p in place.iterdir()} == {
        "wav", "wav.scp", "utt2spk", "spk2utt", "spk2gender", "utt2dur", "text", "trials"
    }  # fmt: skip
    assert (out / "data/libri_dev_enrolls_mine/enrolls").is_file()
    assert {"utt2emo", "spk2fold"} <= {p.name for p in (out / "data/IEMOCAP_dev_mine").iterdir()}
    # nothing that tells how it was anonymized, nor where
    assert not [p for p in out.rglob("*") if p.name in ("utt2target", "meta.yaml", "system.yaml")]
    assert not [
        p
        for p in (out / "data").rglob("*")
        if p.suffix != ".wav" and p.is_file() and str(root) in p.read_text()
    ]


def test_the_training_set_is_packed_where_it_is_anonymized(root):
    out = pack(replace(RECIPE, evaluators=("ready",)), root, "mine", force=False)
    assert (out / "data/train-clean-360_mine/wav").is_dir()
    shutil.rmtree(root / "exp/mine/data/train-clean-360")
    out = pack(replace(RECIPE, evaluators=("ready",)), root, "mine", force=True)
    assert not (out / "data/train-clean-360_mine").exists() and (out / "data/IEMOCAP_dev_mine").is_dir()
    with pytest.raises(UserError, match=r"train-clean-360: not there.*run stage 'anonymize'"):
        pack(RECIPE, root, "mine", force=True)  # an attacker of this recipe is semi-informed


def test_results_in_the_challenges_form(scores):
    exp = pack(RECIPE, scores, "mine", suffix="_x", force=False) / "exp"
    assert (exp / "results_summary/result_for_rank_x").read_text() == RANK
    assert (exp / "results_summary/eval_anon_x/results_anon.txt").read_text() in RANK
    settings = yaml.safe_load((exp / "results_summary/eval_orig_x/config.yaml").read_text())
    assert settings["asv_orig"]["name"] == "trained" and settings["asv_anon"]["name"] == "semi"
    assert settings["anon_data_suffix"] == "_x" and settings["seed"] == 2
    csv = (exp / "asv_orig/results_x.csv").read_text().splitlines()
    assert (
        csv[:2] == [",dataset,split,gender,enrollment,trial,EER", "0,libri,dev,f,anon,anon,30.0"]
        and len(csv) == 7
    )
    assert (exp / "asr/results_x.csv").read_text().splitlines()[1:] == [
        "0,libri,dev,anon,5.0",
        "1,libri,dev,original,2.5",
    ]
    assert (exp / "ser/results_x.csv").read_text().splitlines()[:2] == [
        ",dataset,split,ser,UAR,ACC_ang,ACC_sad", ",,,,mean,mean,mean"
    ]  # fmt: skip
    pair = exp / "asv_orig/libri_dev_enrolls-libri_dev_trials_f_x"
    assert (pair / "scores").read_text() == "a a-lib-0 0.5 oa\n" and float((pair / "EER").read_text()) == 0.5
    assert (exp / "asv_anon_x/libri_dev_enrolls_x-libri_dev_trials_f_x/scores").is_file()
    assert (exp / "asr/libri_dev_trials_f_x/text").read_text() == "a-lib-0 HEARD\n"


# As pandas prints these tables (`DataFrame.to_string`), but for spaces at the ends of lines.
RANK = """
---- SER results ----
   dataset split       ser      UAR ACC_ang ACC_sad
                               mean    mean    mean
0  IEMOCAP   dev      anon  69.0795   60.75    30.0
1  IEMOCAP   dev  original  23.0265   20.25    10.0

---- ASV_eval results ----
  dataset split gender enrollment     trial     EER
0   libri   dev      f   original  original  10.511
1   libri   dev      m   original  original   0.931

---- ASR results ----
  dataset split       asr  WER
0   libri   dev      anon  5.0
1   libri   dev  original  2.5


---- ASV_eval^anon results ----
  dataset split gender enrollment trial     EER
0   libri   dev      f       anon  anon  12.910
1   libri   dev      m       anon  anon   2.045
"""


def test_zip_holds_results_without_models_unless_asked(scores):
    attacker = scores / "exp/mine/attacker/semi"
    attacker.mkdir(parents=True)
    (attacker / "model.ckpt").write_bytes(b"weights")
    out = pack(RECIPE, scores, "mine", suffix="_x", force=False)
    first = (out / "result_for_submission_x.zip").read_bytes()
    names = zipfile.ZipFile(out / "result_for_submission_x.zip").namelist()
    assert "exp/results_summary/result_for_rank_x" in names and "exp/asr/results_x.csv" in names
    assert not [n for n in names if "ckpt" in n or n.endswith(".wav")]
    shutil.rmtree(out)
    os.utime(scores / "exp/mine/score/words/metrics.json")
    out = pack(RECIPE, scores, "mine", suffix="_x", force=False)
    assert (out / "result_for_submission_x.zip").read_bytes() == first  # the same bytes
    out = pack(RECIPE, scores, "mine", suffix="_x", models=True, force=True)
    with zipfile.ZipFile(out / "result_for_submission_x.zip") as archive:
        assert archive.read("exp/asv_anon_x/model/model.ckpt") == b"weights"


def test_partial_results(scores):
    for name in ("semi", "emotions"):
        shutil.rmtree(scores / "exp/mine/score" / name)
    for name in ("words", "emotions"):
        shutil.rmtree(scores / "exp/orig/score" / name)
    exp = pack(RECIPE, scores, "mine", force=False) / "exp"
    text = (exp / "results_summary/result_for_rank_mine").read_text()
    assert "ASV_eval results" in text and "ASV_eval^anon" not in text and "SER" not in text
    assert "original" not in text.partition("ASR results")[2] and not (exp / "ser").exists()


def test_unscored_data_are_packed_without_results(root):
    out = pack(RECIPE, root, "mine", force=False)
    assert list((out / "exp").iterdir()) == [] and len(list((out / "data").iterdir())) == 5


def test_mixed_trials_have_one_row():
    def metric(group: str, **n: int) -> Metric:
        return Metric("eer", 7.0, "%", "libri_dev_trials_mixed", "dev", group, "aa", n)

    def rows(*metrics: Metric) -> list:
        one = vpc_results.Scored("a", config.EvaluatorConfig("asv", "d"), list(metrics), Path(), "")
        return vpc_results.asv_rows(one, "aa")

    assert rows(metric("f"), metric("m"), metric("all", cross_gender=4)) == [
        ["libri", "dev", "mixed", "anon", "anon", 7.0]
    ]
    assert [
        row[2] for row in rows(metric("f"), metric("m"), metric("all", cross_gender=0), metric("avg"))
    ] == ["f", "m"]
    assert [row[2] for row in rows(metric("all"))] == ["mixed"]


def test_second_pack_does_nothing_and_new_scores_are_noticed(scores):
    out = pack(RECIPE, scores, "mine", force=False)
    before = stamp.read(out)
    pack(RECIPE, scores, "mine", force=False)
    assert stamp.read(out) == before
    shutil.rmtree(scores / "exp/mine/score/semi")
    with pytest.raises(UserError, match=r"changed: scores .*--force true"):
        pack(RECIPE, scores, "mine", force=False)
    pack(RECIPE, scores, "mine", force=True)
    assert not (out / "exp/asv_anon_mine").exists()


def test_killed_pack_goes_on(root):
    partial = stamp.partial_of(root / "exp/mine/pack")
    out = pack(RECIPE, root, "mine", force=False)
    fields = stamp.read(out)["fields"]
    shutil.rmtree(out)
    stamp.begin(out, "pack", fields)
    half = partial / "data/IEMOCAP_dev_mine/wav"
    half.mkdir(parents=True)
    (half / "a-IEM-0.wav").write_bytes(b"half a file")
    (partial / "exp").mkdir()
    (partial / "exp/left").touch()
    out = pack(RECIPE, root, "mine", force=False)
    assert read_audio(out / "data/IEMOCAP_dev_mine/wav/a-IEM-0.wav")[0].size == 8000
    assert not (out / "exp/left").exists()


# --- refused ---


def fails(root: Path, message: str, system: str = "mine", **options) -> None:
    """The error, after checking that nothing was published."""
    with pytest.raises(UserError, match=message):
        pack(RECIPE, root, system, **{"force": False, **options})
    assert not list(root.glob("exp/*/pack")) and not list(root.glob("exp/*/pack.partial/**/*.wav"))


def test_original_speech_is_never_packed(root, monkeypatch, capsys):
    fails(root, "system 'orig' is the original speech and is never packed", "orig")
    with pytest.raises(UserError, match="never packed"):
        verb.main(["--config", "conf/recipe.yaml", "--system", "orig"])
    with pytest.raises(UserError, match="nothing to pack"):
        verb.main(["--config", "conf/recipe.yaml", "--set", "systems=[orig]"])
    verb.main(["--config", "conf/recipe.yaml"])  # all systems but that one
    assert capsys.readouterr().out == "mine: exp/mine/pack\n" and not (root / "exp/orig").exists()


@pytest.mark.parametrize("gain", [1.0, -0.3])
def test_original_speech_in_place_of_an_anonymized_file_is_refused(root, gain):
    made = root / "exp/mine/data/IEMOCAP_dev/wav/a-IEM-0.wav"
    write_wav(
        made, (gain * read_audio(root / "dump/IEMOCAP_dev/wav/a-IEM-0.wav")[0]).astype(np.float32), 16000
    )
    fails(root, "utt 'a-IEM-0': a copy of the input")


def test_data_must_fulfil_their_contract(root):
    made = root / "exp/mine/data/IEMOCAP_dev"
    (made / "wav/a-IEM-0.wav").rename(made / "gone.wav")
    (made / "gone.wav").unlink()
    fails(root, "utt 'a-IEM-0': missing or damaged")
    shutil.rmtree(made)
    fails(root, "IEMOCAP_dev: not there, or not finished")


def test_data_of_another_configuration_or_seed_are_refused(root):
    with pytest.raises(UserError, match="not this recipe's: differs in seed"):
        pack(replace(RECIPE, seed=9), root, "mine", force=False)
    write(
        root / "conf/systems/mine.yaml", {"description": "other", "reference": "r", "anonymizer": "backwards"}
    )
    fails(root, "not this recipe's: differs in system")


def test_scores_of_other_data_are_refused(scores):
    score = scores / "exp/mine/score/words/.done.json"
    score.write_text(score.read_text().replace("IEMOCAP_dev", "IEMOCAP_test"))
    fails(scores, r"was scored on other versions of the sets.*--systems mine --force true")


@pytest.mark.parametrize("suffix", ["x", "_", "", "_a/b", "_a b"])
def test_bad_suffixes(root, suffix):
    fails(root, "expected an underscore", suffix=suffix)


def test_one_suffix_for_one_system(root):
    with pytest.raises(UserError, match="one suffix for 2 systems"):
        verb.main(["--config", "conf/recipe.yaml", "--set", "systems=[orig, mine, dsp_f0]", "--suffix", "_x"])


def test_what_is_packed_can_be_imported(root):
    out = pack(RECIPE, root, "mine", suffix="_mine", force=False)
    importing.import_submission(RECIPE, root, "again", out, importing.Options())
    for name in SETS:
        made, again = (DataDir.read(root / "exp" / s / "data" / name, "anon") for s in ("mine", "again"))
        assert made.utts == again.utts
        assert all((made.load(utt) == again.load(utt)).all() for utt in made.utts)
