"""Speed of scoring: EER, bootstrap, trial lists and score files against plain loops, and ten million trials in all.

python benchmarks/bench_scoring.py [--repeats 3] [--skip-large]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from espnet_musa.data.trials import Trials, read_trials, write_scores
from espnet_musa.evaluators.backends import Cosine, pair_scores
from espnet_musa.metrics.bootstrap import eer_interval
from espnet_musa.metrics.eer import eer


def loop_eer(tar: np.ndarray, non: np.ndarray) -> float:
    """One pass over all scores for each of the 2N - 1 thresholds, as the evaluation of VoicePrivacy 2024 does."""
    scores = np.unique(np.concatenate([tar, non]))
    best, rate = np.inf, np.nan
    for t in np.sort(np.concatenate([scores, (scores[1:] + scores[:-1]) / 2])):
        frr, far = (tar <= t).sum() / tar.size, (non > t).sum() / non.size
        if abs(far - frr) < best:
            best, rate = abs(far - frr), (far + frr) / 2
    return rate


def loop_interval(scores, enroll, speaker, target, repeats: int, rng) -> tuple[float, float]:
    """The same bootstrap with every replica written out and sorted."""
    speakers, rates = int(speaker.max()) + 1, []
    for _ in range(repeats):
        m = np.bincount(rng.integers(0, speakers, speakers), minlength=speakers)
        times = np.where(target, m[enroll], m[enroll] * m[speaker])
        replica, label = np.repeat(scores, times), np.repeat(target, times)
        if label.any() and not label.all():
            rates.append(eer(replica[label], replica[~label]).eer)
    return tuple(np.quantile(rates, [0.025, 0.975]))


def loop_read(path: Path, speakers: list[str], utts: list[str]) -> tuple[list, list, list]:
    """A careful line-by-line reader with dictionaries."""
    speaker_index, utt_index = ({name: i for i, name in enumerate(names)} for names in (speakers, utts))
    enroll, trial, target, seen = [], [], [], set()
    with path.open(encoding="utf-8") as file:
        for line in file:
            speaker, utt, label = line.split()
            if label not in ("target", "nontarget") or (speaker, utt) in seen:
                raise ValueError(line)
            seen.add((speaker, utt))
            enroll.append(speaker_index[speaker])
            trial.append(utt_index[utt])
            target.append(label == "target")
    return enroll, trial, target


def loop_write(path: Path, trials: Trials, speakers: list[str], utts: list[str], scores: np.ndarray) -> None:
    """One formatted line after the other."""
    with path.open("w", encoding="utf-8") as file:
        for e, u, s in zip(trials.enroll.tolist(), trials.trial.tolist(), scores.tolist(), strict=True):
            file.write(f"{speakers[e]} {utts[u]} {s:.9f}\n")


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(what: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int) -> None:
    """Alternate the two, keep the best of each, print one JSON line; the first call of ours compiles, unmeasured."""
    ours()
    times = np.array([(seconds(ours), seconds(baseline)) for _ in range(repeats)]).min(axis=0)
    line = {"what": what, "ours_s": times[0], "baseline_s": times[1], "ratio": times[1] / times[0]}
    print(
        json.dumps({k: v if isinstance(v, str) else round(float(v), 5) for k, v in line.items()}), flush=True
    )


class Experiment:
    """All pairs of enrolled speakers and trial utterances, with embeddings that carry the speaker."""

    def __init__(self, speakers: int, utts: int) -> None:
        rng = np.random.default_rng(0)
        self.own = np.arange(utts) % speakers
        self.speakers = [f"speaker{i:05d}" for i in range(speakers)]
        self.utts = [f"speaker{s:05d}-{i:06d}-0000" for i, s in enumerate(self.own)]
        self.models = rng.normal(size=(speakers, 192)).astype(np.float32)
        self.embeddings = (self.models[self.own] + 4 * rng.normal(size=(utts, 192))).astype(np.float32)

    def write(self, path: Path) -> Path:
        """Write the trial list."""
        with path.open("w", encoding="utf-8") as file:
            for index, speaker in enumerate(self.speakers):
                pairs = zip(self.utts, self.own, strict=True)
                file.writelines(
                    f"{speaker} {u} {'target' if s == index else 'nontarget'}\n" for u, s in pairs
                )
        return path


def small(repeats: int) -> None:
    """A VoicePrivacy set (libri_dev_trials_f: 15 speakers, 1,018 utterances of 20) and one million trials."""
    rng = np.random.default_rng(0)
    enroll, speaker = np.repeat(np.arange(15), 1018), np.tile(np.arange(1018) % 20, 15)
    target = enroll == speaker
    scores = (rng.normal(size=target.size) + 2 * target).astype(np.float32)
    tar, non = scores[target], scores[~target]
    assert abs(eer(tar, non).eer - loop_eer(tar, non)) < 1e-9
    compare("EER, 15,270 trials", lambda: eer(tar, non), lambda: loop_eer(tar, non), repeats)
    trials = (scores, enroll, speaker, target)
    compare(
        "bootstrap interval, 15,270 trials x 1,000 draws",
        lambda: eer_interval(*trials, rng=np.random.default_rng(0)),
        lambda: loop_interval(*trials, repeats=1000, rng=np.random.default_rng(0)),
        repeats,
    )
    with tempfile.TemporaryDirectory() as place:
        set_ = Experiment(200, 5000)
        path, names = set_.write(Path(place) / "trials"), (set_.speakers, set_.utts)
        compare(
            "read 1,000,000 trials",
            lambda: read_trials(path, *names),
            lambda: loop_read(path, *names),
            repeats,
        )
        read = read_trials(path, *names)
        args = (read, *names, rng.normal(size=len(read)).astype(np.float32))
        a, b = Path(place) / "ours", Path(place) / "loop"
        compare(
            "write 1,000,000 scores", lambda: write_scores(a, *args), lambda: loop_write(b, *args), repeats
        )
        assert a.read_bytes() == b.read_bytes()


def large() -> None:
    """Ten million trials from embeddings to the score file, the EER and its interval: seconds of each step."""
    with tempfile.TemporaryDirectory() as place:
        set_ = Experiment(500, 20000)
        path, steps = set_.write(Path(place) / "trials"), {}

        def step(name: str, run: Callable[[], object]) -> object:
            start = time.perf_counter()
            result = run()
            steps[name] = round(time.perf_counter() - start, 2)
            return result

        trials = step("read", lambda: read_trials(path, set_.speakers, set_.utts))
        pairs = (trials.enroll, trials.trial)
        counts = np.ones(len(set_.models))
        factors = step("cosine factors", lambda: Cosine().factors(set_.models, counts, set_.embeddings))
        scores = step("cosine", lambda: pair_scores(*factors, *pairs))
        step("write", lambda: write_scores(Path(place) / "s", trials, set_.speakers, set_.utts, scores))
        tar, non = scores[trials.target], scores[~trials.target]
        for method in ("vpc2024", "vpc2022", "rocch"):
            step(f"EER {method}", lambda method=method: eer(tar, non, method))
        parts = (scores, trials.enroll, set_.own[trials.trial], trials.target)
        step("interval, 1,000 draws", lambda: eer_interval(*parts, rng=np.random.default_rng(0)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    report = {
        "what": "10,000,000 trials",
        "ours_s": round(sum(steps.values()), 2),
        "baseline_s": None,
        "ratio": None,
    }
    print(json.dumps({**report, "steps_s": steps, "peak_gb": round(peak, 2)}), flush=True)


def main() -> None:
    """Print one JSON line per comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--skip-large", action="store_true", help="leave out the ten million trials")
    args = parser.parse_args()
    small(args.repeats)
    if not args.skip_large:
        large()


if __name__ == "__main__":
    main()
