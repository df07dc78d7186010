"""The front door: files and folders through `python -m espnet_musa.bin.anonymize`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import REPOSITORY, voice

from espnet_musa import log
from espnet_musa.bin.anonymize import main
from espnet_musa.data.audio import to_int16, write_pcm
from espnet_musa.errors import UserError


def anonymize(*words: object, system: str = "b2_mcadams") -> None:
    main(["--system", system, *map(str, words)])


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("a.wav", 16000),
        ("a.flac", 48000),
        ("a.ogg", 22050),
        ("a.mp3", 44100),
        ("a.aiff", 96000),
        ("a.wav", 8000),
    ],
)
def test_formats_and_rates(tmp_path, name, rate):
    sf.write(tmp_path / name, voice(0, 1.5, rate=rate), rate)
    anonymize(tmp_path / name, tmp_path / "out.wav")
    info = sf.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert abs(info.duration - 1.5) < 0.12  # mp3 pads


def test_same_seed_same_bytes_and_another_voice_for_another_seed(tmp_path):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    for out, seed in (("1", 1), ("2", 1), ("3", 2)):
        anonymize(tmp_path / "a.wav", tmp_path / f"{out}.wav", "--seed", seed, system="dsp_f0")
    one, two, three = ((tmp_path / f"{n}.wav").read_bytes() for n in "123")
    assert one == two != three


def test_folder_keeps_names_skips_what_is_there_and_resumes(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("x.wav", "deep/y.flac", "deep/z.wav"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(source / name, voice(len(name)), 16000)
    (source / "notes.txt").write_text("not audio")
    anonymize(source, out)
    made = {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in out.rglob("*.*")}
    made.pop(".anonymized.json")
    assert set(made) == {"x.wav", "deep/y.wav", "deep/z.wav"}
    (out / "x.wav").unlink()
    anonymize(source, out)
    assert (out / "deep/y.wav").stat().st_mtime_ns == made["deep/y.wav"]
    assert (out / "x.wav").stat().st_mtime_ns != made["x.wav"]
    with pytest.raises(UserError, match=r"was not made with these settings.*--force true"):
        anonymize(source, out, "--set", "b2_mcadams.target.policy=uniform")
    anonymize(source, out, "--set", "b2_mcadams.target.policy=uniform", "--force", "true")
    assert (out / "deep/y.wav").stat().st_mtime_ns != made["deep/y.wav"]


def test_an_output_is_not_taken_for_one_of_other_settings(tmp_path):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    anonymize(tmp_path / "a.wav", tmp_path / "o.wav")
    with pytest.raises(UserError, match="is there already"):
        anonymize(tmp_path / "a.wav", tmp_path / "o.wav")
    with pytest.raises(UserError, match="nothing is named 'b2_macadams' to set; did you mean 'b2_mcadams'"):
        anonymize(tmp_path / "a.wav", tmp_path / "p.wav", "--set", "b2_macadams.target.policy=uniform")


def test_settings_and_targets_apply(tmp_path):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    anonymize(tmp_path / "a.wav", tmp_path / "1.wav")
    anonymize(tmp_path / "a.wav", tmp_path / "2.wav", "--set", "b2_mcadams.params.lpc_order=12")
    assert (tmp_path / "1.wav").read_bytes() != (tmp_path / "2.wav").read_bytes()


@pytest.fixture
def told(caplog, monkeypatch):
    """`caplog` that hears our messages once each, whatever an earlier test did to the logger."""
    logger = logging.getLogger("espnet_musa")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_public_draw_is_said_and_can_be_replaced(tmp_path, told):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    for out, seed, change in (("1", 1, []), ("2", 2, []), ("3", 1, ["uniform"]), ("4", 2, ["uniform"])):
        words = [w for c in change for w in ("--set", f"b2_mcadams.target.policy={c}")]
        anonymize(tmp_path / "a.wav", tmp_path / f"{out}.wav", "--seed", seed, *words)
    files = [(tmp_path / f"{n}.wav").read_bytes() for n in "1234"]
    assert files[0] == files[1] and files[2] != files[3]
    assert [r.levelname for r in told.records if "published constant" in r.getMessage()] == ["WARNING"] * 2


def test_channels(tmp_path, told):
    """The mean by default, with one line of notice; or the first; or an error."""
    both = np.stack([voice(0), voice(1)], 1)
    (tmp_path / "in").mkdir()
    for name, wav in (("s", both), ("t", both), ("mean", both.mean(1)), ("first", both[:, 0])):
        sf.write(tmp_path / "in" / f"{name}.wav", wav, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"has 2 channels; expected mono.*--channels"):
        anonymize(tmp_path / "in/s.wav", tmp_path / "o.wav", "--channels", "error")
    assert not (tmp_path / "o.wav").exists()
    for choice in ("mean", "first"):
        for name in ("s", choice):
            anonymize(tmp_path / f"in/{name}.wav", tmp_path / f"{name}-{choice}.wav", "--channels", choice)
        same = [(tmp_path / f"{name}-{choice}.wav").read_bytes() for name in ("s", choice)]
        assert same[0] == same[1]
    told.clear()
    anonymize(tmp_path / "in", tmp_path / "out")
    notices = {r.getMessage() for r in told.records if "(--channels)" in r.getMessage()}
    assert notices == {f"{tmp_path}/in/s.wav has 2 channels: their mean is taken (--channels)"}


def test_a_long_recording_shows_its_seconds(tmp_path, told, monkeypatch):
    monkeypatch.setattr(log, "_EVERY", 0.0)
    sf.write(tmp_path / "a.wav", voice(0, 45.0), 16000)
    anonymize(tmp_path / "a.wav", tmp_path / "o.wav")
    lines = [r.getMessage() for r in told.records]
    assert {"a.wav: reading: 45 of 45 s of audio", "a.wav: b2_mcadams: 10 of 45 s of audio"} <= set(lines)
    anonymize(tmp_path / "a.wav", tmp_path / "p.wav", system="dsp_f0")
    shown = [r.getMessage() for r in told.records if "dsp_f0" in r.getMessage()]
    assert shown[0] == "a.wav: dsp_f0, analysis: 31 of 45 s of audio"
    assert "a.wav: dsp_f0: 45 of 45 s of audio" in shown
    assert any(re.fullmatch(r"b2_mcadams: 1 made, 45.0 s of audio in .* s: .*o.wav", line) for line in lines)


def test_a_killed_run_goes_on(tmp_path):
    """What was made before the kill stays as it is; no half file has a name; the rest is made."""
    (tmp_path / "in").mkdir()
    for number in range(40):
        sf.write(tmp_path / "in" / f"{number:02d}.wav", voice(number, 3.0), 16000)
    command = [sys.executable, "-m", "espnet_musa.bin.anonymize", "--system", "dsp_f0", "in", "out"]
    settings = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(REPOSITORY)}}
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, **settings)
    end = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.wav"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    run.kill()
    run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("[0-9]*.wav")}
    assert 3 <= len(before) < 40
    assert all(sf.info(tmp_path / "out" / name).frames == 48000 for name in before)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, **settings)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("[0-9]*.wav")}
    assert len(after) == 40 and before.items() <= after.items()


def two_inputs(place: Path) -> tuple[Path, Path]:
    (place / "in").mkdir()
    for name in ("a.wav", "a.flac"):
        sf.write(place / "in" / name, voice(0), 16000)
    return place / "in", place / "out"


def cut(file: Path) -> Path:
    """The same file without its second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


BAD = {
    "missing": (lambda p: (p / "no.wav", p / "o.wav"), "no such file or folder"),
    "same place": (lambda p: (p / "v.wav", p / "v.wav"), "the output would lie over its input"),
    "same folder": (lambda p: (p, p), "the output would lie over its input"),
    "not wav": (lambda p: (p / "v.wav", p / "o.mp3"), "expected a name that ends in .wav"),
    "empty folder": (lambda p: ((p / "e").mkdir() or p / "e", p / "o"), "no audio files"),
    "collision": (two_inputs, "would become this file"),
    "too short": (lambda p: (p / "short.wav", p / "o.wav"), "short.wav"),
    "silent": (lambda p: (p / "silent.wav", p / "o.wav"), "silent"),
    "empty": (
        lambda p: (p / "empty.wav", p / "o.wav"),
        "empty.wav: (holds no samples|cannot be read as audio)",
    ),
    "no sample": (lambda p: (p / "none.wav", p / "o.wav"), "none.wav: holds no samples"),
    "text": (lambda p: (p / "text.wav", p / "o.wav"), "text.wav: cannot be read as audio"),
    "nan": (lambda p: (p / "nan.wav", p / "o.wav"), "nan.wav: sample 8000 is NaN or infinite"),
    "clipped": (
        lambda p: (p / "loud.wav", p / "o.wav"),
        r"loud.wav: clipped.*--set format.max_clipped=1 accepts",
    ),
    "slow": (lambda p: (p / "slow.wav", p / "o.wav"), r"sampled at 4000 Hz; expected at least 8000 Hz"),
    "truncated wav": (
        lambda p: (cut(p / "v.wav"), p / "o.wav"),
        "v.wav: holds .* announced; hint: .* truncated",
    ),
    "truncated aiff": (
        lambda p: (cut(p / "v.aiff"), p / "o.wav"),
        "v.aiff: holds .* announced; hint: .* truncated",
    ),
    "truncated flac": (lambda p: (cut(p / "v.flac"), p / "o.wav"), "v.flac: .* damaged or truncated"),
    "truncated mp3": (lambda p: (cut(p / "v.mp3"), p / "o.wav"), "v.mp3: .* truncated"),
    "device": (lambda p: (p / "v.wav", p / "o.wav", "--device", "cudaa"), "--device cudaa: "),
    "one path": (lambda p: (p / "v.wav",), "1 paths given; expected an input and an output"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error(tmp_path, case):
    sf.write(tmp_path / "v.wav", voice(0), 16000)
    sf.write(tmp_path / "short.wav", voice(0)[:100], 16000)
    sf.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    sf.write(tmp_path / "none.wav", np.zeros(0), 16000)
    sf.write(
        tmp_path / "nan.wav", np.where(np.arange(16000) == 8000, np.nan, voice(0)), 16000, subtype="FLOAT"
    )
    sf.write(tmp_path / "loud.wav", np.sign(voice(0)), 16000)
    sf.write(tmp_path / "slow.wav", voice(0), 4000)
    for ending in ("aiff", "flac", "mp3"):
        sf.write(tmp_path / f"v.{ending}", voice(0, 4.0), 16000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound\n" * 100)
    paths, message = BAD[case]
    with pytest.raises(UserError, match=message):
        anonymize(*paths(tmp_path))
    assert not (tmp_path / "o.wav").exists()


def test_what_a_hint_says_helps(tmp_path):
    sf.write(tmp_path / "loud.wav", np.clip(voice(0) * 9, -1, 1), 16000)
    anonymize(tmp_path / "loud.wav", tmp_path / "o.wav", "--set", "format.max_clipped=1")
    sf.write(tmp_path / "slow.wav", voice(0, rate=6000), 6000)
    anonymize(tmp_path / "slow.wav", tmp_path / "p.wav", "--set", "format.min_rate=6000")


def test_lower_bound_is_refused(tmp_path):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    with pytest.raises(UserError, match="it anonymizes nothing"):
        anonymize(tmp_path / "a.wav", tmp_path / "o.wav", system="orig")


def test_exit_codes_of_the_command(tmp_path):
    sf.write(tmp_path / "a.wav", voice(0), 16000)
    command = [sys.executable, "-m", "espnet_musa.bin.anonymize", "--system"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for system, code in (("b2_mcadams", 0), ("b2_mcadam", 2)):
        done = subprocess.run(
            [*command, system, "a.wav", f"{system}.wav"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("system", ["b2_mcadams", "dsp_f0"])
def test_memory_does_not_grow_with_the_recording(tmp_path, system):
    """Twelve minutes take hardly more memory than one: at most what a minute of float32 samples takes twice."""
    voices = [to_int16(voice(i, 10.0, 110 + 10 * i)) for i in range(6)]
    code = (
        "import resource, sys; from espnet_musa.bin.anonymize import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for minutes in (1, 12):
        write_pcm(tmp_path / "in.wav", (voices[i % 6] for i in range(6 * minutes)), 16000)
        change = ["--set", "dsp_f0.params.f0.tracker=dio"] if system == "dsp_f0" else []
        done = subprocess.run(
            [sys.executable, "-c", code, "--system", system, *change, "in.wav", f"out{minutes}.wav"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert sf.info(tmp_path / "out12.wav").frames == 12 * 60 * 16000
    assert peaks[1] - peaks[0] < 40, f"{peaks} MB"
