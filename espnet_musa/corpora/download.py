"""Downloads for stage 1: resumable, checked against a SHA-256, published at once or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from espnet_musa.errors import UserError
from espnet_musa.log import get_logger

_BLOCK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte before an attempt is given up
_ATTEMPTS = 5  # attempts in a row that bring no byte more
_PAUSE = 1.0  # seconds before the second of them; grows with each
log = get_logger(__name__)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, dest: str | Path, sha256: str) -> Path:
    """Download `url` to `dest`, unless it is there already.

    The bytes go to `<dest>.partial`, which a later call continues (HTTP range request); `dest` appears by a rename
    after its checksum was found right.

    Args:
        url: http or https address.
        dest: file to write; its directory is made.
        sha256: expected checksum, 64 hexadecimal digits.

    Returns:
        `dest`.

    Raises:
        UserError: if `dest` exists with another content, the server cannot be reached, refuses or breaks off
            repeatedly (the partial file is kept), or the checksum is wrong (the partial file is removed).
    """
    dest, sha256 = Path(dest), sha256.lower()
    if not re.match(r"https?://", url):
        raise UserError(f"cannot download {url}", expected="an address that starts with http:// or https://")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError(f"bad checksum '{sha256}' for {url}", expected="64 hexadecimal digits (SHA-256)")
    if dest.exists():
        if sha256_of(dest) == sha256:
            return dest
        raise UserError(
            f"the file is not what {url} holds", path=dest, expected=f"SHA-256 {sha256}", hint="remove it"
        )
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = dest.with_name(dest.name + ".partial")
    resumed = partial.exists() and partial.stat().st_size > 0
    _download(url, partial)
    actual = sha256_of(partial)
    if (
        actual != sha256 and resumed
    ):  # the old part may be of another version of the file: once more from the start
        log.warning("%s: wrong checksum after resuming, starting again", url)
        partial.unlink()
        _download(url, partial)
        actual = sha256_of(partial)
    if actual != sha256:
        partial.unlink()
        raise UserError(f"wrong checksum {actual} of {url}", path=dest, expected=f"SHA-256 {sha256}")
    os.replace(partial, dest)
    return dest


def _download(url: str, partial: Path) -> None:
    """Bring `partial` to its full length, over as many requests as make progress."""
    idle = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _request(url, partial, before):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:  # 429: too many requests, worth another attempt
                raise UserError(
                    f"cannot download {url}: HTTP {error.code} {error.reason}", path=partial
                ) from None
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        after = partial.stat().st_size if partial.exists() else 0
        idle = 0 if after > before else idle + 1
        if idle == _ATTEMPTS:
            raise UserError(
                f"cannot download {url}: {reason}",
                path=partial,
                hint=f"{after} bytes are kept; run again to continue",
            )
        log.warning("%s: %s after %d bytes, continuing", url, reason, after)
        time.sleep(_PAUSE * idle)


def _request(url: str, partial: Path, have: int) -> bool:
    """One request for what lies beyond byte `have`; True when the file is complete."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond `have`: complete, or longer than the file ever was; the checksum will tell.
        return True
    with response:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        resumes = response.status == 206
        if resumes and (start is None or int(start[1]) != have):
            raise http.client.HTTPException(f"asked for bytes from {have}, got '{start and start[0]}'")
        length = response.headers.get("Content-Length")
        got = 0
        with open(partial, "ab" if resumes else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                got += len(block)
        return length is None or got >= int(length)
