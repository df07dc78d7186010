"""Changes to a pitch track, listed in a system's YAML and applied in that order.

    transforms:
      - normalize: {}
      - mean_reversion: {alpha: 0.75}
      - awgn: {db: 10.0}

All act on voiced frames only and keep the voiced mask. A track is in Hz until `normalize`, then in z-scores; all other
transforms mean the same in both: noise of 6 Hz or 0.3 standard deviations is the same noise. What differs is what a
vocoder of z-scores hears: any map f0' = a f0 + b of the utterance's pitch is taken back by a `normalize` after it.
Published descriptions are ambiguous, so each reading has a name here, and the default is stated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError, suggest

LOWEST = 20.0  # Hz; noise must not turn a voiced frame unvoiced or negative
_ZERO = float(np.finfo(np.float32).tiny)  # a voiced z-score of 0: still voiced, in float32 too
_SOFTENING = 1e-6  # Hz^2, added to the variance


@dataclass(frozen=True)
class Track:
    """What a transform may look at besides the frames it changes. A pitch in Hz is `mean + unit * value`."""

    original: np.ndarray  # (V,) the voiced frames before any transform, or as `normalize` made them
    voiced: np.ndarray  # (F,) bool
    hop_ms: float
    rng: np.random.Generator
    phones: np.ndarray | None = None  # (F,) int labels; a run of equal ones is a phone
    mean: float = 0.0  # Hz
    unit: float = 1.0  # Hz
    domain: str = "hz"  # hz | z

    def to_hz(self, values: np.ndarray) -> np.ndarray:
        """Values (V,) in Hz."""
        return self.mean + self.unit * values

    def from_hz(self, values: np.ndarray) -> np.ndarray:
        """Hz (V,) in the track's domain."""
        return (values - self.mean) / self.unit


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} '{value}'{suggest(value, known)}")


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}", expected=f"a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class Normalize:
    """Make z-scores: what B5 and B6 of VoicePrivacy 2024 give to their vocoder.

    Mean and standard deviation are those of the utterance's voiced frames (unbiased, variance + 1e-6 Hz^2, as in
    SA-toolkit; a single voiced frame becomes 0, where the toolkit gives NaN), or fixed numbers of a corpus or target.
    """

    mean: float | None = None  # Hz
    sd: float | None = None  # Hz

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.sd is None):
            raise UserError(
                "normalize has one of mean and sd", expected="both (fixed) or none (the utterance's)"
            )
        if self.mean is not None:
            _number("normalize.mean", self.mean, 0, 2000)
            _number("normalize.sd", self.sd, 0.001, 2000)

    def statistics(self, f0: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation in Hz for voiced frames (V,), V > 0."""
        if self.mean is not None:
            return float(self.mean), float(self.sd)
        variance = f0.var(ddof=1) if f0.size > 1 else 0.0
        return float(f0.mean()), float(np.sqrt(variance + _SOFTENING))


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

    sd and rms are those of the voiced frames, in Hz, of the track as it came in or was normalised ("original",
    default), or after the transforms listed before ("current"): after a strong mean reversion the two differ much.
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
        reference = track.to_hz(track.original if self.reference == "original" else f0)
        sigma = self._SIGMA[self.reading](reference, 10 ** (self.db / 20)) / track.unit
        return f0 + sigma * track.rng.standard_normal(f0.size)


@dataclass(frozen=True)
class Scale:
    """Multiply F0 by a factor: another register, the same intonation in semitones."""

    factor: float

    def __post_init__(self) -> None:
        _number("scale.factor", self.factor, 0.1, 10)

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        return track.from_hz(self.factor * track.to_hz(f0))


@dataclass(frozen=True)
class Multiply:
    """Multiply F0 by random factors, uniform in [low, high], drawn anew for each piece.

    "phone" is what B3 of VoicePrivacy 2024 does to its prosody (there whole percents, 60 to 139: the upper bound is
    left out); a run of equal labels is a phone, so two like phones in a row have one factor. "segment" is a run of
    voiced frames.
    """

    low: float
    high: float
    per: str = "utterance"  # frame | segment | phone | utterance

    def __post_init__(self) -> None:
        _number("multiply.low", self.low, 0.1, 10)
        _number("multiply.high", self.high, self.low, 10)
        _choice("multiply.per", self.per, ("frame", "segment", "phone", "utterance"))

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        piece = self._pieces(track)
        factor = track.rng.uniform(self.low, self.high, piece[-1] + 1)
        return track.from_hz(factor[piece] * track.to_hz(f0))

    def _pieces(self, track: Track) -> np.ndarray:
        """(V,) number of the piece that each voiced frame lies in."""
        position = np.flatnonzero(track.voiced)
        if self.per == "segment":
            return np.cumsum(np.diff(position, prepend=position[0]) > 1)
        if self.per == "phone":
            if track.phones is None:
                raise UserError(
                    "multiply has 'per: phone', but the system knows no phones",
                    expected="frame, segment or utterance",
                )
            return np.cumsum(np.diff(track.phones, prepend=track.phones[0]) != 0)[position]
        return np.arange(position.size) if self.per == "frame" else np.zeros(position.size, np.int64)


@dataclass(frozen=True)
class Shift:
    """Bring the mean of the voiced frames to a given pitch: by a ratio (intervals stay) or by a sum of Hz."""

    mean: float  # Hz
    by: str = "ratio"  # ratio | add

    def __post_init__(self) -> None:
        _number("shift.mean", self.mean, LOWEST, 2000)
        _choice("shift.by", self.by, ("ratio", "add"))

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        hz = track.to_hz(f0)
        mean = hz.mean()
        if self.by == "ratio" and mean <= 0:
            raise UserError(f"shift cannot scale a track whose mean is {mean:g} Hz", expected="by: add")
        return track.from_hz(hz * (self.mean / mean) if self.by == "ratio" else hz + (self.mean - mean))


@dataclass(frozen=True)
class Quantize:
    """Round z-scores to multiples of 1 / steps (SA-toolkit's option `quant_<steps>`).

    In Hz the grid has the same width, sd / steps, and goes through the mean; both are those of the voiced frames of the
    track as it came in.
    """

    steps: float  # in a standard deviation

    def __post_init__(self) -> None:
        _number("quantize.steps", self.steps, 0.1, 10000)

    def __call__(self, f0: np.ndarray, track: Track) -> np.ndarray:
        if track.domain == "z":
            return np.round(f0 * self.steps) / self.steps
        mean, sd = Normalize().statistics(track.original)
        return mean + np.round((f0 - mean) / sd * self.steps) / self.steps * sd


_TRANSFORMS = {
    "normalize": Normalize,
    "mean_reversion": MeanReversion,
    "awgn": Awgn,
    "scale": Scale,
    "multiply": Multiply,
    "shift": Shift,
    "quantize": Quantize,
}
Step = Normalize | MeanReversion | Awgn | Scale | Multiply | Shift | Quantize


def parse(transforms: Sequence[dict[str, dict[str, Any]]]) -> list[Step]:
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
        if name == "normalize" and any(isinstance(step, Normalize) for step in out):
            raise UserError("normalize is listed twice", expected="once: what it makes are z-scores already")
        out.append(_TRANSFORMS[name](**params))
    return out


def domain(transforms: Sequence[dict[str, dict[str, Any]]]) -> str:
    """What `apply` gives: "z" if the list normalises, else "hz".

    Raises:
        UserError: see `parse`.
    """
    return "z" if any(isinstance(step, Normalize) for step in parse(transforms)) else "hz"


def _checked(f0: np.ndarray, phones: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A copy of the track in float64, and the labels as an array."""
    out = np.array(f0, dtype=np.float64)
    if out.ndim != 1 or not np.isfinite(out).all() or (out < 0).any():
        raise UserError("the pitch track is none", expected="(F,) finite Hz, 0 = unvoiced")
    phones = None if phones is None else np.asarray(phones)
    if phones is not None and phones.shape != out.shape:
        raise UserError(f"{phones.shape} phone labels for {out.size} frames of F0", expected="one a frame")
    return out, phones


def apply(
    transforms: Sequence[dict[str, dict[str, Any]]],
    f0: np.ndarray,
    rng: np.random.Generator,
    *,
    hop_ms: float = 10.0,
    phones: np.ndarray | None = None,
) -> np.ndarray:
    """A changed copy of a pitch track.

    Args:
        transforms: list of `{name: {parameter: value}}`, applied in order; empty: no change.
        f0: (F,) Hz, 0 = unvoiced.
        rng: source of noise.
        hop_ms: distance of frames in milliseconds.
        phones: (F,) int labels, for `multiply` with `per: phone`.

    Returns:
        (F,) in `domain(transforms)`, 0 = unvoiced: the same frames voiced, in Hz those at least 20 Hz, as z-scores any
        number but 0. A track without voiced frames comes back unchanged.

    Raises:
        UserError: for a track that is none, labels that do not fit, and see `parse`.
    """
    steps = parse(transforms)
    out, phones = _checked(f0, phones)
    voiced = out > 0
    if not steps or not voiced.any():
        return out
    values = out[voiced]
    track = Track(values.copy(), voiced, hop_ms, rng, phones)
    for step in steps:
        if isinstance(step, Normalize):
            mean, unit = step.statistics(values)
            values = (values - mean) / unit
            track = dataclasses.replace(track, original=values.copy(), mean=mean, unit=unit, domain="z")
        else:
            values = step(values, track)
    if track.domain == "hz":
        values = np.maximum(values, LOWEST)
    else:
        values = np.where(values == 0, _ZERO, values)
    out[voiced] = values
    return out
