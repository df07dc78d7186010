"""Model archives: what is saved is what is loaded, from a directory, a zip or the hub's cache; what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import voice
from safetensors.torch import load_file, save_file
from tiny_archives import tiny_archive, tiny_conf, tiny_generator
from tiny_sets import GENDERS, make_set, tone

from espnet_musa.bin.pack_model import main
from espnet_musa.codec import archive
from espnet_musa.codec.speaker_table import SpeakerTable, embed_speakers
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError


def resynthesis(generator) -> torch.Tensor:
    return generator.decode(*generator.encode(torch.from_numpy(voice(0))[None]))


@pytest.mark.parametrize("backbone", ["spectral", "seanet"])
def test_round_trip(tmp_path, backbone):
    trained = tiny_generator(backbone)
    place = tiny_archive(tmp_path / "model", backbone)
    state = torch.random.get_rng_state()
    loaded = archive.load(place)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not loaded.training and not any("parametrizations" in name for name in loaded.state_dict())
    torch.testing.assert_close(resynthesis(loaded), resynthesis(trained), atol=1e-6, rtol=0)
    assert not [name for name in load_file(place / archive.WEIGHTS) if name.startswith(archive.HEADS)]
    config = json.loads((place / archive.CONFIG).read_text())
    assert config["model_type"] == "musa" and config["generator"] == tiny_conf(backbone)
    assert config["train"] == "tiny"


def test_averages_of_codebooks_are_not_kept_and_do_no_harm(tmp_path):
    place = tiny_archive(tmp_path / "model")
    before = resynthesis(archive.load(place))
    averages = {n: v for n, v in tiny_generator().state_dict().items() if n.endswith(archive.AVERAGES)}
    assert len(averages) == 12 and not averages.keys() & load_file(place / archive.WEIGHTS).keys()
    spoil(place, lambda state: state.update(averages))  # as archives of earlier versions have them
    assert torch.equal(resynthesis(archive.load(place)), before)


def test_zip_is_the_directory(tmp_path):
    place = tiny_archive(tmp_path / "model")
    (place / "config.yaml").write_text("codec: musa\n")
    for name in ("a.zip", "b.zip"):
        main([str(place), str(tmp_path / name)])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    packed = archive.load(tmp_path / "a.zip")
    assert torch.equal(resynthesis(packed), resynthesis(archive.load(place)))
    assert np.array_equal(
        archive.load_speakers(tmp_path / "a.zip").embeddings, archive.load_speakers(place).embeddings
    )
    assert archive.fingerprint(tmp_path / "a.zip") == archive.fingerprint(place)
    main([str(tmp_path / "a.zip"), str(tmp_path / "out")])
    assert {p.name: p.read_bytes() for p in place.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()
    }
    with pytest.raises(UserError, match="is there already"):
        main([str(tmp_path / "a.zip"), str(tmp_path / "out")])


@pytest.mark.parametrize("training", [True, False])
def test_espnet_unpacks_it(tmp_path, training):
    from espnet2.main_funcs.pack_funcs import unpack

    place = tiny_archive(tmp_path / "model")
    if training:
        (place / "config.yaml").write_text("codec: musa\n")
    archive.pack(place, tmp_path / "model.zip")
    found = unpack(tmp_path / "model.zip", tmp_path / "unpacked")
    assert set(found) == {"train_config", "model_file"}
    assert load_file(found["model_file"]).keys() == load_file(place / archive.WEIGHTS).keys()
    assert Path(found["train_config"]).name == ("config.yaml" if training else "config.json")


def test_fingerprint_is_of_the_content(tmp_path):
    prints = [
        archive.fingerprint(tiny_archive(tmp_path / name, seed=seed, speakers=speakers))
        for name, seed, speakers in (("a", 0, True), ("b", 0, True), ("c", 1, True), ("d", 0, False))
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def spoil(place: Path, change) -> None:
    state = load_file(place / archive.WEIGHTS)
    change(state)
    save_file(state, place / archive.WEIGHTS)


def reconfigure(place: Path, **changes) -> None:
    config = json.loads((place / archive.CONFIG).read_text())
    (place / archive.CONFIG).write_text(json.dumps(config | changes))


CODE = "quantizer.layers.0.embed"
MISFITS = {
    "missing": (lambda p: spoil(p, lambda s: s.pop(CODE)), f"do not fit config.json: '{CODE}' is missing; hint"),
    "unknown": (lambda p: spoil(p, lambda s: s.update(more=torch.ones(1))), "'more' is unknown"),
    "shape": (
        lambda p: reconfigure(p, generator=tiny_conf(dimension=16)),
        r"'encoder.backbone.out.weight' has shape \(32, 24\), not \(16, 24\), .* and \d+ more",
    ),
    "other backbone": (lambda p: reconfigure(p, generator=tiny_conf("seanet")), "do not fit config.json: .*is missing"),
    "unknown key": (lambda p: reconfigure(p, generator={"dimensions": 3}), "'generator' is no .*'dimensions'"),
    "wrong value": (lambda p: reconfigure(p, generator=tiny_conf(speaker_fusion="ad")), "unknown .* 'ad'"),
    "no generator": (lambda p: reconfigure(p, generator=None), "config.json: lacks 'generator'"),
    "other model": (lambda p: reconfigure(p, model_type="bert"), 'not a model of MUSA; expected "model_type'),
    "not JSON": (lambda p: (p / "config.json").write_text("{"), "config.json: not JSON"),
    "damaged": (lambda p: (p / "model.safetensors").write_bytes(b"weights" * 9), "model.safetensors: damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_one_error(tmp_path, case):
    change, message = MISFITS[case]
    place = tiny_archive(tmp_path / "model")
    change(place)
    with pytest.raises(UserError, match=message):
        archive.load(place)


def test_damaged_zip_and_speakers(tmp_path):
    place = tiny_archive(tmp_path / "model")
    archive.pack(place, tmp_path / "m.zip")
    raw = bytearray((tmp_path / "m.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "m.zip") as packed:
        at = packed.getinfo(archive.WEIGHTS).header_offset + 5000
    raw[at] ^= 255
    (tmp_path / "m.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"m.zip/model.safetensors: damaged: Bad CRC"):
        archive.load(tmp_path / "m.zip")
    (place / archive.SPEAKERS).write_bytes(b"\0" * 99)
    with pytest.raises(UserError, match=r"speakers.safetensors: damaged"):
        archive.load_speakers(place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "nowhere/at/all: no such model; known: musa_small; expected a directory, a zip"),
        ("./nowhere", "no such model"),
        ("some/model", "not in the hub's cache; hint: hf download some/model"),
        ("{tmp}", "holds no config.json; expected a model archive"),
        ("{tmp}/text.zip", "neither a directory nor a zip"),
    ],
)
def test_no_such_model(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(UserError, match=message):
        archive.find(name.format(tmp=tmp_path))


def test_hub_cache_is_used_and_the_network_only_if_asked_for(tmp_path, monkeypatch):
    cached, revision = tmp_path / "cache/models--some--model", "0" * 40
    snapshot = tiny_archive(cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert archive.fingerprint(archive.find("some/model")) == archive.fingerprint(snapshot)

    def fetch(name, allow_patterns, local_files_only):
        from huggingface_hub.errors import LocalEntryNotFoundError

        assert not local_files_only and archive.WEIGHTS in allow_patterns
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(UserError, match=r"other/model: no such .*, and cannot be fetched from the hub; hint"):
        archive.find("other/model", download=True)


def test_pack_refuses(tmp_path):
    place = tiny_archive(tmp_path / "model")
    with pytest.raises(UserError, match=r"a name that ends in \.zip"):
        archive.pack(place, tmp_path / "model.tar")
    archive.pack(place, tmp_path / "model.zip")
    with pytest.raises(UserError, match="is packed already"):
        archive.pack(tmp_path / "model.zip", tmp_path / "again.zip")


def test_places_are_spread_over_the_speakers_of_a_gender():
    table = SpeakerTable(np.arange(5, dtype=np.float32)[:, None], ("f", "m", "", "f", "m"))

    def picked(gender=None):
        return [float(table.pick(place, gender)[0]) for place in np.linspace(0, 0.999, 300)]

    assert set(picked()) == {0, 1, 2, 3, 4} and set(picked("f")) == {0, 3}
    assert picked("m").count(1) == 150 and picked() == sorted(picked())
    with pytest.raises(UserError, match="no speaker of gender 'm'; expected one of f"):
        SpeakerTable(np.ones((1, 2), np.float32), ("f",)).pick(0.5, "m")


def test_speakers_are_embedded_by_their_mean(tmp_path):
    wavs = {
        f"{spk}-{i}": tone(0.5 + 0.1 * i, 100 + 40 * k, i) for k, spk in enumerate("abc") for i in range(3)
    }
    parts = [{u: w for u, w in wavs.items() if u[0] in names} for names in ("ab", "bc")]
    sets = [
        DataDir.read(make_set(tmp_path / n, part, GENDERS, {})) for n, part in zip("xy", parts, strict=True)
    ]
    generator = tiny_generator()
    table = embed_speakers(generator, sets, utterances=2)
    assert table.embeddings.shape == (3, 32) and table.genders == ("f", "f", "m")
    with torch.no_grad():
        of_a = [generator.speaker(torch.from_numpy(sets[0].load(u))[None])[0].numpy() for u in ("a-0", "a-2")]
    np.testing.assert_allclose(table.embeddings[0], np.mean(of_a, axis=0), atol=1e-6)
