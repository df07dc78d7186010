"""The phone recognizer as a teacher: frames, silence, repeatability, and what the clusters tell of real speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import voice

from espnet_musa.errors import UserError
from espnet_musa.tokenizer.phones import PHONES, Phones
from espnet_musa.tokenizer.teachers import n_frames

RATE = 16000


@pytest.mark.parametrize("samples", [400, 719, 720, 16000, 33333])
def test_frames_are_those_of_all_teachers(samples):
    teacher = Phones()
    teacher.prepare("cpu")
    (features,) = teacher.features([voice(3, samples / RATE, 120)[:samples].astype(np.float32)])
    assert features.shape == (n_frames(samples), teacher.dimension) == (n_frames(samples), len(PHONES))
    assert features.dtype == torch.float32 and torch.allclose(features.sum(1), torch.ones(len(features)))


def test_silence_is_silence_and_nothing_is_remembered():
    teacher, wav = Phones(), voice(3, 1.0, 120).astype(np.float32)
    (first,) = teacher.features([wav])
    (silence,) = teacher.features([np.zeros(RATE, np.float32)])
    assert (silence.argmax(1) == PHONES.index("SIL")).all()
    assert torch.equal(teacher.features([np.zeros(400, np.float32), wav])[1], first)


def test_smoothing_takes_the_frames_around_the_middle():
    """A phone from 100 to 200 ms: frame i is centred on 20 i + 12.5 ms and averaged over 70 ms."""
    features = Phones(spread=4)._smoothed([("SIL", 0, 10), ("AA", 10, 20), ("SIL", 20, 40)], 19)
    aa = features[:, PHONES.index("AA")]
    assert aa[7] == 1 and (aa[:3] == 0).all() and (aa[12:] == 0).all()
    assert 0 < aa[4] < 1 and 0 < aa[9] < 1 and np.allclose(features.sum(1), 1)


def test_wrong_parameters_are_refused():
    for wrong in ({"spread": 0}, {"weight": 0.0}):
        with pytest.raises(UserError, match="spread"):
            Phones(**wrong)
