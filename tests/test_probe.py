"""Probing a codec: of a whole recipe directory with a tiny codec and the ready attacker."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import voice
from tiny_archives import tiny_archive

from espnet_musa import config, stamp
from espnet_musa.codec import archive
from espnet_musa.config import Recipe
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import write_datadir
from espnet_musa.errors import UserError
from espnet_musa.pipeline.probe import probe

RECIPE = Recipe(name="r", systems=("musa_mini", "b2_mcadams"), evaluators=(), corpora={})


@pytest.fixture
def root(tmp_path):
    """Formatted enrolment and trial sets of four speakers, and a trained codec."""
    for name, role, count, more in (
        ("e", "enroll", 2, {}), ("t", "trial", 2, {"enroll": "e"}),
    ):  # fmt: skip
        place = tmp_path / "dump" / name
        (place / "wav").mkdir(parents=True)
        utts = {f"s{s}-{name}{i}": f"s{s}" for s in range(4) for i in range(count)}
        for i, utt in enumerate(utts):
            write_wav(place / "wav" / f"{utt}.wav", voice(i, 1.2, 100 + 40 * int(utt[1])), 16000)
        tables = {
            "wav.scp": {utt: str(place / "wav" / f"{utt}.wav") for utt in utts}, "utt2spk": utts,
            "utt2dur": dict.fromkeys(utts, 1.2), "spk2gender": {f"s{s}": "fm"[s % 2] for s in range(4)},
        }  # fmt: skip
        if role == "trial":
            tables["trials"] = [(f"s{s}", utt, utts[utt] == f"s{s}") for s in range(4) for utt in utts]
        write_datadir(place, tables, {"corpus": "c", "role": role, "split": "test", **more})
    out = tmp_path / "exp" / "models" / "musa_mini"
    partial = stamp.begin(out, "train", {"made": "by the test"})
    tiny_archive(partial)
    stamp.finish(out, "train", counts={}, seconds=0.0)
    return tmp_path


def test_every_number_of_quantizers_with_and_without_the_speaker(root):
    probe(RECIPE, root, "musa_mini", device="cpu", force=False)
    place = root / "exp" / "musa_mini" / "probe"
    (found,) = stamp.read_json(place / "probe.json")["sets"]
    assert found["set"] == "t" and found["n"] == {"speakers": 4, "target": 8}
    kinds = [(made["quantizers"], made["speaker"]) for made in found["decoded"]]
    assert kinds == [(count, speaker) for count in (1, 2, 3, 4) for speaker in ("own", "zero")]
    assert all(0 <= value <= 100 for value in [found["embedding_eer"], *(m["eer"] for m in found["decoded"])])
    assert all(0 <= made["eer_lazy"] <= 100 for made in found["decoded"])
    assert any(made["eer_lazy"] != made["eer"] for made in found["decoded"])
    with np.load(place / "t.npz") as stored:
        assert stored["embeddings"].shape == (16, 32) and set(stored["speakers"]) == {"s0", "s1", "s2", "s3"}
    before = (place / "probe.json").stat().st_mtime_ns
    probe(RECIPE, root, "musa_mini", device="cpu", force=False)  # up to date
    assert (place / "probe.json").stat().st_mtime_ns == before


def test_a_system_without_a_codec_has_nothing_to_probe(root):
    probe(RECIPE, root, "b2_mcadams", device="cpu", force=False)
    assert not (root / "exp" / "b2_mcadams").exists()


def test_a_shipped_codec_is_probed_once(root, monkeypatch):
    """Systems that differ in their targets alone have one model: the first is probed."""
    monkeypatch.setattr(archive, "SHIPPED", root / "shipped")
    (root / "exp" / "models" / "musa_mini").rename(root / "trained")
    tiny_archive(root / "shipped" / "tiny", quantizer_conf={"n_quantizers": 2, "codebook_size": 16})
    names = ("musa_small", "musa_small_vc")
    recipe = Recipe(name="r", systems=("orig", *names), evaluators=(), corpora={})
    recipe = config.with_sets(recipe, [f"{name}.params.model=tiny" for name in names])
    assert list(config.probed_systems(recipe, root)) == ["musa_small"]
    for name in names:
        probe(recipe, root, name, device="cpu", force=False)
    assert not (root / "exp" / "musa_small_vc").exists()
    (found,) = stamp.read_json(root / "exp" / "musa_small" / "probe" / "probe.json")["sets"]
    assert len(found["decoded"]) == 4  # two quantizers, with the speaker and without
    tiny_archive(root / "shipped" / "tiny", seed=1)  # another model of the same name is noticed
    with pytest.raises(UserError, match="made this from something else; changed: model"):
        probe(recipe, root, "musa_small", device="cpu", force=False)


def test_another_model_is_another_probe(root):
    recipe = Recipe(name="r", systems=("musa_mini", "musa_mini_vc", "musa_small"), evaluators=(), corpora={})
    assert list(config.probed_systems(recipe, root)) == ["musa_mini", "musa_small"]
    recipe = config.with_sets(recipe, ["musa_mini_vc.params.model=elsewhere"])
    assert list(config.probed_systems(recipe, root)) == ["musa_mini", "musa_mini_vc", "musa_small"]


def test_an_untrained_codec_is_one_error(root):
    (root / "exp" / "models" / "musa_mini" / ".done.json").unlink()
    with pytest.raises(UserError, match="musa_mini"):
        probe(RECIPE, root, "musa_mini", device="cpu", force=False)
