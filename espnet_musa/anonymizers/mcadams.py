"""McAdams coefficient: move the formants by bending the angles of the poles of a linear prediction.

Per frame: prediction polynomial (Burg), its roots, new angles, residual through the new all-pole filter. Two
compiled kernels do it, before and after the roots, so that the rare polynomial whose roots the fast solver cannot
vouch for goes through an eigenvalue solver in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numba import njit

from ..errors import UserError
from .base import Anonymizer, Source

EPSILON = float(np.finfo(np.float32).eps)  # added to every sample, and again before prediction [vpc24]
BLOCK_FRAMES = 1000  # frames converted at once: ten seconds at the default hop
MAX_STEPS = 40  # of one root search, which usually takes five
LANES = 8  # frames filtered side by side
REBUILT = 1e-11  # error of a polynomial rebuilt from its roots, over its largest term, that is allowed

# Sums may be reordered, so that the compiler vectorizes them; NaN and infinity keep their meaning.
_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _burg(frame, a, previous, f, b):
    """Prediction polynomial of a frame by Burg's method.

    The denominator is summed anew for each order. The usual recursion for it (Marple, IEEE TASSP 28(4), 1980, eq. 17)
    loses all digits on frames that are predicted well, digital silence among them; summed, no reflection coefficient
    exceeds one, and no pole leaves the unit circle.

    Args:
        frame: (W,) samples.
        a: (P + 1,) coefficients in descending powers, a[0] = 1; written.
        previous, f, b: (P + 1,), (W - 1,), (W - 1,) scratch.
    """
    f[:] = frame[1:]
    b[:] = frame[:-1]
    a[:] = 0.0
    a[0] = 1.0
    for i in range(len(a) - 1):
        n = len(f) - i  # errors left: f[i:] forward, b[:n] backward
        cross, energy = 0.0, 0.0
        for j in range(n):
            cross += f[i + j] * b[j]
            energy += f[i + j] * f[i + j] + b[j] * b[j]
        k = -2.0 * cross / energy if energy > 0.0 else 0.0
        previous[:] = a
        for j in range(1, i + 2):
            a[j] = previous[j] + k * previous[i + 1 - j]
        for j in range(n):
            forward = f[i + j]
            f[i + j] = forward + k * b[j]
            b[j] += k * forward


@_compiled
def _laguerre(c, degree):
    """The root of a real polynomial that Laguerre's method finds from near zero, mostly the smallest.

    Args:
        c: (>= degree + 1,) coefficients in descending powers.
        degree: at least 1.

    Returns:
        a complex root, NaN if none was found.
    """
    z = complex(0.1, 0.1)  # off the real axis, and no stationary point of a sparse polynomial
    n = float(degree)
    for _ in range(MAX_STEPS):
        p, d, h = complex(c[0], 0.0), complex(0.0, 0.0), complex(0.0, 0.0)
        for i in range(1, degree + 1):
            h = h * z + d  # half the second derivative
            d = d * z + p
            p = p * z + c[i]
        s = np.sqrt((n - 1.0) * ((n - 1.0) * d * d - 2.0 * n * p * h))
        if d.real * s.real + d.imag * s.imag < 0.0:
            s = -s
        if d + s == 0.0:
            break
        step = n * p / (d + s)
        z -= step
        # the error is about the cube of the last step's; polishing sees to the rest
        if abs(step) <= 1e-5 * abs(z):
            return z
    return complex(np.nan, np.nan)


@_compiled
def _polish(a, z):
    """Newton's method on the whole polynomial, until the steps no longer shrink.

    Args:
        a: (P + 1,) coefficients in descending powers.
        z: complex start; a real one stays real.
    """
    last = np.inf
    for _ in range(MAX_STEPS):
        p, d = complex(a[0], 0.0), complex(0.0, 0.0)
        for i in range(1, len(a)):
            d = d * z + p
            p = p * z + a[i]
        if d == 0.0:
            break
        step = p / d
        size = abs(step)
        if not size < last:
            break
        z -= step
        if size <= 1e-15 * abs(z):
            break
        last = size
    return z


@_compiled
def _rebuild(roots, coefficient, out):
    """The real monic polynomial of these roots, with the angles of the complex ones raised to a power.

    Angles are not limited; a power above 1 may carry one past pi, and its pair still is a pair.

    Args:
        roots: (P,) complex, non-real ones in conjugate pairs, of which only the upper ones are looked at.
        coefficient: the power; 1 leaves the angles alone.
        out: (P + 1,) coefficients in descending powers; written.
    """
    out[:] = 0.0
    out[0] = 1.0
    degree = 0
    for z in roots:
        if z.imag == 0.0:
            degree += 1
            for i in range(degree, 0, -1):
                out[i] -= z.real * out[i - 1]
        elif z.imag > 0.0:
            radius = abs(z)
            middle = 2.0 * z.real
            if coefficient != 1.0:
                middle = 2.0 * radius * math.cos(math.atan2(z.imag, z.real) ** coefficient)
            degree += 2
            for i in range(degree, 1, -1):
                out[i] += radius * radius * out[i - 2] - middle * out[i - 1]
            out[1] -= middle


@_compiled
def _roots(a, c, roots):
    """Roots of a real polynomial: each found on the deflated polynomial and polished on the whole one.

    Args:
        a: (P + 1,) coefficients in descending powers, a[0] = 1.
        c: (P + 1,) scratch.
        roots: (P,) complex; written, conjugate pairs side by side.

    Returns:
        whether the roots can be trusted: the polynomial rebuilt from them is `a`.
    """
    c[:] = a
    left = len(a) - 1
    while left > 0:
        done = len(roots) - left
        z = _laguerre(c, left)
        if not abs(z) < np.inf:
            return False
        real = left == 1
        if real or abs(z.imag) <= 1e-3 * abs(z):  # a real root, or a pair close to the axis?
            x = _polish(a, complex(z.real, 0.0))
            real = real or abs(x - z) <= 2.0 * abs(z.imag) + 1e-8
            z = x if real else z
        if real:
            roots[done] = z
            for i in range(1, left):
                c[i] += z.real * c[i - 1]
            left -= 1
        else:
            z = _polish(a, z)
            roots[done], roots[done + 1] = z, z.conjugate()
            middle, square = 2.0 * z.real, z.real * z.real + z.imag * z.imag
            c[1] += middle
            for i in range(2, left - 1):
                c[i] += middle * c[i - 1] - square * c[i - 2]
            left -= 2
    _rebuild(roots, 1.0, c)
    error, largest = 0.0, 0.0
    for i in range(len(a)):
        error = max(error, abs(c[i] - a[i]))
        largest = max(largest, abs(a[i]))
    return error <= REBUILT * largest


@_compiled
def _analyse(wav, window, hop, polynomials, roots, trusted):
    """Prediction polynomials and their roots, frame by frame.

    Args:
        wav: (T,) float64 samples of the F frames.
        window: (W,) square root of the scaled Hann window.
        hop: samples.
        polynomials: (F, P + 1); written.
        roots: (F, P) complex; written.
        trusted: (F,) bool, whether the roots are right; written.
    """
    frame = np.empty(len(window))
    f, b = np.empty(len(window) - 1), np.empty(len(window) - 1)
    scratch = np.empty(polynomials.shape[1])
    for i in range(len(polynomials)):
        for j in range(len(window)):
            frame[j] = wav[i * hop + j] * window[j] + EPSILON
        _burg(frame, polynomials[i], scratch, f, b)
        trusted[i] = _roots(polynomials[i], scratch, roots[i])


@_compiled
def _synthesise(wav, window, hop, polynomials, roots, coefficient, out):
    """Residual of each frame through the all-pole filter with bent angles, windowed and added to `out`.

    The recursive filters of `LANES` frames run side by side: one alone would wait for its own last sample.

    Args:
        wav, window, hop, polynomials, roots: see `_analyse`.
        coefficient: the McAdams coefficient.
        out: (T,) float64; added to.
    """
    width, order = len(window), roots.shape[1]
    new = np.empty(order + 1)
    frame, residual = np.empty(width), np.empty(width)
    filters, state = np.zeros((order + 1, LANES)), np.empty((order + 1, LANES))
    signals = np.zeros((width, LANES))
    for first in range(0, len(roots), LANES):
        lanes = min(LANES, len(roots) - first)
        for lane in range(lanes):
            i = first + lane
            _rebuild(roots[i], coefficient, new)
            filters[:, lane] = new
            for j in range(width):
                frame[j] = wav[i * hop + j] * window[j]
            residual[:] = frame
            for k in range(1, order + 1):
                for j in range(k, width):
                    residual[j] += polynomials[i, k] * frame[j - k]
            signals[:, lane] = residual
        state[:] = 0.0  # transposed direct form
        for j in range(width):
            for lane in range(LANES):
                signals[j, lane] += state[0, lane]
            for k in range(order):
                for lane in range(LANES):
                    state[k, lane] = state[k + 1, lane] - filters[k + 1, lane] * signals[j, lane]
        for lane in range(lanes):
            for j in range(width):
                out[(first + lane) * hop + j] += signals[j, lane] * window[j]


def analysis_window(width: int, hop: int) -> np.ndarray:
    """(W,) window for analysis and synthesis: symmetric Hann over K, square root; K = sum / hop.

    Windowed twice and added at the hop, a signal comes out as it went in (but for a small ripple).
    """
    hann = np.hanning(width)
    return np.sqrt(hann * hop / hann.sum())


class McAdams(Anonymizer):
    """McAdams coefficient anonymization, baseline B2 of the VoicePrivacy Challenges 2020 to 2024.

    Reference: Patino et al., "Speaker anonymisation using the McAdams coefficient", Interspeech 2021; as VoicePrivacy
    2024 runs it. The target is the coefficient c: a pole pair at the angles +-phi (radians per sample) moves to
    +-phi^c, so that with c < 1 formants below sample_rate / (2 pi) (2546.5 Hz at 16 kHz) rise and those above fall.
    Real poles, all radii and the residual, hence the pitch, stay.

    Frames are whole ones that start at sample 0: the first and the last hop fade, and samples after the last whole
    frame, fewer than one hop, are zero. The output has as many samples as the input and, as published, loses its
    level: it is written with an absolute peak of 32766, cut to 16 bit (`peak_normalize`).

    Differs from [vpc24]: the denominator of Burg's reflection coefficients is summed, not recursed (see `_burg`).
    On speech the files agree within one 16-bit step; on a pure tone, where that one yields NaN, this one is stable.

    With `skip_first_frame`, as VoicePrivacy 2022 ran it, the frame at sample 0 is left out: the first hop of the
    output is exactly zero, and the second holds the fade-in of the next frame alone. That version also paired
    neighbouring roots and limited angles to [0, pi]; for c <= 1 both come to the same.

    Works at any sample rate: window and hop are rounded down to samples. Uses no randomness.
    """

    peak_normalize: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Params:
        """Parameters of the system's YAML."""

        lpc_order: int = 20  # poles
        window_ms: float = 20.0  # ms
        hop_ms: float = 10.0  # ms, at most the window
        skip_first_frame: bool = False  # leave out the frame at sample 0, as VoicePrivacy 2022

        def __post_init__(self) -> None:
            if self.lpc_order < 1:
                raise UserError(f"lpc_order is {self.lpc_order}", expected="at least 1")
            if not 0.0 < self.hop_ms <= self.window_ms < math.inf:
                raise UserError(
                    f"window_ms is {self.window_ms}, hop_ms {self.hop_ms}", expected="0 < hop_ms <= window_ms"
                )

    def prepare(self, device: str = "cpu") -> None:
        """Compile the kernels, or load them: planning does it once, and the jobs then find them in numba's cache."""
        width = self.params.lpc_order + 2
        _bend(np.zeros(width), np.ones(width), 1, 1, self.params.lpc_order, 1.0, np.zeros(width))

    def _layout(self, source: Source) -> tuple[int, int, int]:
        """Window and hop in samples, and the number of frames.

        Raises:
            UserError: if the recording is too short for one frame, or a window for the prediction.
        """
        width, hop = (
            int(ms * source.sample_rate / 1000.0 + 1e-6) for ms in (self.params.window_ms, self.params.hop_ms)
        )
        if width < self.params.lpc_order + 2 or hop < 1:
            raise UserError(
                f"a window of {width} and a hop of {hop} samples at {source.sample_rate} Hz",
                expected=f"at least {self.params.lpc_order + 2} and 1 (lpc_order is {self.params.lpc_order})",
            )
        least = width + hop if self.params.skip_first_frame else width
        if source.frames < least:
            raise UserError(
                f"{source.frames} samples hold no frame to convert", expected=f"at least {least}",
                hint="remove the utterance or shorten window_ms",
            )  # fmt: skip
        return width, hop, 1 + (source.frames - width) // hop

    def convert_stream(self, source: Source, target: Any, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Anonymize a recording of any length; the output does not depend on how it is cut into blocks.

        Args:
            source: the recording, at least one window long (and one hop more with `skip_first_frame`).
            target: the coefficient, a positive number.
            rng: not used.

        Yields:
            (B,) float32 blocks of `BLOCK_FRAMES` hops, before peak normalisation; `source.frames` samples in all.

        Raises:
            UserError: if the recording is too short, or the target is no positive number.
        """
        if not isinstance(target, Real) or isinstance(target, bool) or not 0.0 < target < math.inf:
            raise UserError(f"the target is {target!r}", expected="a McAdams coefficient, a positive number")
        width, hop, frames = self._layout(source)
        window = analysis_window(width, hop)
        overlap = np.zeros(width - hop)  # sum of the frames so far, beyond the last whole hop
        for first in range(0, frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, frames - first)
            span = (count - 1) * hop + width
            wav = source.read(first * hop, first * hop + span).astype(np.float64) + EPSILON
            out = np.concatenate([overlap, np.zeros(span - len(overlap))])
            skip = hop if first == 0 and self.params.skip_first_frame else 0
            whole = count - bool(skip)
            _bend(wav[skip:], window, hop, whole, self.params.lpc_order, float(target), out[skip:])
            overlap = out[count * hop :]
            yield out[: count * hop].astype(np.float32)
        rest = np.zeros(source.frames - frames * hop, np.float32)
        rest[: len(overlap)] = overlap
        yield rest


def _bend(
    wav: np.ndarray, window: np.ndarray, hop: int, count: int, order: int, coefficient: float, out: np.ndarray
) -> None:
    """Convert `count` frames of `wav` (T,) and add them to `out` (T,)."""
    polynomials, roots = np.empty((count, order + 1)), np.empty((count, order), np.complex128)
    trusted = np.empty(count, np.bool_)
    _analyse(wav, window, hop, polynomials, roots, trusted)
    for i in np.flatnonzero(~trusted):
        roots[i] = np.roots(polynomials[i])  # eigenvalues of the companion matrix
    _synthesise(wav, window, hop, polynomials, roots, coefficient, out)
