"""The server of the page: this machine only, a handful of paths, nothing kept and nothing logged of what is sent."""

from __future__ import annotations

import errno
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import UserError
from ..log import get_logger
from .service import LARGEST, Service

log = get_logger(__name__)
PAGE = Path(__file__).with_name("page.html")
HOSTS = ("127.0.0.1", "localhost")
# The page loads nothing from anywhere else and talks to nobody else, whatever happens in it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TOO_LARGE = (
    f"the file is too large; expected at most {LARGEST >> 20} MB; hint: espnet_musa.bin.anonymize takes any"
)


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, port: int, service: Service) -> None:
        """Bind.

        Args:
            port: 0: any that is free; see `url`.
            service: what is done with a recording.

        Raises:
            UserError: if the port is taken.
        """
        self.service = service
        try:
            super().__init__((HOSTS[0], port), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(f"port {port}: {error.strerror}", hint="--port 0 takes a free one") from None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOSTS[0]}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, but for a browser that has left."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            log.exception("a request failed")


class Refused(Exception):
    """A request that is not answered: HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = "espnet_musa", ""
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        """The page, what it offers, and a sample to try."""
        service = self.server.service
        self._answer({
            "/": lambda: ("text/html; charset=utf-8", PAGE.read_bytes()),
            "/systems": lambda: _json(service.describe()),
            "/sample.wav": lambda: ("audio/wav", service.sample()),
        })  # fmt: skip

    def do_POST(self) -> None:
        """A recording to anonymize: the body is the file; `name`, `system`, `seed` and `blend` in the query."""
        self._answer({"/anonymize": lambda: _json(self._anonymize())})

    def log_message(self, format: str, *args: Any) -> None:
        """Requests name files: nothing of them is logged."""

    def _answer(self, paths: dict[str, Callable[[], tuple[str, bytes]]]) -> None:
        status = 200
        try:
            self._check_origin()
            path = urlsplit(self.path).path
            if path not in paths:
                raise Refused(404, "no such page")
            kind, body = paths[path]()
        except Refused as error:
            status, (kind, body) = error.status, _json({"error": str(error)})
        except UserError as error:
            status, (kind, body) = 400, _json({"error": str(error)})
        except (ConnectionError, TimeoutError):
            raise  # the browser has left
        except Exception:
            log.exception("a recording failed")
            status, (kind, body) = 500, _json({"error": "a defect of ours; the server's terminal says more"})
        self.send_response(status)
        for key, value in (HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _check_origin(self) -> None:
        """Refuse what another site sends: by a name of its own for this address, or from its own page."""
        host = self.headers.get("Host", "")
        if host.rsplit(":", 1)[0] not in HOSTS:
            raise Refused(403, f"asked for as host '{host}'; expected {' or '.join(HOSTS)}")
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refused(403, "asked for by another site")

    def _anonymize(self) -> dict[str, Any]:
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise Refused(411, "a request without Content-Length")
        if int(length) > LARGEST:
            for _ in range(
                min(int(length), 4 * LARGEST) >> 16
            ):  # who is still sending would not see the answer
                self.rfile.read(1 << 16)
            raise Refused(413, TOO_LARGE)
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise Refused(400, "the request ended early")
        blend = None if "blend" not in query else _number("blend", query["blend"], float)
        seed = _number("seed", query.get("seed", str(self.server.service.seed)), int)
        name = query.get("name", "recording.wav")
        return self.server.service.run(raw, name, query.get("system", ""), seed, blend)


def _json(data: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(data).encode()


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name} is '{text}'", expected="a number") from None


@contextmanager
def serving(systems: dict[str, Any], port: int, seed: int = 0, device: str = "cpu") -> Iterator[Server]:
    """A server that is bound; whatever a request had left on disk goes with it.

    Args:
        systems: see `service.load`.
        port: 0: any that is free.
        seed: that the page suggests.
        device: for the attacker's encoder.
    """
    with tempfile.TemporaryDirectory(prefix="espnet_musa-") as scratch:
        server = Server(port, Service(systems, Path(scratch), seed, device))
        try:
            yield server
        finally:
            server.server_close()
