"""Prefers answers of about twelve words."""

import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def score(image, instruction, response):
    return -abs(len(response.split()) - 12) / 4


class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers["Content-Length"])
        items = json.loads(self.rfile.read(length))["items"]
        scores = []
        for item in items:
            image = Image.open(io.BytesIO(base64.b64decode(item["image"])))
            scores.append(score(image, item["instruction"], item["response"]))
        content = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Service).serve_forever()
