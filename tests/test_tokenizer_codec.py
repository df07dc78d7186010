"""The feature codec is RepCodec number for number, in any batch; its options, k-means, and files that do not fit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from espnet_musa import config
from espnet_musa.errors import UserError
from espnet_musa.tokenizer import store
from espnet_musa.tokenizer.config import FeatureCodecConfig, KMeansConfig, TokensConfig, load
from espnet_musa.tokenizer.feature_codec import FeatureCodec
from espnet_musa.tokenizer.kmeans import KMeans


@pytest.fixture(scope="session")
def parity(real_speech: Path) -> Path:
    """Golden numbers of published modules, beside the real speech; skipped where they are absent."""
    place = real_speech.parent / "parity"
    if not place.is_dir():
        pytest.skip("no parity fixtures here")
    return place


def filled(parity: Path, dimension: int, size: int) -> FeatureCodec:
    """A codec with the fixture's weights."""
    spec = importlib.util.spec_from_file_location("regen", parity / "regen.py")
    regen = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(regen)
    codec = FeatureCodec(dimension, FeatureCodecConfig(codebook_size=size))
    regen.load_into(codec, f"repcodec_{dimension}")
    book = codec.quantizer.only
    book.embed_avg.copy_(book.embed * book.cluster_size)
    return codec


def test_repcodec_parity(parity):
    golden = torch.load(parity / "repcodec_64_io.pt", weights_only=True)
    codec = filled(parity, 64, 128).eval()
    x = golden["x"]
    with torch.no_grad():
        encoded = codec.encoder(x, None)
        out = codec(x)
    assert torch.allclose(encoded, golden["encoder"], atol=1e-5)
    assert torch.allclose(codec.projector(encoded, None), golden["projector"], atol=1e-5)
    assert torch.equal(codec.encode(x), golden["codes"])
    assert torch.allclose(out.y, golden["y"], atol=1e-5)
    assert torch.allclose(out.commitment, golden["vq_loss"][0], rtol=1e-5)
    assert torch.allclose(out.perplexity, golden["perplexity"][0], rtol=1e-5)


def test_repcodec_parity_of_a_training_step(parity):
    golden = torch.load(parity / "repcodec_64_io.pt", weights_only=True)
    codec = filled(parity, 64, 128).train()
    out = codec(golden["x"])
    loss = 45.0 * mse_loss(out.y, out.x) + out.commitment
    loss.backward()
    assert torch.allclose(loss, golden["train_loss"], rtol=1e-5)
    norms = {name: float(parameter.grad.norm()) for name, parameter in codec.named_parameters()}
    assert norms == pytest.approx(golden["grad_norms"], rel=1e-4)
    assert torch.allclose(codec.quantizer.only.embed, golden["embed_after"], atol=1e-5)
    assert torch.allclose(codec.quantizer.only.cluster_size, golden["cluster_size_after"], atol=1e-5)


def test_full_size_is_repcodecs(parity):
    golden = json.loads((parity / "golden_small.json").read_text())["repcodec_64"]
    assert golden["codes"] == torch.load(parity / "repcodec_64_io.pt", weights_only=True)["codes"][0].tolist()
    with torch.device("meta"):
        codec = FeatureCodec(1024, FeatureCodecConfig())
    assert sum(p.numel() for p in codec.parameters()) == 58_724_352
    assert sum(b.numel() for b in codec.buffers()) == 2_098_176
    assert len(codec.state_dict()) == 31


def codec_of(seed: int = 0, **params) -> FeatureCodec:
    torch.manual_seed(seed)
    return FeatureCodec(12, FeatureCodecConfig(**({"codebook_size": 16} | params)))


def started(size: int) -> FeatureCodec:
    """A codec whose tokens differ from frame to frame, and to which padding with 0 is not 0."""
    codec = codec_of(codebook_size=size, normalize=True, kmeans_init=True).eval()
    codec.initialize(1 + 2 * torch.randn(60, 12, 40, generator=torch.Generator().manual_seed(5)), 80)
    return codec


def test_a_batch_gives_the_tokens_of_its_utterances_alone():
    codec = started(64)
    rng = torch.Generator().manual_seed(1)
    items = [torch.randn(12, length, generator=rng) for length in (50, 9, 1, 31, 50)]
    batch = torch.stack([torch.nn.functional.pad(x, (0, 50 - x.shape[1])) for x in items])
    lengths = torch.tensor([x.shape[1] for x in items])
    together, naive = codec.encode(batch, lengths), codec.encode(batch)
    differs = 0
    for x, row, leaky in zip(items, together, naive, strict=True):
        alone = codec.encode(x[None])[0]
        assert torch.equal(row[: x.shape[1]], alone)
        differs += int((leaky[: x.shape[1]] != alone).sum())
    assert differs > 0  # what the mask is for


def test_padding_plays_no_part_in_training():
    rng = torch.Generator().manual_seed(1)
    short, long = torch.randn(1, 12, 20, generator=rng), torch.randn(1, 12, 30, generator=rng)
    batch = torch.cat([torch.nn.functional.pad(short, (0, 10), value=9.0), long])
    codec = codec_of().eval()
    out = codec(batch, torch.tensor([20, 30]))
    alone = [codec(short), codec(long)]
    assert torch.allclose(out.y[0, :, :20], alone[0].y[0], atol=1e-5)
    assert out.y[0, :, 20:].abs().max() == out.x[0, :, 20:].abs().max() == 0
    expected = (20 * alone[0].commitment + 30 * alone[1].commitment) / 50
    assert torch.allclose(out.commitment, expected, rtol=1e-5)


def test_codes_that_nobody_uses_are_revived_only_if_asked():
    x = torch.randn(8, 12, 40, generator=torch.Generator().manual_seed(1))
    used = {}
    for share in (0.0, 0.1):
        codec = codec_of(revive=share, decay=0.5)
        codec.quantizer.only.embed[:, 3:] += 100  # far away
        codec.quantizer.only.embed_avg.copy_(codec.quantizer.only.embed)
        for _ in range(20):
            codec(x)
        used[share] = len(codec.eval().encode(x).unique())
    assert used[0.0] <= 3 and used[0.1] >= 12, used


def test_initialisation():
    x = 5 + 3 * torch.randn(20, 12, 40, generator=torch.Generator().manual_seed(1))
    codec = codec_of(normalize=True, kmeans_init=True)
    before = len(codec.eval().encode(x).unique())
    codec.initialize(x, frames_a_step=80)
    assert torch.allclose(codec.mean[:, 0], x.mean(dim=(0, 2))) and codec.mean[:, 0].mean() > 4
    assert len(codec.encode(x).unique()) == 16 > before
    assert float(codec.quantizer.only.cluster_size.sum()) == pytest.approx(80)
    plain = codec_of()
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    plain.initialize(x, frames_a_step=80)  # off: RepCodec's, nothing happens
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_half_precision_changes_few_tokens():
    codec = started(8)
    x = torch.randn(1, 12, 400, generator=torch.Generator().manual_seed(1))
    assert len(codec.encode(x).unique()) > 4
    same = (codec.encode(x) == codec.encode(x.bfloat16())).float().mean()
    assert same > 0.9


def clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(5, size=2000)
    scale = np.array([100.0, 1.0, 0.01])  # the first dimension would rule all distances
    centre = rng.standard_normal((5, 3)) * 8
    return ((centre[label] + rng.standard_normal((2000, 3))) * scale).astype(np.float32), label


def test_kmeans_finds_clusters_and_finds_them_again():
    frames, label = clusters()
    fitted, right = [], {}
    for normalize in (True, True, False):
        fitted.append(KMeans(3, KMeansConfig(codebook_size=5, normalize=normalize)))
        fitted[-1].fit(frames, seed=3)
        tokens = fitted[-1].encode(torch.from_numpy(frames.T)[None])[0].numpy()
        assert tokens.shape == (2000,)
        table = np.zeros((5, 5))
        np.add.at(table, (tokens, label), 1)
        right[normalize] = table.max(axis=1).sum() / 2000
    assert torch.equal(fitted[0].centroids, fitted[1].centroids)
    assert (fitted[2].mean == 0).all() and (fitted[2].deviation == 1).all()
    assert right[True] > 0.95 > 0.9 > right[False], right


TOKENS = TokensConfig("", "", "mfcc", params={"codebook_size": 16}, train="feature_codec_mini")


def test_files_of_a_tokenizer(tmp_path):
    codec = codec_of().eval()
    x = torch.randn(1, 12, 30, generator=torch.Generator().manual_seed(1))
    store.save(tmp_path, TOKENS, codec)
    assert torch.equal(store.load(tmp_path, "cpu").encode(x), codec.encode(x))
    assert config.load_yaml(tmp_path / "config.yaml")[0]["n_tokens"] == 16
    facts = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(facts.replace("codebook_size: 16", "codebook_size: 17"))
    with pytest.raises(
        UserError, match=r"do not fit the tokenizer: 3 tensors differ.*\(12, 16\)\); expected \(12, 17\)"
    ):
        store.load(tmp_path, "cpu")


def test_published_checkpoints_load(tmp_path):
    codec = codec_of().eval()
    torch.save(
        {"model": {"repcodec": codec.state_dict()}, "optimizer": {}, "steps": 3, "epochs": 1},
        tmp_path / "a.pkl",
    )
    ready = TokensConfig("", "", "mfcc", params={"codebook_size": 16}, checkpoint=str(tmp_path / "a.pkl"))
    x = torch.randn(1, 12, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(store.ready(ready).encode(x), codec.encode(x))
    (tmp_path / "b.pkl").write_bytes(b"nothing")
    torch.save({"model": {"repcodec": {"some.weight": torch.ones(2)}}}, tmp_path / "c.pkl")
    torch.save([1, 2], tmp_path / "d.pkl")
    torch.save({"model": Path}, tmp_path / "e.pkl")
    for name, message in {
        "b.pkl": "not a checkpoint", "c.pkl": "not the weights of a feature codec", "d.pkl": "holds no weights",
        "e.pkl": "not a checkpoint", "f.pkl": "no such checkpoint",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            store.ready(TokensConfig("", "", "mfcc", checkpoint=str(tmp_path / name)))


def test_arks_survive_a_move_and_name_their_place(tmp_path):
    arrays = {"b": np.arange(5, dtype=np.int32), "a": np.array([7], np.int32)}
    (tmp_path / "x.partial").mkdir()
    store.write_ark(tmp_path / "x.partial" / "tokens", arrays, tmp_path / "x" / "tokens")
    (tmp_path / "x.partial").rename(tmp_path / "x")
    made = store.Ark(tmp_path / "x" / "tokens.scp")
    assert list(made) == ["a", "b"] and made["b"].tolist() == [0, 1, 2, 3, 4] and made["a"].dtype == np.int32
    import kaldiio

    assert kaldiio.load_scp(str(tmp_path / "x" / "tokens.scp"))["a"].tolist() == [7]
    with pytest.raises(UserError, match="run stage 'tokenize' first"):
        store.load_tokens(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher: mfc", "unknown teacher 'mfc'; did you mean 'mfcc'"),
        ("tokenizer: kmean", "did you mean 'kmeans'"),
        ("params: {codebok_size: 3}", r"t.yaml:4: unknown key 'codebok_size'; did you mean 'codebook_size'"),
        ("params: {codebook_size: many}", "expected a whole number"),
        ("params: {codebook_size: 0}", "sizes from 1"),
        ("teacher_params: {bands: 3}", "has no parameter 'bands'"),
        ("train: null", "expected `train` for a feature_codec"),
        ("checkpoint: x.pkl", "expected `train` for a feature_codec"),
        ("hours: 0", "expected more than 0"),
        ("teachers: mfcc", "unknown key 'teachers'; did you mean 'teacher'"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, text, message):
    lines = {
        "description": "x",
        "reference": "y",
        "teacher": "mfcc",
        "params": "{}",
        "train": "feature_codec_mini",
    }
    key, value = text.split(": ", 1)
    (tmp_path / "conf" / "tokens").mkdir(parents=True)
    written = "".join(f"{k}: {v}\n" for k, v in (lines | {key: value}).items())
    (tmp_path / "conf" / "tokens" / "t.yaml").write_text(written)
    recipe = config.Recipe(name="r", systems=(), evaluators=(), corpora={})
    with pytest.raises(UserError, match=message):
        load(recipe, "t", tmp_path)


@pytest.mark.parametrize(
    "path", sorted((config.ROOT / "conf" / "tokens").glob("*.yaml")), ids=lambda p: p.stem
)
def test_configurations_of_the_repository_load(path):
    from espnet_musa.pipeline.tokenizer_training import check

    tokens = load(config.Recipe(name="r", systems=(), evaluators=(), corpora={}), path.stem, config.ROOT)
    if tokens.train is not None:
        check(tokens.train, config.ROOT, tokens.tokenizer)
