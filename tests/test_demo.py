"""The page in the browser: the server over HTTP, and the page in a real browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile as sf
from browser import BROWSER, Browser
from conftest import REPOSITORY, voice
from PIL import Image
from tiny_archives import tiny_archive

from espnet_musa.bin.anonymize import main as anonymize
from espnet_musa.demo import server as demo_server
from espnet_musa.demo import service
from espnet_musa.demo.server import Server, serving
from espnet_musa.errors import UserError


@pytest.fixture(scope="module")
def musa(tmp_path_factory) -> str:
    """A --set that gives musa_small a model of random weights."""
    return f"musa_small.params.model={tiny_archive(tmp_path_factory.mktemp('model') / 'tiny')}"


@pytest.fixture(scope="module")
def server(musa):
    with serving(service.load(["b2_mcadams"], [musa]), 0, seed=3) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def wav_bytes(seconds: float = 5.0, rate: int = 16000, **options) -> bytes:
    buffer = io.BytesIO()
    wav = voice(0, seconds, rate=rate)
    sf.write(buffer, options.pop("wav", wav), rate, **{"format": "WAV", **options})
    return buffer.getvalue()


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str):
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(server: Server, body: bytes, **query: object) -> tuple[int, dict]:
    query = {"system": "b2_mcadams", "name": "a.wav", **query}
    status, _, raw = ask(server, "POST", f"/anonymize?{urlencode(query)}", body)
    return status, json.loads(raw)


def left(server: Server) -> list[Path]:
    return list(server.service._scratch.iterdir())


def test_a_recording_is_anonymized_as_by_the_command(server, tmp_path):
    raw = wav_bytes(rate=44100)
    status, found = post(server, raw)
    assert status == 200 and found["rate"] == 44100 and found["seconds"] == pytest.approx(5.0)
    made, before = (base64.b64decode(found[side]["wav"]) for side in ("anonymized", "original"))
    (tmp_path / "a.wav").write_bytes(raw)
    anonymize(["--system", "b2_mcadams", str(tmp_path / "a.wav"), str(tmp_path / "o.wav")])
    assert made == (tmp_path / "o.wav").read_bytes()
    wavs = [sf.read(io.BytesIO(one)) for one in (made, before)]
    assert [(rate, len(wav)) for wav, rate in wavs] == [(16000, 80000)] * 2
    assert abs(np.corrcoef(wavs[0][0], wavs[1][0])[0, 1]) < 0.9
    for side in ("original", "anonymized"):
        picture = Image.open(io.BytesIO(base64.b64decode(found[side]["figure"])))
        assert picture.format == "PNG" and picture.width > 400
        assert 100 < found[side]["f0"] < 140  # B2 leaves the pitch
        assert 1 <= found[side]["dnsmos"]["ovrl"] <= 5
    likeness = found["similarity"]
    assert likeness["crossed"] < likeness["same"] <= 1 and likeness["whole"] < 0.99
    assert left(server) == []


def test_seed_and_blend_decide(server):
    raw = wav_bytes(2.0)
    made = [
        post(server, raw, **query)[1]["anonymized"]["wav"]
        for query in (
            {"system": "dsp_f0", "seed": 1}, {"system": "dsp_f0", "seed": 1}, {"system": "dsp_f0", "seed": 2},
            {"system": "musa_small"}, {"system": "musa_small", "blend": 0}, {"system": "musa_small", "blend": 0.7},
        )
    ]  # fmt: skip
    assert made[0] == made[1] != made[2]
    assert made[3] == made[4] != made[5]


def test_short_recordings_have_no_halves(server):
    found = post(server, wav_bytes(1.0))[1]
    assert found["similarity"]["same"] is None and found["similarity"]["whole"] < 1


def test_several_channels_and_formats(server):
    both = np.stack([voice(0, 2.0), voice(1, 2.0)], 1)
    assert post(server, wav_bytes(wav=both, format="FLAC"), name="x.flac")[1]["channels"] == 2
    assert post(server, wav_bytes(2.0, format="MP3"), name="x.mp3")[0] == 200


BAD = {
    "garbage": (b"no sound" * 99, {}, "^a.wav: cannot be read as audio"),
    "nothing": (b"", {}, "^a.wav: cannot be read as audio"),
    "silent": (wav_bytes(wav=np.zeros(16000)), {}, "^a.wav: silent"),
    "nan": (wav_bytes(wav=np.full(16000, np.nan), subtype="FLOAT"), {}, "^a.wav: sample 0 is NaN"),
    "short": (wav_bytes(0.01), {}, "^a.wav: 160 samples hold no frame"),
    "long": (wav_bytes(wav=np.ones(121 * 8000), rate=8000), {}, "^a.wav: lasts 121 s; expected at most 120 s"),
    "place": (b"no sound", {"name": "../../etc/passwd"}, "^passwd: cannot be read"),
    "system": (wav_bytes(), {"system": "b2_mcadam"}, "no system 'b2_mcadam'; did you mean 'b2_mcadams'"),
    "seed": (wav_bytes(), {"seed": "x"}, "seed is 'x'; expected a number"),
    "blend": (wav_bytes(), {"system": "musa_small", "blend": 2}, "blend is 2.0; expected a number from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_one_message(server, case):
    body, query, message = BAD[case]
    status, found = post(server, body, **query)
    assert status == 400 and list(found) == ["error"]
    with pytest.raises(UserError, match=message):
        raise UserError(found["error"])
    assert str(server.service._scratch) not in found["error"] and left(server) == []


def test_a_large_file_is_told_before_it_is_read(server, monkeypatch):
    monkeypatch.setattr(demo_server, "LARGEST", 1000)
    status, found = post(server, wav_bytes())
    assert status == 413 and "expected at most 50 MB" in found["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),  # a forwarded port
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:1234", "Origin": "http://localhost:1234"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_sites_are_refused(server, headers, status):
    for method, path in (("GET", "/"), ("GET", "/systems"), ("POST", "/anonymize?system=b2_mcadams")):
        found = ask(server, method, path, wav_bytes(1.0) if method == "POST" else b"", **headers)
        assert found[0] == status, path


def test_only_this_machine_and_few_paths(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "GET", "/etc/passwd")[0] == ask(server, "POST", "/")[0] == 404
    _, headers, page = ask(server, "GET", "/")
    assert (
        "default-src 'none'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    )
    assert b"://" not in page  # nothing from elsewhere


def test_what_the_page_offers(server):
    offered = json.loads(ask(server, "GET", "/systems")[2])
    systems = {one["name"]: (one["blend"], one["public"]) for one in offered["systems"]}
    assert systems == {"b2_mcadams": (False, True), "musa_small": (True, False), "dsp_f0": (False, False)}
    assert offered["seed"] == 3


def test_a_system_that_is_named_must_load():
    with pytest.raises(UserError, match="it anonymizes nothing"):
        service.load(["orig"])
    with pytest.raises(UserError, match="no system named 'b2_mcadam'; did you mean"):
        service.load(["b2_mcadam"])


def test_a_taken_port_is_one_error(server):
    with pytest.raises(UserError, match=f"port {server.server_address[1]}: .*--port 0"):
        Server(server.server_address[1], server.service)


def test_the_command_serves_and_leaves_nothing(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-m", "espnet_musa.bin.demo", "--system", "b2_mcadams", "--port", "0"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = run.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), run.stderr.read()
    port = int(line.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/anonymize?system=b2_mcadams&name=secret.wav", wav_bytes(1.0))
    assert connection.getresponse().status == 200
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 0
    assert "secret" not in run.stderr.read()
    assert not list(tmp_path.glob("espnet_musa-*"))


@pytest.fixture
def browser(tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on PATH")
    with Browser(tmp_path / "profile") as running:
        yield running


def results(browser: Browser) -> None:
    """What the page shows when it is done: two players, two pictures, bars and a table."""
    browser.until("['done', 'error'].includes(document.body?.dataset.state)")
    assert browser.do("document.body.dataset.state") == "done", browser.do("document.body.innerText")
    browser.until("[...document.querySelectorAll('#results audio')].every(a => a.duration > 1)")
    browser.until("[...document.images].every(i => i.naturalWidth > 400) && document.images.length == 2")
    assert browser.do("document.querySelectorAll('#numbers tr').length") == 4
    assert browser.do("document.body.scrollWidth - document.body.clientWidth") <= 0
    assert browser.complaints == []


def test_a_file_in_the_browser(server, browser, tmp_path):
    (tmp_path / "mine.wav").write_bytes(wav_bytes())
    (tmp_path / "bad.wav").write_bytes(b"no sound" * 99)
    browser.open(server.url)
    browser.until("document.body?.dataset.state == 'ready'")
    browser.choose("#file", tmp_path / "mine.wav")
    browser.until("!document.getElementById('go').disabled")
    browser.do("document.getElementById('go').click()")
    results(browser)
    assert browser.do("document.querySelectorAll('.bar').length") == 3
    assert browser.do("document.getElementById('save').download") == "mine-b2_mcadams.wav"
    browser.choose("#file", tmp_path / "bad.wav")
    browser.until("document.getElementById('chosen').textContent == 'bad.wav'")
    browser.do("document.getElementById('go').click()")
    browser.until("!document.getElementById('error').hidden")
    assert "bad.wav: cannot be read as audio" in browser.do("document.getElementById('error').textContent")


def test_the_microphone_and_a_blend_in_the_browser(server, browser):
    browser.open(server.url)
    browser.until("document.body?.dataset.state == 'ready'")
    assert browser.do("document.getElementById('blending').hidden")
    browser.do("(s => { s.value = 'musa_small'; s.onchange(); })(document.getElementById('system'))")
    assert not browser.do("document.getElementById('blending').hidden")
    browser.do("document.getElementById('record').click()")
    browser.until("document.getElementById('record').textContent == 'Stop (2 s)'")
    browser.do("document.getElementById('record').click()")
    browser.until("!document.getElementById('go').disabled")
    browser.do("document.getElementById('go').click()")
    results(browser)
    assert browser.do("document.querySelectorAll('.bar').length") == 1


def test_the_sample_in_the_browser(server, browser):
    pytest.importorskip("espeakng_loader")
    browser.open(server.url + "#sample")
    results(browser)
