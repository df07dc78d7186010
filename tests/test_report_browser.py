"""The page in a real browser: pictures decode, players load, nothing is complained about."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import report_tree
from browser import BROWSER
from PIL import Image

from espnet_musa.config import Recipe
from espnet_musa.report.build import build

RECIPE = Recipe(
    name="browser", systems=report_tree.SYSTEMS, evaluators=("asv_resemblyzer", "pitch"), corpora={}
)
# Added to a copy of the page, whose own policy forbids scripts: writes what the browser made of the page into it.
PROBE = """<script>
addEventListener("load", async () => {
  const images = [...document.images], players = [...document.querySelectorAll("audio")];
  const loaded = player => new Promise(done => {
    if (player.readyState >= 1) return done();
    player.onloadedmetadata = player.onerror = done;
    player.load();
  });
  await Promise.race([Promise.all(players.map(loaded)), new Promise(done => setTimeout(done, 8000))]);
  const root = document.documentElement, body = document.body;
  root.dataset.images = images.map(i => i.naturalWidth).join(" ");
  root.dataset.seconds = players.map(p => p.duration.toFixed(2)).join(" ");
  root.dataset.overflow = body.scrollWidth - body.clientWidth;
});
</script></body>"""


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess:
    """Open a page without a network or a window."""
    words = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--hide-scrollbars", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", f"--user-data-dir={profile}",
        "--virtual-time-budget=10000", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on PATH")
    root = tmp_path_factory.mktemp("recipe")
    report_tree.make(root, RECIPE, splits=("test",))
    build(RECIPE, root)
    return root / "exp" / "report" / "report.html"


def test_pictures_and_players_load(page, tmp_path):
    text = page.read_text()
    policy = re.search('<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace(policy.group(), "").replace("</body>", PROBE))
    run = browse(probed, tmp_path / "profile", "--dump-dom")
    found = dict(re.findall(r'data-(images|seconds|overflow)="([^"]*)"', run.stdout[:2000]))
    assert found, run.stderr[-2000:]
    widths = [int(w) for w in found["images"].split()]
    assert len(widths) == text.count("<img ") >= 12 and min(widths) > 200
    seconds = [float(s) for s in found["seconds"].split()]
    assert len(seconds) == text.count("<audio ") == 9 and all(0.5 < s < 1.0 for s in seconds)
    assert int(found["overflow"]) <= 0


@pytest.mark.parametrize("width", [500, 1280])
def test_page_renders_without_complaints(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    run = browse(page, tmp_path / "profile", f"--window-size={width},1600", f"--screenshot={shot}")
    assert "CONSOLE" not in run.stderr, run.stderr[-2000:]
    image = Image.open(shot).convert("RGB")
    assert image.width == width and len(image.getcolors(1 << 24)) > 50  # not an empty page
