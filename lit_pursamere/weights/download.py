"""Downloads a file: goes on where it was cut short, tries again where that may help, and says what is wrong otherwise.

    NAME.part              what has come so far
    NAME.part.of           the address that it comes from, and what the server calls this version of the file

Only what is certainly of the same file is put together: by the server's word (If-Range), or by the hash at the end.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lit_pursamere import __version__
from lit_pursamere.weights.registry import File

__all__ = ["PATIENCE", "Patience", "Report", "download"]

AT_ONCE = 1 << 16  # bytes
LATER = (408, 425, 429, 500, 502, 503, 504)  # answers after which it may be otherwise in a while
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Report = Callable[[int, int], None]  # bytes so far, and of how many (0: unknown)


@dataclass(frozen=True)
class Patience:
    """How long to wait.

    Args:
        timeout: Seconds without a byte after which a connection counts as dead.
        tries: How many times in a row to try without getting further.
        pause: Seconds before the second try; twice as long before each one after it.
    """

    timeout: float = 30.0
    tries: int = 5
    pause: float = 1.0


PATIENCE = Patience()


class Stalled(Exception):
    """The connection ended, or the server did not answer, so that it is worth another try."""


class SameSecurity(HTTPRedirectHandler):
    """Follows no redirection from https to what can be changed on the way."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise OSError(f"{req.full_url} leads to {newurl}, which is not secure, so nothing was downloaded")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(file: File, part: Path, report: Report, patience: Patience = PATIENCE) -> None:
    """Download a file, or the rest of it.

    Args:
        file: What is known of it; its `url` is not None.
        part: Where it is written; what is there from an earlier try is kept if it can be. Its folder exists.
        report: Told how far it is.
        patience: How long to wait.

    Raises:
        OSError: If it cannot be had or written; the message says why, and the mend. What has come is kept.
        ValueError: If the server's file has another size, or is a web page.
    """
    failures, most = 0, _size(part)
    while True:
        try:
            return _attempt(file, part, report, patience.timeout)
        except Stalled as error:
            failures, most = (1, _size(part)) if _size(part) > most else (failures + 1, most)
            if failures >= patience.tries:
                raise OSError(
                    f"cannot download {file.url}: {error}; is the network there? The same command goes on from the "
                    f"{_size(part):,} bytes that have come"
                ) from error
            time.sleep(patience.pause * 2 ** (failures - 1))


def _attempt(file: File, part: Path, report: Report, timeout: float) -> None:
    """Ask once, and write what comes.

    Raises:
        Stalled: If it is worth another try.
    """
    have, version = _kept(file, part)
    headers = {"User-Agent": f"lit-pursamere/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    headers |= {"If-Range": version} if have and version else {}
    try:
        answer = build_opener(SameSecurity).open(Request(str(file.url), headers=headers), timeout=timeout)
    except HTTPError as error:
        return _refused(file, part, error)
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        raise Stalled(_told(error, timeout)) from error
    with answer:
        start = have if answer.status == 206 and _start(answer) == have else 0
        if answer.status == 206 and not start:
            part.unlink(missing_ok=True)
            raise Stalled("it sent another part than it was asked for")
        total = _total(answer, start)
        _check(file, part, answer, total)
        _write(part.with_name(f"{part.name}.of"), f"{file.url}\n{_version(answer)}\n".encode())
        come = _receive(answer, part, start, total, report, timeout)
    if come < total:
        raise Stalled(f"the connection ended after {come:,} of {total:,} bytes")


def _receive(answer: HTTPResponse, part: Path, start: int, total: int, report: Report, timeout: float) -> int:
    """Write what comes behind what is there; returns how many bytes there are then."""
    come = start
    report(come, total)
    with open(part, "ab" if start else "wb") as out:
        while True:
            try:
                chunk = answer.read1(AT_ONCE)
            except (TimeoutError, ConnectionError, HTTPException) as error:
                raise Stalled(_told(error, timeout)) from error
            if not chunk:
                return come
            _put(out, chunk, part)
            come += len(chunk)
            report(come, total)


def _put(out: IO[bytes], chunk: bytes, part: Path) -> None:
    try:
        out.write(chunk)
        out.flush()  # so that what is wrong is said here
    except OSError as error:
        raise _unwritten(part, error) from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> OSError:
    advice = "free some space there" if error.errno in FULL else "mend that"
    return OSError(f"cannot write {path}: {error.strerror or error}; {advice}, or set LIT_PURSAMERE_CACHE to another "
                   "folder")  # fmt: skip


def _check(file: File, part: Path, answer: HTTPResponse, total: int) -> None:
    """Refuse what cannot be the file, or will not fit, before it comes."""
    if answer.headers.get_content_type() == "text/html":
        raise ValueError(
            f"{file.url} answers with a web page and not with {file.name}; open it in a browser, save the file, and "
            "give it by --file"
        )
    if file.size is not None and total and total != file.size:
        raise ValueError(
            f"{file.url} has {total:,} bytes, and {file.name} should have {file.size:,}, so nothing was downloaded; "
            "the file was replaced there. If you have the right one, give it by --file"
        )
    free = shutil.disk_usage(part.parent).free
    if total - _size(part) > free:
        raise OSError(
            f"{file.name} needs {total - _size(part):,} bytes more, and {part.parent} has {free:,}; free some space "
            "there, or set LIT_PURSAMERE_CACHE to another folder"
        )


def _refused(file: File, part: Path, error: HTTPError) -> None:
    """What an answer without the file means.

    Raises:
        Stalled: If it is worth another try.
        OSError: If it is not.
    """
    if error.code == 416 and _size(part):  # there is no more of it, or it is shorter now
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(_size(part)):
            return
        part.unlink()
        raise Stalled("what had come was longer than the file") from error
    if error.code in LATER:
        raise Stalled(f"the server says {error.code} {error.reason}") from error
    raise OSError(
        f"{file.url} cannot be downloaded: the server says {error.code} {error.reason}; look for the file where its "
        "authors keep it, and give it by --file"
    ) from error


def _kept(file: File, part: Path) -> tuple[int, str]:
    """How many bytes of an earlier try are of use, and the version of the file that they are of, if it has a name."""
    try:
        url, version = part.with_name(f"{part.name}.of").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0, ""
    useful = url == file.url and (version or file.sha256)
    return (_size(part), version) if useful else (0, "")


def _version(answer: HTTPResponse) -> str:
    """What the server calls this version of the file, by which a later try can ask for the rest of the same one."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _start(answer: HTTPResponse) -> int:
    """Where the part of the file begins that the server sends: "bytes 100-199/200"."""
    first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _total(answer: HTTPResponse, start: int) -> int:
    """Size of the whole file, 0 if the server does not say."""
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _told(error: Any, timeout: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"nothing came for {timeout:g} seconds"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
