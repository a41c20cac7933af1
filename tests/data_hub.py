"""As much of the Hub, in this process, as serves the files of one data set by ranges of their bytes."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class DataHub:
    """`ranges` are the parts of its files that were asked for: name, first byte, last byte."""

    name = "me/noise"

    def __init__(self, folder: Path) -> None:
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.ranges: list[tuple[str, int, int]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body, headers = hub.answer(unquote(urlparse(self.path).path), self.headers.get("Range"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, wanted: str | None) -> tuple[int, bytes, dict[str, str]]:
        api, revision = f"/api/datasets/{self.name}", "0" * 40
        if path in (api, f"{api}/revision/main", f"{api}/revision/{revision}"):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, json.dumps({"id": self.name, "sha": revision, "siblings": siblings}).encode(), {}
        if path in (f"{api}/tree/main", f"{api}/tree/{revision}"):
            digests = {name: hashlib.sha1(content).hexdigest() for name, content in self.files.items()}
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": digests[name]}
                for name, content in self.files.items()
            ]
            return 200, json.dumps(rows).encode(), {}
        name = path.rpartition("/")[2]
        if "/resolve/" not in path or name not in self.files:
            return 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision}
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        self.ranges.append((name, first, last))
        content = self.files[name]
        return 206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
