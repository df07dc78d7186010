"""What MUSA is trained on: crops and their tokens, ESPnet's data files, and what is refused before any training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, voice
from tiny_musa import N_TOKENS, SETTINGS, SYSTEM, make_recipe, make_tokens, make_train_set, pretended, write
from tiny_sets import make_set

from espnet_musa.bin.train import main
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.pipeline.train import SETTINGS as KNOWN
from espnet_musa.pipeline.train import check, train
from espnet_musa.pipeline.train_data import Utterance, gather, split
from espnet_musa.tasks.preprocessor import MusaPreprocessor

RECIPE = Recipe(name="t", systems=("orig", "tiny"), evaluators=(), corpora={})


def run(root: Path) -> None:
    train(RECIPE, root, device="cpu", force=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_recipe(tmp_path)


def utterance(seconds: float) -> dict[str, np.ndarray]:
    """Audio whose samples count up, and tokens that say which frame they belong to; one frame fewer, as a teacher."""
    samples = round(16000 * seconds)
    frames = -(-samples // 320)
    return {
        "audio": np.arange(samples, dtype=np.float32),
        "sids": np.array([3]),
        "semantic": np.arange(frames - 1, dtype=np.int32),
    }


@pytest.mark.parametrize("train_", [True, False])
@pytest.mark.parametrize("seconds", [0.41, 1.0, 1.013, 3.7])
def test_tokens_belong_to_the_crop(train_, seconds):
    preprocess = MusaPreprocessor(train_, 16000)
    whole = utterance(seconds)
    frames = len(whole["semantic"]) + 1
    starts = set()
    for i in range(60):
        out = preprocess(f"utt{i}", dict(whole))
        length = min(16000, len(whole["audio"]))
        assert len(out["audio"]) == len(out["audio2"]) == length
        first = int(out["audio"][0])
        assert first % 320 == int(out["audio2"][0]) % 320 == 0
        expected = first // 320 + np.arange(-(-length // 320))
        assert np.array_equal(out["semantic"], np.where(expected < frames - 1, expected, -1))
        starts.add(first)
    possible = max(0, len(whole["audio"]) - 16000) // 320 + 1
    assert min(starts) >= 0
    assert len(starts) > min(10, possible) / 2
    if possible < 5:
        assert starts == {320 * i for i in range(possible)}  # the last one, too


def test_crops_are_drawn_anew_in_training_and_never_in_validation():
    whole = utterance(3.0)
    for train_, different in ((True, 10), (False, 1)):
        preprocess = MusaPreprocessor(train_, 16000)
        assert len({preprocess("utt", dict(whole))["audio"][0] for _ in range(10)}) >= different / 2
        drawn = []
        for _ in range(2):
            np.random.seed(0)  # as ESPnet does in every epoch and every worker
            drawn.append([float(preprocess("utt", dict(whole))["audio2"][0]) for _ in range(5)])
        assert drawn[0] == drawn[1]
    one, two = (preprocess(utt, dict(whole))["audio"][0] for utt in ("utt1", "utt2"))
    assert one != two


def test_crops_must_hold_whole_frames():
    with pytest.raises(UserError, match="segment_length 16100; expected a multiple of 320"):
        MusaPreprocessor(True, 16100)


def test_a_speaker_unseen_in_training():
    preprocess = MusaPreprocessor(True, 3200, n_speakers=3)
    assert preprocess("utt", utterance(1.0) | {"sids": np.array([2])})["sids"] == 2
    with pytest.raises(UserError, match="utt 'utt': speaker 3 was not there in training; expected 0 to 2"):
        preprocess("utt", utterance(1.0))


def utterances(counts: dict[str, int]) -> dict[str, Utterance]:
    return {f"{s}-{i:04}": Utterance(Path("x"), s, 1, None) for s, n in counts.items() for i in range(n)}


@pytest.mark.parametrize(
    "counts", [{"a": 2}, {"a": 1, "b": 9}, {"a": 40, "b": 3, "c": 1}, {"a": 20000, "b": 2}]
)
def test_validation_knows_its_speakers(counts):
    every = utterances(counts)
    training, held_out = split(every, 0)
    assert sorted([*training, *held_out]) == sorted(every)
    assert {every[utt].speaker for utt in training} == set(counts)
    assert 1 <= len(held_out) <= 256
    assert (training, held_out) == split(dict(reversed(every.items())), 0)
    assert len(every) < 40 or (training, held_out) != split(every, 1)


def test_speakers_of_one_utterance_are_held_out_if_there_are_no_others():
    every = utterances(dict.fromkeys("abcdefgh", 1))
    training, held_out = split(every, 0)
    assert sorted([*training, *held_out]) == sorted(every) and 1 <= len(held_out) < len(training)
    with pytest.raises(UserError, match="2 utterances of 2 speakers; expected some to validate on"):
        split(utterances({"a": 1, "b": 1}), 0)


def test_all_sets_with_role_train_are_gathered(root):
    sets = [DataDir.read(root / "dump" / name) for name in ("one", "two")]
    places = {name: root / "exp/tokens/tiny" / name for name in ("one", "two")}
    every = gather(sets, places, N_TOKENS)
    assert len(every) == 20
    assert {own.speaker for own in every.values()} == set("abcd")  # c occurs in both and is one speaker
    assert every["a-one-0"].samples == 8000
    assert Path(every["a-one-0"].tokens.rpartition(":")[0]).is_file()


def test_unknown_settings_are_refused_without_torch(root):
    code = (
        "import sys; from pathlib import Path; from espnet_musa.pipeline.train import check;"
        f"check('tiny', Path({str(root)!r})); sys.exit(any(m in sys.modules for m in ('torch', 'espnet2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_settings_are_options_of_espnet():
    """And the stage's own ones (data, output, seed) cannot be set."""
    from espnet_musa.tasks.musa import MusaTask

    known = {action.dest for action in MusaTask.get_parser()._actions}
    assert set(KNOWN) <= known
    assert not {"output_dir", "seed", "resume", "iterator_type", "train_shape_file"} & set(KNOWN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 3}, r"tiny.yaml:\d+: unknown key 'max_epochs'; did you mean 'max_epoch'\?"),
        ({"output_dir": "x"}, "unknown key 'output_dir'"),
        ({"codec_conf": {"generator_conf": {}, "lambda_speaker": 1.0}}, r"tiny.yaml:\d+: unknown key 'lambda_speaker'"),
        ({"codec_conf": {"generator_conf": {}, "lambda_com": "1e-1"}}, r"tiny.yaml:\d+: 'lambda_com' is '1e-1'; exp"),
        ({"codec_conf": {"generator_conf": {}, "n_speakers": 3}}, "stage 4 counts 'n_speakers' itself"),
        ({"codec_conf": {}}, "tiny.yaml: missing key 'generator_conf'"),
    ],
)  # fmt: skip
def test_wrong_settings(root, change, message):
    write(root / "conf/train/tiny.yaml", SETTINGS | change)
    with pytest.raises(UserError, match=message):
        check("tiny", root)


def test_unknown_training(root):
    with pytest.raises(UserError, match=r"no train named 'tinny'; did you mean 'tiny'\?"):
        check("tinny", root)


def test_a_system_without_training_is_none_of_this_stage(root):
    train(Recipe(name="t", systems=("orig",), evaluators=(), corpora={}), root, device="cpu", force=False)
    assert not (root / "exp/models").exists()


def test_no_set_to_train_on(root):
    shutil.rmtree(root / "dump")
    with pytest.raises(UserError, match="no set has the role train; hint: run stage 'format' first"):
        run(root)


def test_tokens_must_be_there(root):
    shutil.rmtree(root / "exp/tokens/tiny/two")
    with pytest.raises(
        UserError, match="tiny/two: not there, or not finished; hint: run stage 'tokenize' first"
    ):
        run(root)


def test_tokens_of_every_utterance(root):
    tokens = pretended(make_train_set(root, "two", "cd"))
    del tokens["d-two-1"]
    make_tokens(root, "two", tokens)
    with pytest.raises(UserError, match=r"tiny/two: utt 'd-two-1': no tokens; hint: run stage 'tokenize'"):
        run(root)


@pytest.mark.parametrize("frames", [-2, -1, 0, 1, 2])
def test_teacher_and_codec_may_differ_by_a_frame(root, frames):
    tokens = pretended(make_train_set(root, "two", "cd"))
    codec_frames = len(tokens["c-two-0"]) + 1
    tokens["c-two-0"] = np.zeros(codec_frames + frames, int)
    make_tokens(root, "two", tokens)
    sets = [DataDir.read(root / "dump/two")]
    places = {"two": root / "exp/tokens/tiny/two"}
    if abs(frames) <= 1:
        gather(sets, places, N_TOKENS)
        return
    with pytest.raises(
        UserError, match=rf"utt 'c-two-0': {codec_frames + frames} tokens for {codec_frames} frames"
    ):
        gather(sets, places, N_TOKENS)


def test_the_teachers_frames_of_any_length_will_do(tmp_path):
    """Windows of 400 samples every 320: up to two frames fewer than the codec's, its partial last one included."""
    wavs = {f"{'ab'[i % 2]}-{i}": voice(0, (16000 + i) / 16000) for i in (0, 1, 79, 80, 81, 319)}
    make_set(tmp_path / "dump/one", wavs, dict.fromkeys("ab", "f"), {"role": "train"})
    make_tokens(tmp_path, "one", {utt: np.zeros((len(wav) - 400) // 320 + 1) for utt, wav in wavs.items()})
    gather([DataDir.read(tmp_path / "dump/one")], {"one": tmp_path / "exp/tokens/tiny/one"}, N_TOKENS)


@pytest.mark.parametrize("token", [N_TOKENS, -1])
def test_tokens_of_another_tokenizer(root, token):
    tokens = pretended(make_train_set(root, "two", "cd"))
    tokens["c-two-1"][3] = token
    make_tokens(root, "two", tokens)
    with pytest.raises(
        UserError, match=rf"utt 'c-two-1': tokens from .*{token}.*; expected 0 to 10; hint: they"
    ):
        run(root)


def test_an_utterance_in_two_sets(root):
    shutil.copytree(root / "dump/one", root / "dump/three")
    for file in ("wav.scp",):
        path = root / "dump/three" / file
        path.write_text(path.read_text().replace("/dump/one/", "/dump/three/"))
    make_tokens(root, "three", {})
    with pytest.raises(UserError, match=r"utt 'a-one-0': also in .*dump/one"):
        run(root)


def test_one_speaker_is_too_few(tmp_path):
    make_tokens(tmp_path, "one", pretended(make_train_set(tmp_path, "one", "a")))
    with pytest.raises(UserError, match=r"1 speaker\(s\); expected two or more to train"):
        gather([DataDir.read(tmp_path / "dump/one")], {}, N_TOKENS)


def test_a_semantic_loss_needs_tokens(root):
    write(root / "conf/systems/tiny.yaml", {k: v for k, v in SYSTEM.items() if k != "tokens"})
    with pytest.raises(
        UserError, match="system 'tiny' names no tokens, but lambda_sem is 1; expected `tokens`"
    ):
        run(root)


def test_one_model_cannot_learn_from_two_teachers(root):
    write(root / "conf/systems/other.yaml", SYSTEM | {"tokens": "others"})
    recipe = Recipe(name="t", systems=("tiny", "other"), evaluators=(), corpora={})
    with pytest.raises(UserError, match="two systems train 'tiny' with different tokens: tiny, others"):
        train(recipe, root, device="cpu", force=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment_length": 16100}, "tiny.yaml: segment_length 16100; expected a multiple of 320"),
        ({"optim_conf": {"lr": "1e-4"}}, "tiny.yaml: TypeError: "),
        ({"optim_conf": {"lrr": 1.0}}, "tiny.yaml: TypeError: .*'lrr'"),
        ({"scheduler_conf": {"gama": 1.0}}, "tiny.yaml: TypeError: .*'gama'"),
        ({"scheduler": "exponential"}, "tiny.yaml: KeyError: 'exponential'"),
        ({"codec_conf": {"generator_conf": {"backbone": "wavenet"}}}, "tiny.yaml: unknown backbone"),
        (
            {"codec_conf": {"generator_conf": {"encoder_conf": {"chanels": 3}}}},
            "tiny.yaml: encoder_conf: .*'chanels'",
        ),
        (
            {"codec_conf": {"generator_conf": {}, "discriminator_conf": {"scale": 1}}},
            "tiny.yaml: TypeError: .*'scale'",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model(root, change, message):
    write(root / "conf/train/tiny.yaml", SETTINGS | change)
    with pytest.raises(UserError, match=message):
        run(root)


def test_a_device_that_is_not_there(root):
    import torch

    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(UserError, match="no device 'cuda'; expected cpu"):
        train(RECIPE, root, device="cuda", force=False)


def test_the_verb_reads_the_recipe(root, monkeypatch):
    """The last error before the training shows that the verb came so far."""
    write(
        root / "conf/recipe.yaml", {"name": "t", "systems": ["orig", "tiny"], "evaluators": [], "corpora": {}}
    )
    shutil.rmtree(root / "dump")
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="no set has the role train"):
        main(["--config", "conf/recipe.yaml"])
