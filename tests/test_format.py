"""Stage 2: every kind of input becomes 16 kHz mono 16-bit, or one clear error."""

import numpy as np
import pytest
import soundfile as sf
from conftest import make_source, voice

from espnet_musa.config import FormatConfig, Recipe
from espnet_musa.data.datadir import DataDir, write_datadir
from espnet_musa.errors import UserError
from espnet_musa.pipeline import format as stage


def recipe(**change) -> Recipe:
    return Recipe("test", (), (), {}, format=FormatConfig(**{"roles": ("utility",), **change}))


def run(root, **change) -> DataDir:
    settings = recipe(**change)
    stage.plan(settings, root, "", force=False)
    stage.shard(settings, root, "", (1, 1))
    stage.finish(settings, root, "")
    return DataDir.read(root / "dump" / "s", "audio")


def one(root, wav=None, rate=16000, name="x.wav", subtype="PCM_16", value=None, **tables):
    """data/s with one utterance made from `wav`."""
    root.mkdir(exist_ok=True)
    if wav is not None:
        sf.write(root / name, wav, rate, subtype=subtype)
    write_datadir(
        root / "data" / "s",
        {"wav.scp": {"u": value or str(root / name)}, "utt2spk": {"u": "k"}, **tables},
        {},
    )


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_rates_keep_duration_and_tone(tmp_path, rate):
    time = np.arange(rate) / rate
    one(tmp_path, 0.5 * np.sin(2 * np.pi * 440 * time), rate)
    data = run(tmp_path)
    wav = data.load("u")
    assert abs(len(wav) - 16000) <= 1 and data.table("utt2dur")["u"] == len(wav) / 16000
    reference = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(wav)) / 16000)
    assert np.abs(wav - reference)[200:-200].max() < 1e-3


def test_sixteen_bit_input_is_copied_bit_for_bit(tmp_path):
    one(tmp_path, voice(0))
    run(tmp_path)
    assert np.array_equal(
        sf.read(tmp_path / "dump/s/wav/u.wav", dtype="int16")[0],
        sf.read(tmp_path / "x.wav", dtype="int16")[0],
    )


def test_blocks_do_not_show(tmp_path, monkeypatch):
    one(tmp_path / "a", voice(0, 3), 22050)
    one(tmp_path / "b", voice(0, 3), 22050)
    whole = run(tmp_path / "a").load("u")
    monkeypatch.setattr(stage, "BLOCK", 0.17)
    assert np.array_equal(run(tmp_path / "b").load("u"), whole)


def test_segments_pipes_and_arks(tmp_path):
    import kaldiio

    wav = (voice(0, 2) * 32767).astype(np.int16)
    sf.write(tmp_path / "r.flac", wav, 16000)
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/w.ark,{tmp_path}/w.scp") as ark:
        ark("c", (16000, wav))
    offset = (tmp_path / "w.scp").read_text().split()[1]
    write_datadir(
        tmp_path / "data" / "s",
        {
            "wav.scp": {"r": str(tmp_path / "r.flac"), "p": f"cat {tmp_path / 'r.flac'} |", "q": offset},
            "segments": {"a": ("r", 0.5, 1.25), "b": ("p", 0.0, 2.0), "c": ("q", 1.0, 2.004)},
            "utt2spk": dict.fromkeys("abc", "k"),
        },
        {},
    )
    with pytest.raises(UserError, match=r"utt 'b': wav.scp runs a command.*allow_pipes=true"):
        run(tmp_path)
    data = run(tmp_path, allow_pipes=True)
    for utt, part in {"a": wav[8000:20000], "b": wav, "c": wav[16000:]}.items():
        assert np.array_equal(sf.read(data.audio_path(utt), dtype="int16")[0], part)
    assert not data.has("segments")


def noisy(n=16000):
    return 0.1 * np.random.default_rng(0).standard_normal(n)


BAD = {
    "empty": (lambda r: one(r, np.zeros(0)), r"utt 'u': .*x.wav: holds no samples"),
    "silent": (lambda r: one(r, np.zeros(16000)), r"x.wav: silent \(peak 0"),
    "NaN": (lambda r: one(r, np.full(16000, np.nan), subtype="FLOAT"), r"sample 0 is NaN or infinite"),
    "clipped": (lambda r: one(r, np.sign(noisy())), r"clipped: .* at full scale; expected at most 1 %"),
    "stereo": (lambda r: one(r, np.stack([noisy(), noisy()], 1)), r"has 2 channels; expected mono.*format.channels"),
    "8 kHz": (lambda r: one(r, noisy(8000), 8000), r"sampled at 8000 Hz; expected at least 16000 Hz.*min_rate=8000"),
    "missing": (lambda r: one(r, value=str(r / "gone.wav")), r"gone.wav: no such audio file"),
    "not audio": (lambda r: [one(r), (r / "x.wav").write_text("hello")], r"x.wav: cannot be read as audio"),
    "truncated": (lambda r: [one(r, noisy(), name="x.flac"), cut(r / "x.flac")], r"x.flac: .*(truncated|damaged)"),
    "segment": (lambda r: one(r, noisy(), segments={"u": ("u", 0.5, 9.0)}), r"segment ends at 9 s, the recording at 1"),
    "command": (lambda r: one(r, value="exit 3 |"), r"command failed with code 3"),
}  # fmt: skip


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_and_publishes_nothing(tmp_path, case):
    make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        run(tmp_path, allow_pipes=True)
    assert not (tmp_path / "dump" / "s").exists()
    assert not list((tmp_path / "dump").rglob("*.wav"))


def test_channels_on_request(tmp_path):
    left, right = noisy(), 0.5 * noisy()
    one(tmp_path / "a", np.stack([left, right], 1))
    one(tmp_path / "b", np.stack([left, right], 1))
    first = run(tmp_path / "a", channels="first").load("u")
    mean = run(tmp_path / "b", channels="mean").load("u")
    assert np.abs(mean - 0.75 * first).max() < 1e-4


def test_any_number_of_jobs_gives_the_same_bytes(tmp_path):
    for nj in (1, 3):
        root = tmp_path / str(nj)
        make_source(root / "data" / "s", utterances=3, rate=22050)
        settings = recipe()
        stage.plan(settings, root, "", force=False)
        for job in range(nj, 0, -1):
            stage.shard(settings, root, "", (job, nj))
        stage.finish(settings, root, "")
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / n / "dump/s/wav").iterdir()} for n in "13")
    assert a == b and len(a) == 6


def test_unfinished_shards_are_not_published(tmp_path):
    make_source(tmp_path / "data" / "s", utterances=2)
    stage.plan(recipe(), tmp_path, "", force=False)
    stage.shard(recipe(), tmp_path, "", (1, 2))
    with pytest.raises(UserError, match="utt 'a-1': not made"):
        stage.finish(recipe(), tmp_path, "")
    assert not (tmp_path / "dump" / "s").exists()


def test_changed_audio_is_noticed(tmp_path):
    one(tmp_path, voice(0))
    run(tmp_path)
    one(tmp_path, voice(1, 1.5))
    with pytest.raises(UserError, match=r"changed: input .*--force true"):
        run(tmp_path)
