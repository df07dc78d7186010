"""B5's and B6's acoustic model as an ESPnet task; `python -m espnet_musa.tasks.vq_bottleneck` takes ESPnet's options.

Stage 3 calls it with data files that it writes (`pipeline/acoustic_training.py`). Besides ESPnet's keys a training
configuration may hold `model_conf`: the criterion, the weights of its parts and when the codes come in. The sizes,
`vq_bottleneck_conf`, are made of `params` in `conf/tokens`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.preprocessor import AbsPreprocessor
from espnet2.utils.nested_dict_action import NestedDictAction
from rapidfuzz.distance.Levenshtein import distance
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..tokenizer.config import BOTTLENECK
from ..tokenizer.lfmmi import BREAK, LfMmi
from ..tokenizer.store import build
from ..tokenizer.vq_bottleneck import XENT, AcousticHead, VqBottleneck
from .feature_codec import FeatureCodecTrainer
from .trainer import LoggedTask

DEFAULTS = {
    "batch_type": "sorted",  # utterances of similar length together: little padding
    "optim": "adam",
    "grad_clip": 5.0,
    "best_model_criterion": [("valid", "loss", "min")],
    "keep_nbest_models": [1],
    "use_matplotlib": False,
    "num_att_plot": 0,
}
MAIN = "main"  # branch of the criterion


class Ctc(torch.nn.Module):
    """Connectionist temporal classification (Graves et al., 2006) in the place of LF-MMI; silence is its blank.

    Args:
        units: with silence.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.outputs = units

    def forward(self, x: Tensor, lengths: Tensor, transcripts: list[list[int]]) -> tuple[Tensor, None]:
        """See `LfMmi`; (B,) log p(transcript)."""
        targets = [[unit for unit in row if unit != BREAK] for row in transcripts]
        flat = torch.tensor([unit for row in targets for unit in row], device=x.device)
        sizes = torch.tensor([len(row) for row in targets], device=x.device)
        scores = x.float().log_softmax(dim=2).transpose(0, 1)
        return -F.ctc_loss(scores, flat, lengths, sizes, reduction="none"), None

    def fit(self, transcripts: list[list[int]]) -> None:
        """Nothing: CTC knows no bigram."""

    @staticmethod
    def least(transcript: list[int]) -> int:
        """Frames that a transcript needs at least: units that follow themselves need a blank between them."""
        units = [unit for unit in transcript if unit != BREAK]
        return len(units) + sum(a == b for a, b in pairwise(units))

    def decode(self, x: Tensor, lengths: Tensor) -> list[list[int]]:
        """The best unit of each frame, repetitions made one, without blanks."""
        rows = [
            row[:n].unique_consecutive().tolist()
            for row, n in zip(x.argmax(dim=2), lengths.tolist(), strict=True)
        ]
        return [[unit for unit in row if unit != BREAK] for row in rows]


class VqBottleneckModel(AbsESPnetModel):
    """Acoustic model, head and criterion.

    Args:
        net: the part that is kept.
        units: of the transcripts, silence among them.
        criterion: lf_mmi | ctc.
        context: mono | left_biphone, of LF-MMI's outputs.
        leaky: of LF-MMI's denominator.
        silence: probability of it between words, in LF-MMI's bigram.
        xent: weight of the cross entropy against the numerator's posteriors (LF-MMI only).
        l2: weight of the squared scores.
        commitment: weight of the distance of frames to their codes.
        vq_start_epoch: the first epoch with codes; before it frames pass as they are.
        freeze: units from the first one on that are trained no more from then on.
    """

    def __init__(
        self,
        net: VqBottleneck,
        units: int,
        criterion: str = "lf_mmi",
        context: str = "mono",
        leaky: float = 0.1,
        silence: float = 0.1,
        xent: float = 0.025,
        l2: float = 1e-4,
        commitment: float = 0.25,
        vq_start_epoch: int = 1,
        freeze: int = 0,
    ) -> None:
        super().__init__()
        self.criterion = Ctc(units) if criterion == "ctc" else LfMmi(units, context, leaky, silence)
        branches = (MAIN,) if criterion == "ctc" else (MAIN, XENT)
        self.net, self.head = net, AcousticHead(net.config, self.criterion.outputs, branches)
        self.xent, self.l2, self.commitment = xent, l2, 0.0 if net.config.compat else commitment
        self.vq_start_epoch, self.freeze, self.quantize = vq_start_epoch, freeze, True

    def begin(self, epoch: int) -> None:
        """What an epoch, from 1, trains."""
        self.quantize = epoch >= self.vq_start_epoch
        if self.quantize:
            self.net.freeze(self.freeze)

    def forward(
        self, features: Tensor, features_lengths: Tensor, units: Tensor, units_lengths: Tensor, **_: Any
    ) -> tuple[Tensor, dict, Tensor]:
        """One batch.

        Args:
            features: (B, F, D).
            features_lengths: (B,).
            units: (B, U) the transcripts, see `lfmmi`.
            units_lengths: (B,).

        Returns:
            the loss, statistics, and the batch size.
        """
        made = self.net(features.transpose(1, 2), features_lengths, quantize=self.quantize)
        out, lengths = self.head(made.z, features_lengths)
        rows = [row[:n] for row, n in zip(units.tolist(), units_lengths.tolist(), strict=True)]
        objective, posteriors = self.criterion(out[MAIN], lengths, rows)
        frames = lengths.sum()
        stats = {"objective": objective.sum() / frames, "commitment": made.commitment}
        counted = torch.arange(out[MAIN].shape[1], device=lengths.device) < lengths[:, None]
        loss = -stats["objective"] + self.commitment * made.commitment
        loss = loss + self.l2 * (out[MAIN].square().mean(dim=2) * counted).sum() / frames
        if posteriors is not None:
            stats["xent"] = -(posteriors * out[XENT].float().log_softmax(dim=2)).sum() / frames
            loss = loss + self.xent * stats["xent"]
        if made.codes is not None:
            stats["perplexity"] = self._perplexity(made.codes, features_lengths)
        if not self.training:
            stats["error"] = self._error(out[MAIN], lengths, rows)
        stats = {"loss": loss} | stats
        return force_gatherable((loss, {k: v.detach() for k, v in stats.items()}, len(features)), loss.device)

    def _perplexity(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """How many codes a batch uses, as if evenly."""
        counted = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
        share = torch.bincount(codes[counted], minlength=self.net.n_tokens) / counted.sum()
        return torch.exp(-(share * (share + 1e-10).log()).sum())

    def _error(self, x: Tensor, lengths: Tensor, rows: list[list[int]]) -> Tensor:
        """Errors of recognised units over units spoken."""
        right = [[unit for unit in row if unit != BREAK] for row in rows]
        wrong = sum(map(distance, right, self.criterion.decode(x, lengths)))
        return x.new_tensor(wrong / sum(map(len, right)))

    def collect_feats(self, features: Tensor, features_lengths: Tensor, **_: Any) -> dict[str, Tensor]:
        """The input itself."""
        return {"features": features, "features_lengths": features_lengths}


class _Checked(AbsPreprocessor):
    """Features as they are, if they are numbers."""

    def __call__(self, uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`data`, (F, D) `features` in 32 bit.

        Raises:
            UserError: if one is not finite.
        """
        if not np.isfinite(data["features"]).all():
            raise UserError(
                "features are not finite", utt=uid, hint="look at its waveform, or run stage 3 with --force"
            )
        return data | {"features": data["features"].astype(np.float32)}


class VqBottleneckTrainer(FeatureCodecTrainer):
    """Tells the model which epoch begins."""

    @classmethod
    def train_one_epoch(cls, **arguments: Any) -> bool:
        """See `FeatureCodecTrainer`."""
        model = arguments["model"]
        getattr(model, "module", model).begin(arguments["reporter"].get_epoch())
        return super().train_one_epoch(**arguments)


class VqBottleneckTask(LoggedTask, AbsTask):
    """One optimizer, two inputs: `features`, kaldi_ark, (F, D), and `units`, text_int."""

    num_optimizers = 1
    trainer = VqBottleneckTrainer
    class_choices_list = []  # noqa: RUF012 (ESPnet's name and type)

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The model's sizes and its criterion."""
        group = parser.add_argument_group(description="Task related")
        group.add_argument(
            "--vq_bottleneck_conf", action=NestedDictAction, default={}, help="dimension, n_units and params"
        )
        group.add_argument(
            "--model_conf", action=NestedDictAction, default={}, help="criterion and its weights"
        )
        parser.set_defaults(**DEFAULTS)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """A check."""
        return _Checked(train)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> CommonCollateFn:
        """Padding, which the lengths tell apart."""
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=BREAK)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that must be there."""
        return ("features",) if inference else ("features", "units")

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that may be there."""
        return ()

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> VqBottleneckModel:
        """The model; `vq_bottleneck_conf` is `dimension`, `n_units` and the fields of `VqBottleneckConfig`."""
        params = dict(args.vq_bottleneck_conf)
        dimension, n_units = params.pop("dimension"), params.pop("n_units")
        return VqBottleneckModel(build(BOTTLENECK, params, dimension), n_units, **args.model_conf)


if __name__ == "__main__":
    VqBottleneckTask.main()
