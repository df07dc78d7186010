"""The Kaldi-named tools of utils/ on data directories: results, exit codes, messages, what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from espnet_musa import errors
from espnet_musa.bin import datadir
from espnet_musa.data import ops
from espnet_musa.data.datadir import DataDir, Meta, write_datadir
from espnet_musa.data.schema import DERIVED, FILES
from espnet_musa.errors import UserError

UTILS = Path(__file__).resolve().parent.parent / "utils"
UTT2SPK = {"a-1": "a", "a-2": "a", "a-3": "a", "b-1": "b", "b-2": "b", "c-1": "c"}
TOOLS = (
    "validate_data_dir",
    "fix_data_dir",
    "subset_data_dir",
    "split_data",
    "combine_data",
    "copy_data_dir",
)


def tables(utt2spk: dict[str, str] = UTT2SPK) -> ops.Tables:
    """A directory with every kind of file."""
    return {
        "wav.scp": {utt: f"/audio/{utt}.flac" for utt in utt2spk},
        "utt2spk": dict(utt2spk),
        "text": {utt: f"words of {utt}" for utt in utt2spk},
        "utt2dur": {utt: 10.0 - i for i, utt in enumerate(utt2spk)},
        "utt2lang": dict.fromkeys(utt2spk, "en"),
        "spk2gender": {spk: "fm"[ord(spk[0]) % 2] for spk in utt2spk.values()},
        "enrolls": dict.fromkeys(list(utt2spk)[:2], True),
        "trials": [("x", utt, utt == "a-1") for utt in utt2spk],
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_datadir(tmp_path / "src", tables(), Meta(corpus="mini", role="utility", split="dev"))
    (tmp_path / "src" / "frame_shift").write_text("0.01\n")
    return tmp_path / "src"


@pytest.fixture(autouse=True)
def _restore_shown(monkeypatch):
    monkeypatch.setattr(errors, "SHOWN", errors.SHOWN)  # `validate` raises it


def tool(name: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [str(UTILS / f"{name}.sh"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def verb(*words: object) -> None:
    datadir.main([str(word) for word in words])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ----------------------------------------------------------------------------------------------------------
# Wrappers


@pytest.mark.parametrize("name", TOOLS)
def test_every_wrapper_works_from_anywhere_and_explains_itself(name, tmp_path):
    done = tool(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: utils/{name}.sh")
    assert tool(name, "--no-such-option", cwd=tmp_path).returncode == 2


def test_wrappers_pass_exit_codes_and_relative_paths(source):
    assert tool("validate_data_dir", "src", cwd=source.parent).returncode == 0
    with (source / "utt2spk").open("a") as file:
        file.write("d-1 d extra\n")  # three columns: Kaldi's validator prints a warning and says 0 here
    done = tool("validate_data_dir", "src", cwd=source.parent)
    assert done.returncode == 2
    assert "src/utt2spk:7: 'd-1 d extra'; expected exactly two columns" in done.stderr


# ----------------------------------------------------------------------------------------------------------
# validate


def test_validate_lists_all_problems_at_once(source):
    (source / "text").write_text("".join(f"{utt} x\n" for utt in ["a-1", *(f"z-{i}" for i in range(6))]))
    with pytest.raises(UserError) as error:
        verb("validate", source)
    message = str(error.value)
    assert all(f"'{utt}'" in message for utt in [f"z-{i}" for i in range(6)] + ["a-2", "c-1"])
    assert "more" not in message


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("text", [], "file 'text' is missing"),
        ("text", ["--no-text"], None),
        ("wav.scp", [], "file 'wav.scp' is missing"),
        ("wav.scp", ["--no-wav"], None),
        ("utt2spk", ["--no-wav", "--no-text"], "file 'utt2spk' is missing"),
        ("utt2lang", ["--no-feats", "--no-spk-sort"], None),
        ("trials", ["--contract", "trials"], "file 'trials' is missing"),
    ],
)
def test_validate_required_files(source, missing, options, message):
    (source / missing).unlink()
    if message is None:
        verb("validate", *options, source)
    else:
        with pytest.raises(UserError, match=message):
            verb("validate", *options, source)


def test_validate_text_and_trials(source):
    (source / "text").write_text("".join(f"{u} w\u200b\n" if u == "a-2" else f"{u} w\n" for u in UTT2SPK))
    with pytest.raises(UserError, match=r"text:2: utt 'a-2': unprintable character"):
        verb("validate", source)
    verb("validate", "--non-print", source)
    (source / "trials").write_text("x a-1 target\nx q-9 nontarget\n")
    with pytest.raises(UserError, match=r"trials:2: utt 'q-9': is not in utt2spk"):
        verb("validate", "--non-print", source)
    (source / "trials").write_text("x a-1 target\nx a-2 maybe\n")
    with pytest.raises(UserError, match=r"trials:2: 'x a-2 maybe'; expected .* target\|nontarget"):
        verb("validate", "--non-print", source)


# ----------------------------------------------------------------------------------------------------------
# fix


def test_fix_repairs_form_and_keeps_values(source):
    wanted = snapshot(source)
    rows = lines(source / "wav.scp")
    (source / "wav.scp").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*reversed(rows), rows[0], ""]).encode())
    (source / "utt2dur").write_text("\n".join(lines(source / "utt2dur")[::-1]) + "\n\n")
    (source / "trials").write_text("".join(f"{line}\n" for line in lines(source / "trials")[::-1]))
    (source / "spk2utt").unlink()
    broken = (source / "wav.scp").read_bytes()
    verb("fix", source)
    now = snapshot(source)
    assert now.pop(".backup/wav.scp") == broken
    assert {".backup/utt2dur", ".backup/trials"} <= now.keys()
    assert {name: text for name, text in now.items() if not name.startswith(".backup")} == wanted


def test_fix_does_not_reformat_numbers(source):
    odd = "".join(f"{utt} 1.50000000000001\n" for utt in reversed(UTT2SPK))
    (source / "utt2dur").write_text(odd)
    verb("fix", source)
    assert sorted(odd.splitlines()) == lines(source / "utt2dur")


def test_fix_keeps_what_all_files_know_and_says_what_went(source, capsys):
    (source / "text").write_text("".join(f"{u} x\n" for u in [*UTT2SPK, "q-1"] if u != "a-2"))
    (source / "spk2gender").write_text("a f\nb m\n")
    (source / "split2").mkdir()
    verb("fix", source)
    said = capsys.readouterr().err
    assert "utterance 'a-2' removed: not in text" in said
    assert "utterance 'c-1' removed: not in spk2gender" in said
    assert (
        "text: removed 'q-1'" in said
        and "trials: removed 'x a-2'" in said
        and "enrolls: removed 'a-2'" in said
    )
    assert "split2: made before this repair" in said
    assert DataDir.read(source).utts == ["a-1", "a-3", "b-1", "b-2"]
    assert lines(source / "spk2utt") == ["a a-1 a-3", "b b-1 b-2"]
    assert lines(source / ".backup" / "enrolls") == ["a-1", "a-2"]
    verb("fix", source)
    assert "nothing to repair" in capsys.readouterr().err


def test_fix_goes_by_recordings_where_there_are_segments(source):
    (source / "wav.scp").write_text("r1 /audio/r1.flac\nr3 /audio/r3.flac\n")
    rows = [("a-1", "r1"), ("a-2", "r1"), ("b-1", "r2")]
    (source / "segments").write_text("".join(f"{utt} {rec} 0 1.5\n" for utt, rec in rows))
    verb("fix", source)
    data = DataDir.read(source)
    assert data.utts == ["a-1", "a-2"]
    assert list(data.table("wav.scp")) == ["r1"]


def _stamped(source: Path) -> None:
    (source / ".done.json").write_text(json.dumps({"stage": "anonymize", "fields": {}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "text").write_text("q x\n"), "no utterance is in all files"),
        (lambda s: (s / "enrolls").write_text("q\n"), "enrolls: nothing would remain of it"),
        (lambda s: (s / "text").write_bytes(b"a-1 x\na-2 \xff\n"), "text:2: not UTF-8"),
        (lambda s: (s / "text").write_text(""), "text: empty file"),
        (
            lambda s: (s / "text").write_text("a-1 x\nb-1 x\na-1 y\n"),
            "text:3: 'a-1' has another value than in line 1",
        ),
        (lambda s: (s / "trials").write_text("x a-1\n"), "trials: 'x a-1 '; expected"),
        (lambda s: (s / "spk2gender").write_text("a female\n"), "'a female'; expected one of f, m"),
        (lambda s: (s / "utt2spk").unlink(), "file 'utt2spk' is missing"),
        (lambda s: (s / "utt2langs").write_text("x"), "unknown file; did you mean 'utt2lang'"),
        (_stamped, "is the output of stage 'anonymize' and is not repaired"),
        (lambda s: (s / "utt2target").write_text("a-1 1\n"), "is an anonymized directory"),
    ],
)
def test_fix_refuses_and_then_writes_nothing(source, damage, message):
    rows = lines(source / "wav.scp")
    (source / "wav.scp").write_text("\n".join(reversed(rows)) + "\n")  # something to repair
    damage(source)
    before = snapshot(source)
    with pytest.raises(UserError) as error:
        verb("fix", source)
    assert message in str(error.value)
    assert snapshot(source) == before


# ----------------------------------------------------------------------------------------------------------
# subset


@pytest.mark.parametrize(
    ("options", "count", "expected"),
    [
        ([], 3, ["a-1", "a-3", "b-2"]),
        (["--first"], 4, ["a-1", "a-2", "a-3", "b-1"]),
        (["--last"], 2, ["b-2", "c-1"]),
        (["--shortest"], 2, ["b-2", "c-1"]),
        (["--per-spk"], 2, ["a-1", "a-2", "b-1", "b-2", "c-1"]),
        (["--per-spk"], 1, ["a-1", "b-1", "c-1"]),
        ([], 6, list(UTT2SPK)),
    ],
)
def test_subset(source, tmp_path, options, count, expected):
    verb("subset", *options, source, count, tmp_path / "out")
    data = DataDir.read(tmp_path / "out")
    assert data.utts == expected
    assert data.meta == DataDir.read(source).meta
    assert {
        name: len(data.table(name)) for name in ("wav.scp", "text", "utt2dur", "utt2lang")
    } == dict.fromkeys(("wav.scp", "text", "utt2dur", "utt2lang"), len(expected))
    assert list(data.table("spk2gender")) == sorted({utt[0] for utt in expected})
    assert lines(tmp_path / "out" / "frame_shift") == ["0.01"]
    assert [line.split()[1] for line in lines(tmp_path / "out" / "trials")] == expected


def test_subset_of_whole_speakers(source, tmp_path):
    for count in (1, 4, 6):
        verb("subset", "--speakers", source, count, tmp_path / "out")
        chosen = DataDir.read(tmp_path / "out").table("utt2spk")
        assert len(chosen) >= count
        assert chosen == {utt: spk for utt, spk in UTT2SPK.items() if spk in set(chosen.values())}


def test_the_order_of_speakers_does_not_depend_on_who_else_is_there():
    many = {f"{spk}-1": spk for spk in "abcdefghij"}
    first = ops.choose({"utt2spk": many}, 5, "speakers")
    fewer = {utt: spk for utt, spk in many.items() if utt in first or spk in "ab"}
    assert ops.choose({"utt2spk": fewer}, 5, "speakers") == first


def test_subset_by_list(source, tmp_path):
    (tmp_path / "list").write_text("b-2 anything\na-1\n")
    verb("subset", "--utt-list", tmp_path / "list", source, tmp_path / "out")
    assert DataDir.read(tmp_path / "out").utts == ["a-1", "b-2"]
    (tmp_path / "list").write_text("c\nb\n")
    verb("subset", "--spk-list", tmp_path / "list", source, tmp_path / "out")  # replaces the first one
    assert DataDir.read(tmp_path / "out").utts == ["b-1", "b-2", "c-1"]
    assert not (tmp_path / "out" / "enrolls").exists()  # none of a's utterances is left
    (tmp_path / "list").write_text("c\nbb\n")
    with pytest.raises(UserError, match=r"list:2: unknown speaker 'bb'; did you mean 'b'"):
        verb("subset", "--spk-list", tmp_path / "list", source, tmp_path / "out")


def test_subset_with_segments_keeps_the_recordings_in_use():
    part = ops.select(
        {
            "utt2spk": {"u1": "s", "u2": "s"},
            "wav.scp": {"r1": "x", "r2": "y"},
            "segments": {"u1": ("r1", 0.0, 1.0), "u2": ("r2", 0.0, 1.0)},
            "spk2utt": {"s": ["u1", "u2"]},
        },
        ["u2"],
    )
    assert part == {"utt2spk": {"u2": "s"}, "wav.scp": {"r2": "y"}, "segments": {"u2": ("r2", 0.0, 1.0)}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{src}", "7", "{out}"], "7 utterances was asked for, but there are 6"),
        (["{src}", "0", "{out}"], "expected 1 or more"),
        (["{src}", "few", "{out}"], "'few' is no number"),
        (["{src}", "2", "{src}"], "source and destination are the same"),
        (["{none}", "2", "{out}"], "no such data directory"),
    ],
)
def test_subset_errors(source, tmp_path, words, message):
    names = {"src": source, "out": tmp_path / "out", "none": tmp_path / "none"}
    with pytest.raises(UserError) as error:
        verb("subset", *(word.format(**names) for word in words))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [(), ("src", "out"), ("--utt-list", "list", "src", "3", "out")])
def test_subset_prints_its_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        verb("subset", *words)
    said = capsys.readouterr().err
    assert end.value.code == 2 and "usage: utils/subset_data_dir.sh" in said
    assert "expected <src> <dest>" in said if "--utt-list" in words else "expected <src> <n> <dest>" in said


def test_shortest_needs_durations(source, tmp_path):
    (source / "utt2dur").unlink()
    with pytest.raises(UserError, match="expected a file 'utt2dur'"):
        verb("subset", "--shortest", source, 2, tmp_path / "out")


@pytest.mark.parametrize("what", ["audio", "stamp", "stranger", "file"])
def test_a_destination_that_holds_more_than_tables_is_never_replaced(source, tmp_path, what):
    out = tmp_path / "out"
    if what == "file":
        out.write_text("precious")
    else:
        verb("copy", source, out)
    if what == "audio":
        (out / "wav").mkdir()
        (out / "wav" / "a-1.wav").write_text("precious")
    elif what == "stamp":
        _stamped(out)
    elif what == "stranger":
        (out / "thesis.tex").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(UserError):
        verb("subset", source, 2, out)
    assert snapshot(tmp_path) == before


# ----------------------------------------------------------------------------------------------------------
# split


def test_split_keeps_speakers_whole(source):
    verb("split", source, 2)
    parts = [DataDir.read(source / "split2" / str(i)).utts for i in (1, 2)]
    assert parts == [["a-1", "a-2", "a-3"], ["b-1", "b-2", "c-1"]]
    verb("split", source, 2)  # again, over the old one, and the directory stays valid
    verb("validate", source)
    assert sorted(p.name for p in (source / "split2").iterdir()) == ["1", "2"]


def test_split_per_utterance(source):
    verb("split", "--per-utt", source, 4)
    parts = [DataDir.read(source / "split4utt" / str(i)).utts for i in (1, 2, 3, 4)]
    assert list(chain(*parts)) == list(UTT2SPK)
    assert {len(part) for part in parts} == {1, 2}


@pytest.mark.parametrize("sizes", [[1] * 7, [9, 1, 1, 1], [1, 1, 1, 9], [5, 1, 4, 2, 3]])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_are_a_partition_without_an_empty_part(sizes, count):
    utt2spk = {f"{spk}-{i}": spk for spk, size in zip("abcdefg", sizes, strict=False) for i in range(size)}
    parts = ops.shares({"utt2spk": utt2spk}, count)
    assert list(chain(*parts)) == sorted(utt2spk) and len(parts) == count and all(parts)
    speakers = [{utt2spk[utt] for utt in part} for part in parts]
    assert sum(map(len, speakers)) == len(sizes)


def test_too_many_shares(source):
    with pytest.raises(UserError, match=r"4 shares of 3 speakers; expected 1 to 3; hint: --per-utt"):
        verb("split", source, 4)
    with pytest.raises(UserError, match=r"7 shares of 6 utterances"):
        verb("split", "--per-utt", source, 7)


# ----------------------------------------------------------------------------------------------------------
# combine and copy


def test_the_shares_combined_are_the_whole(source, tmp_path):
    verb("split", "--per-utt", source, 3)
    verb("combine", tmp_path / "out", *(source / "split3utt" / str(i) for i in (3, 1, 2)))
    before = {name: text for name, text in snapshot(source).items() if "/" not in name}
    after = snapshot(tmp_path / "out")
    assert after.pop("meta.yaml") != before.pop("meta.yaml")  # its notes name the parts
    assert after == before


def test_combine_meta_and_files_that_one_lacks(source, tmp_path, capsys):
    other = tables({"d-1": "d"})
    del other["utt2lang"], other["trials"], other["enrolls"]
    write_datadir(tmp_path / "other", other, Meta(corpus="extra", role="train", split="dev"))
    verb("combine", tmp_path / "out", source, tmp_path / "other")
    data = DataDir.read(tmp_path / "out")
    assert data.utts == [*UTT2SPK, "d-1"]
    assert data.meta == Meta("extra+mini", "utility", "dev", None, "combined: src, other")
    assert not data.has("utt2lang") and len(data.table("enrolls")) == 2
    assert f"utt2lang is left out: {tmp_path}/other has none" in capsys.readouterr().err


def test_combine_names_both_lines_of_a_conflict(source, tmp_path):
    other = tables({"a-2": "a", "a-3": "a"})
    other["spk2gender"] = {"a": "f" if tables()["spk2gender"]["a"] == "m" else "m"}
    write_datadir(tmp_path / "other", other, Meta())
    (tmp_path / "other" / "frame_shift").write_text("0.01\n")
    with pytest.raises(UserError) as error:
        verb("combine", tmp_path / "out", source, tmp_path / "other")
    message = str(error.value)
    assert f"{tmp_path}/other/spk2gender:1: 'a' differs from {source}/spk2gender:1" in message
    assert f"{tmp_path}/other/utt2dur:2: 'a-3' differs from {source}/utt2dur:3" in message
    assert "wav.scp" not in message  # the same value twice is no conflict


def test_combine_refuses_different_enrolment_sets_and_frame_shifts(source, tmp_path):
    parts = [(f"t{i}", Meta("c", "trial", "dev", enroll=f"e{i}")) for i in (1, 2)]
    with pytest.raises(UserError, match="different enrolment sets: e1, e2"):
        ops.combine_meta(parts)
    verb("copy", source, tmp_path / "other")
    (tmp_path / "other" / "frame_shift").write_text("0.02\n")
    with pytest.raises(UserError, match="different frame shifts"):
        verb("combine", tmp_path / "out", source, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "src"]


def test_copy_is_exact(source, tmp_path):
    verb("copy", source, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(source)


def test_copy_with_other_ids_changes_them_everywhere(source, tmp_path):
    options = ["--spk-prefix=p-", "--utt-prefix", "p-", "--utt-suffix", "-rvb", "--spk-suffix", "-x"]
    verb("copy", *options, source, tmp_path / "out")
    data = DataDir.read(tmp_path / "out")
    assert data.table("utt2spk") == {f"p-{utt}-rvb": f"p-{spk}-x" for utt, spk in UTT2SPK.items()}
    assert data.table("wav.scp")["p-a-1-rvb"] == "/audio/a-1.flac"
    assert data.table("utt2uniq") == {f"p-{utt}-rvb": utt for utt in UTT2SPK}
    assert list(data.table("spk2gender")) == ["p-a-x", "p-b-x", "p-c-x"]
    assert lines(tmp_path / "out" / "trials")[0] == "p-x-x p-a-1-rvb target"
    verb("validate", tmp_path / "out")
    with pytest.raises(UserError, match="would become 'x/a-1': an id must not hold a slash"):
        verb("copy", "--utt-prefix", "x/", source, tmp_path / "other")


def test_no_file_of_the_schema_is_forgotten(tmp_path):
    """Every file of the schema passes through every operation."""
    value = {
        "segments": ("r1", 0.0, 1.0),
        "utt2dur": 1.0,
        "utt2num_frames": 3,
        "utt2lang": "en",
        "utt2emo": "neu",
    }
    value |= {"utt2target": 1.5, "spk2gender": "f", "utt2spk": "s", "utt2uniq": "u"}
    keys = {"utt": ["u1", "u2"], "list": ["u1", "u2"], "spk": ["s"], "rec": ["r1"]}
    full = {n: dict.fromkeys(keys[s.key], value.get(n, "x")) for n, s in FILES.items() if n not in DERIVED}
    full["enrolls"] = dict.fromkeys(keys["list"], True)
    full["trials"] = [("e", "u1", True), ("e", "u2", False)]
    write_datadir(tmp_path / "src", full, Meta())
    expected = {*full, *DERIVED, "meta.yaml"}
    verb("subset", tmp_path / "src", 1, tmp_path / "subset")
    verb("split", tmp_path / "src", 1)
    verb("copy", "--utt-prefix", "p", tmp_path / "src", tmp_path / "copy")
    verb("combine", tmp_path / "combine", tmp_path / "subset", tmp_path / "src")
    for name in ("subset", "src/split1/1", "copy", "combine"):
        assert {p.name for p in (tmp_path / name).iterdir()} == expected, name
        verb("validate", tmp_path / name)
