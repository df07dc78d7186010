"""The vocoder of B5 and B6: layout, masks, blocks; its training by ESPnet, resumption, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from tiny_musa import make_recipe, write
from tiny_vqbn import DECODERS, F0_MEAN, F0_SD, SIZES, TOKENS, tiny_acoustic, tiny_vocoder

from espnet_musa import stamp
from espnet_musa.anonymizers.vqbn import VqBn
from espnet_musa.codec import vocoder_archive
from espnet_musa.codec.config import F0Config
from espnet_musa.codec.frames import fit_frames, frames_of
from espnet_musa.codec.source_filter import pitch_of, pulses
from espnet_musa.codec.vocoder import Vocoder, pooled
from espnet_musa.codec.vqbn import VqBnVocoder
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError
from espnet_musa.f0 import transforms
from espnet_musa.f0.extract import extract
from espnet_musa.pipeline import train_f0
from espnet_musa.pipeline.train import check, train
from espnet_musa.pipeline.train_config import VOCODER_SETTINGS
from espnet_musa.tasks.preprocessor import VocoderPreprocessor
from espnet_musa.tokenizer import store

# --- the generator --------------------------------------------------------------------------------------------------


def given(frames: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, F0, speakers."""
    torch.manual_seed(seed)
    return torch.randint(12, (batch, frames)), torch.randn(batch, frames), torch.arange(batch) % 4


def noise_for(vocoder: Vocoder, frames: int, batch: int = 1, seed: int = 1) -> torch.Tensor | None:
    """(B, 320 F) for a vocoder with a source."""
    drawn = torch.randn(batch, 320 * frames, generator=torch.Generator().manual_seed(seed))
    return drawn if vocoder.sourced else None


def sourced(frames: int, seed: int = 0) -> tuple[Vocoder, torch.Tensor]:
    """A vocoder of pulses and noise, and all that its decoder hears of a random recording (1, D, F)."""
    vocoder, (codes, f0, speakers) = tiny_vocoder("source_filter"), given(frames, seed=seed)
    f0[:, 20:30] = 0
    channels = [
        vocoder.frames(codes, f0, speakers), vocoder.pitch(f0, speakers),
        vocoder.by_frame(noise_for(vocoder, frames)),
    ]  # fmt: skip
    return vocoder, torch.cat(channels, dim=1)


def test_the_published_layout():
    """Section 5.8 with 247 speakers: 504 channels in, 512 down to 16, 320 samples a frame."""
    conf = check("b5_hifigan", REPOSITORY)[1]["vocoder_conf"]["generator_conf"]
    vocoder = Vocoder(n_codes=48, code_dim=256, n_speakers=247, **conf)
    decoder = vocoder.decoder
    assert vocoder.inputs == 504 and decoder.input_conv.weight.shape == (512, 504, 7)
    stages = [
        (s[1].in_channels, s[1].out_channels, s[1].kernel_size[0], s[1].stride[0]) for s in decoder.upsamples
    ]
    assert stages == [(512, 256, 11, 5), (256, 128, 8, 4), (128, 64, 8, 4), (64, 32, 4, 2), (32, 16, 4, 2)]
    assert decoder.hop == 320 and len(decoder.blocks) == 15
    with torch.no_grad():
        made = vocoder(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5), torch.tensor([246]))
    assert made.shape == (1, 1600)


@pytest.mark.parametrize("backbone", DECODERS)
@pytest.mark.parametrize("frames", [1, 2, 7, 61])
def test_exactly_320_samples_a_frame(backbone, frames):
    with torch.no_grad():
        assert tiny_vocoder(backbone)(*given(frames, 2)).shape == (2, 320 * frames)


@pytest.mark.parametrize("backbone", DECODERS)
def test_padding_is_not_heard(backbone):
    vocoder, (codes, f0, speakers), lengths = tiny_vocoder(backbone), given(70, 3), torch.tensor([70, 1, 33])
    with torch.no_grad():
        noise = noise_for(vocoder, 70, 3)
        made = vocoder(codes, f0, speakers, lengths, noise)
        for i, n in enumerate(lengths):
            own = None if noise is None else noise[i : i + 1, : 320 * n]
            alone = vocoder(codes[i : i + 1, :n], f0[i : i + 1, :n], speakers[i : i + 1], noise=own)
            assert (made[i, : 320 * n] - alone[0]).abs().max() < 1e-5 < alone.abs().max()
            assert not made[i, 320 * n :].any()


@pytest.mark.parametrize("backbone", DECODERS)
@pytest.mark.parametrize("block", [1, 13, 64])
def test_blocks_equal_the_whole(backbone, block):
    vocoder = tiny_vocoder(backbone)
    with torch.no_grad():
        frames = sourced(150)[1] if vocoder.sourced else vocoder.frames(*given(150))
        stream, whole = vocoder.decoder.stream(), vocoder.decoder(frames)
        parts = [stream.push(frames[:, :, i : i + block], i + block >= 150) for i in range(0, 150, block)]
    joined = torch.cat([part for part in parts if part.shape[2]], dim=2)
    assert joined.shape == whole.shape and (joined - whole).abs().max() < 1e-5


def test_context_is_enough_and_not_much_more():
    """Of the full-size HiFi-GAN's layout: what lies further away than `context` changes nothing."""
    vocoder = Vocoder(n_codes=12, code_dim=16, n_speakers=4, decoder_conf={"channels": 32}).eval()
    context = vocoder.decoder.context
    frames = vocoder.frames(*given(2 * context + 41)).double()
    decoder = vocoder.decoder.double()
    with torch.no_grad():
        whole, middle = decoder(frames), context + 20
        reached = []
        for distance in range(context - 8, context + 1):
            changed = frames.clone()
            changed[:, :, middle + distance :] += 1
            changed[:, :, : middle - distance + 1] += 1
            difference = (decoder(changed) - whole)[:, :, 320 * middle : 320 * middle + 320].abs().max()
            reached.append(bool(difference > 0))
    assert not reached[-1] and reached[0]


def test_context_of_pulses_and_noise():
    vocoder, frames = sourced(61)
    with torch.no_grad():
        decoder, frames = vocoder.decoder.double(), frames.double()
        whole, context = decoder(frames), vocoder.decoder.context
        reached = []
        for distance in (context - 1, context, context + 1):
            changed = frames.clone()
            changed[:, :, 30 + distance :] += 0.5
            changed[:, :, : 31 - distance] += 0.5
            reached.append(bool(((decoder(changed) - whole)[:, :, 9600:9920].abs() > 0).any()))
    assert reached == [True, True, False]


@pytest.mark.parametrize("hz", [63.0, 100.0, 217.3, 480.0])
def test_pulses_are_the_sum_of_their_harmonics(hz):
    f0 = torch.full((1, 12), hz)
    made = pulses(pitch_of(f0, torch.tensor([0.3]), 320, 16000), 320, 16000).flatten()[: 320 * 11]
    count = int(8000 / hz)
    phase = 0.3 + hz * np.arange(320 * 11) / 16000
    expected = sum(np.cos(2 * np.pi * k * phase) for k in range(1, count + 1)) * np.sqrt(2 / count)
    assert np.abs(made.numpy() - expected).max() < 2e-3 * np.sqrt(2 * count)
    assert made.square().mean() == pytest.approx(1, abs=0.1)


def test_the_phase_runs_on_from_frame_to_frame():
    """Where one frame ends is where the next one begins; unvoiced stretches are silent and stand still."""
    f0 = 150 + 40 * torch.rand(1, 30, generator=torch.Generator().manual_seed(0))
    f0[:, 10:14] = 0
    phase, here, later = pitch_of(f0, torch.zeros(1), 320, 16000)[0].double()
    assert torch.equal(here.float(), f0[0]) and later[-1] == 0
    for k in range(29):
        place = torch.arange(320) / 320
        near = torch.where(place < 0.5, here[k], later[k])
        line = here[k] + (later[k] - here[k]) * place
        hz = line if here[k] > 0 and later[k] > 0 else near
        gap = (phase[k] + hz.sum() / 16000 - phase[k + 1]).remainder(1)
        assert min(gap, 1 - gap) < 1e-5
    made = pulses(pitch_of(f0, torch.zeros(1), 320, 16000), 320, 16000)[0].flatten()
    assert not made[320 * 9 + 160 : 320 * 13 + 160].any() and made[320 * 9 + 159] != 0


def measured(z: torch.Tensor, voice: int) -> np.ndarray:
    """F0 (Hz) that DIO finds in frames 5 to F - 5 of what an untrained vocoder makes of z-scores (F,)."""
    vocoder, codes = tiny_vocoder("source_filter"), torch.full((1, len(z)), 3)
    with torch.no_grad():
        made = vocoder(codes, z[None], torch.tensor([voice]), noise=noise_for(vocoder, len(z)))[0]
    f0 = extract(made.double().numpy(), 16000, tracker="dio", hop_ms=20.0, floor=60.0, ceiling=400.0)
    return f0[5 : len(z) - 5]


@pytest.mark.parametrize("voice", range(4))
@pytest.mark.parametrize("z", [-1.5, 0.5, 2.0])
def test_f0_is_rendered_before_any_training(voice, z):
    f0 = measured(torch.full((60,), z), voice)
    assert f0 == pytest.approx(F0_MEAN[voice] + z * F0_SD[voice], rel=0.02)


def test_mean_reversion_is_rendered():
    """0.75 leaves a quarter of the deviation; noise brings some of it back."""
    contour = 1.4 * torch.sin(torch.arange(150) / 12)
    steps = [{"normalize": {}}, {"mean_reversion": {"alpha": 0.75}}, {"awgn": {"db": 10.0}}]
    hz = 200 + 20 * contour.double().numpy()
    sd = []
    for n in (1, 2, 3):
        z = transforms.apply(steps[:n], hz, np.random.default_rng(0), hop_ms=20.0)
        sd.append(measured(torch.from_numpy(z).float(), 0).std())
    assert sd[0] == pytest.approx(F0_SD[0], rel=0.05) and sd[1] == pytest.approx(sd[0] / 4, rel=0.05)
    assert sd[2] > 1.2 * sd[1]


def test_a_silent_source_is_noise():
    vocoder = tiny_vocoder("source_filter")
    codes, _, speakers = given(50)
    with torch.no_grad():
        made, zero = (
            vocoder(codes, torch.zeros(1, 50), speakers, noise=n * noise_for(vocoder, 50)) for n in (1, 0)
        )
    assert made.std() > 1e-3 and not zero.any()


def test_kernels_that_do_not_fit():
    for kernels in ([11, 8, 8, 4, 3], [4, 8, 8, 4, 4]):
        with pytest.raises(UserError, match=r"upsample_scales.*expected kernels at least as large"):
            Vocoder(n_codes=2, code_dim=2, n_speakers=2, decoder_conf={"upsample_kernel_sizes": kernels})
    with pytest.raises(UserError, match=r"decoder_conf: .*'chanels'"):
        Vocoder(n_codes=2, code_dim=2, n_speakers=2, backbone="spectral", decoder_conf={"chanels": 2})
    with pytest.raises(UserError, match="unknown backbone 'hifgan'; did you mean 'hifigan'"):
        Vocoder(n_codes=2, code_dim=2, n_speakers=2, backbone="hifgan")
    with pytest.raises(UserError, match="source_filter backbone with hop 320, bands 1"):
        Vocoder(n_codes=2, code_dim=2, n_speakers=2, backbone="source_filter", decoder_conf={"bands": 1})


def test_pooled_statistics():
    f0 = torch.tensor([[100.0, 0.0, 120.0], [200.0, 220.0, 0.0]])
    z = pooled(f0)
    assert torch.equal(z != 0, f0 != 0)
    assert z[z != 0].mean().abs() < 1e-6 and z[z != 0].var() == pytest.approx(1, abs=1e-4)
    assert not pooled(torch.tensor([[0.0, 100.0]])).any()


# --- the data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_", [True, False])
@pytest.mark.parametrize("seconds", [0.41, 1.0, 1.013, 3.7])
def test_codes_and_f0_belong_to_the_crop(train_, seconds):
    samples = round(16000 * seconds)
    frames = frames_of(samples)
    whole = {
        "audio": np.arange(1, samples + 1, dtype=np.float32), "sids": np.array([1]),
        "tokens": np.arange(frames - 1, dtype=np.int32), "f0": np.arange(frames, dtype=np.float32),
    }  # fmt: skip
    preprocess = VocoderPreprocessor(train_, 16000, peak=0.5)
    for i in range(20):
        out = preprocess(f"utt{i}", dict(whole))
        count = min(16000, samples)
        first = round(float(out["audio"][0]) * samples / 0.5) - 1  # the peak of the whole is 0.5
        assert first % 320 == 0 and len(out["audio"]) == count
        expected = first // 320 + np.arange(frames_of(count))
        assert np.array_equal(out["f0"], expected)
        assert np.array_equal(out["tokens"], np.minimum(expected, frames - 2))  # the last one repeated
    assert np.array_equal(fit_frames(np.arange(5), 3), [0, 1, 2])


def test_normalised_before_it_is_cropped(tmp_path):
    root = make(tmp_path)
    data = DataDir.read(root / "dump/one")
    conf = check("tiny", root)[1]["f0_conf"]

    for utt in data.utts[:3]:
        z, hz = (train_f0.f0_of(data.audio_path(utt), F0Config(**conf), normalize=n) for n in (True, False))
        assert z.shape == hz.shape == (frames_of(len(data.load(utt))),) and np.array_equal(z != 0, hz > 0)
        assert (hz > 0).sum() > 5
        assert z[hz > 0].mean() == pytest.approx(0, abs=1e-4) and z[hz > 0].std(ddof=1) == pytest.approx(
            1, abs=1e-3
        )


def test_f0_of_voices(tmp_path):
    """A vocoder that renders Hz learns from Hz, and knows the voiced frames' mean and deviation of each speaker."""
    from safetensors.numpy import load_file

    root = make(tmp_path)
    sets = [DataDir.read(root / "dump" / name) for name in ("one", "two")]
    places = train_f0.track(sets, tmp_path / "f0", F0Config(tracker="dio"), normalize=False)
    train_f0.save_voices(sets, tmp_path / "f0")
    ark, speakers = store.Ark(tmp_path / "f0/one.scp", tmp_path / "f0/two.scp"), {}
    for data in sets:
        for utt, speaker in data.table("utt2spk").items():
            speakers.setdefault(speaker, []).append(ark[utt][ark[utt] > 0])
    assert set(places) == set(ark)
    made = load_file(tmp_path / train_f0.VOICES)
    voiced = [np.concatenate(speakers[speaker]) for speaker in sorted(speakers)]
    assert made["f0_mean"] == pytest.approx([own.mean() for own in voiced], rel=1e-4)
    assert made["f0_mean"].min() > 60 and len(made["f0_sd"]) == len(voiced) == 4
    moved = [np.concatenate([one - one.mean() for one in speakers[speaker]]) for speaker in sorted(speakers)]
    freedom = [sum(len(one) - 1 for one in speakers[speaker]) for speaker in sorted(speakers)]
    within = [np.sqrt((own**2).sum() / n) for own, n in zip(moved, freedom, strict=True)]
    assert made["f0_sd"][made["f0_sd"] >= 1] == pytest.approx([sd for sd in within if sd >= 1], rel=1e-3)
    vocoder = tiny_vocoder("source_filter")
    hz = torch.tensor([[0.0, 190.0, 210.0, 150.0]])
    z = vocoder.z_scores(hz, torch.tensor([0]))
    assert z.tolist() == [[0.0, pytest.approx(0), 1.0, -2.0]] and z[0, 1] != 0
    assert vocoder.pitch(z, torch.tensor([0]))[0, 1] == pytest.approx(hz[0])


@pytest.mark.slow
def test_f0_by_several_processes_is_that_of_one(tmp_path, monkeypatch):
    root = make(tmp_path)
    sets = [DataDir.read(root / "dump" / name) for name in ("one", "two")]
    conf = check("tiny", root)[1]["f0_conf"]

    places = []
    for alone in (32, 0):
        monkeypatch.setattr(train_f0, "ALONE", alone)
        place = tmp_path / f"f0{alone}"
        train_f0.track(sets, place, F0Config(**conf), normalize=True)
        places.append({path.name: path.read_bytes() for path in place.glob("*.ark")})
    assert places[0] == places[1] and set(places[0]) == {"one.ark", "two.ark"}


# --- stage 4 --------------------------------------------------------------------------------------------------------

DISCRIMINATOR = {"stft_n_ffts": [], "periods": [3], "period_channels": 2, "scales": 1, "scale_channels": 16}
SETTINGS = {
    "vocoder": "vqbn",
    "vocoder_conf": {
        "generator_conf": {"backbone": "spectral", "decoder_conf": {"channels": 32, "layers": 1}},
        "discriminator_conf": DISCRIMINATOR,
    },
    "f0_conf": {"tracker": "dio"},
    "segment_length": 6400, "batch_size": 4, "num_iters_per_epoch": 8, "max_epoch": 4, "num_workers": 0,
    "optim_conf": {"lr": 2e-3}, "optim2_conf": {"lr": 2e-3}, "log_interval": 4,
}  # fmt: skip
SYSTEM = {"description": "-", "reference": "-", "anonymizer": "vqbn", "train": "tiny", "tokens": "tiny"}
RECIPE = Recipe(name="t", systems=("orig", "tiny"), evaluators=(), corpora={})


def make(root: Path, **settings) -> Path:
    """A recipe after stage 3 with an acoustic model, and the training `tiny`."""
    make_recipe(root)
    write(root / "conf/train/tiny.yaml", SETTINGS | settings)
    write(root / "conf/systems/tiny.yaml", SYSTEM)
    store.save(root / "exp/tokens/tiny/model", TOKENS, tiny_acoustic())
    return root


def run(root: Path) -> Path:
    train(RECIPE, root, device="cpu", force=False)
    return root / "exp/models/tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = make(tmp_path_factory.mktemp("vocoder"))
    run(root)
    return root


@pytest.mark.slow
def test_what_is_published(trained):
    out = trained / "exp/models/tiny"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    left = {name for name in names if not name.startswith("tensorboard/")}
    assert left == {
        "config.json", "model.safetensors", "acoustic/config.yaml", "acoustic/model.safetensors", ".done.json",
        "config.yaml", "model.pth", "train.log",
    }  # fmt: skip
    facts = json.loads((out / "config.json").read_text())
    assert facts["speakers"] == dict.fromkeys("abcd", "f") and facts["peak"] == 0.95
    assert facts["f0"] == {"tracker": "dio", "floor": 60.0, "ceiling": 400.0}
    assert (facts["train"], facts["tokens"], facts["steps"], facts["utterances"]) == ("tiny", "tiny", 32, 20)
    assert set(stamp.read(out)["fields"]) == {"config", "input", "tokens", "seed"}


@pytest.mark.slow
def test_it_learns_and_speaks(trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = trained / "exp/models/tiny"
    events = EventAccumulator(str(out / "tensorboard/train"))
    events.Reload()
    mel = [event.value for event in events.Scalars("mel")]
    assert mel[-1] < 0.8 * mel[0]
    assert {"mel", "adv", "fm", "d_real", "d_fake", "loss", "d_loss"} <= set(events.Tags()["scalars"])
    place = shutil.move(
        shutil.copytree(out, tmp_path / "copy"), tmp_path / "elsewhere"
    )  # it needs nothing else
    anonymizer = VqBn(model=str(place), speaker="c")
    anonymizer.prepare("cpu")
    wav = DataDir.read(trained / "dump/one").load("a-one-3")
    made = anonymizer.convert(wav, None, np.random.default_rng(0))
    assert made.shape == wav.shape and np.abs(made).max() > 1e-4
    codebook = tiny_acoustic().codebook
    assert torch.equal(vocoder_archive.load(place)[0].codebook, codebook)


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_had_been(trained, tmp_path, monkeypatch):
    root = shutil.copytree(trained, tmp_path / "root", ignore=shutil.ignore_patterns("models"))
    forward, seen = VqBnVocoder.forward, []

    def dying(self, *arguments, **named):
        seen.append(self.training)
        if sum(seen) == 2 * (2 * SETTINGS["num_iters_per_epoch"] + 3):
            raise KeyboardInterrupt
        return forward(self, *arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VqBnVocoder, "forward", dying)
        run(root)
    assert not (root / "exp/models/tiny").exists()
    out = run(root)
    whole = torch.load(trained / "exp/models/tiny/model.pth", weights_only=True)
    resumed = torch.load(out / "model.pth", weights_only=True)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "conf",
    [
        {"lambda_adv": 0.0, "lambda_fm": 0.0},
        {"compat": True, "precision": "bfloat16"},
        {"generator_conf": {"backbone": "hifigan", "decoder_conf": DECODERS["hifigan"]}},
        {"generator_conf": {"backbone": "source_filter", "decoder_conf": DECODERS["source_filter"]}},
    ],
    ids=["no discriminators", "pooled F0 in mixed precision", "HiFi-GAN", "pulses and noise"],
)
def test_variants(trained, tmp_path, conf):
    root = shutil.copytree(trained, tmp_path / "root", ignore=shutil.ignore_patterns("models"))
    settings = SETTINGS | {"vocoder_conf": SETTINGS["vocoder_conf"] | conf, "max_epoch": 1}
    write(root / "conf/train/tiny.yaml", settings | {"num_iters_per_epoch": 2})
    out = run(root)
    vocoder, facts = vocoder_archive.load(out)
    if vocoder.sourced:  # all four speakers were recorded, and heard at their own pitch
        assert (vocoder.f0_mean > 60).all() and len(vocoder.f0_mean.unique()) == 4
        assert not list(out.glob("voices*")) and "voices: null" in (out / "config.yaml").read_text()
    assert vocoder(*given(5)).shape == (1, 1600) and list(facts.speakers) == list("abcd")


def test_settings_are_options_of_espnet():
    from espnet_musa.tasks.vocoder import VocoderTask

    known = {action.dest for action in VocoderTask.get_parser()._actions}
    assert set(VOCODER_SETTINGS) <= known and not {"output_dir", "seed", "codebook"} & set(VOCODER_SETTINGS)


@pytest.mark.parametrize("name", ["b5_hifigan", "b6_hifigan", "vqbn_mini"])
def test_configurations_are_read(name):
    _, settings, own = check(name, REPOSITORY)
    assert settings["segment_length"] % 320 == 0
    if name != "vqbn_mini":
        assert (own.lambda_rec, own.lambda_adv, own.lambda_fm) == (45.0, 1.0, 2.0)
        assert settings["f0_conf"] == {"tracker": "yaapt", "floor": 60.0, "ceiling": 400.0}
        model = VqBnVocoder(**settings["vocoder_conf"], n_speakers=247, n_codes=48, code_dim=256)
        sizes = [
            len(part)
            for part in (model.discriminator.mpd.discriminators, model.discriminator.msd.discriminators)
        ]
        assert sizes == [5, 3] and model.discriminator.logits_matched == [True] * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec_conf": {}}, "unknown key 'codec_conf'"),
        ({"f0_conf": {"trackr": "dio"}}, r"tiny.yaml:\d+: unknown key 'trackr'; did you mean 'tracker'\?"),
        ({"vocoder_conf": {"lambda_fm": -1.0}}, "negative weights"),
        ({"vocoder_conf": {"n_speakers": 3}}, "stage 4 counts 'n_speakers' itself"),
    ],
)
def test_wrong_settings(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        check("tiny", make(tmp_path, **change))


def test_tokens_without_a_codebook(tmp_path):
    from espnet_musa.tokenizer.config import TokensConfig
    from espnet_musa.tokenizer.store import build

    root = make(tmp_path)
    tokens = TokensConfig(
        "-", "-", "mfcc", tokenizer="kmeans", params={"codebook_size": SIZES["codebook_size"]}
    )
    store.save(root / "exp/tokens/tiny/model", tokens, build("kmeans", tokens.params, 60))
    with pytest.raises(UserError, match="the tokenizer of 'tiny' has no codebook for a vocoder"):
        run(root)
    write(root / "conf/systems/tiny.yaml", {k: v for k, v in SYSTEM.items() if k != "tokens"})
    with pytest.raises(UserError, match="system 'tiny' names no tokens, but its training is a vocoder's"):
        run(root)
