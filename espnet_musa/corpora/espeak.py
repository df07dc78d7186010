"""espeak-ng as a talking process: text and a voice in, samples out, the same bytes every time.

espeak-ng is under the GPL, so nothing here loads it into the process of its user. `Espeak` starts this module as a
program (`python -m espnet_musa.corpora.espeak`), which binds the library and its data, as the package `espeakng-loader`
carries them, with ctypes. The two exchange only this:

- the program greets with a line `{"version": ..., "sample_rate": ...}`;
- a request is a line `{"text", "language", "variant", "rate", "seed"}`;
- the answer is the number of samples (4 bytes, little-endian) and the samples (16-bit, little-endian);
- a failure is a message on stderr and exit code 2; end of input ends the program.

`variant` is the text of an espeak-ng voice variant (its docs/voices.md), so a speaker is described by whoever calls.

The library keeps state from one utterance to the next (noise, flutter, glottal phase). Each utterance is therefore
spoken in a fork of the freshly initialised program with a seed of its own; its bytes then depend on neither the
order nor the utterances before.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from espnet_musa.errors import UserError

HINT = "reinstall it: pip install --force-reinstall --no-deps espeakng-loader"
# Constants of espeak-ng's public interface (speak_lib.h).
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: hand samples to the callback, return when all are spoken
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: return an error when the data are missing
_RATE = 1  # espeak_PARAMETER: words per minute
_POS_CHARACTER = 1  # espeak_POSITION_TYPE
_UTF8 = 1  # espeakCHARS_UTF8
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_VARIANT = "speaker"  # name under which the variant of a request is put


class Espeak:
    """A running espeak-ng; use it in a `with` statement, from one thread at a time.

    Attributes:
        version: of the library.
        sample_rate: Hz, of the samples.
    """

    def __init__(self) -> None:
        """Start the program.

        Raises:
            UserError: if the library or its data are missing or unusable.
        """
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        greeting = self._process.stdout.readline()
        if not greeting.endswith(b"\n"):
            raise self._failure()
        facts = json.loads(greeting)
        self.version, self.sample_rate = facts["version"], facts["sample_rate"]

    def say(self, text: str, language: str, variant: str, rate: int, seed: int) -> bytes:
        """Speak.

        Args:
            text: what to say.
            language: espeak-ng's name of the language, such as `en-us`.
            variant: text of a voice variant.
            rate: words per minute, 80 to 450.
            seed: of the noise in the voice (breath, frication), 31 bits.

        Returns:
            samples, 16-bit little-endian.

        Raises:
            UserError: if espeak-ng does not know the language or fails.
        """
        request = {"text": text, "language": language, "variant": variant, "rate": rate, "seed": seed}
        with contextlib.suppress(BrokenPipeError):  # the program is gone: the reading below tells why
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        head = self._process.stdout.read(4)
        size = 2 * struct.unpack("<I", head)[0] if len(head) == 4 else 0
        samples = self._process.stdout.read(size)
        if not size or len(samples) != size:
            raise self._failure()
        return samples

    def _failure(self) -> UserError:
        """What the program said before it ended."""
        self.close()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"it ended with code {self._process.returncode}"
        return UserError(f"espeak-ng does not speak: {reason}", hint=HINT)

    def close(self) -> None:
        """End the program."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> Espeak:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        self._stderr.close()


class _Failure(Exception):
    """A message for stderr."""


def _load(home: Path) -> ctypes.CDLL:
    """Bind and initialise the library on a copy, by links, of its data in `home` to which variants can be added."""
    try:
        import espeakng_loader

        data = Path(espeakng_loader.get_data_path())
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except ImportError as error:
        raise _Failure(f"the package espeakng-loader is not installed ({error})") from None
    except (OSError, RuntimeError) as error:
        raise _Failure(f"the library of espeakng-loader cannot be loaded ({error})") from None
    copy = home / "espeak-ng-data"
    (copy / "voices" / "!v").mkdir(parents=True)
    for entry in data.iterdir():
        if entry.name != "voices":
            (copy / entry.name).symlink_to(entry)
    library.espeak_Info.restype = ctypes.c_char_p
    if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(home), _DONT_EXIT) <= 0:
        raise _Failure(f"the data of espeakng-loader cannot be used ({data})")
    return library


def _speak(library: ctypes.CDLL, home: Path, request: dict[str, Any]) -> bytes:
    """Samples of one request; to be called once in a process."""
    samples = bytearray()

    def collect(block: Any, count: int, _events: int | None) -> int:
        if block and count > 0:
            samples.extend(ctypes.string_at(block, 2 * count))
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    path = home / "espeak-ng-data" / "voices" / "!v" / _VARIANT
    path.write_text(request["variant"], encoding="utf-8")
    library.espeak_ng_SetRandSeed(ctypes.c_long(request["seed"]))
    name = f"{request['language']}+{_VARIANT}"
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise _Failure(f"it has no language '{request['language']}'")
    library.espeak_SetParameter(_RATE, request["rate"], 0)
    text = request["text"].encode() + b"\0"
    if library.espeak_Synth(text, len(text), 0, _POS_CHARACTER, 0, _UTF8, None, None) != 0:
        raise _Failure(f"synthesis of '{request['text']}' failed")
    if not samples:
        raise _Failure(f"'{request['text']}' makes no sound")
    return bytes(samples)


def _answer(library: ctypes.CDLL, home: Path, line: bytes) -> int:
    """Speak one request in a fork, which writes the answer; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            samples = _speak(library, home, json.loads(line))
            sys.stdout.buffer.write(struct.pack("<I", len(samples) // 2) + samples)
            sys.stdout.buffer.flush()
            code = 0
        except Exception as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(code)  # not sys.exit: the clean-up is the parent's
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    """Answer the requests on stdin."""
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        home = Path(folder)
        try:
            library = _load(home)
        except _Failure as error:
            print(error, file=sys.stderr)
            return 2
        rate, version = library.espeak_ng_GetSampleRate(), library.espeak_Info(None).decode()
        print(json.dumps({"version": version, "sample_rate": rate}), flush=True)
        for line in sys.stdin.buffer:
            code = _answer(library, home, line)
            if code < 0:
                print(f"it died of signal {-code} at the request {line.decode().strip()}", file=sys.stderr)
            if code != 0:
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
