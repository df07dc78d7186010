"""Speaker networks: equal to SpeechBrain's, whatever the padding; checkpoints of both layouts; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_sets import SMALL, tone

from espnet_musa.config import save
from espnet_musa.errors import UserError
from espnet_musa.evaluators.encoders import LogMel, NetEncoder
from espnet_musa.evaluators.speaker_nets import NetConfig, build, load_net, speechbrain_config

XVECTOR = NetConfig("xvector", mel_bands=24, channels=16, pooled_channels=20, embedding_dim=12)
# The layout of speechbrain/spkrec-ecapa-voxceleb, with small numbers.
ECAPA_YAML = """
# Model: ECAPA big for Speaker verification
n_mels: 40
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
out_n_neurons: 7205
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    se_channels: 8
    res2net_scale: 4
    lin_neurons: 12
modules:
    compute_features: !ref <compute_features>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""
XVECTOR_YAML = """
n_mels: 24
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: [16, 16, 16, 16, 20]
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: 12
"""


def stock(config: NetConfig) -> torch.nn.Module:
    """The same network as SpeechBrain makes it, untrained but with uneven batch normalisation."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.lobes.models.Xvector import Xvector

    channels = [config.channels] * 4 + [config.pooled_channels]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if config.kind == "xvector":
            net = Xvector(
                in_channels=config.mel_bands, tdnn_channels=channels, lin_neurons=config.embedding_dim
            )
        else:
            net = ECAPA_TDNN(
                config.mel_bands, channels=channels, attention_channels=config.attention_channels,
                res2net_scale=config.res2net_scale, se_channels=config.se_channels,
                lin_neurons=config.embedding_dim,
            )  # fmt: skip
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.bias.data.normal_()
    return net


@pytest.fixture(params=[(SMALL, ECAPA_YAML), (XVECTOR, XVECTOR_YAML)], ids=["ecapa", "xvector"])
def published(request, tmp_path: Path) -> tuple[NetConfig, torch.nn.Module, Path]:
    """A checkpoint as SpeechBrain publishes it."""
    config, text = request.param
    net = stock(config)
    (tmp_path / "hyperparams.yaml").write_text(text)
    torch.save(net.state_dict(), tmp_path / "embedding_model.ckpt")
    torch.save({"count": 1}, tmp_path / "mean_var_norm_emb.ckpt")
    return config, net.eval(), tmp_path


def test_a_published_checkpoint_gives_what_speechbrain_gives(published):
    config, net, place = published
    found, ours, _ = load_net(place)
    assert found == config
    wav = tone(1.3, 130.0)
    (features,) = LogMel(config.mel_bands)([wav])
    with torch.inference_mode():
        centred = (features - features.mean(dim=0))[None]
        expected, got = net(centred)[0, 0], ours(centred)[0, 0]
        again = ours(centred)[0, 0]
    # SpeechBrain adds noise of up to 9e-5 to each mean that an x-vector is made from; ours has none.
    noise = 2e-5 if config.kind == "ecapa" else 1e-3
    np.testing.assert_allclose(got, expected, atol=noise)
    assert torch.equal(got, again)


@pytest.mark.parametrize(("config", "noise"), [(SMALL, 1e-6), (XVECTOR, 3e-3)], ids=["ecapa", "xvector"])
def test_training_gives_the_numbers_of_speechbrain(config: NetConfig, noise: float):
    """Embeddings, gradients and the statistics of the batch, in double precision.

    SpeechBrain has the weights of the mean in single precision, and noise in the pooling of x-vectors.
    """
    theirs, ours = stock(config).double().train(), build(config).double().train()
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    x = torch.randn(3, 60, config.mel_bands, generator=torch.manual_seed(0), dtype=torch.float64)
    outputs = [net(x) for net in (theirs, ours)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=noise, atol=noise)
    for output in outputs:
        output.square().sum().backward()
    expected, state = dict(theirs.named_parameters()), theirs.state_dict()
    for name, parameter in ours.named_parameters():
        size = expected[name].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=noise * max(size, 1))
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=noise, atol=noise)


@pytest.mark.parametrize("config", [SMALL, XVECTOR], ids=["ecapa", "xvector"])
def test_bfloat16_rounds(config: NetConfig):
    net = build(config).train()
    x = torch.randn(4, 60, config.mel_bands, generator=torch.manual_seed(0))
    exact, rounded = net(x), net(x.bfloat16()).float()
    assert (exact - rounded).norm() < 0.05 * exact.norm()
    rounded.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())


def test_a_batch_changes_nothing(published):
    *_, place = published
    encoder = NetEncoder(place)
    wavs = [tone(s, 100 + 30 * i, i) for i, s in enumerate((0.31, 2.0, 0.02, 1.234))] + [np.zeros(9, "f4")]
    alone = np.concatenate([encoder.embed([wav]) for wav in wavs])
    differences = np.ptp(alone, axis=0).max()
    assert np.abs(encoder.embed(wavs) - alone).max() < 1e-3 * differences


def test_the_kind_is_checked(published):
    config, _, place = published
    other = {"ecapa": "xvector", "xvector": "ecapa"}[config.kind]
    with pytest.raises(UserError, match=f"of kind '{config.kind}'; expected '{other}'"):
        NetEncoder(place, kind=other)
    with pytest.raises(UserError, match="unknown speaker model 'ecappa'; did you mean 'ecapa'"):
        NetConfig("ecappa")


def test_no_code_of_a_checkpoint_runs(tmp_path: Path, capfd):
    """Neither of the YAML file nor of the pickle."""
    evil = (
        ECAPA_YAML
        + f"\nrun: !apply:os.system ['touch {tmp_path}/yaml']\nob: !!python/object/apply:os.getcwd []\n"
    )
    (tmp_path / "hyperparams.yaml").write_text(evil)
    with pytest.raises(UserError, match="cannot be read"):
        speechbrain_config(tmp_path / "hyperparams.yaml")
    (tmp_path / "hyperparams.yaml").write_text(evil.split("ob:")[0])
    assert speechbrain_config(tmp_path / "hyperparams.yaml") == SMALL

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pickle",)

    torch.save({"blocks": Evil()}, tmp_path / "embedding_model.ckpt")
    with pytest.raises(UserError, match="do not fit"):
        load_net(tmp_path)
    assert not (tmp_path / "yaml").exists() and not (tmp_path / "pickle").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("norm_type: sentence", "norm_type: global", "normalisation"),
        (
            "n_mels: !ref <n_mels>",
            "n_mels: !ref <n_mels>\n    deltas: True",
            "features with {'deltas': True}",
        ),
        ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, 5, 1]", "dilations"),
        ("[16, 16, 16, 16, 24]", "[16, 16, 8, 16, 24]", "channels"),
        ("ECAPA_TDNN.ECAPA_TDNN", "ResNet.ResNet", "model 'ResNet'"),
        ("embedding_model: !new", "other: !new", "cannot be read"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, old: str, new: str, message: str):
    (tmp_path / "hyperparams.yaml").write_text(ECAPA_YAML.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        speechbrain_config(tmp_path / "hyperparams.yaml")


def test_our_own_layout(tmp_path: Path):
    net = build(XVECTOR)
    save(XVECTOR, tmp_path / "config.yaml")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config, loaded, digest = load_net(tmp_path)
    assert config == XVECTOR and not loaded.training and len(digest) == 64


def test_a_missing_model_says_what_to_fetch(tmp_path: Path, monkeypatch):
    from espnet_musa.evaluators.base import Resources
    from espnet_musa.evaluators.voices import Voices

    monkeypatch.setenv("ESPNET_MUSA_MODELS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"lacks hyperparams.yaml, embedding_model.ckpt; hint: fetch from https"
    ) as error:
        Voices("ecapa", "spkrec_ecapa_voxceleb", "cosine").check(Resources())
    assert str(tmp_path / "spkrec_ecapa_voxceleb") in str(error.value)
