"""A submission made by hand from plain WAV files becomes anonymized data directories and is scored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from conftest import voice
from tiny_sets import GENDERS, make_set

from espnet_musa import config, stamp
from espnet_musa.bin import anonymize, import_submission, plan
from espnet_musa.config import Recipe, System
from espnet_musa.data.audio import read_audio
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline import importing
from espnet_musa.pipeline.importing import Options
from espnet_musa.pipeline.score import score
from espnet_musa.report.results import collect

RECIPE = Recipe("test", ("orig", "theirs"), ("asv_resemblyzer",), {}, seed=5)
SETS = {"libri_test_enrolls": 2, "libri_test_trials_f": 3}


def speech(utt: str, seconds: float = 1.2) -> np.ndarray:
    """A voice that depends on the speaker, and noise that depends on the utterance."""
    return voice(sum(utt.encode()), seconds, 100 + 30 * "abcd".index(utt[0]))


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A recipe's directory after stage 2, with two sets."""
    root = tmp_path / "recipe"
    utts = {name: [f"{spk}-{name[-1]}{i}" for spk in GENDERS for i in range(n)] for name, n in SETS.items()}
    metas = [
        {"role": "enroll", "split": "test"},
        {"role": "trial", "split": "test", "enroll": "libri_test_enrolls"},
    ]
    trials = [
        (s, u, u[0] == s) for s in GENDERS for u in utts["libri_test_trials_f"] if GENDERS[s] == GENDERS[u[0]]
    ]
    tables = [{}, {"trials": trials, "text": dict.fromkeys(utts["libri_test_trials_f"], "A TEXT")}]
    for name, meta, more in zip(SETS, metas, tables, strict=True):
        make_set(root / "dump" / name, {utt: speech(utt) for utt in utts[name]}, GENDERS, meta, **more)
    (root / "conf").mkdir()
    (root / "conf/recipe.yaml").write_text(yaml.safe_dump({**config.to_dict(RECIPE), "options": {}}))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def source(root: Path) -> Path:
    """The submission: every recording backwards, in the challenge's layout, without Kaldi files."""
    place = root.parent / "submission"
    for name in SETS:
        (place / f"{name}_x" / "wav").mkdir(parents=True)
        for file in (root / "dump" / name / "wav").iterdir():
            write(place / f"{name}_x" / "wav" / file.name, read_audio(file)[0][::-1])
    return place


def write(file: Path, wav: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> None:
    sf.write(file, wav, rate, subtype=subtype)


def bring(root: Path, source: Path, **options) -> list[str]:
    return importing.import_submission(RECIPE, root, "theirs", source, Options(**options))


def fails(root: Path, source: Path, message: str, **options) -> str:
    """The error, after checking that nothing was published."""
    with pytest.raises(UserError, match=message) as caught:
        bring(root, source, **options)
    assert not [p for p in (root / "exp").glob("theirs/data/*") if not p.name.endswith(".partial")]
    return str(caught.value)


def test_submission_becomes_anonymized_sets(root, source):
    assert bring(root, source) == sorted(SETS)
    data = DataDir.read(root / "exp/theirs/data/libri_test_trials_f", "anon")
    original = DataDir.read(root / "dump/libri_test_trials_f")
    assert data.utts == original.utts and data.meta == original.meta
    assert data.table("text") == original.table("text") and data.table("utt2spk") == original.table("utt2spk")
    assert (data.path / "trials").read_text() == (original.path / "trials").read_text()
    fields = stamp.read(data.path)["fields"]
    system = config.load_system(RECIPE, "theirs", root)
    assert (
        fields["system"] == config.digest(config.to_dict(system)) and fields["input"] == original.fingerprint
    )
    assert fields["seed"] == 5
    theirs = sf.read(source / "libri_test_trials_f_x/wav/a-f0.wav", dtype="int16")[0]
    assert (sf.read(data.audio_path("a-f0"), dtype="int16")[0] == theirs).all()  # sample by sample


def test_scored_and_reported_without_its_system(root, source, capsys):
    import_submission.main(["--config", "conf/recipe.yaml", "--system", "theirs", str(source)])
    assert "imported libri_test_enrolls, libri_test_trials_f" in capsys.readouterr().out
    recipe = config.load_recipe(Path("conf/recipe.yaml"))
    plan.check(recipe, root)
    anonymize.main(["--config", "conf/recipe.yaml", "--system", "theirs"])
    assert "theirs: imported; nothing to anonymize" in capsys.readouterr().out
    for system in recipe.systems:
        score(recipe, root, system, jobs=1, device="cpu", force=False)
    results = collect(recipe, root)
    found = {(m["system"], m["condition"], m["group"]) for m in results["metrics"] if m["name"] == "eer"}
    assert {("orig", "oo", "avg"), ("theirs", "oa", "f"), ("theirs", "aa", "m")} <= found
    lines = (root / "exp/theirs/score/asv_resemblyzer/libri_test_trials_f/aa/scores").read_text().splitlines()
    assert len(lines) == 2 * (2 * 6)


def test_second_import_does_nothing_and_another_one_is_refused(root, source):
    bring(root, source)
    wav = root / "exp/theirs/data/libri_test_enrolls/wav/a-s0.wav"
    before = wav.stat().st_mtime_ns
    bring(root, source)
    assert wav.stat().st_mtime_ns == before
    write(source / "libri_test_enrolls_x/wav/a-s0.wav", -0.5 * speech("b-s1")[::-1])
    with pytest.raises(UserError, match=r"changed: files .*--force true"):
        bring(root, source)
    bring(root, source, force=True)
    assert wav.stat().st_mtime_ns != before


@pytest.mark.parametrize(("inside", "suffix"), [("data", "_x"), (".", ""), (".", "_y.2")])
def test_layouts_and_suffixes(root, source, inside, suffix):
    for name in SETS:
        place = source / inside / f"{name}{suffix}"
        place.parent.mkdir(exist_ok=True)
        if place != source / f"{name}_x":
            (source / f"{name}_x").rename(place)
        for number, file in enumerate(sorted((place / "wav").iterdir())):  # at any depth
            deep = place / "wav" / f"{number % 2}" / "a"
            deep.mkdir(parents=True, exist_ok=True)
            file.rename(deep / file.name)
    (source / inside / f"libri_test_asr{suffix}").mkdir()  # not a set of ours
    assert bring(root, source) == sorted(SETS)


def test_suffix_must_be_clear(root, source):
    for name in SETS:
        (source / f"{name}_y").mkdir()
    fails(root, source, "several suffixes: '_x', '_y'; hint: --suffix")
    assert bring(root, source, suffix="_x") == sorted(SETS)


def test_one_error_lists_all_that_is_wrong(root, source):
    wavs = source / "libri_test_enrolls_x/wav"
    (wavs / "a-s0.wav").rename(wavs / "a-s9.wav")
    (wavs / "deep").mkdir()
    shutil.copy(wavs / "b-s0.wav", wavs / "deep")
    write(wavs / "c-s0.wav", speech("c-s0")[::-2], 8000)
    write(source / "libri_test_trials_f_x/wav/c-f0.wav", np.stack([speech("c-f0")] * 2, 1))
    (source / "libri_test_trials_f_x/wav/d-f0.wav").write_bytes(b"RIFF")
    message = fails(root, source, "6 problems in all")
    for part in (
        "a-s9.wav: utt 'a-s9': no utterance of", "deep/b-s0.wav: utt 'b-s0': also as", "utt 'a-s0': missing",
        "c-s0.wav: utt 'c-s0': 8000 Hz, 1 channels, PCM_16, WAV; expected 16000 Hz", "--convert true",
        "c-f0.wav: utt 'c-f0': 16000 Hz, 2 channels",
    ):  # fmt: skip
        assert part in message


def test_other_formats_are_converted_when_asked(root, source):
    wavs = source / "libri_test_enrolls_x/wav"
    (wavs / "a-s0.wav").unlink()
    sf.write(wavs / "a-s0.flac", np.repeat(speech("a-s0")[::-1], 3), 48000)
    write(wavs / "b-s0.wav", speech("b-s0")[::-1], subtype="FLOAT")
    fails(root, source, r"a-s0.flac: utt 'a-s0': 48000 Hz, 1 channels, PCM_16, FLAC")
    bring(root, source, convert=True)
    data = DataDir.read(root / "exp/theirs/data/libri_test_enrolls", "anon")
    assert abs(data.table("utt2dur")["a-s0"] - 1.2) < 1e-3
    write(wavs / "b-s0.wav", np.stack([speech("b-s0")[::-1]] * 2, 1))
    with pytest.raises(UserError, match=r"b-s0.wav: has 2 channels.*format.channels=first"):
        bring(root, source, convert=True, force=True)
    recipe = replace(RECIPE, format=replace(RECIPE.format, channels="mean"))
    importing.import_submission(recipe, root, "theirs", source, Options(convert=True, force=True))


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (lambda x: x, r"a-s0.wav: a copy of the input \(up to its level\)"),
        (lambda x: -0.5 * x, "a copy of the input"),
        (lambda x: 0 * x, "silent"),
        (lambda x: x[: len(x) // 2][::-1], "9600 samples made from 19200; expected within 960"),
        (lambda x: x[:0], "holds no samples"),
    ],
)
def test_audio_is_checked_as_after_an_anonymizer_of_ours(root, source, wav, message):
    write(source / "libri_test_enrolls_x/wav/a-s0.wav", wav(speech("a-s0")))
    fails(root, source, "utt 'a-s0': .*" + message)
    assert not list(root.glob("exp/theirs/data/*/wav/a-s0.wav"))


def test_other_durations_may_be_allowed(root, source):
    write(source / "libri_test_enrolls_x/wav/a-s0.wav", speech("a-s0", 1.5)[::-1])
    fails(root, source, "24000 samples made from 19200")
    assert bring(root, source, length=0.3) == sorted(SETS)


def test_clipped_speech_is_theirs_to_submit(root, source):
    write(source / "libri_test_enrolls_x/wav/a-s0.wav", np.clip(50 * speech("a-s0")[::-1], -1, 1))
    bring(root, source)
    assert np.abs(read_audio(root / "exp/theirs/data/libri_test_enrolls/wav/a-s0.wav")[0]).max() == 1


def test_other_speakers_are_noticed(root, source):
    utts = DataDir.read(root / "dump/libri_test_enrolls").utts
    (source / "libri_test_enrolls_x/utt2spk").write_text("".join(f"{u} {u[0]}\n" for u in utts))
    bring(root, source)
    shutil.rmtree(root / "exp")
    (source / "libri_test_enrolls_x/utt2spk").write_text("".join(f"{u} {u[:4]}\n" for u in utts))
    fails(root, source, "utt2spk: utt 'a-s0': speaker 'a-s0', originally 'a'")


def test_missing_folders(root, source):
    fails(root, source / "nowhere", "nowhere: no such folder")
    assert not (root / "conf/systems").exists()
    shutil.rmtree(source / "libri_test_enrolls_x")
    fails(root, source, "no folder 'libri_test_enrolls_x'; hint: --sets")
    assert bring(root, source, sets="libri_test_trials_f") == ["libri_test_trials_f"]
    with pytest.raises(
        UserError, match=r"libri_test_enrolls: not imported; hint: python -m .*--system theirs DIR"
    ):
        score(RECIPE, root, "theirs", jobs=1, device="cpu", force=False)


def test_import_of_another_seed_is_noticed(root, source):
    bring(root, source)
    with pytest.raises(UserError, match=r"imported for another seed.*--force true"):
        importing.require(replace(RECIPE, seed=6), root, "theirs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orig", "makes its own speech"),
        ("b2_mcadams", "choose another name"),
        ("../x", "cannot name a system"),
    ],
)
def test_names_of_systems(root, source, name, message):
    with pytest.raises(UserError, match=message):
        importing.import_submission(RECIPE, root, name, source, Options())
    assert not (root / "exp").exists()


def test_an_imported_system_has_no_parameters():
    with pytest.raises(UserError, match="neither params nor a target"):
        System("d", "r", "imported", {"lpc_order": 3})
    with pytest.raises(UserError, match="it cannot anonymize any"):
        from espnet_musa.pipeline.anonymize import build

        build(System("d", "r", "imported"))
