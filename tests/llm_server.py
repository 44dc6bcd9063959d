"""A small OpenAI-compatible server on loopback that injects faults, for the tests of the client."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "A seasoned welder who led a crew of six and kept every seam within tolerance."
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
KEY = "sk-" + "secret0123456789" * 2


def completion(text: str | None = GOOD, finish: str = "stop", **message: Any) -> dict:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"id": "x", "object": "chat.completion", "model": "served", "choices": [choice], "usage": USAGE}


class Server(ThreadingHTTPServer):
    """Replies with `reply(body)`; the first `faults[prompt]` are sent instead, one a request.

    A fault is a status, a (status, headers) pair, "reset", "garbage", "no choices" or a number of seconds.
    `prompts` counts the requests by their last message; `injected` the faults.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Callable[[dict], dict] = lambda body: completion()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.faults = reply, {}
        self.prompts: Counter[str] = Counter()
        self.injected = self.busy = self.busiest = 0
        self.keys: set[str | None] = set()
        self.bodies: list[dict] = []
        self.guard = threading.Lock()
        self.routes: dict[tuple[str, str], Callable[[bytes], bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_raw(self.server.routes["GET", self.path](b""))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if ("POST", self.path) in self.server.routes:
            self.send_raw(self.server.routes["POST", self.path](content))
            return
        body = json.loads(content)
        asked = body["messages"][-1]["content"] if "messages" in body else str(len(body["input"]))
        with self.server.guard:
            self.server.prompts[asked] += 1
            self.server.bodies.append(body)
            self.server.keys.add(self.headers.get("authorization"))
            waiting = self.server.faults.get(asked, [])
            fault = waiting.pop(0) if waiting else None
            self.server.injected += fault is not None
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            self.answer(body, fault)
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def answer(self, body: dict, fault: Any) -> None:
        if fault == "reset":
            self.reset()
        elif fault == "garbage":
            self.send_raw(b'{"choices": [{"mess')
        elif fault == "no choices":
            self.send_raw(json.dumps({**completion(), "choices": []}).encode())
        elif isinstance(fault, float):
            time.sleep(fault)
            self.send_raw(json.dumps(self.server.reply(body)).encode())
        elif fault is not None:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            said = {"error": {"message": f"fault {status} for {self.headers.get('authorization')}"}}
            self.send_raw(json.dumps(said).encode(), status, headers)
        else:
            self.send_raw(json.dumps(self.server.reply(body)).encode())

    def send_raw(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reset(self) -> None:
        """Promise a body, send a part of it, and break the connection."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "500")
        self.end_headers()
        self.wfile.write(b'{"choices": ')
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
