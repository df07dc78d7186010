"""The feature codec as an ESPnet task; `python -m espnet_musa.tasks.feature_codec` takes ESPnet's training options.

Stage 3 calls it with data files that it writes (`pipeline/tokenizer_training.py`). Besides ESPnet's keys a training
configuration may hold `crop_frames` and `model_conf` (the weights of the losses). `feature_codec_conf` (the sizes) is
made of `params` in `conf/tokens`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.preprocessor import AbsPreprocessor
from espnet2.train.trainer import Trainer
from espnet2.utils.nested_dict_action import NestedDictAction
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..tokenizer.config import CODEC
from ..tokenizer.feature_codec import FeatureCodec
from ..tokenizer.store import build
from .trainer import CHECKPOINT, PREVIOUS, LoggedTask

# ESPnet's defaults are made for recognition: batches sorted by length and cut to it, attention plots, clipping.
DEFAULTS = {
    "batch_type": "unsorted",
    "shuffle_within_batch": True,  # new batches in every epoch
    "optim": "adam",
    "grad_clip": math.inf,  # none; this trainer would clip all to 0 at 0
    "best_model_criterion": [("valid", "rec", "min")],
    "keep_nbest_models": [1],
    "use_matplotlib": False,
    "num_att_plot": 0,
}


class FeatureCodecModel(AbsESPnetModel):
    """Reconstruction and commitment of a feature codec.

    Args:
        codec: the codec.
        lambda_rec: weight of the mean squared error of the features.
        lambda_com: weight of the commitment.
    """

    def __init__(self, codec: FeatureCodec, lambda_rec: float = 45.0, lambda_com: float = 1.0) -> None:
        super().__init__()
        self.codec, self.lambda_rec, self.lambda_com = codec, lambda_rec, lambda_com

    def forward(self, features: Tensor, features_lengths: Tensor, **_: Any) -> tuple[Tensor, dict, Tensor]:
        """One batch of crops of one length.

        Args:
            features: (B, F, D).
            features_lengths: (B,), all F.

        Returns:
            the loss, statistics, and the batch size.
        """
        out = self.codec(features.transpose(1, 2))
        rec = F.mse_loss(out.y, out.x)
        loss = self.lambda_rec * rec + self.lambda_com * out.commitment
        stats = {"loss": loss, "rec": rec, "com": out.commitment, "perplexity": out.perplexity}
        stats = {name: value.detach() for name, value in stats.items()}
        return force_gatherable((loss, stats, len(features)), loss.device)

    def collect_feats(self, features: Tensor, features_lengths: Tensor, **_: Any) -> dict[str, Tensor]:
        """The input itself."""
        return {"features": features, "features_lengths": features_lengths}


class Cropper(AbsPreprocessor):
    """Crops of features: at random for training, from the middle for validation.

    Args:
        train: which of the two.
        frames: of a crop.
    """

    def __init__(self, train: bool, frames: int) -> None:
        super().__init__(train)
        self.frames = frames

    def __call__(self, uid: str, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`data` with `features` (F, D), F at least a crop, cut to (frames, D)."""
        features = data["features"]
        room = len(features) - self.frames
        # ESPnet seeds numpy's generator by epoch and worker; a preprocessor learns of neither.
        start = np.random.randint(room + 1) if self.train else room // 2
        return data | {"features": features[start : start + self.frames].astype(np.float32)}


class FeatureCodecTrainer(Trainer):
    """Trains as ESPnet does; keeps the last checkpoint while the next is made, and refuses a loss that diverged."""

    @classmethod
    def train_one_epoch(cls, **arguments: Any) -> bool:
        """See ESPnet's trainer.

        Raises:
            UserError: if the loss is not finite at the end of the epoch.
        """
        options, reporter = arguments["options"], arguments["reporter"]
        distributed = arguments["distributed_option"]
        checkpoint = Path(options.output_dir) / CHECKPOINT
        if checkpoint.exists() and not (distributed.distributed and distributed.dist_rank):
            checkpoint.replace(checkpoint.with_name(PREVIOUS))
        invalid = super().train_one_epoch(**arguments)
        if not math.isfinite(reporter.stats["loss"][-1].value):
            raise UserError(
                f"the loss diverged in epoch {reporter.get_epoch()}", path=options.output_dir,
                hint="lower lr in optim_conf, or set normalize: true in params of conf/tokens",
            )  # fmt: skip
        return invalid


class FeatureCodecTask(LoggedTask, AbsTask):
    """One optimizer, one input: `features`, kaldi_ark, (F, D) of at least a crop's length."""

    num_optimizers = 1
    trainer = FeatureCodecTrainer
    class_choices_list = []  # noqa: RUF012 (ESPnet's name and type)

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The codec's sizes, the weights of the losses, the length of a crop."""
        group = parser.add_argument_group(description="Task related")
        group.add_argument(
            "--feature_codec_conf", action=NestedDictAction, default={}, help="dimension and params"
        )
        group.add_argument("--model_conf", action=NestedDictAction, default={}, help="lambda_rec, lambda_com")
        group.add_argument("--crop_frames", type=int, default=96, help="frames of a crop")
        parser.set_defaults(**DEFAULTS)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any]:
        """Crops."""
        return Cropper(train, args.crop_frames)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> CommonCollateFn:
        """Nothing is padded: crops are of one length."""
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that must be there."""
        return ("features",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the inputs that may be there."""
        return ()

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> FeatureCodecModel:
        """The model; `feature_codec_conf` is `dimension` and the fields of `FeatureCodecConfig`."""
        params = dict(args.feature_codec_conf)
        dimension = params.pop("dimension")
        return FeatureCodecModel(build(CODEC, params, dimension), **args.model_conf)


if __name__ == "__main__":
    FeatureCodecTask.main()
