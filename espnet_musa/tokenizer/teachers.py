"""Teachers: speech in, features out, a frame each 20 ms that tells what is said.

A frame sees 400 samples of 16 kHz and starts 320 after the one before, so frame i pairs with frame i of the codec,
whose last frame has no counterpart.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import models
from ..errors import UserError, suggest

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16000  # Hz
HOP = 320  # samples from frame to frame
WINDOW = 400  # samples that a frame sees
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


def n_frames(samples: int) -> int:
    """Frames of a waveform of so many samples: floor((T - 400) / 320) + 1, and none below 400 samples."""
    return max(0, (samples - WINDOW) // HOP + 1)


def runs(lengths: Sequence[int], limit: int, *, padded: bool = True) -> Iterator[list[int]]:
    """Indices of items to be taken together, longest first; their padded size stays within `limit`.

    A single longer item is a run of its own. The longest come first, so that lack of memory shows at once.

    Args:
        lengths: of the items.
        limit: of a run: number of items times the longest.
        padded: False: only items of equal length share a run.
    """
    run: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[run[0]] if run else 0
        if run and ((len(run) + 1) * longest > limit or (not padded and lengths[index] != longest)):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


class Teacher(ABC):
    """A kind of features. Its constructor checks parameters and loads nothing.

    Attributes:
        dimension: of the features; known once prepared.
        learns: whether `fit` does anything.
    """

    dimension: int
    learns = False

    def prepare(self, device: str) -> None:  # noqa: B027
        """Load what is needed.

        Raises:
            UserError: if it is missing or damaged: what to fetch and where to put it.
        """

    def fingerprint(self) -> str:
        """What the features depend on besides the parameters; raises as `prepare` does if it is missing."""
        return ""

    @abstractmethod
    def groups(self, samples: Mapping[str, int], speakers: Mapping[str, str]) -> list[list[str]]:
        """All utterances in groups, one call of `features` each.

        Which utterances form a group depends on the arguments alone, so the last bits of a feature, which may depend on
        the size of the arrays that it is computed in, depend on neither the number of jobs nor on a restart.

        Args:
            samples: utterance -> its length.
            speakers: utterance -> its speaker.
        """

    @abstractmethod
    def features(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Features of a group: (T_i,) float32 of 16 kHz -> (F_i, D) on the device, F_i = `n_frames(T_i)`."""

    def fit(self, groups: Iterable[Sequence[np.ndarray]], seed: int) -> None:  # noqa: B027 (most have nothing to fit)
        """Learn what the features of all speakers have in common from the waveforms of some groups."""

    def state(self) -> dict[str, torch.Tensor]:
        """What `fit` learnt."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:  # noqa: B027
        """Take what `fit` of another process learnt."""


class SelfSupervised(Teacher):
    """A model of the wav2vec 2.0, HuBERT or WavLM family, as transformers writes it.

    Baevski et al., NeurIPS 2020; Hsu et al., 2021; Chen et al., 2022. MUSA's teacher is XLS-R 300M (Babu et al., 2021),
    last layer. Utterances are taken whole, up to `chunk_s`; the input has mean 0 and variance 1 if the checkpoint's
    preprocessor_config.json says so.

    On a GPU, models that normalise their convolutions by layer are batched with attention masks, which changes nothing
    but rounding. Those that normalise the first one over time (`feat_extract_norm: group`: the base models) would hear
    the padding, so only utterances of the same length share a batch. A CPU takes one after the other, since it gains
    nothing from a batch (benchmarks/bench_tokenize.py).

    Args:
        model: a name of conf/models.yaml, a directory, or a hub name (`org/model`) that the local cache of Hugging Face
            holds. Nothing is downloaded.
        layer: None: the output of the whole model; n: that of its n-th transformer layer, before any normalisation that
            ends the model. Later layers are not computed.
        batch_s: seconds of a group of utterances, and of a batch on a GPU, padding included.
        chunk_s: an utterance that is longer is computed in equal parts; memory grows with the square.
        precision: fp32, fp16 or bf16; auto: half precision (fp16) on CUDA.

    Attributes:
        batch: samples that are computed at once, padding included; 0: one utterance.
    """

    FAMILY: ClassVar = ("wav2vec2", "hubert", "wavlm")

    def __init__(
        self,
        model: str = "xls_r_300m",
        layer: int | None = None,
        batch_s: float = 100.0,
        chunk_s: float = 100.0,
        precision: str = "auto",
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"unknown precision '{precision}'{suggest(precision, PRECISIONS)}")
        if batch_s <= 0 or chunk_s < 1:
            raise UserError(
                f"batch_s {batch_s}, chunk_s {chunk_s}", expected="batch_s above 0, chunk_s from 1"
            )
        if layer is not None and layer < 1:
            raise UserError(f"layer is {layer}", expected="1 to the number of layers, or null for the output")
        self._name, self._layer, self._precision = model, layer, precision
        self._group = self.batch = round(batch_s * SAMPLE_RATE)
        self._chunk = n_frames(round(chunk_s * SAMPLE_RATE))  # frames
        self._facts: dict[str, Any] | None = None

    @property
    def place(self) -> Path:
        """The directory of the checkpoint.

        Raises:
            UserError: if it is not there.
        """
        if "/" not in self._name or Path(self._name).is_dir():
            return models.find(self._name)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self._name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            raise UserError(
                f"teacher '{self._name}' is neither a directory nor in the local cache of Hugging Face",
                hint=f"fetch it with `hf download {self._name}`, or name a directory or a model of conf/models.yaml",
            ) from None

    @property
    def facts(self) -> dict[str, Any]:
        """The checkpoint's config.json, and `do_normalize` of its preprocessor_config.json.

        Raises:
            UserError: if a file is missing or the model is none of the family.
        """
        if self._facts is None:
            own, front = (self._json(name) for name in ("config.json", "preprocessor_config.json"))
            kind = own.get("model_type")
            if kind not in self.FAMILY:
                expected = f"model_type {' or '.join(self.FAMILY)}"
                raise UserError(
                    f"a model of type '{kind}'", path=self.place / "config.json", expected=expected
                )
            layers = own["num_hidden_layers"]
            if self._layer is not None and self._layer > layers:
                raise UserError(f"layer is {self._layer}", path=self.place, expected=f"1 to {layers}")
            self._facts = own | {"do_normalize": bool(front["do_normalize"])}
        return self._facts

    def _json(self, name: str) -> dict[str, Any]:
        path = self.place / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = "fetch all files of the model; preprocessor_config.json says how its input is scaled"
            raise UserError("no such file", path=path, hint=hint) from None
        except ValueError:
            raise UserError("not JSON", path=path, hint="fetch it again") from None

    @property
    def _maskable(self) -> bool:
        return self.facts.get("feat_extract_norm", "group") == "layer"

    def fingerprint(self) -> str:
        """Hash of the checkpoint's files (names, sizes, times)."""
        return models.fingerprint(f"{self.place}/")

    def prepare(self, device: str) -> None:
        """See `Teacher`."""
        import torch
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # of reading the weights
        logging.set_verbosity_error()  # heads that a teacher does not need
        facts = self.facts
        kind = {"auto": "fp16" if device.startswith("cuda") else "fp32"}.get(self._precision, self._precision)
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[kind]
        try:
            net, told = AutoModel.from_pretrained(
                self.place, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except (
            Exception
        ) as error:  # transformers, torch and safetensors raise a dozen kinds for damaged files
            raise UserError(
                f"not a {facts['model_type']} model: {(str(error).splitlines() or [''])[0]}", path=self.place,
                expected="config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin",
            ) from error  # fmt: skip
        lacking = sorted(set(told["missing_keys"]) - {"masked_spec_embed"})
        if lacking or told["mismatched_keys"]:
            wrong = lacking or [key for key, *_ in told["mismatched_keys"]]
            raise UserError(
                f"the weights do not fit config.json: {len(wrong)} tensors missing or of another size, "
                f"the first is {wrong[0]}", path=self.place,
            )  # fmt: skip
        if self._layer is not None:
            net.encoder.layers = net.encoder.layers[: self._layer]
            if facts.get("do_stable_layer_norm"):
                net.encoder.layer_norm = torch.nn.Identity()
        self._net, self._device, self._dtype = net.eval().to(device, dtype), device, dtype
        self.batch = 0 if device == "cpu" else self._group
        self.dimension = facts["hidden_size"]
        lengths = net._get_feat_extract_output_lengths(torch.tensor([WINDOW, WINDOW + HOP - 1, WINDOW + HOP]))
        if lengths.tolist() != [1, 1, 2]:
            raise UserError(
                "its frames are not 20 ms apart", path=self.place, expected="strides of 320 samples in all"
            )

    def groups(self, samples: Mapping[str, int], speakers: Mapping[str, str]) -> list[list[str]]:
        """Utterances of similar length."""
        utts = sorted(samples)
        lengths = [samples[utt] for utt in utts]
        return [[utts[i] for i in run] for run in runs(lengths, self._group, padded=self._maskable)]

    def features(self, wavs: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """See `Teacher`.

        Raises:
            UserError: if an output is not finite (half precision can overflow).
        """
        import torch

        owners, parts = [], []
        for owner, wav in enumerate(wavs):
            for part in self._parts(self._scaled(wav)):
                owners.append(owner)
                parts.append(part)
        made: list[torch.Tensor] = [torch.empty(0)] * len(parts)
        with torch.inference_mode():
            for run in runs([len(part) for part in parts], self.batch, padded=self._maskable):
                for i, features in zip(run, self._forward([parts[i] for i in run]), strict=True):
                    made[i] = features
        return [torch.cat([x for x, o in zip(made, owners, strict=True) if o == i]) for i in range(len(wavs))]

    def _scaled(self, wav: np.ndarray) -> np.ndarray:
        """Mean 0 and variance 1, as transformers' feature extractor makes them, where the checkpoint wants it."""
        if not self.facts["do_normalize"]:
            return wav
        return ((wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)).astype(np.float32)

    def _parts(self, wav: np.ndarray) -> list[np.ndarray]:
        """Equal parts of at most a chunk, cut so that their frames are those of the whole."""
        frames = n_frames(len(wav))
        count = -(-frames // self._chunk)
        edges = [frames * i // count for i in range(count)]
        ends = [HOP * (edge - 1) + WINDOW for edge in edges[1:]] + [len(wav)]
        return [wav[HOP * edge : end] for edge, end in zip(edges, ends, strict=True)]

    def _forward(self, parts: list[np.ndarray]) -> list[torch.Tensor]:
        """One batch through the model."""
        import torch

        lengths = torch.tensor([len(part) for part in parts])
        batch = torch.zeros(len(parts), int(lengths.max()))
        for row, part in zip(batch, parts, strict=True):
            row[: len(part)] = torch.from_numpy(part)
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long().to(self._device)
        needed = bool((lengths < batch.shape[1]).any())  # only if the model is maskable: see `runs`
        inputs = batch.to(self._device, self._dtype)
        out = self._net(inputs, attention_mask=mask if needed else None).last_hidden_state
        if not bool(torch.isfinite(out).all()):
            raise UserError(
                f"features of {self.place} are not finite", hint="teacher_params: {precision: fp32}"
            )
        return [row[: n_frames(len(part))] for row, part in zip(out, parts, strict=True)]
