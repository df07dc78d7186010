"""Whisper, multilingual, through transformers and from a local directory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ... import models
from ...errors import UserError
from . import SAMPLE_RATE

WINDOW = 30 * SAMPLE_RATE  # samples that Whisper hears at once
CODES = {"cmn": "zh"}  # ISO 639 code of `utt2lang` -> Whisper's


class Whisper:
    """Whisper with greedy decoding, told the language of each utterance.

    Radford et al., "Robust speech recognition via large-scale weak supervision", ICML 2023. An utterance of more
    than 30 s is cut into equal parts that are recognized by themselves.

    Args:
        model: a name of `conf/models.yaml` or a directory as transformers writes it.
        device: torch device.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()  # of reading the weights
        place = models.find(model)
        try:
            net = WhisperForConditionalGeneration.from_pretrained(
                place, local_files_only=True, use_safetensors=True
            )
            self._processor = WhisperProcessor.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"not a Whisper model: {str(error).splitlines()[0]}", path=place,
                expected="config.json, generation_config.json, model.safetensors, tokenizer.json and the like",
            ) from error  # fmt: skip
        self._net, self._device = net.to(device).eval(), device
        self._multilingual = bool(getattr(net.generation_config, "is_multilingual", False))
        spoken = {"en"}
        if self._multilingual:
            codes = {token.strip("<|>") for token in net.generation_config.lang_to_id}
            spoken = codes | {ours for ours, theirs in CODES.items() if theirs in codes}
        self.languages = frozenset(spoken)
        self.batch_s = 120.0 if device == "cpu" else 960.0
        self.about = f"Whisper '{place.name}', greedy"

    @torch.inference_mode()
    def transcribe(self, wavs: Sequence[np.ndarray], languages: Sequence[str]) -> list[str]:
        """See `Recognizer`."""
        parts = [np.array_split(wav, max(1, -(-len(wav) // WINDOW))) for wav in wavs]
        flat = [part for own in parts for part in own]
        spoken = [CODES.get(code, code) for own, code in zip(parts, languages, strict=True) for _ in own]
        extract = self._processor.feature_extractor
        features = extract(flat, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        told = {"language": spoken, "task": "transcribe"} if self._multilingual else {}
        tokens = self._net.generate(features.to(self._device), do_sample=False, num_beams=1, **told)
        texts = iter(self._processor.batch_decode(tokens, skip_special_tokens=True))
        return [" ".join(next(texts).strip() for _ in own) for own in parts]
