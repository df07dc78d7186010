"""Systems that are loaded once, and what is done with a recording; nothing of it outlives the call."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import config
from ..config import ROOT
from ..corpora import mini_voices
from ..corpora.espeak import Espeak
from ..data.audio import AudioFile, write_wav
from ..errors import UserError, suggest
from ..evaluators.encoders import SAMPLE_RATE, Resemblyzer
from ..log import get_logger
from ..pipeline.files import ENDINGS, Ready, plain
from .analysis import compare

log = get_logger(__name__)
OFFERED = ("musa_small", "b2_mcadams", "dsp_f0")  # what the page offers if it can be loaded
LONGEST = 120.0  # seconds of a recording
LARGEST = 50 << 20  # bytes of an upload
SENTENCE = (
    "This voice was made by a program. The page shows how it sounds when it has been anonymized, "
    "and whether it is still recognised."
)


def load(names: Sequence[str], sets: Sequence[str] = (), device: str = "cpu") -> dict[str, Ready]:
    """Load systems for the page: those named, and those of `OFFERED` that can be.

    Args:
        names: must be there; the first is chosen when the page opens.
        sets: `--set` assignments.
        device: for neural systems.

    Raises:
        UserError: if one that is named cannot be loaded.
    """
    recipe = plain(tuple(dict.fromkeys((*names, *OFFERED))), sets)
    found = {}
    for name in recipe.systems:
        try:
            system = config.load_system(recipe, name, ROOT)
            found[name] = Ready.load(name, system, device, recipe.format, shown=False)
        except UserError as error:
            if name in names:
                raise
            log.info("without %s: %s", name, error)
    return found


class Service:
    """Anonymizes and measures recordings, one at a time."""

    def __init__(self, systems: dict[str, Ready], scratch: Path, seed: int = 0, device: str = "cpu") -> None:
        """Load the attacker's encoder.

        Args:
            systems: see `load`.
            scratch: directory for files that last as long as a request.
            seed: that the page suggests.
            device: of the encoder.
        """
        self.systems, self.seed = systems, seed
        self._scratch, self._encoder, self._turn = scratch, Resemblyzer(device), threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What the page needs to know before a recording is there."""
        return {
            "systems": [
                {
                    "name": name,
                    "description": ready.system.description,
                    "blend": ready.system.anonymizer == "musa",
                    "public": ready.public,
                }
                for name, ready in self.systems.items()
            ],
            "seed": self.seed,
            "largest": LARGEST,
            "longest": LONGEST,
            "sample": importlib.util.find_spec("espeakng_loader") is not None,
        }

    def run(
        self, raw: bytes, name: str, system: str, seed: int, blend: float | None = None
    ) -> dict[str, Any]:
        """Anonymize a recording as `bin/anonymize` does, and compare.

        Args:
            raw: content of an audio file.
            name: of the file; it counts for random draws, as on the command line.
            system: one of `systems`.
            seed: same file, name and seed, same bytes.
            blend: of a MUSA, share of the speaker's own embedding; None: what the system's YAML says.

        Returns:
            for JSON: see `analysis.compare`; and `seconds` of audio, `taken` to convert it, `rate` (Hz) and `channels`
            of what was given.

        Raises:
            UserError: if the recording or a setting is wrong; names the file.
        """
        if system not in self.systems:
            raise UserError(f"no system '{system}'{suggest(system, self.systems)}")
        ready = self.systems[system]
        name = Path(name).name or "recording.wav"
        suffix = Path(name).suffix.lower()
        with self._turn, tempfile.TemporaryDirectory(dir=self._scratch) as place:
            given = Path(place) / f"given{suffix if suffix in ENDINGS else ''}"
            given.write_bytes(raw)
            try:
                return self._run(given, name, ready, seed, blend)
            except UserError as error:
                raise UserError(str(error).replace(str(given), name)) from None

    def _run(self, given: Path, name: str, ready: Ready, seed: int, blend: float | None) -> dict[str, Any]:
        with AudioFile(given, channels=ready.settings.channels) as recording:
            seconds = recording.frames / recording.sample_rate
        if seconds > LONGEST:
            raise UserError(
                f"lasts {seconds:.0f} s", path=given, expected=f"at most {LONGEST:.0f} s on this page",
                hint="python -m espnet_musa.bin.anonymize takes any length",
            )  # fmt: skip
        formatted, made = given.with_name("original.wav"), given.with_name("anonymized.wav")
        ready.format(given, formatted)
        target = ready.targets([name], seed)[name]
        if blend is not None and ready.system.anonymizer == "musa":
            target = blend
        began = time.monotonic()
        ready.convert(formatted, made, name, target, seed)
        facts = {"seconds": seconds, "taken": time.monotonic() - began}
        facts |= {"rate": recording.sample_rate, "channels": recording.channels}
        return facts | compare(formatted, made, self._encoder)

    def sample(self) -> bytes:
        """A WAV file with a sentence that espeak-ng speaks in an invented voice; the same bytes every time.

        Raises:
            UserError: if the package with espeak-ng is missing.
        """
        voice = mini_voices.draw(0, "demo", "f", 1)[0]
        line = mini_voices.Line("sample", "demo", "f", "en", "neu", SENTENCE, voice)
        with Espeak() as espeak, tempfile.TemporaryDirectory(dir=self._scratch) as place:
            file = Path(place) / "sample.wav"
            write_wav(file, mini_voices.render(espeak, line, 0), SAMPLE_RATE)
            return file.read_bytes()
