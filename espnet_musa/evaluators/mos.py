"""Quality of speech by predictors of listeners' mean opinion scores, which need no reference: DNSMOS and UTMOS.

Both predict the scale 1 (bad) to 5 (excellent); higher is better.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import models
from ..data.audio import ArraySource, AudioFile
from ..errors import UserError, suggest
from ..log import progress
from .base import Metric, Resources, SingleEvaluator
from .per_utterance import in_order, means

if TYPE_CHECKING:
    import torch

    from ..data.datadir import DataDir

RATE = 16000
READINGS = ("dns", "sound")

DNSMOS = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")  # signal, background, overall: the model's three outputs
_CLIP = 144160  # samples of the model's input, 9.01 s
# From the model's outputs to the scale of P.835 listeners, highest power first: constants of [dns].
_SCALES = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)

UTMOS = "utmos22_strong_step7459_v1.pt"


class Dnsmos(SingleEvaluator):
    """DNSMOS P.835: predicted quality of the signal, of the background, and overall (the main number).

    Reference: Reddy, Gopal and Cutler, "DNSMOS P.835: a non-intrusive perceptual objective speech quality metric to
    evaluate noise suppressors", ICASSP 2022; the model is that of [dns], the package `speechmos`. A recording's
    score is the mean over windows of 9.01 s, one a second; a shorter one is repeated. Levels are as written.

    Args:
        reading: "dns", as the package computes, and so the published numbers: a recording below 9.01 s is doubled until
            it is longer, which may be up to nine windows of the same words, and a rounding error skips the windows that
            begin at second 7 to 23; or "sound": one window of a short recording, all windows of a long one. The same
            from 9.01 to 17 s; on short recordings several times faster.
        bootstrap: draws of speakers behind the intervals; 0: none.
    """

    def __init__(self, reading: str = "dns", bootstrap: int = 1000) -> None:
        if reading not in READINGS:
            raise UserError(f"unknown reading of DNSMOS '{reading}'{suggest(reading, READINGS)}")
        self.reading, self.bootstrap = reading, bootstrap

    def score(
        self, original: DataDir, anonymized: DataDir | None, out: Path, resources: Resources
    ) -> list[Metric]:
        """Score a set; writes `<out>/dnsmos` (`utterance SIG BAK OVRL` a line)."""
        data = original if anonymized is None else anonymized
        dnsmos_model()  # a missing package is told before any work
        paths = [data.audio_path(utt) for utt in data.utts]
        values = in_order(partial(dnsmos, reading=self.reading), paths, resources.jobs)
        table = np.array(list(progress(values, total=len(paths), desc=f"dnsmos {original.name}")))
        return _report(DNSMOS, original, table, out / "dnsmos", resources.seed, self.bootstrap, self.reading)


class Utmos(SingleEvaluator):
    """UTMOS, the strong learner: predicted naturalness.

    Reference: Saeki et al., "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022", Interspeech 2022; its
    checkpoint in the form that [smos] (github.com/tarepan/SpeechMOS, MIT licence) publishes, with the embeddings of the
    one domain and judge that are used. Utterances go through one by one: the encoder normalises over time, so that
    padding in a batch would change the scores.

    Args:
        model: a name of `conf/models.yaml`, or a directory with `utmos22_strong_step7459_v1.pt`.
        bootstrap: draws of speakers behind the intervals; 0: none.
    """

    def __init__(self, model: str = "utmos22_strong", bootstrap: int = 1000) -> None:
        self.model, self.bootstrap = model, bootstrap

    def score(
        self, original: DataDir, anonymized: DataDir | None, out: Path, resources: Resources
    ) -> list[Metric]:
        """Score a set; writes `<out>/utmos` (`utterance score` a line).

        Raises:
            UserError: if the checkpoint is missing or not one of UTMOS.
        """
        data = original if anonymized is None else anonymized
        model = utmos_model(models.find(self.model) / UTMOS, resources.device)
        values = [
            utmos(model, data.load(utt), resources.device)
            for utt in progress(data.utts, total=len(data.utts), desc=f"utmos {original.name}")
        ]
        return _report(
            ("utmos",), original, np.array(values)[:, None], out / "utmos", resources.seed, self.bootstrap
        )


def _report(
    names: tuple[str, ...],
    data: DataDir,
    values: np.ndarray,
    file: Path,
    seed: int,
    bootstrap: int,
    reading: str = "",
) -> list[Metric]:
    """Write (N, K) values of the utterances and make the metrics of their K columns."""
    rows = zip(data.utts, values, strict=True)
    lines = [f"{utt} {' '.join(f'{value:.4f}' for value in row)}\n" for utt, row in rows]
    file.write_text("".join(lines), encoding="utf-8")
    notes = "1 to 5, higher is better" + (f"; reading {reading}" if reading else "")
    return [
        metric
        for name, column in zip(names, values.T, strict=True)
        for metric in means(name, data, column, seed=seed, bootstrap=bootstrap, notes=notes)
    ]


@lru_cache(maxsize=1)
def dnsmos_model():
    """The session of the package's model, one a process, on one thread: utterances are what runs in parallel.

    Raises:
        UserError: if a package is not installed.
    """
    package = importlib.util.find_spec("speechmos")
    if package is None or importlib.util.find_spec("onnxruntime") is None:
        raise UserError("DNSMOS needs the packages speechmos and onnxruntime", hint="install them with pip")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Only the file is used: importing the package's module starts librosa, which takes seconds in every process.
    model = Path(package.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def dnsmos(path: Path, reading: str = "dns") -> np.ndarray:
    """(3,) SIG, BAK and OVRL of a 16 kHz file of any length; holds one window at a time."""
    session = dnsmos_model()
    (name,) = (x.name for x in session.get_inputs())
    raw = np.array([session.run(None, {name: clip[None]})[0][0] for clip in dnsmos_clips(path, reading)])
    return np.array([np.polyval(scale, raw[:, k]).mean() for k, scale in enumerate(_SCALES)])


def dnsmos_clips(path: Path, reading: str = "dns") -> Iterator[np.ndarray]:
    """The (144160,) float32 windows of a file, see `Dnsmos`."""
    with AudioFile(path) as file:
        source, count = file, max(file.frames // RATE - 9, 1)
        if file.frames < _CLIP:
            wav = file.read()
            while len(wav) < _CLIP:
                wav = np.append(wav, wav)
            source = ArraySource(wav, RATE)
            count = 1 if reading == "sound" else max(len(wav) // RATE - 9, 1)
        for second in range(count):
            if reading == "dns" and int((second + 9.01) * RATE) - second * RATE < _CLIP:
                continue
            yield source.read(second * RATE, second * RATE + _CLIP)


def utmos_model(checkpoint: Path, device: str = "cpu") -> torch.nn.Module:
    """The strong learner from a checkpoint of [smos].

    Raises:
        UserError: if the checkpoint is missing or not one of UTMOS.
    """
    import torch

    from .wav2vec2 import below, build, read_weights

    state = read_weights(checkpoint, "fetch it again (conf/models.yaml says where)")
    encoder = build(below(state, "wav2vec2."), checkpoint)
    try:
        hidden, inputs = len(state["projection.0.bias"]), state["blstm.weight_ih_l0"].shape
        model = torch.nn.Module()
        model.blstm = torch.nn.LSTM(inputs[1], inputs[0] // 4, batch_first=True, bidirectional=True)
        model.projection = torch.nn.Sequential(
            torch.nn.Linear(inputs[0] // 2, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )
        # Who listens to what is the same for all utterances: (1, 256).
        condition = torch.cat([state["domain_emb"], state["judge_emb"]], dim=1)
        model.register_buffer("condition", condition)
        rest = {k: v for k, v in state.items() if k.startswith(("blstm.", "projection."))}
        model.load_state_dict(rest | {"condition": condition})
    except (KeyError, RuntimeError) as error:
        raise UserError(f"not a checkpoint of UTMOS: {error}", path=checkpoint) from error
    model.encoder = encoder
    return model.eval().to(device)


def utmos(model: torch.nn.Module, wav: np.ndarray, device: str = "cpu") -> float:
    """Predicted opinion of a waveform (T,) of 16 kHz."""
    import torch

    from .wav2vec2 import parts

    total = frames = 0
    with torch.inference_mode():
        for part in parts(wav):
            features = model.encoder(part.to(device))[0]  # (1, F, D)
            condition = model.condition[None].expand(1, features.shape[1], -1)
            scores = model.projection(model.blstm(torch.cat([features, condition], dim=2))[0])
            total, frames = total + float(scores.sum()), frames + features.shape[1]
    return 2 * total / frames + 3  # the model is trained on (score - 3) / 2
