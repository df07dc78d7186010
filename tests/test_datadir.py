"""The data-directory contracts: one broken fixture a rule, and a fuzzed parser."""

import numpy as np
import pytest
import soundfile as sf
from conftest import make_source, voice
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_musa.data.datadir import DataDir, list_sets, write_datadir
from espnet_musa.data.schema import FILES
from espnet_musa.data.table import read_table
from espnet_musa.errors import Problems, UserError


def test_round_trip(tmp_path):
    data = make_source(tmp_path / "d", text={f"{s}-{i}": f"wörd {s} {i}" for s in "ab" for i in (0, 1)})
    assert data.utts == ["a-0", "a-1", "b-0", "b-1"]
    assert data.table("text")["b-1"] == "wörd b 1"
    assert data.table("spk2utt") == {"a": ["a-0", "a-1"], "b": ["b-0", "b-1"]}
    assert data.meta.corpus == "made-up"
    with pytest.raises(UserError, match="file 'utt2lang' is missing"):
        data.table("utt2lang")


BROKEN = {
    "CRLF": ("utt2spk", lambda t: t.replace("\n", "\r\n"), r"utt2spk:1: line ends with CR.*fix_data_dir"),
    "BOM": ("text", lambda t: "\ufeff" + t, r"text:1: starts with a byte order mark"),
    "truncated": ("wav.scp", lambda t: t[:-4], r"wav.scp:4: last line has no end"),
    "empty": ("text", lambda t: "", r"text: empty file"),
    "duplicate": ("utt2spk", lambda t: t + "b-1 b\n", r"utt2spk:5: key 'b-1' already stands in line 4"),
    "unsorted": ("text", lambda t: "".join(t.splitlines(True)[::-1]), r"text:2: 'b-0' comes after 'b-1'"),
    "blank": ("text", lambda t: t + "\n", r"text:5: blank line"),
    "columns": ("utt2spk", lambda t: t.replace("a-0 a", "a-0 a b"), r"'a-0 a b'; expected exactly two columns"),
    "no value": ("text", lambda t: t.replace("a-0 hello", "a-0"), r"text:1: 'a-0'; expected a value after the key"),
    "gender": ("spk2gender", lambda t: t.replace("a f", "a F"), r"spk2gender:1: 'a F'; expected one of f, m"),
    "missing key": ("text", lambda t: t.replace("b-0 hello\n", ""), r"text: utterance 'b-0' of utt2spk is missing"),
    "unknown key": ("text", lambda t: t + "c-0 x\n", r"text: utterance 'c-0' is not in utt2spk"),
    "slash": ("utt2spk", lambda t: "../x a\n" + t, r"utt2spk:1: key '../x': an id must not hold a slash"),
    "spk2utt": ("spk2utt", lambda t: t.replace("a-0 ", ""), r"speaker 'a' differs from utt2spk"),
    "meta key": ("meta.yaml", lambda t: t + "rôle: x\n", r"meta.yaml:6: unknown key 'rôle'; did you mean 'role'"),
    "meta role": ("meta.yaml", lambda t: t.replace("utility", "trail"), r"unknown role 'trail'; did you mean 'trial'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_has_its_message(tmp_path, case):
    make_source(tmp_path / "d", text={f"{s}-{i}": "hello" for s in "ab" for i in (0, 1)})
    name, change, message = BROKEN[case]
    path = tmp_path / "d" / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8", newline="")
    with pytest.raises(UserError, match=message):
        DataDir.read(tmp_path / "d")


def test_not_utf8(tmp_path):
    make_source(tmp_path / "d")
    (tmp_path / "d" / "text").write_bytes(b"a-0 ok\na-1 \xff\n")
    with pytest.raises(UserError, match="text:2: not UTF-8"):
        DataDir.read(tmp_path / "d")


def test_unknown_file_and_missing_directory(tmp_path):
    make_source(tmp_path / "dev")
    (tmp_path / "dev" / "utt2spkk").touch()
    with pytest.raises(UserError, match=r"unknown file; did you mean 'utt2spk'\?"):
        DataDir.read(tmp_path / "dev")
    (tmp_path / "dvx").mkdir()  # no data directory, so nobody means it
    with pytest.raises(UserError, match="did you mean 'dev'"):
        DataDir.read(tmp_path / "dve")
    with pytest.raises(UserError, match=r"no such data directory$"):
        DataDir.read(tmp_path / "dvx" / "dev")


def test_first_five_and_total(tmp_path):
    make_source(tmp_path / "d", utterances=4)
    (tmp_path / "d" / "text").write_text("zz x\n")
    with pytest.raises(UserError, match=r"\.\.\. and 4 more \(9 problems in all\)"):
        DataDir.read(tmp_path / "d")


def formatted(tmp_path, **change):
    """A directory that fulfils the audio contract, but for the WAV written with `change`."""
    place = tmp_path / "d"
    (place / "wav").mkdir(parents=True)
    wav = voice(0)
    sf.write(
        place / "wav" / "a-0.wav", wav, change.get("rate", 16000), subtype=change.get("subtype", "PCM_16")
    )
    write_datadir(
        place,
        {
            "wav.scp": {"a-0": change.get("scp", "dump/d/wav/a-0.wav")},
            "utt2spk": {"a-0": "a"},
            "utt2dur": {"a-0": change.get("duration", 1.0)},
        },
        {},
    )
    return place


def test_audio_contract(tmp_path):
    data = DataDir.read(formatted(tmp_path), "audio")
    assert data.load("a-0").shape == (16000,) and data.load("a-0").dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 8000}, r"8000 Hz.*expected 16000 Hz"),
        ({"subtype": "FLOAT"}, r"FLOAT; expected 16000 Hz, 1 channel, PCM_16"),
        ({"duration": 1.1}, r"1.0000 s, but utt2dur says 1.1000 s"),
        (
            {"scp": "/elsewhere/a-0.wav"},
            r"wav.scp: utt 'a-0': '/elsewhere/a-0.wav' lies outside this directory",
        ),
    ],
)
def test_audio_contract_broken(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        DataDir.read(formatted(tmp_path, **change), "audio")


def test_anon_contract_needs_the_stamp_of_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"run stage 'anonymize' first"):
        DataDir.read(formatted(tmp_path), "anon")


@pytest.mark.parametrize("contract", ["asr", "ser", "trials", "nonsense"])
def test_other_contracts_broken(tmp_path, contract):
    with pytest.raises(UserError, match=r"is missing|unknown contract"):
        DataDir.read(formatted(tmp_path), contract)


def test_list_sets_by_role(tmp_path):
    make_source(tmp_path / "a")
    write_datadir(tmp_path / "b", {"utt2spk": {"x": "x"}}, {"role": "train"})
    (tmp_path / "c.partial").mkdir()
    assert [p.name for p in list_sets(tmp_path, ["train"])] == ["b"]


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200), name=st.sampled_from(sorted(FILES)))
def test_parser_never_crashes(tmp_path_factory, raw, name):
    """Any bytes give a table or a problem, never an exception; what is accepted reads back the same."""
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(raw)
    problems = Problems()
    table = read_table(path, problems)
    assert problems or table


TOKENS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    table=st.dictionaries(
        TOKENS.filter(lambda t: t[0] != "." and not set(t) & set("/\\")), TOKENS, min_size=1
    )
)
def test_tables_survive_a_round_trip(tmp_path_factory, table):
    place = tmp_path_factory.mktemp("round")
    write_datadir(place, {"utt2spk": table}, {})
    problems = Problems()
    assert read_table(place / "utt2spk", problems) == table and not problems
