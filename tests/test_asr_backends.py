"""Recognizers: real loading code on tiny checkpoints, a batch that changes nothing, and one error for each defect."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import asr_models
import numpy as np
import pytest
import soundfile as sf
import torch
from tiny_sets import GENDERS, make_set, tone

from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.evaluators import asr_backends
from espnet_musa.evaluators.asr_backends import collapse, length_batches
from espnet_musa.evaluators.asr_backends.recipe import AsrTrainConfig, RecipeCtc
from espnet_musa.evaluators.asr_backends.recipe_train import train
from espnet_musa.evaluators.asr_backends.sphinx import Pocketsphinx
from espnet_musa.evaluators.asr_backends.wav2vec2_ctc import Wav2vec2Ctc
from espnet_musa.evaluators.asr_backends.whisper import Whisper
from espnet_musa.tokenizer.phones import Phones

TINY = AsrTrainConfig(
    mel_bands=20,
    encoder_conf={"num_layers": 1, "hidden_size": 16, "output_size": 16, "subsample": [1]},
    specaug_conf={"apply_time_warp": False, "freq_mask_width_range": [0, 4], "time_mask_width_range": [0, 3]},
    batch_size=4, epochs=3,
)  # fmt: skip
WORDS = ("red", "green", "blue")


def wavs() -> list[np.ndarray]:
    """Utterances of several lengths, one too short for a frame."""
    return [tone(0.9, 120.0, 0), tone(0.5, 220.0, 1), tone(1.3, 90.0, 2), np.zeros(100, np.float32)]


def alone(recognizer, found: list[np.ndarray], languages: list[str]) -> list[str]:
    return [recognizer.transcribe([w], [code])[0] for w, code in zip(found, languages, strict=True)]


def test_collapse_by_hand():
    assert collapse([0, 3, 3, 0, 3, 5, 5, 0]) == [3, 3, 5]
    assert collapse([]) == []


def test_length_batches():
    seconds = [1.0, 5.0, 2.0, 2.0, 9.0]
    batches = list(length_batches(seconds, 6.0))
    assert batches == [[4], [1], [2, 3, 0]]
    assert list(length_batches([], 6.0)) == []


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models") / "wav2vec2"
    asr_models.wav2vec2(place)
    return place


def test_wav2vec2_batched_equals_one_by_one(wav2vec2: Path):
    recognizer = Wav2vec2Ctc(str(wav2vec2))
    texts = recognizer.transcribe(wavs(), ["en"] * 4)
    assert texts == alone(recognizer, wavs(), ["en"] * 4)
    assert len(texts[0]) > 3 and set("".join(texts)) <= {*asr_models.LETTERS, *"<bos><eos>"}


def test_wav2vec2_equals_the_published_computation(tmp_path: Path):
    """An utterance alone: Hugging Face's encoder, normalised in and out, then the head, as SpeechBrain chains them."""
    hugging_face = asr_models.wav2vec2(tmp_path / "model")
    recognizer = Wav2vec2Ctc(str(tmp_path / "model"))
    wav = torch.from_numpy(wavs()[0])
    normal = torch.nn.functional.layer_norm(wav, wav.shape)[None]
    with torch.inference_mode():
        hidden = hugging_face(normal).last_hidden_state
        ours, _ = recognizer._encoder(normal, torch.tensor([len(wav)]))
        torch.testing.assert_close(ours, hidden, atol=2e-4, rtol=1e-3)
        path = recognizer._head(torch.nn.functional.layer_norm(hidden, hidden.shape[1:]))[0].argmax(-1)
    expected = "".join(recognizer._labels[i] for i in collapse(path.tolist()))
    assert recognizer.transcribe([wavs()[0]], ["en"]) == [expected]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("asr.ckpt", b"rubbish", "not a checkpoint"),
        ("wav2vec2.ckpt", b"rubbish", "not a checkpoint"),
        ("tokenizer.ckpt", b"rubbish\n", "not SpeechBrain's list of characters"),
    ],
)
def test_wav2vec2_damaged_files(tmp_path: Path, name: str, content: bytes, message: str):
    asr_models.wav2vec2(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Wav2vec2Ctc(str(tmp_path / "model"))


def test_wav2vec2_head_of_other_characters(tmp_path: Path):
    asr_models.wav2vec2(tmp_path / "model")
    state = torch.load(tmp_path / "model" / "asr.ckpt", weights_only=True)
    state["1.w.weight"], state["1.w.bias"] = state["1.w.weight"][:9], state["1.w.bias"][:9]
    torch.save(state, tmp_path / "model" / "asr.ckpt")
    with pytest.raises(UserError, match="do not fit 31 characters"):
        Wav2vec2Ctc(str(tmp_path / "model"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Whisper:
    place = tmp_path_factory.mktemp("models") / "whisper"
    asr_models.whisper(place)
    return Whisper(str(place))


def test_whisper_batched_equals_one_by_one(whisper: Whisper):
    assert whisper.languages == {"en", "de", "zh", "cmn"}
    found, languages = wavs(), ["en", "de", "cmn", "en"]
    texts = whisper.transcribe(found, languages)
    assert texts == alone(whisper, found, languages)
    assert len(set(texts)) > 1 and not any("<|" in text for text in texts)


def test_whisper_hears_all_of_a_long_utterance(whisper: Whisper):
    halves = [tone(20.0, 120.0, 0), tone(20.0, 200.0, 1)]
    assert whisper.transcribe([np.concatenate(halves)], ["en"]) == [
        " ".join(whisper.transcribe(halves, ["en", "en"]))
    ]


def test_whisper_not_there(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not a Whisper model"):
        Whisper(str(tmp_path))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataDir:
    """Words as pitches."""
    pitch = dict(zip(WORDS, (100.0, 180.0, 300.0), strict=True))
    names = {f"{s}-{w}": w for s in "ab" for w in WORDS}
    sounds = {utt: tone(0.6 + 0.1 * len(word), pitch[word], i) for i, (utt, word) in enumerate(names.items())}
    path = make_set(tmp_path_factory.mktemp("sets") / "train", sounds, GENDERS, {}, text=names)
    return DataDir.read(path, "audio")


@pytest.fixture(scope="module")
def trained(data: DataDir, tmp_path_factory) -> Path:
    """Long enough that it says something, with a convolution-free encoder."""
    out = tmp_path_factory.mktemp("trained") / "model"
    train(data, out, dataclasses.replace(TINY, epochs=60, max_lr=0.02, specaug_conf={}), seed=0)
    return out


def test_recipe_learns_and_batched_equals_one_by_one(data: DataDir, trained: Path):
    recognizer = RecipeCtc(trained)
    assert recognizer.languages == {"en"}
    sounds = [data.load(utt) for utt in data.utts]
    texts = recognizer.transcribe(sounds, ["en"] * len(sounds))
    assert texts == [data.table("text")[utt] for utt in data.utts]
    rng = np.random.default_rng(0)
    noise = [0.1 * rng.standard_normal(len(wav)).astype(np.float32) for wav in sounds]
    assert not set(recognizer.transcribe(noise, ["en"] * len(noise))) & set(WORDS)
    assert recognizer.transcribe(wavs(), ["en"] * 4) == alone(recognizer, wavs(), ["en"] * 4)


def test_recipe_drops_nothing_when_it_recognizes(data: DataDir, tmp_path: Path):
    """ESPnet's RNNP never switches its dropout off: texts were drawn at random, two runs of one model differed."""
    sizes = {"num_layers": 3, "hidden_size": 16, "output_size": 16, "subsample": [1, 1, 1], "dropout": 0.5}
    train(data, tmp_path / "model", dataclasses.replace(TINY, encoder_conf=sizes, epochs=1), seed=0)
    recognizer = RecipeCtc(tmp_path / "model")
    features, lengths = torch.randn(1, 40, 60), torch.tensor([40])
    with torch.inference_mode():
        once, again = (recognizer._model.encode(features.clone(), lengths)[0] for _ in range(2))
    assert torch.equal(once, again)


def test_recipe_with_convolutions_hears_utterances_alone(data: DataDir, tmp_path: Path):
    config = dataclasses.replace(
        TINY, encoder="conformer", stack=1, epochs=1,
        encoder_conf={
            "output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1, "cnn_module_kernel": 3,
            "rel_pos_type": "latest",
        },
    )  # fmt: skip
    train(data, tmp_path / "model", config, seed=0)
    recognizer = RecipeCtc(tmp_path / "model")
    sounds = wavs()[:3]
    assert recognizer.transcribe(sounds, ["en"] * 3) == alone(recognizer, sounds, ["en"] * 3)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_recipe_one_seed_gives_one_model_even_if_killed(
    data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(data, tmp_path / "one", TINY, seed=0)
    train(data, tmp_path / "other", TINY, seed=1)
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    from espnet_musa.evaluators.asr_backends import recipe_train

    whole = recipe_train._Trainer.epoch

    def killed(self, epoch, items, rng):
        if epoch == 2:
            raise KeyboardInterrupt
        whole(self, epoch, items, rng)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(recipe_train._Trainer, "epoch", killed)
        train(data, tmp_path / "two", TINY, seed=0)
    assert not (tmp_path / "two" / "model.safetensors").exists()
    train(data, tmp_path / "two", TINY, seed=0)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "config.yaml", "model.safetensors", "train.log", "units.model",
    ]  # fmt: skip
    assert len((tmp_path / "two" / "train.log").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ("en", "xx")}, "no transcript in 'xx'"),
        ({"encoder_conf": {"layers": 3}}, "ESPnet's RNNEncoder"),
    ],
)
def test_recipe_training_refusals(data: DataDir, tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "model", dataclasses.replace(TINY, **change), seed=0)


def test_recipe_needs_text(tmp_path: Path):
    data = DataDir.read(make_set(tmp_path / "mute", {"a-0": tone(0.5, 100.0)}, GENDERS, {}), "audio")
    with pytest.raises(UserError, match="file 'text' is missing"):
        train(data, tmp_path / "model", TINY, seed=0)


def test_recipe_damaged_model(trained: Path, tmp_path: Path):
    for name, message in (
        ("units.model", "not a sentencepiece model"),
        ("model.safetensors", "missing, or not"),
    ):
        place = tmp_path / name.split(".")[0]
        place.mkdir()
        for file in trained.iterdir():
            if file.name != name:
                (place / file.name).write_bytes(file.read_bytes())
        with pytest.raises(UserError, match=message):
            RecipeCtc(place)


def test_pocketsphinx_does_not_depend_on_what_came_before():
    sounds = [tone(0.4, 120.0, 0), tone(0.6, 220.0, 1)]
    recognizer = Pocketsphinx()
    first = recognizer.transcribe(sounds, ["en", "en"])
    assert recognizer.transcribe(sounds[::-1], ["en", "en"])[::-1] == first
    assert Pocketsphinx(jobs=2).transcribe(sounds, ["en", "en"]) == first
    assert all(isinstance(text, str) for text in first)


@pytest.mark.real
def test_pocketsphinx_forgets_the_noise_of_the_recording_before(real_speech: Path):
    folder = real_speech / "librispeech/LibriSpeech/test-other/1688/142285"
    wavs = [sf.read(folder / f"1688-142285-000{i}.flac", dtype="float32")[0] for i in (5, 9)]
    recognizer, phones = Pocketsphinx(), Phones()
    alone, heard = recognizer.transcribe(wavs[1:], ["en"]), phones.recognize(wavs[1])
    for _ in range(2):
        assert recognizer.transcribe(wavs, ["en", "en"])[1:] == alone
        phones.recognize(wavs[0])
        assert phones.recognize(wavs[1]) == heard


@pytest.mark.real
def test_pocketsphinx_hears_words(real_speech: Path):
    """A clear sentence of LibriSpeech: most words are right."""
    from espnet_musa.metrics.text_norm import vpc
    from espnet_musa.metrics.wer import count

    lists = sorted((real_speech / "librispeech").rglob("*.trans.txt"))
    lines = dict(line.split(" ", 1) for path in lists for line in path.read_text().splitlines())
    sounds = {p.stem: p for p in (real_speech / "librispeech").rglob("*.flac") if p.stem in lines}
    shortest = min(sounds, key=lambda utt: (sf.info(sounds[utt]).duration < 3, sf.info(sounds[utt]).duration))
    wav, _ = sf.read(sounds[shortest], dtype="float32")
    (text,) = Pocketsphinx().transcribe([wav], ["en"])
    assert count([lines[shortest]], [vpc(text)]).rate() < 80


def test_unknown_and_untrained(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'whisper'"):
        asr_backends.load("wisper", None, None, "cpu", 1)
    with pytest.raises(UserError, match="needs a trained model"):
        asr_backends.load("recipe", None, None, "cpu", 1)
