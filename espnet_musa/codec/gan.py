"""The discriminators' side of a training with two turns a batch, shared by the codec and the vocoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .discriminators import MusaDiscriminator
from .losses import adversarial_loss, discriminator_loss, feature_matching_loss

Stats = dict[str, Tensor]


class NoDiscriminator(nn.Module):
    """In place of discriminators that no loss asks for: ESPnet's second optimizer needs a parameter to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Outputs made inside carry no gradient to the module's parameters: a third of the backward pass is spared."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def discriminator_terms(discriminator: MusaDiscriminator, real: Tensor, fake: Tensor) -> tuple[Tensor, Stats]:
    """Loss of the discriminators' turn, least squares (MUSA's equation 6), and its parts.

    Args:
        discriminator: all of them.
        real: (B, T) recorded speech.
        fake: (B, T) what the generator made of it.
    """
    d_real, d_fake = discriminator_loss(discriminator(real[:, None]), discriminator(fake.detach()[:, None]))
    return d_real + d_fake, {"d_real": d_real, "d_fake": d_fake}


def generator_terms(
    discriminator: MusaDiscriminator,
    real: Tensor,
    fake: Tensor,
    lambdas: tuple[float, float],
    kept: Tensor | slice = slice(None),
) -> tuple[list[Tensor], Stats]:
    """Adversarial loss and feature matching of the generator's turn (MUSA's equations 7 and 8).

    Args:
        discriminator: it gets no gradient.
        real: (B, T) recorded speech.
        fake: (B, T) what the generator made of it.
        lambdas: weights of the two.
        kept: those of the batch whose features are matched.

    Returns:
        the weighted terms, and their values without weights.
    """
    with frozen(discriminator):
        outputs = discriminator(fake[:, None])
    adv = adversarial_loss(outputs)
    terms, stats = [lambdas[0] * adv], {"adv": adv}
    if lambdas[1] and len(fake[kept]):
        with torch.no_grad():
            targets = discriminator(real[:, None])
        targets, outputs = ([[x[kept] for x in layers] for layers in own] for own in (targets, outputs))
        fm = feature_matching_loss(targets, outputs, discriminator.logits_matched)
        terms.append(lambdas[1] * fm)
        stats["fm"] = fm
    return terms, stats
