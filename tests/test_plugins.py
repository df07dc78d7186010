"""What every registered anonymizer promises, whatever it does: rate, type, length, determinism, odd lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_archives
import tiny_vqbn
from conftest import REPOSITORY, voice

from espnet_musa import config, registry
from espnet_musa.anonymizers.base import ArraySource
from espnet_musa.config import Recipe
from espnet_musa.data.datadir import DataDir, Meta
from espnet_musa.errors import UserError
from espnet_musa.pipeline.anonymize import build, plan_targets

SYSTEMS = [p.stem for p in sorted((REPOSITORY / "conf/systems").glob("*.yaml")) if p.stem != "orig"]
TINY = {"musa": tiny_archives.tiny_archive, "vqbn": tiny_vqbn.tiny_archive}


@pytest.fixture(scope="module", params=SYSTEMS)
def plugin(request, tmp_path_factory):
    """(anonymizer, target) of a system; one that is trained gets a tiny model of random weights."""
    system = config.load_system(Recipe("tests", (), (), {}), request.param, REPOSITORY)
    table = {"u": "k"}
    data = DataDir(Path("s"), {"utt2spk": table, "wav.scp": table, "spk2gender": {"k": "f"}}, Meta())
    tiny = TINY.get(system.anonymizer)
    model = tiny(tmp_path_factory.mktemp("model")) if tiny else None
    return build(system, model=model), plan_targets(0, request.param, system, [data])["s"]["u"]


def convert(plugin, wav, seed=0):
    anonymizer, target = plugin
    return anonymizer.convert(wav, target, np.random.default_rng(seed))


def test_type_length_and_change(plugin):
    wav = voice(0, 1.3)
    out = convert(plugin, wav)
    assert out.dtype == np.float32 and out.ndim == 1 and len(out) == len(wav)
    assert np.isfinite(out).all() and np.abs(out).max() > 0.01
    assert np.corrcoef(out, wav)[0, 1] < 0.99


def test_same_seed_same_output_and_input_untouched(plugin):
    wav = voice(1)
    before = wav.copy()
    assert np.array_equal(convert(plugin, wav, 5), convert(plugin, wav, 5))
    assert np.array_equal(wav, before)


def test_order_does_not_matter(plugin):
    """No state is carried from one utterance to the next."""
    first = convert(plugin, voice(2))
    convert(plugin, voice(3))
    assert np.array_equal(convert(plugin, voice(2)), first)


def test_targets_change_the_voice(plugin):
    anonymizer, target = plugin
    wav = voice(4)
    other = {**target, "speaker": 0.99} if isinstance(target, dict) else 0.85 * target if target else 0.5
    others = [anonymizer.convert(wav, t, np.random.default_rng(0)) for t in (target, other)]
    assert not np.array_equal(*others)


@pytest.mark.parametrize("samples", [1, 160, 319, 320, 321, 5000])
def test_short_input_is_converted_or_refused(plugin, samples):
    wav = voice(0)[2000 : 2000 + samples]
    try:
        out = convert(plugin, wav)
    except UserError as error:
        assert "short" in str(error)
    else:
        assert len(out) == samples and np.isfinite(out).all()


def test_silence_stays_finite_and_silent(plugin):
    out = convert(plugin, np.zeros(16000, np.float32))
    assert np.isfinite(out).all() and np.abs(out).max() < 1e-3


def test_stream_equals_whole(plugin):
    anonymizer, target = plugin
    wav = np.concatenate([voice(i, 8.0) for i in range(5)])  # longer than any block
    blocks = list(anonymizer.convert_stream(ArraySource(wav, 16000), target, np.random.default_rng(0)))
    assert len(blocks) > 1 and sum(map(len, blocks)) == len(wav)
    whole = anonymizer.convert(wav, target, np.random.default_rng(0))
    joined = np.concatenate(blocks)
    if anonymizer.peak_normalize:
        joined = joined / np.abs(joined).max() * np.abs(whole).max()
    assert np.abs(joined - whole).max() < 1e-6


def test_unknown_parameter_is_refused_with_a_suggestion():
    for name in registry.ANONYMIZERS:
        with pytest.raises(UserError, match="unknown key 'surely_not'"):
            registry.resolve(registry.ANONYMIZERS, "anonymizer", name)(surely_not=1)
