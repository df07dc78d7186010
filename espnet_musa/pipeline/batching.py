"""Utterances of like length, converted together.

The last bits of a sum may depend on the size of the arrays that it is computed in, so an utterance may come out of
different batches with samples one step apart. Batches are therefore planned from the list of the whole set: which
utterances share one depends on neither the number of jobs, nor their order, nor what a killed run left behind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..anonymizers.base import Anonymizer
from ..log import get_logger

log = get_logger(__name__)
LONGEST = 30.0  # seconds; what is longer is converted alone, in a stream
PADDING = 0.2  # largest share of an utterance's place in a batch that is padding


def plan(frames: dict[str, int], anonymizer: Anonymizer) -> list[list[str]]:
    """All utterances of a set in batches, those of the longest utterances first.

    Args:
        frames: utterance -> samples.
        anonymizer: says how many seconds of audio, padding included, it takes at once (0: one utterance).
    """
    rate = anonymizer.sample_rate
    limit, longest = anonymizer.batch_seconds * rate, LONGEST * rate
    batches: list[list[str]] = []
    first = 0  # samples of the last batch's first utterance, its longest
    for utt in sorted(frames, key=lambda utt: (-frames[utt], utt)):
        room = bool(batches) and (len(batches[-1]) + 1) * first <= limit
        if not room or first > longest or frames[utt] < (1 - PADDING) * first:
            batches.append([])
            first = frames[utt]
        batches[-1].append(utt)
    return batches


class Batch:
    """A batch whose results are made when the first one is asked for.

    Args:
        utts: of the batch.
        convert: utterances -> their (T',) results.
        wanted: utterance -> whether its result will be asked for; the others are only there to make the batch whole.
    """

    def __init__(
        self,
        utts: list[str],
        convert: Callable[[list[str]], list[np.ndarray]],
        wanted: Callable[[str], bool],
    ) -> None:
        self._utts, self._convert, self._wanted = utts, convert, wanted
        self._results: dict[str, np.ndarray] | None = None

    def blocks(self, utt: str) -> list[np.ndarray] | None:
        """The result of one utterance, given out once; None if its batch failed, so it must be converted alone."""
        if self._results is None:
            self._results = self._make()
        return [self._results.pop(utt)] if utt in self._results else None

    def _make(self) -> dict[str, np.ndarray]:
        wanted = [utt for utt in self._utts if self._wanted(utt)]
        try:
            made = self._convert(self._utts)
            return {utt: wav for utt, wav in zip(self._utts, made, strict=True) if utt in wanted}
        except (OSError, MemoryError):
            raise  # the machine's trouble
        except Exception as error:
            log.warning(
                "a batch of %d failed (%s); its utterances are converted one by one", len(self._utts), error
            )
            return {}
