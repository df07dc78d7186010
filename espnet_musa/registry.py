"""Every plug-in by name: literal tables `name -> "module:Class"`, imported only when asked for.

Adding one means a module, a line here, a YAML and a test; `tests/test_consistency.py` holds that.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from .errors import UserError, suggest

ANONYMIZERS = {
    "mcadams": "espnet_musa.anonymizers.mcadams:McAdams",
    "dsp_f0": "espnet_musa.anonymizers.dsp_f0:DspF0",
    "musa": "espnet_musa.anonymizers.musa:Musa",
    "vqbn": "espnet_musa.anonymizers.vqbn:VqBn",
}
TARGETS = {
    "none": "espnet_musa.targets.policies:NoTarget",
    "blend": "espnet_musa.targets.speakers:Blend",
    "constant": "espnet_musa.targets.policies:Constant",
    "speaker": "espnet_musa.targets.speakers:Speaker",
    "uniform": "espnet_musa.targets.policies:Uniform",
    "vpc2024_uniform": "espnet_musa.targets.policies:Vpc2024Uniform",
}
EVALUATORS = {
    "asr": "espnet_musa.evaluators.asr:Asr",
    "asv": "espnet_musa.evaluators.asv:Asv",
    "gvd": "espnet_musa.evaluators.distinctiveness:Distinctiveness",
    "pitch": "espnet_musa.evaluators.pitch:Pitch",
    "ser": "espnet_musa.evaluators.ser:Ser",
    "dnsmos": "espnet_musa.evaluators.mos:Dnsmos",
    "utmos": "espnet_musa.evaluators.mos:Utmos",
}
TEACHERS = {
    "mfcc": "espnet_musa.tokenizer.mfcc:Mfcc",
    "wav2vec2": "espnet_musa.tokenizer.teachers:SelfSupervised",
    "fbank": "espnet_musa.tokenizer.fbank:Fbank",
    "phones": "espnet_musa.tokenizer.phones:Phones",
}
CORPORA = {
    "mini": "espnet_musa.corpora.mini:prepare",
    "librispeech": "espnet_musa.corpora.librispeech:prepare",
    "libritts": "espnet_musa.corpora.libritts:prepare",
    "mls": "espnet_musa.corpora.mls:prepare",
    "aishell3": "espnet_musa.corpora.aishell3:prepare",
    "emodb": "espnet_musa.corpora.emodb:prepare",
    "iemocap": "espnet_musa.corpora.iemocap:prepare",
    "vctk": "espnet_musa.corpora.vctk:prepare",
    "vpc_data": "espnet_musa.corpora.vpc_lists:prepare_vpc_data",
    "vpc2026_track2": "espnet_musa.corpora.vpc2026:prepare",
}


def resolve(table: dict[str, str], kind: str, name: str) -> Any:
    """Import and return the plug-in `name` of one of the tables above.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if name not in table:
        raise UserError(f"unknown {kind} '{name}'{suggest(name, table)}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def construct(plugin: Any, params: dict[str, Any], name: str) -> Any:
    """`plugin(**params)`, closed world.

    Raises:
        UserError: for an unknown parameter, with the nearest known one.
    """
    known = inspect.signature(plugin).parameters
    for key in params:
        if key not in known:
            raise UserError(f"'{name}' has no parameter '{key}'{suggest(key, known)}")
    return plugin(**params)
