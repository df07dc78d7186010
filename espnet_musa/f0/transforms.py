"""Changes to a pitch track, listed in a system's YAML and applied in that order.

    transforms:
      - mean_reversion: {alpha: 0.75}
      - awgn: {db: 10.0}

All act on voiced frames only, in Hz, and keep the voiced mask. Published descriptions are ambiguous, so each reading
has a name here, and the default is stated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError, suggest

LOWEST = 20.0  # Hz; noise must not turn a voiced frame unvoiced or negative


@dataclass(frozen=True)
class Track:
    """What a transform may look at besides the frames it changes."""

    original: np.ndarray  # (V,) Hz, the voiced frames before any transform
    voiced: np.ndarray  # (F,) bool
    hop_ms: float
    rng: np.random.Generator


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} '{value}'{suggest(value, known)}")


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}", expected=f"a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class MeanReversion:
    """Pull F0 towards its mean (systems 3 and 4 of Kuzmin et al., "NTU-NPU System for Voice Privacy 2024", SPSC 2024).

    Reading "r1" takes alpha as the strength of the pull, f0' = (1 - alpha) f0 + alpha mean: the name's own meaning,
    and what the toolkit they build on computes. Reading "r2" takes it as the weight of the original,
    f0' = alpha f0 + (1 - alpha) mean. The mean is that of the voiced frames of the utterance (the text gives no
    other), or a moving one over the voiced frames within a centred window, which leaves slow declination alone.
    """

    alpha: float  # in [0, 1]
    reading: str = "r1"  # r1 | r2
    mean: str = "utterance"  # utterance | moving
    window_ms: float = 640.0  # of the moving mean; rounded to an odd number of frames

    def __post_init__(self) -> None:
        _number("mean_reversion.alpha", self.alpha, 0, 1)
        _choice("mean_reversion.reading", self.reading, ("r1", "r2"))
        _choice("mean_reversion.mean", self.mean, ("utterance", "moving"))
        _number("mean_reversion.window_ms", self.window_ms, 1, 60000)

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        pull = self.alpha if self.reading == "r1" else 1 - self.alpha
        mean = f0.mean() if self.mean == "utterance" else self._moving_mean(f0, track)
        return f0 + pull * (mean - f0)

    def _moving_mean(self, f0: np.ndarray, track: Track) -> np.ndarray:
        """(V,) mean of the voiced frames around each voiced frame, by differences of running sums."""
        reach = round(self.window_ms / track.hop_ms / 2)
        position = np.flatnonzero(track.voiced)
        first = np.searchsorted(position, position - reach, side="left")
        last = np.searchsorted(position, position + reach, side="right")
        running = np.append(0.0, np.cumsum(f0))
        return (running[last] - running[first]) / (last - first)


@dataclass(frozen=True)
class Awgn:
    """Add white Gaussian noise to F0 ("10-dB AWGN" of system 4 of the same paper, which does not say re what).

    The standard deviation of the noise is, with x = 10^(db / 20),

    - "snr_variance" (default): sd / x, a signal-to-noise ratio whose signal is the movement of the pitch;
    - "snr_power": rms / x, the same with the mean pitch counted as signal;
    - "absolute_hz": x Hz, a noise power of `db` re 1 Hz^2;
    - "absolute_z": x sd, a noise power of `db` re the variance (for z-scores `db` re 1, as in the toolkit).

    sd and rms are those of the voiced frames of the track as it came in ("original", default), or after the transforms
    listed before ("current"): after a strong mean reversion the two differ much.
    """

    db: float
    reading: str = "snr_variance"  # snr_variance | snr_power | absolute_hz | absolute_z
    reference: str = "original"  # original | current

    _SIGMA: ClassVar = {
        "snr_variance": lambda f0, x: f0.std() / x,
        "snr_power": lambda f0, x: np.sqrt(np.mean(f0**2)) / x,
        "absolute_hz": lambda f0, x: x,
        "absolute_z": lambda f0, x: f0.std() * x,
    }

    def __post_init__(self) -> None:
        _number("awgn.db", self.db, -100, 100)
        _choice("awgn.reading", self.reading, tuple(self._SIGMA))
        _choice("awgn.reference", self.reference, ("original", "current"))

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        reference = track.original if self.reference == "original" else f0
        sigma = self._SIGMA[self.reading](reference, 10 ** (self.db / 20))
        return f0 + sigma * track.rng.standard_normal(f0.size)


@dataclass(frozen=True)
class Scale:
    """Multiply F0 by a factor: another register, the same intonation in semitones."""

    factor: float

    def __post_init__(self) -> None:
        _number("scale.factor", self.factor, 0.1, 10)

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        return self.factor * f0


_TRANSFORMS = {"mean_reversion": MeanReversion, "awgn": Awgn, "scale": Scale}


def parse(transforms: Sequence[dict[str, dict[str, Any]]]) -> list[MeanReversion | Awgn | Scale]:
    """Transforms from their YAML form, a list of `{name: {parameter: value}}`.

    Raises:
        UserError: for an unknown name or parameter, a missing parameter, or a value out of range.
    """
    if not isinstance(transforms, list | tuple):
        raise UserError(f"transforms is {transforms!r}", expected="a list of {name: {parameter: value}}")
    out = []
    for entry in transforms:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise UserError(f"a transform is {entry!r}", expected="{name: {parameter: value}}")
        [(name, params)] = entry.items()
        if name not in _TRANSFORMS:
            raise UserError(f"unknown F0 transform '{name}'{suggest(str(name), _TRANSFORMS)}")
        if not isinstance(params, dict):
            raise UserError(f"{name} has parameters {params!r}", expected="{parameter: value}")
        fields = {field.name: field for field in dataclasses.fields(_TRANSFORMS[name])}
        for param in params:
            if param not in fields:
                raise UserError(f"{name} has no parameter '{param}'{suggest(str(param), fields)}")
        for param, field in fields.items():
            if param not in params and field.default is dataclasses.MISSING:
                raise UserError(f"{name} needs the parameter '{param}'")
        out.append(_TRANSFORMS[name](**params))
    return out


def apply(
    transforms: Sequence[dict[str, dict[str, Any]]],
    f0: np.ndarray,
    rng: np.random.Generator,
    *,
    hop_ms: float = 10.0,
) -> np.ndarray:
    """A changed copy of a pitch track.

    Args:
        transforms: list of `{name: {parameter: value}}`, applied in order; empty: no change.
        f0: (F,) Hz, 0 = unvoiced.
        rng: source of noise.
        hop_ms: distance of frames in milliseconds.

    Returns:
        (F,) Hz: the same frames voiced, those at least 20 Hz; a track without voiced frames comes back unchanged.

    Raises:
        UserError: see `parse`.
    """
    steps = parse(transforms)
    out = np.array(f0, dtype=np.float64)
    voiced = out > 0
    if not steps or not voiced.any():
        return out
    values = out[voiced]
    track = Track(values.copy(), voiced, hop_ms, rng)
    for step in steps:
        values = step(values, track)
    out[voiced] = np.maximum(values, LOWEST)
    return out
