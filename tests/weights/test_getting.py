"""Named weights come into the cache whole and right, or not at all: downloads from a server that may do anything."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from lit_pursamere.weights import cache, load_weights
from lit_pursamere.weights.cache import located, state
from lit_pursamere.weights.download import Patience
from lit_pursamere.weights.getting import get as get_files
from lit_pursamere.weights.registry import Entry, File

CONTENT = save({"weight": torch.arange(200_000.0).reshape(2, -1), "bias": torch.zeros(2)})
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HASTE = Patience(timeout=20, tries=3, pause=0.01)


@dataclass
class Server:
    """What the server sends, and what it was asked."""

    content: bytes = CONTENT
    tag: str = '"1"'
    kind: str = "application/octet-stream"
    ranges: bool = True
    length: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which it ends the connection, answer by answer
    answers: list[int] = field(default_factory=list)  # statuses without a content that it gives first
    silent: threading.Event | None = None  # until it is set, nothing comes after the first half of an answer
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    address: str = ""

    @property
    def url(self):
        return f"{self.address}/net.safetensors"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, told, *args):
        self.told = told
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        told, wanted, known = self.told, self.headers["Range"], self.headers["If-Range"]
        told.asked.append((wanted, known))
        if told.answers:
            self.send_error(told.answers.pop(0))
            return
        start = int(wanted[6:-1]) if wanted and told.ranges and known in (None, told.tag) else 0
        if start >= len(told.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(told.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = told.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(told.content) - 1}/{len(told.content)}")
        self.send_header("Content-Type", told.kind)
        if told.tag:
            self.send_header("ETag", told.tag)
        if told.length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        sent = rest[: told.cuts.pop(0)] if told.cuts else rest
        self.wfile.write(sent[: len(sent) // 2])
        if told.silent:
            told.silent.wait(30)
        self.wfile.write(sent[len(sent) // 2 :])


class Quiet(ThreadingHTTPServer):
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client may go whenever it likes."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    told = Server()
    with Quiet(("127.0.0.1", 0), partial(Handler, told)) as running:
        told.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield told
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the file of the entry belongs."""
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache/weights/test/net"


@pytest.fixture
def entry(server, monkeypatch):
    """An entry of the registry whose file the server has."""

    def make(known=True, **changes):
        facts = {"size": len(CONTENT), "sha256": DIGEST} if known else {}
        file = File("net.safetensors", **({"url": server.url} | facts | changes))
        one = Entry("test/net", "classifier", "a test", {"class_path": "torch.nn.Linear"}, (file,))
        monkeypatch.setattr(cache, "entries", lambda: {one.name: one})
        return one

    return make


@pytest.fixture
def get():
    """Get an entry; returns what was said."""

    def run(entry, source=None, patience=HASTE):
        said = []
        get_files(entry, source, patience, hidden=True, say=said.append)
        return said

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_whole_file_is_downloaded_once(server, entry, get, folder):
    one = entry()
    assert state(one) == "downloadable"
    assert get(one) == [f"downloaded {folder / 'net.safetensors'}"]
    assert names(folder) == ["net.safetensors"] and (folder / "net.safetensors").read_bytes() == CONTENT
    assert state(one) == "cached" and located("test/net") == folder / "net.safetensors"
    assert get(one) == [f"{folder / 'net.safetensors'} is there"] and len(server.asked) == 1


def test_a_name_is_read_like_a_file(entry, get):
    get(entry())
    network = torch.nn.Linear(100_000, 2)
    load_weights(network, "test/net")
    assert network.weight[1, 0].item() == 100_000


def test_nothing_is_downloaded_because_it_is_named(server, entry):
    entry()
    with pytest.raises(FileNotFoundError, match="test/net are not on this machine: lit-pursamere weights get test/net"):
        load_weights(torch.nn.Linear(100_000, 2), "test/net")
    assert server.asked == []


def test_what_was_cut_short_goes_on_within_a_command(server, entry, get, folder):
    server.cuts = [1000, 300_000]
    get(entry())
    assert server.asked == [(None, None), ("bytes=1000-", '"1"'), ("bytes=301000-", '"1"')]
    assert (folder / "net.safetensors").read_bytes() == CONTENT


def test_it_goes_on_in_the_next_command(server, entry, get, folder):
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(OSError, match=r"the connection ended after 1,000 of 800,\d+ bytes; .* goes on from the 1,000"):
        get(entry())
    assert names(folder) == ["net.safetensors.part", "net.safetensors.part.of"]
    server.cuts, server.asked = [], []
    get(entry())
    assert server.asked == [("bytes=1000-", '"1"')] and names(folder) == ["net.safetensors"]


@pytest.mark.parametrize("known", [True, False])
def test_a_server_that_ignores_ranges_begins_anew(known, server, entry, get, folder):
    server.ranges, server.cuts = False, [1000]
    get(entry(known))
    assert (folder / "net.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"2"', ""])
def test_two_versions_are_never_put_together(tag, server, entry, get, folder):
    """Where nothing is known of the file, the rest is only asked for by the server's name of the version."""
    one = entry(known=False)
    server.content, server.tag, server.cuts = b"\0" * len(CONTENT), '"1"' if tag else "", [1000, 0, 0, 0]
    with pytest.raises(OSError):
        get(one)
    server.content, server.tag, server.cuts, server.asked = CONTENT, tag, [], []
    get(one)
    assert server.asked == [("bytes=1000-", '"1"') if tag else (None, None)]
    assert (folder / "net.safetensors").read_bytes() == CONTENT


def test_a_whole_part_is_not_asked_for_again(server, entry, get, folder):
    server.cuts = [len(CONTENT) - 1, 0, 0, 0]
    with pytest.raises(OSError):
        get(entry())
    with open(folder / "net.safetensors.part", "ab") as part:
        part.write(CONTENT[-1:])
    get(entry())
    assert names(folder) == ["net.safetensors"]


def test_a_wrong_hash_is_said_and_the_file_never_used(server, entry, get, folder):
    server.content = CONTENT[:-1] + b"\1"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ValueError) as caught:
        get(entry())
    assert f"{server.url} has the sha256 {found}, and should have {DIGEST}" in str(caught.value)
    assert names(folder) == ["net.safetensors.wrong"] and state(entry()) == "downloadable"
    server.content = CONTENT
    get(entry())
    assert state(entry()) == "cached"


def test_an_unknown_hash_is_noted_said_and_compared_from_then_on(server, entry, get, folder):
    one = entry(known=False)
    said = get(one)
    assert said[1].startswith(f"no sha256 of net.safetensors is published; {DIGEST} is noted")
    assert (folder / "net.safetensors.sha256").read_text() == f"{DIGEST}  net.safetensors\n"
    (folder / "net.safetensors").unlink()
    server.content = save({"weight": torch.ones(2, 100_000), "bias": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=rf"should have {DIGEST} \(noted when it first came, in net.safetensors.sha256"
    ):
        get(one)
    assert names(folder) == ["net.safetensors.sha256", "net.safetensors.wrong"]


def test_a_file_that_was_changed_in_the_cache_is_not_read(server, entry, get, folder):
    get(entry())
    (folder / "net.safetensors").write_bytes(CONTENT[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"should have .*; lit-pursamere weights get test/net gets it again"):
        located("test/net")
    assert "it is set aside as net.safetensors.wrong" in get(entry())[0]
    assert located("test/net").read_bytes() == CONTENT


def test_a_wrong_size_is_refused_before_it_comes(server, entry, get, folder):
    with pytest.raises(ValueError, match=r"net\.safetensors should have 7, so nothing was downloaded"):
        get(entry(size=7))
    assert names(folder) == []


def test_a_wrong_size_that_the_server_does_not_say(server, entry, get, folder):
    server.length = False
    with pytest.raises(ValueError, match=r"has 800,\d+ bytes, and should have 7"):
        get(entry(size=7))
    assert names(folder) == ["net.safetensors.wrong"]


def test_a_server_without_a_word_about_the_length(server, entry, get, folder):
    server.length = False
    get(entry())
    assert (folder / "net.safetensors").read_bytes() == CONTENT


def test_a_server_that_falls_silent(server, entry, get, folder):
    server.silent, server.cuts = threading.Event(), [1000, 0, 0, 0]
    with pytest.raises(OSError, match=r"nothing came for 0\.2 seconds; .* goes on from the 500 bytes"):
        get(entry(), patience=Patience(timeout=0.2, tries=3, pause=0.01))
    server.silent.set()
    assert len(server.asked) >= 3


def test_a_busy_server_is_asked_again(server, entry, get):
    server.answers = [503, 429]
    get(entry())
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusal_is_not_asked_again(status, server, entry, get, folder):
    server.answers = [status]
    with pytest.raises(OSError, match=rf"{server.url} cannot be downloaded: the server says {status} .*--file"):
        get(entry())
    assert len(server.asked) == 1 and names(folder) == []


def test_a_web_page_instead_of_the_file(server, entry, get, folder):
    server.content, server.kind = b"<html>quota exceeded</html>", "text/html; charset=utf-8"
    with pytest.raises(
        ValueError, match=r"answers with a web page and not with net\.safetensors; open it in a browser"
    ):
        get(entry(known=False))
    assert names(folder) == []


def test_what_is_no_file_of_weights_is_not_taken_for_one(server, entry, get, folder):
    server.content = b"quota exceeded"
    with pytest.raises(ValueError, match="is no file of weights: it is text"):
        get(entry(known=False))
    assert names(folder) == ["net.safetensors.wrong"]


def test_no_network(entry, get):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="Connection refused; is the network there"):
        get(entry(url=f"http://127.0.0.1:{port}/net.safetensors"))


def test_a_full_disk(server, entry, get, folder):
    folder.mkdir(parents=True)
    (folder / "net.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device; free some space there, or set LIT_PURSAMERE_CACHE"):
        get(entry())


def test_too_little_space_is_seen_before(server, entry, get, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"net\.safetensors needs 800,\d+ bytes more, and .* has 10; free some space"):
        get(entry())


def test_a_cache_that_cannot_be(entry, get, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "file"))
    with pytest.raises(OSError, match="set LIT_PURSAMERE_CACHE to a folder that can be written"):
        get(entry())


def test_another_process_is_waited_for(server, entry, folder):
    folder.mkdir(parents=True)
    said, waiting = [], threading.Event()

    def say(line):
        said.append(line)
        waiting.set()

    lock = FileLock(folder / ".lock")
    lock.acquire()
    other = threading.Thread(target=get_files, args=(entry(), None, HASTE, True, say))
    other.start()
    assert waiting.wait(10) and server.asked == []
    lock.release()
    other.join(10)
    assert said == ["another process is getting test/net; waiting for it", f"downloaded {folder / 'net.safetensors'}"]


@pytest.mark.slow
def test_a_killed_process_leaves_what_had_come_and_no_lock(server, entry, get, folder):
    server.silent = threading.Event()
    code = (
        "from lit_pursamere.weights.getting import get; from lit_pursamere.weights.registry import Entry, File; "
        f"get(Entry('test/net', 'classifier', 'a test', {{}}, (File('net.safetensors', {server.url!r}),)), hidden=True)"
    )
    process, part, half = (
        subprocess.Popen([sys.executable, "-c", code]),
        folder / "net.safetensors.part",
        len(CONTENT) // 2,
    )
    try:
        while process.poll() is None and not (part.exists() and part.stat().st_size >= half):
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    server.silent.set()
    get(entry())
    assert server.asked[1] == (f"bytes={half}-", '"1"') and names(folder) == ["net.safetensors"]


def by_hand(name="net.safetensors"):
    return Entry("test/net", "classifier", "a test", {}, (File(name),), by_hand="open the page and take it")


def test_by_hand(get, tmp_path, folder):
    with pytest.raises(
        FileNotFoundError, match="open the page and take it; then: lit-pursamere weights get test/net --file FILE"
    ):
        get(by_hand())
    assert not folder.exists() and state(by_hand()) == "by hand"
    (tmp_path / "brought").write_bytes(CONTENT)
    said = get(by_hand(), tmp_path / "brought")
    assert said[0] == f"copied to {folder / 'net.safetensors'}" and DIGEST in said[1]
    assert state(by_hand()) == "cached" and (tmp_path / "brought").exists()
    assert names(folder) == ["net.safetensors", "net.safetensors.sha256"]


def test_what_is_brought_must_be_the_file(entry, get, tmp_path, folder):
    (tmp_path / "brought").write_bytes(CONTENT[:-1] + b"\1")
    with pytest.raises(ValueError, match=f"brought has the sha256 .* should have {DIGEST}"):
        get(entry(), tmp_path / "brought")
    (tmp_path / "brought").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="brought is no file of weights: it looks like a web page"):
        get(by_hand(), tmp_path / "brought")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        get(by_hand(), tmp_path / "nowhere")
    assert names(folder) == []


def test_weights_of_several_files(server, get, tmp_path, folder):
    files = (File("config.json", f"{server.address}/config.json"), File("net.safetensors", server.url))
    one = Entry("test/net", "score model", "a test", {}, files)
    with pytest.raises(ValueError, match=r"config\.json and net\.safetensors: give the folder that holds both"):
        get(one, tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").write_bytes(CONTENT)
    (tmp_path / "config.json").write_text("{}")
    get(one, tmp_path)
    assert state(one) == "cached" and (folder / "config.json").read_text() == "{}"
