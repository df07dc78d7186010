"""The organisers' lists and prepared folders, and the download of the lists from a server of our own."""

from __future__ import annotations

import functools
import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from espnet_musa.corpora import download, vpc_lists
from espnet_musa.data.audio import write_wav
from espnet_musa.data.datadir import DataDir
from espnet_musa.errors import UserError

GOLDEN = {  # utterances, speakers f, m; trials, targets (vpc_protocol 1.2, counted in the lists)
    "libri_dev_enrolls": (343, 15, 14, 0, 0),
    "libri_dev_trials_f": (1018, 20, 0, 15270, 704),
    "libri_dev_trials_m": (960, 0, 20, 13440, 644),
    "libri_test_enrolls": (438, 16, 13, 0, 0),
    "libri_test_trials_f": (734, 20, 0, 11744, 548),
    "libri_test_trials_m": (762, 0, 20, 9906, 449),
}
WORDS = {"dev": 39783, "test": 35042}  # in the trial utterances: the denominators of the published WER


@pytest.mark.real
@pytest.mark.parametrize("split", ["dev", "test"])
def test_golden_counts_of_the_official_lists(real_speech, split):
    sets = vpc_lists.read_split(real_speech / "vpc_lists", split)
    counts = {}
    for name, entry in sets.items():
        sexes, trials = list(entry.tables["spk2gender"].values()), entry.tables.get("trials", [])
        targets = sum(same for _, _, same in trials)
        counts[name] = (
            len(entry.tables["utt2spk"]),
            sexes.count("f"),
            sexes.count("m"),
            len(trials),
            targets,
        )
        assert "wav.scp" not in entry.tables
    assert counts == {name: count for name, count in GOLDEN.items() if name in sets}
    trial_texts = [entry.tables["text"] for entry in sets.values() if "trials" in entry.tables]
    assert sum(len(text.split()) for table in trial_texts for text in table.values()) == WORDS[split]


@pytest.mark.real
def test_checksums_are_those_of_the_lists(real_speech):
    lines = [line.split() for line in vpc_lists.CHECKSUMS.read_text().splitlines()]
    found = {
        str(p.relative_to(real_speech / "vpc_lists"))
        for p in (real_speech / "vpc_lists").rglob("*")
        if p.is_file()
    }
    assert {name for _, name in lines} == found
    assert all(download.sha256_of(real_speech / "vpc_lists" / name) == checksum for checksum, name in lines)


# --- prepared folders ---


def put(folder: Path, **tables: dict[str, str] | list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        lines = [f"{k} {v}" for k, v in table.items()] if isinstance(table, dict) else table
        (folder / name.replace("wav_scp", "wav.scp")).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def organisers(tmp_path: Path) -> Path:
    """`data/` as the organisers write it: an enrolment and a trial set, IEMOCAP_dev, train-clean-360."""
    data = tmp_path / "challenge" / "data"
    spk = {"11-1-0000": "11", "12-1-0000": "12", "11-2-0000": "11", "12-2-0000": "12"}
    for number, name in ((1, "libri_dev_enrolls"), (2, "libri_dev_trials_f")):
        utts = {utt: s for utt, s in spk.items() if f"-{number}-" in utt}
        scp = {utt: f"data/{name}/wav/{utt}.wav" for utt in utts}
        put(
            data / name,
            utt2spk=utts,
            wav_scp=scp,
            spk2gender={"11": "f", "12": "f"},
            text=dict.fromkeys(utts, "A B"),
        )
        put(data / name, utt2dur=dict.fromkeys(utts, "0.01 "), spk2utt={s: u for u, s in utts.items()})
    put(data / "libri_dev_enrolls", enrolls=["11-1-0000", "12-1-0000"])
    trials = [
        f"{s} {u} {'' if u[:2] == s else 'non'}target"
        for s in ("11", "12")
        for u in ("11-2-0000", "12-2-0000")
    ]
    put(data / "libri_dev_trials_f", trials=trials)
    utt = "Ses01F_impro01_F000"
    put(data / "IEMOCAP_dev", utt2spk={utt: "Ses01F"}, wav_scp={utt: f"data/IEMOCAP_dev/wav/{utt}.wav"})
    put(data / "IEMOCAP_dev", utt2emo={utt: "ang"}, spk2fold={"Ses01F": "1"}, text_no_norm={utt: "Oh, no."})
    put(data / "train-clean-360", utt2spk={"14-7-0000": "14-7"}, spk2gender={"14-7": "f"})
    put(
        data / "train-clean-360",
        wav_scp={"14-7-0000": "flac -c -d -s data/train-clean-360/wav/14-7-0000.flac |"},
    )
    for name in ("libri_dev_enrolls", "libri_dev_trials_f", "IEMOCAP_dev", "train-clean-360"):
        for line in (data / name / "wav.scp").read_text().splitlines():
            path = next(field for field in line.split() if "/" in field)
            (data.parent / path).parent.mkdir(exist_ok=True)
            write_wav(data.parent / path, np.zeros(160, np.float32), 16000)
    return data


def test_prepared_folders(organisers, tmp_path):
    names = vpc_lists.prepare_vpc_data(tmp_path / "out", organisers)
    sets = {name: DataDir.read(tmp_path / "out" / name) for name in names}
    assert {name: data.meta.role for name, data in sets.items()} == {
        "libri_dev_enrolls": "enroll",
        "libri_dev_trials_f": "trial",
        "IEMOCAP_dev": "utility",
        "train-clean-360": "attack_train",
    }
    for data in sets.values():
        assert all(Path(p).is_absolute() and Path(p).is_file() for p in data.table("wav.scp").values())
    train = sets["train-clean-360"]
    assert train.table("utt2spk") == {"14-7-0000": "14"} and train.table("spk2gender") == {"14": "f"}
    assert sets["IEMOCAP_dev"].table("spk2fold") == {"Ses01F": "1"}
    assert (sets["libri_dev_trials_f"].path / "trials").read_text() == (
        organisers / "libri_dev_trials_f" / "trials"
    ).read_text()


def test_other_pipes_stay(organisers, tmp_path):
    pipe = "sox data/x.wav -t wav - |"
    put(organisers / "IEMOCAP_dev", wav_scp={"Ses01F_impro01_F000": pipe})
    vpc_lists.prepare_vpc_data(tmp_path / "out", organisers)
    assert DataDir.read(tmp_path / "out" / "IEMOCAP_dev").table("wav.scp") == {"Ses01F_impro01_F000": pipe}


def wrong_label(data: Path) -> None:
    path = data / "libri_dev_trials_f" / "trials"
    path.write_text(path.read_text().replace("11 12-2-0000 nontarget", "11 12-2-0000 target"))


def enrolled_trial(data: Path) -> None:
    for name in ("utt2spk", "text", "utt2dur", "wav.scp", "spk2utt"):
        path = data / "libri_dev_enrolls" / name
        if path.exists():
            path.write_text(path.read_text().replace("11-1-0000", "11-2-0000"))
    put(data / "libri_dev_enrolls", enrolls=["11-2-0000", "12-1-0000"])


def unknown_speaker(data: Path) -> None:
    path = data / "libri_dev_trials_f" / "trials"
    path.write_text(path.read_text() + "13 11-2-0000 nontarget\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_label, r"trials:2: utt '12-2-0000': the label contradicts utt2spk \(12\)"),
        (enrolled_trial, "utt '11-2-0000': also in .*libri_dev_enrolls"),
        (unknown_speaker, "trials:5: speaker '13' is not enrolled"),
        (
            lambda data: shutil.rmtree(data / "libri_dev_enrolls"),
            "the enrolment set libri_dev_enrolls .* is not here",
        ),
        (lambda data: (data / "libri_dev_trials_f/trials").unlink(), "file 'trials' is missing"),
        (lambda data: (data / "libri_dev_enrolls/enrolls").unlink(), "file 'enrolls' is missing"),
        (
            lambda data: shutil.rmtree(data / "IEMOCAP_dev/wav"),
            r"wav.scp: utt 'Ses01F_impro01_F000': no such file",
        ),
        (
            lambda data: [shutil.rmtree(path) for path in data.iterdir()],
            "none of the VoicePrivacy data folders",
        ),
        (lambda data: data.rename(data.with_name("dat")), "no such directory; did you mean 'dat'"),
    ],
)
def test_bad_folders(organisers, tmp_path, damage, message):
    damage(organisers)
    with pytest.raises(UserError, match=message):
        vpc_lists.prepare_vpc_data(tmp_path / "out", organisers)
    assert not (tmp_path / "out").exists()


def test_lists_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no such directory.*fetch_lists"):
        vpc_lists.read_split(tmp_path / "lists", "dev")
    (tmp_path / "lists").mkdir()
    with pytest.raises(UserError, match="libri_dev_enrolls: no such data directory"):
        vpc_lists.read_split(tmp_path / "lists", "dev")


# --- download ---

BODY = bytes(range(256)) * 40
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; each entry of `server.cuts` breaks one answer off after that many bytes."""

    def do_GET(self) -> None:
        body = self.server.files.get(self.path)
        self.server.log.append(self.headers.get("Range"))
        if body is None:
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[start:stop])

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.cuts, server.log, server.ranges = {"/file": BODY}, [], [], True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_and_not_again(server, tmp_path):
    dest = tmp_path / "deep" / "file"
    assert download.fetch(f"{server.url}/file", dest, SHA.upper()) == dest
    assert dest.read_bytes() == BODY and list(dest.parent.iterdir()) == [dest]
    download.fetch(f"{server.url}/file", dest, SHA)
    assert len(server.log) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_truncated_answers_are_continued(server, tmp_path, ranges):
    server.cuts, server.ranges = [1000, 5000], ranges
    assert download.fetch(f"{server.url}/file", tmp_path / "file", SHA).read_bytes() == BODY
    assert server.log == [None, "bytes=1000-", "bytes=6000-" if ranges else "bytes=5000-"]


def test_interrupted_download_is_resumed(server, tmp_path):
    (tmp_path / "file.partial").write_bytes(BODY[:4000])
    download.fetch(f"{server.url}/file", tmp_path / "file", SHA)
    assert server.log == ["bytes=4000-"] and (tmp_path / "file").read_bytes() == BODY
    # all bytes were there, only the rename was missing
    (tmp_path / "copy.partial").write_bytes(BODY)
    download.fetch(f"{server.url}/file", tmp_path / "copy", SHA)
    assert (tmp_path / "copy").read_bytes() == BODY


@pytest.mark.parametrize("old", [b"another version" * 10, BODY + b"longer"])
def test_stale_partial_file_is_started_again(server, tmp_path, old):
    (tmp_path / "file.partial").write_bytes(old)
    download.fetch(f"{server.url}/file", tmp_path / "file", SHA)
    assert (tmp_path / "file").read_bytes() == BODY


def test_wrong_checksum_publishes_nothing(server, tmp_path):
    server.files["/file"] = BODY[:-1] + b"x"
    with pytest.raises(UserError, match=f"wrong checksum .* expected SHA-256 {SHA}"):
        download.fetch(f"{server.url}/file", tmp_path / "file", SHA)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_connection_keeps_what_came(server, tmp_path):
    server.cuts = [3000] + [0] * 10
    with pytest.raises(UserError, match=r"broke off.*3000 bytes are kept; run again"):
        download.fetch(f"{server.url}/file", tmp_path / "file", SHA)
    assert (tmp_path / "file.partial").read_bytes() == BODY[:3000]
    server.cuts = []
    assert download.fetch(f"{server.url}/file", tmp_path / "file", SHA).read_bytes() == BODY


def test_refusals(server, tmp_path):
    dest = tmp_path / "file"
    with pytest.raises(UserError, match="HTTP 404"):
        download.fetch(f"{server.url}/nothing", dest, SHA)
    with pytest.raises(UserError, match="http:// or https://"):
        download.fetch("file:///etc/hostname", dest, SHA)
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        download.fetch(f"{server.url}/file", dest, "abc")
    dest.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"the file is not what .* holds.*remove it"):
        download.fetch(f"{server.url}/file", dest, SHA)
    assert dest.read_bytes() == b"mine"
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot download .*refused"):
        download.fetch(f"{server.url}/file", tmp_path / "other", SHA)


@pytest.mark.real
def test_fetch_lists(server, real_speech, tmp_path):
    root = real_speech / "vpc_lists"
    server.files = {f"/data/{p.relative_to(root)}": p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert vpc_lists.fetch_lists(tmp_path / "lists", url=f"{server.url}/data") == tmp_path / "lists"
    assert len(vpc_lists.read_split(tmp_path / "lists", "test")) == 3
    server.files["/data/libri_dev_enrolls/text"] += b"more"
    (tmp_path / "lists/libri_dev_enrolls/text").unlink()
    with pytest.raises(UserError, match=r"wrong checksum .*libri_dev_enrolls/text"):
        vpc_lists.fetch_lists(tmp_path / "lists", url=f"{server.url}/data")
