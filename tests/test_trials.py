"""Trial lists and score files: round trips, every rule with its message, the official lists."""

import numpy as np
import pytest

from espnet_musa.data import trials as trials_module
from espnet_musa.data.trials import Trials, read_scores, read_trials, write_scores
from espnet_musa.errors import UserError

SPEAKERS = ["1462", "17", "spk-é", "1"]
UTTS = ["1462-170142-0000", "17-1-1", "17-1-2", "ü"]
GOOD = "1462 1462-170142-0000 target\n17 17-1-1 target\nspk-é 17-1-2 nontarget\n1 ü nontarget\n"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_reads(tmp_path):
    for text in (GOOD, GOOD.removesuffix("\n")):
        trials = read_trials(write(tmp_path / "trials", text), SPEAKERS, UTTS)
        assert trials.enroll.tolist() == [0, 1, 2, 3] and trials.enroll.dtype == np.int32
        assert trials.trial.tolist() == [0, 1, 2, 3] and trials.trial.dtype == np.int32
        assert trials.target.tolist() == [True, True, False, False]
        assert len(trials) == 4


@pytest.mark.parametrize("block", [1, 40, 64, 1 << 20])
def test_block_size_does_not_matter(tmp_path, monkeypatch, block):
    rng = np.random.default_rng(0)
    speakers = [f"s{i}" for i in range(30)]
    utts = [f"s{i % 30}-{i}" for i in range(200)]
    pairs = [(s, u) for s in range(30) for u in range(200)]
    rng.shuffle(pairs)
    path = tmp_path / "trials"
    write(path, "".join(f"s{s} {utts[u]} {'target' if u % 30 == s else 'nontarget'}\n" for s, u in pairs))
    monkeypatch.setattr(trials_module, "_BLOCK", block)
    trials = read_trials(path, speakers, utts)
    assert np.stack([trials.enroll, trials.trial], 1).tolist() == [list(p) for p in pairs]
    assert (trials.target == (trials.trial % 30 == trials.enroll)).all()
    scores = rng.normal(size=6000).astype(np.float32)
    write_scores(tmp_path / "scores", trials, speakers, utts, scores)
    enroll, trial, back = read_scores(tmp_path / "scores", speakers, utts)
    assert (enroll == trials.enroll).all() and (trial == trials.trial).all()
    np.testing.assert_allclose(back, scores, rtol=0, atol=1e-9)
    large = abs(scores) > 0.016
    assert (back[large] == scores[large]).all()  # bit for bit


BAD = {  # case: (file, line, words of the message)
    "unknown speaker": ("1462 ü target\n99 ü nontarget\n", 2, "speaker '99' is not enrolled"),
    "unknown utterance": ("1462 ü target\n17 nowhere nontarget\n", 2, "utt 'nowhere': no such utterance"),
    "swapped columns": ("ü 1462 target\n", 1, "speaker 'ü' is not enrolled"),
    "prefix of a name": ("1462 17-1-1 target\n146 ü nontarget\n", 2, "speaker '146'"),
    "label": ("1462 ü target\n17 ü Target\n", 2, "third field is 'Target'; expected target|nontarget"),
    "long label": ("1462 ü targetx\n", 1, "third field is 'targetx'"),
    "label of equal length": ("1462 ü tarjet\n", 1, "third field is 'tarjet'"),
    "other label of equal length": ("1462 ü nontarjet\n", 1, "third field is 'nontarjet'"),
    "two columns": ("1462 ü target\n17 ü\n", 2, "'17 ü' is not one of three fields"),
    "four columns": ("1462 ü target 1\n", 1, "three fields"),
    "two and four columns": ("1462 ü\ntarget 17 ü nontarget\n", 1, "three fields"),
    "empty line": ("1462 ü target\n\n17 ü nontarget\n", 2, "three fields"),
    "only an empty line": ("\n", 1, "three fields"),
    "two spaces": ("1462  ü target\n", 1, "one space between"),
    "leading space": (" 1462 ü target\n", 1, "three fields"),
    "trailing space": ("1462 ü target \n", 1, "three fields"),
    "tab": ("1462\tü target\n", 1, "three fields"),
    "Windows": ("1462 ü target\r\n", 1, "Windows line end; expected \\n; hint: run dos2unix"),
    "not UTF-8": (b"1462 \xff target\n", 1, "no such utterance"),
    "zero byte": (b"1462 \x00 target\n", 1, "three fields"),
    "duplicate": ("1462 ü target\n17 ü nontarget\n1462 ü target\n", 3, "trial repeats line 1"),
    "duplicate with another label": ("1462 ü target\n1462 ü nontarget\n", 2, "trial repeats line 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_names_the_first_bad_line(tmp_path, case):
    text, line, words = BAD[case]
    path = write(tmp_path / "trials", text)
    with pytest.raises(UserError) as error:
        read_trials(path, SPEAKERS, UTTS)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("1462 ü target\n", "1 trials, but no nontarget one"),
        ("1462 ü nontarget\n", "but no target one"),
    ],
)
def test_whole_file(tmp_path, text, words):
    path = write(tmp_path / "trials", text)
    with pytest.raises(UserError, match=words) as error:
        read_trials(path, SPEAKERS, UTTS)
    assert str(path) in str(error.value)


def test_missing_file_and_empty_sets(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_trials(tmp_path / "trials", SPEAKERS, UTTS)
    with pytest.raises(UserError, match="is not enrolled"):
        read_trials(write(tmp_path / "trials", GOOD), [], [])


@pytest.mark.parametrize("field", ["nan", "inf", "-inf", "1e300", "abc", "1,5"])
def test_scores_must_be_numbers(tmp_path, field):
    path = write(tmp_path / "scores", f"1462 ü 0.5\n17 ü {field}\n")
    with pytest.raises(UserError, match="third field is") as error:
        read_scores(path, SPEAKERS, UTTS)
    assert f"{path}:2: " in str(error.value)


def test_score_text(tmp_path):
    values = [0.0, -0.0, 1.0, -0.25, 0.9999999996, 1e-12, -1e-12, 12345.678, -8.5e9, 0.1]
    n = len(values)
    trials = Trials(np.zeros(n, np.int32), np.arange(n, dtype=np.int32), np.ones(n, bool))
    utts = [f"u{i}" for i in range(n)]
    write_scores(tmp_path / "scores", trials, ["é"], utts, np.array(values))
    expected = [f"{v:.9f}" for v in [0, 0, 1, -0.25, 0.9999999996, 0, 0, 12345.678, -8.5e9, 0.1]]
    lines = (tmp_path / "scores").read_text(encoding="utf-8").splitlines()
    assert lines == [f"é u{i} {e}" for i, e in enumerate(expected)]


def test_writing_is_all_or_nothing(tmp_path):
    trials = Trials(np.zeros(2, np.int32), np.arange(2, dtype=np.int32), np.array([True, False]))
    path = write(tmp_path / "scores", "old")
    for bad in ([0.5, np.nan], [np.inf, 0.0], [1e10, 0.0], [0.5]):
        with pytest.raises(UserError, match="scores"):
            write_scores(path, trials, ["a"], ["b", "c"], np.array(bad))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]
    write_scores(path, trials, ["a"], ["b", "c"], np.array([0.5, -1]))
    assert path.read_text() == "a b 0.500000000\na c -1.000000000\n"
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "targets", "nontargets"),
    [("dev_trials_f", 704, 14566), ("dev_trials_m", 644, 12796), ("test_trials_f", 548, 11196),
     ("test_trials_m", 449, 9457)],
)  # fmt: skip
def test_official_lists(real_speech, name, targets, nontargets):
    place = real_speech / "vpc_lists" / f"libri_{name}"
    if not place.is_dir():
        pytest.skip("no official lists here")
    enrolls = (place.with_name(f"libri_{name.split('_')[0]}_enrolls") / "utt2spk").read_text().splitlines()
    speakers = sorted({line.split()[1] for line in enrolls})
    utts = [line.split()[0] for line in (place / "utt2spk").read_text().splitlines()]
    trials = read_trials(place / "trials", speakers, utts)
    assert (trials.target.sum(), (~trials.target).sum()) == (targets, nontargets)
