"""Tiny random recognizers in the formats in which the real ones are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

LETTERS = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'", " "]


def wav2vec2(place: Path, layers: int = 2, width: int = 64) -> nn.Module:
    """`speechbrain/asr-wav2vec2-librispeech` in small; returns Hugging Face's encoder with the same weights."""
    from speechbrain.dataio.encoder import CTCTextEncoder
    from speechbrain.lobes.models.VanillaNN import VanillaNN
    from speechbrain.nnet.linear import Linear
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=96,
        conv_dim=[24] * 7, feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, apply_spec_augment=False,
    )  # fmt: skip
    encoder = Wav2Vec2Model(config).eval()
    head = nn.ModuleList(
        [VanillaNN([None, None, width], dnn_blocks=2, dnn_neurons=32), Linear(input_size=32, n_neurons=31)]
    )
    nn.init.normal_(head[1].w.weight, std=3.0)  # so that it says something
    place.mkdir(parents=True)
    torch.save(
        {f"model.{name}": value for name, value in encoder.state_dict().items()}, place / "wav2vec2.ckpt"
    )
    torch.save(head.state_dict(), place / "asr.ckpt")
    labels = CTCTextEncoder()
    labels.insert_blank(index=0)
    labels.insert_bos_eos(bos_index=1, eos_index=2)
    labels.update_from_iterable(LETTERS)
    labels.save(place / "tokenizer.ckpt")
    return encoder


def whisper(place: Path) -> None:
    """A multilingual Whisper in small, with a tokenizer of bytes and the special tokens of the real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    place.mkdir(parents=True)
    languages = ("en", "de", "zh")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [
        "<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages),
        "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
    ]  # fmt: skip
    vocabulary = {token: i for i, token in enumerate([*alphabet, *special])}
    tokenizer = Tokenizer(models.BPE(vocab={c: vocabulary[c] for c in alphabet}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(place / "tokenizer.json"))
    settings = {
        "tokenizer_class": "WhisperTokenizer", "bos_token": special[0], "eos_token": special[0],
        "unk_token": special[0], "pad_token": special[0], "additional_special_tokens": special[1:],
    }  # fmt: skip
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    WhisperFeatureExtractor(feature_size=80).save_pretrained(place)
    torch.manual_seed(0)
    end, start = vocabulary[special[0]], vocabulary[special[1]]
    config = WhisperConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, init_std=1.0,
        max_target_positions=24, bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=True, max_length=20, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        decoder_start_token_id=start, lang_to_id={f"<|{code}|>": vocabulary[f"<|{code}|>"] for code in languages},
        task_to_id={task: vocabulary[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"], begin_suppress_tokens=[end],
        suppress_tokens=[vocabulary[token] for token in special[1:]],
    )  # fmt: skip
    model.save_pretrained(place)
