"""One HTTP request to the Hub double: counted, perhaps struck by an accident, answered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.hub.faults import Fault
from tests.hub.store import Refused

if TYPE_CHECKING:
    from tests.hub.server import Hub

WRITE_TOKEN = "hf_theDoublesOwnWriteTokenNobodyMayEverSee"
READ_TOKEN = "hf_theDoublesOwnReadTokenNobodyMayEverSee"


class Call(BaseHTTPRequestHandler):
    """One request: `find` says what is asked for, all else is the same for every call."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: else the client waits 40 ms

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.extra: dict[str, str] = {}
        self.status = 200
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {url.path}")
            if url.path.startswith("/_large/"):
                self.hub.uploaded_bytes += len(self.raw)
        for old, new in self.hub.moved.items():
            if old not in self.hub.repos and re.search(f"/{old}(/|$|\\.git/)", url.path):
                there = {"Location": self.path.replace(old, new, 1)}
                return self._answer(307, {"error": "Moved"}, there)
        fault = self.hub.faults.next_for(self.command, url.path)
        if fault and fault.kind == "stalled":
            time.sleep(fault.pause_s)
        if fault and fault.kind in ("lost request", "stalled"):
            return self._hang_up()
        if fault and fault.kind == "status":
            after = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            if fault.reset_s is not None:
                after["RateLimit"] = f'"api";r=0;t={fault.reset_s}'
            return self._answer(fault.status, {"error": f"Injected {fault.status}"}, after)
        try:
            with self.hub.lock:
                found = self.find(url.path)
        except Refused as refused:
            code = {"X-Error-Code": refused.code} if refused.code else {}
            return self._answer(refused.status, refused.body, code)
        if fault and fault.kind == "lost reply":
            return self._hang_up()
        return self._answer(self.status, found, self.extra, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        pass

    def _hang_up(self) -> None:
        self.close_connection = True

    def _answer(
        self, status: int, body: object, headers: Mapping[str, str], slow: Fault | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        step = len(content) // 5 + 1 if slow else len(content) or 1
        for start in range(0, len(content), step):
            time.sleep(slow.pause_s if slow else 0)
            try:
                self.wfile.write(content[start : start + step])
                self.wfile.flush()
            except ConnectionError:  # the client is gone
                return self._hang_up()
            if isinstance(body, bytes):
                with self.hub.lock:
                    self.hub.downloaded_bytes += len(content[start : start + step])

    def find(self, path: str) -> object:
        """Return what is asked for: bytes, or what JSON can say; `extra` and `status` beside it."""
        raise NotImplementedError

    @property
    def body(self) -> Any:
        return json.loads(self.raw or b"{}")

    def _may(self, write: bool) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return token in ((WRITE_TOKEN,) if write else (WRITE_TOKEN, READ_TOKEN))

    def _page(self, items: list[Any]) -> list[Any]:
        start = int(self.query.get("cursor", "0"))
        end = start + self.hub.page_size
        if end < len(items):
            path = urlsplit(self.path).path
            rest = "&".join(f"{k}={v}" for k, v in {**self.query, "cursor": str(end)}.items())
            self.extra["Link"] = f'<{self.hub.endpoint}{path}?{rest}>; rel="next"'
        return items[start:end]
