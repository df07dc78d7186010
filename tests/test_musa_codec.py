"""MusaCodec: equation 10, who gets a gradient, what the two turns of a step share, what a weight of zero spares."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, voice
from tiny_musa import DISCRIMINATOR, GENERATOR

from espnet_musa.codec.config import CodecConfig
from espnet_musa.codec.musa import MusaCodec, classify
from espnet_musa.errors import UserError
from espnet_musa.pipeline.train import check

CONFIGS = sorted(p.stem for p in (REPOSITORY / "conf/train").glob("musa_*.yaml"))
QUIET = {"lambda_adv": 0.0, "lambda_fm": 0.0}


def codec(seed: int = 0, generator: dict | None = None, **conf) -> MusaCodec:
    torch.manual_seed(seed)
    base = {"n_speakers": 5, "n_tokens": 7, "discriminator_conf": DISCRIMINATOR}
    return MusaCodec(generator_conf=GENERATOR | (generator or {}), **base | conf)


def batch(items: int = 3, samples: int = 6400, **changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    wavs = torch.stack([torch.from_numpy(voice(i, samples / 16000, 100 + 20 * i)) for i in range(2 * items)])
    frames = -(-samples // 320)
    semantic = torch.randint(0, 7, (items, frames))
    semantic[:, -1] = -1  # the teacher has one frame fewer
    sids = torch.arange(items)[:, None]
    return {"audio": wavs[:items], "audio2": wavs[items:], "sids": sids, "semantic": semantic} | changes


def step(model: MusaCodec, **given) -> dict[str, float]:
    """Both turns with their backward passes; the statistics of both."""
    stats = {}
    for generator in (False, True):
        out = model(forward_generator=generator, **given)
        assert out["optim_idx"] == (0 if generator else 1)
        assert out["weight"].item() == len(given["audio"])
        if generator or model.adversarial:
            out["loss"].backward()
        stats |= {name: value.item() for name, value in out["stats"].items()}
    return stats


def test_every_parameter_learns_in_its_turn_and_in_no_other():
    model, given = codec(), batch()
    for turn, own in ((False, "discriminator."), (True, "generator.")):
        model.zero_grad()
        model(forward_generator=turn, **given)["loss"].backward()
        with_gradient = {
            n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert with_gradient == {n for n, _ in model.named_parameters() if n.startswith(own)}
    assert all(
        p.requires_grad for p in model.parameters()
    )  # the discriminators were frozen for a moment only


def test_heads_and_speaker_encoder_belong_to_the_generator():
    """ESPnet's first optimizer holds what is below `generator`, and nothing else would ever be updated."""
    names = {name.split(".")[1] for name, _ in codec().named_parameters() if name.startswith("generator.")}
    assert {"encoder", "decoder", "speaker_encoder", "speaker_classifier", "token_head"} <= names


def test_the_loss_is_equation_10():
    model = codec(
        lambda_rec=7.0, lambda_adv=2.0, lambda_fm=3.0, lambda_com=0.5, lambda_spk=1.5, lambda_sem=4.0
    )
    stats = step(model, **batch())
    speaker = stats["spk_id"] - stats["spk_cos"]
    expected = (
        7 * stats["rec"]
        + 2 * stats["adv"]
        + 3 * stats["fm"]
        + 0.5 * stats["com"]
        + 1.5 * speaker
        + 4 * stats["sem"]
    )
    assert stats["loss"] == pytest.approx(expected, rel=1e-5)
    assert stats["rec"] == pytest.approx(stats["wave"] + stats["mel"] + stats["mel_square"], rel=1e-5)
    assert stats["d_loss"] == pytest.approx(stats["d_real"] + stats["d_fake"], rel=1e-5)
    assert {"usage_1", "usage_2"} <= set(stats)
    assert all(math.isfinite(value) for value in stats.values())


def test_defaults_are_the_papers_weights():
    own = CodecConfig(generator_conf={})
    weights = (own.lambda_rec, own.lambda_adv, own.lambda_fm, own.lambda_com, own.lambda_spk, own.lambda_sem)
    assert weights == (45, 1, 1, 0.1, 1, 1)


def test_classify_counts_only_known_labels():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [5.0, 0.0]])
    loss, accuracy = classify(logits, torch.tensor([0, 0, -1]))
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert loss.item() == pytest.approx((right + wrong) / 2)
    assert accuracy.item() == 0.5
    nothing = classify(logits.requires_grad_(), torch.tensor([-1, -1, -1]))
    assert [value.item() for value in nothing] == [0, 0]
    nothing[0].backward()
    assert logits.grad.abs().sum() == 0


def test_a_batch_without_tokens_or_known_speakers_still_trains():
    given = batch(semantic=torch.full((3, 20), -1), sids=torch.full((3, 1), -1))
    stats = step(codec(), **given)
    assert stats["sem"] == stats["sem_acc"] == stats["spk_id"] == 0
    assert math.isfinite(stats["loss"])


def test_labels_that_are_ignored_change_nothing():
    model, given = codec(), batch()
    longer = given | {"semantic": torch.nn.functional.pad(given["semantic"], (0, 3), value=-1)}
    shorter = given | {"semantic": given["semantic"][:, :-1]}
    model.eval()
    values = {model(forward_generator=True, **g)["stats"]["sem"].item() for g in (given, longer, shorter)}
    assert len(values) == 1


@pytest.mark.parametrize("samples", [1, 319, 5000])
def test_any_length(samples):
    """The reconstruction is as long as the input (E2), and one sample is enough."""
    stats = step(codec(), **batch(items=2, samples=samples))
    assert math.isfinite(stats["loss"])


def test_padding_is_no_speech():
    """A short segment beside a long one is encoded as it is alone."""
    model, given = codec(**QUIET).eval(), batch(items=2)
    given["audio"][1, 3200:] = 0
    given["semantic"][1, 10:] = -1
    alone = {k: v[1:, : {"audio": 3200, "semantic": 10}.get(k)] for k, v in given.items()}
    first = {k: v[:1] for k, v in given.items()}
    lengths = {"audio_lengths": torch.tensor([6400, 3200]), "audio2_lengths": torch.tensor([6400, 6400])}
    both = model(forward_generator=True, **given, **lengths)["stats"]
    parts = [model(forward_generator=True, **one)["stats"] for one in (first, alone)]
    for name in ("spk_id", "spk_cos"):
        assert both[name].item() == pytest.approx(sum(p[name].item() for p in parts) / 2, abs=1e-5)
    semantic = (19 * parts[0]["sem"] + 10 * parts[1]["sem"]) / 29
    assert both["sem"].item() == pytest.approx(semantic.item(), abs=1e-5)


def test_the_generator_runs_once_a_step(monkeypatch):
    """Twice would move every codebook twice, besides the time."""
    model, given, calls = codec(), batch(), []
    forward = model.generator.forward
    monkeypatch.setattr(model.generator, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    for turns in ((False, True), (True, False)):
        for turn in turns:
            model(forward_generator=turn, **given)
        assert model._cache is None
    assert len(calls) == 2
    model(forward_generator=False, **given)
    model(
        forward_generator=True, **batch(samples=3200)
    )  # another batch: what was made for the last one is of no use
    assert len(calls) == 4


def test_codebooks_move_in_training_only():
    model, given = codec(), batch()
    step(model, **given)
    before = model.generator.quantizer.layers[0].embed.clone()
    model.eval()
    step(model, **given)
    assert torch.equal(before, model.generator.quantizer.layers[0].embed)
    model.train()
    step(model, **given)
    assert not torch.equal(before, model.generator.quantizer.layers[0].embed)


@pytest.mark.parametrize(
    ("weights", "gone"),
    [
        ({"lambda_rec": 0.0}, {"rec", "wave", "mel", "mel_square"}),
        ({"lambda_fm": 0.0}, {"fm"}),
        (QUIET, {"adv", "fm", "d_real", "d_fake"}),
        ({"lambda_spk": 0.0}, {"spk_id", "spk_acc", "spk_cos"}),
        ({"lambda_sem": 0.0}, {"sem", "sem_acc"}),
    ],
)
def test_a_weight_of_zero_leaves_the_term_out(weights, gone):
    everything, given = step(codec(), **batch()), batch()
    assert set(everything) - set(step(codec(**weights), **given)) == gone


def test_a_weight_of_zero_costs_nothing(monkeypatch):
    model = codec(lambda_spk=0.0, lambda_sem=0.0, **QUIET)
    assert model.generator.speaker_classifier is model.generator.token_head is None
    assert len(list(model.discriminator.parameters())) == 1  # ESPnet's second optimizer wants one
    seen = []
    speaker = model.generator.speaker
    monkeypatch.setattr(
        model.generator, "speaker", lambda wav, lengths=None: seen.append(wav.shape) or speaker(wav, lengths)
    )
    step(model, **batch())
    assert seen == [(3, 6400), (3, 1)]  # of s_2, nothing that takes time


def test_reconstruction_reaches_the_speaker_encoder_only_by_concatenation():
    """Section 1.2 of the specification: straight-through and addition cancel, d(Q(x - s) + s) / ds = 0."""
    for fusion, reached in (("add", False), ("concat", True)):
        model = codec(
            generator={"speaker_fusion": fusion}, lambda_spk=0.0, lambda_sem=0.0, lambda_com=0.0, **QUIET
        )
        model(forward_generator=True, **batch())["loss"].backward()
        size = max(p.grad.abs().max().item() for p in model.generator.speaker_encoder.parameters())
        other = max(p.grad.abs().max().item() for p in model.generator.encoder.parameters())
        assert (size > 1e-3 * other) == reached


def test_reversed_speakers_are_a_term_of_their_own():
    stats = step(codec(generator={"gradient_reversal": 0.5}, lambda_spk=0.0), **batch())
    assert {"rev", "rev_acc"} <= set(stats)
    assert "spk_id" not in stats


def test_without_s_there_is_no_target_to_reconstruct():
    """With speaker_dropout_prob 1 the decoder never gets s: only "sounds like speech" is asked for (O29)."""
    model = codec(generator={"speaker_dropout_prob": 1.0})
    stats = step(model, **batch())
    assert "adv" in stats
    assert not {"rec", "fm"} & set(stats)
    model.eval()
    assert {"rec", "fm"} <= set(step(model, **batch()))


def test_bfloat16_is_close_to_single_precision():
    values = [step(codec(precision=precision), **batch()) for precision in ("float32", "bfloat16")]
    assert values[0]["loss"] != values[1]["loss"]
    assert values[1]["loss"] == pytest.approx(values[0]["loss"], rel=0.05)


def test_same_seed_same_bits():
    first, second = (step(codec(), **batch()) for _ in range(2))
    assert first == second


def test_espnets_interface():
    model = codec().eval()
    assert model.meta_info() == {
        "fs": 16000,
        "num_streams": 2,
        "frame_shift": 320,
        "code_size_per_stream": [16, 16],
    }
    codes = model.encode(batch()["audio"][:, None])
    assert codes.shape == (2, 3, 20)
    assert model.decode(codes).shape == (3, 1, 6400)


@pytest.mark.parametrize(
    ("conf", "message"),
    [({"precision": "fp16"}, "unknown precision 'fp16'"), ({"lambda_com": -1.0}, "negative weights")],
)
def test_wrong_settings(conf, message):
    with pytest.raises(UserError, match=message):
        codec(**conf)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_read(name):
    _, settings, own = check(name, REPOSITORY)
    assert settings["segment_length"] % 320 == 0
    assert settings["optim_conf"]["betas"] == [0.8, 0.99]
    assert own.generator_conf["speaker_fusion"] == "add"


def test_full_size_is_the_papers():
    for name in ("musa_en", "musa_ml"):
        _, settings, own = check(name, REPOSITORY)
        for suffix in ("", "2"):
            assert settings[f"optim{suffix}"] == "adamw"
            assert settings[f"optim{suffix}_conf"] == {"lr": 2e-4, "betas": [0.8, 0.99], "weight_decay": 0.01}
            assert settings[f"scheduler{suffix}_conf"] == {"gamma": 0.999}
        assert settings["batch_size"] == 128
        assert abs(settings["num_iters_per_epoch"] * settings["max_epoch"] - 500_000) < 1000
        paper = CodecConfig(generator_conf={})
        assert all(
            getattr(own, key) == value for key, value in vars(paper).items() if key.startswith("lambda_")
        )


@pytest.mark.parametrize("size", ["mini", "ml"])
@pytest.mark.parametrize("term", ["sem", "spk"])
def test_ablations_differ_in_one_weight(size, term):
    whole, without = (
        yaml.safe_load(Path(REPOSITORY, f"conf/train/{name}.yaml").read_text())
        for name in (f"musa_{size}", f"musa_{size}_no_{term}")
    )
    assert without["codec_conf"].pop(f"lambda_{term}") == 0
    assert whole["codec_conf"].pop(f"lambda_{term}") == 1
    assert whole == without


@pytest.mark.slow
def test_a_step_of_the_full_size_model():
    """Whole: generator, discriminators and both optimizers; a short segment."""
    settings = check("musa_en", REPOSITORY)[1]
    model = MusaCodec(**settings["codec_conf"], n_speakers=1417, n_tokens=1024)
    sizes = {
        part: sum(p.numel() for p in getattr(model, part).parameters())
        for part in ("generator", "discriminator")
    }
    assert sizes["generator"] == pytest.approx(19.9e6, rel=0.02)
    assert sizes["discriminator"] == pytest.approx(71.2e6, rel=0.01)
    optimizers = [
        torch.optim.AdamW(part.parameters(), **settings["optim_conf"])
        for part in (model.discriminator, model.generator)
    ]
    given = batch(items=2, samples=9600)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for turn, optimizer in enumerate(optimizers):
        out = model(forward_generator=bool(turn), **given)
        out["loss"].backward()
        optimizer.step()
        model.zero_grad()
        assert math.isfinite(out["loss"].item())
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not still
    assert len([name for name in out["stats"] if name.startswith("usage_")]) == 8
