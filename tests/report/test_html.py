"""The page of a report: one file that loads nothing, with everything in it, and no word of a stranger as markup."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.report import as_html, html, make_report
from lit_pursamere.report.attached import LARGEST, own_file
from lit_pursamere.store.costs import Asked, Cost, write_cost
from lit_pursamere.store.manifest import write_manifest

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "\x1b[31m\u202e</style></td><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=x"
AUDIT = [
    "Audit of BPDA20 on 3 images",
    [["check", "question", "verdict", "found"], ["radius", "Why?", "fail", "a | <b>x"]],
    "1 fail, 0 pass.",
]
AUDITED = {"weights": "ab", "data": "digits, test images", "defense": {"purifier": {"lr_max": 0.1}}}


class Page(HTMLParser):
    """What a browser would see: balanced tags, texts by tag, attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)

    def attributes(self, tag, name):
        return [attributes.get(name) for found, attributes in self.tags if found == tag]


@pytest.fixture
def records(rows):
    def made(system="PurSAMERE", attack="BPDA20"):
        first = [1, -1, 3, 2]
        return [
            *rows("undefended", "clean", "++++", seconds=0.1), *rows("undefended", attack, "----", "----"),
            *rows(system, "clean", "++++", seconds=0.1),
            *rows(system, attack, "++--", "+---", seconds=2.0, first_success=first),
        ]  # fmt: skip

    return made


@pytest.fixture
def run(records, pgd, write_run):
    """A run with all that can lie beside its records."""
    folder = write_run(
        "run", records(), {"BPDA20": pgd()}, systems={"PurSAMERE": "P()", "undefended": "I()"},
        defenses={"PurSAMERE": {"purifier": {"lr_max": 0.1}, "detector": {"threshold": 3}}, "undefended": {}},
    )  # fmt: skip
    for name in ("pictures.png", "levels.png"):
        (folder / name).write_bytes(PNG)
    (folder / "config.yaml").write_text("seed_everything: 0\nmodel: {class_path: <LitRobustness>}\n")
    starts = [{"time": f"2026-01-0{day}T03:04:05+00:00", "command": "lit-pursamere test", "versions": {"torch": "3"}}
              for day in (1, 2)]  # fmt: skip
    (folder / "environment.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts) + "{torn")
    write_cost(folder, Cost("P()", "ab", {"s": Asked("S", True, 52, 52)}, 4, 0.25, True, "cpu: abacus", 1, ""))
    (folder / "audit").mkdir()
    (folder / "audit/audit.json").write_text(json.dumps(AUDIT))
    write_manifest(folder / "audit", AUDITED)
    return folder


def test_the_page_is_whole_loads_nothing_and_can_be_read_aloud(run):
    text = as_html(make_report([run]))
    page = Page(text)
    everything_is_there(page)
    nothing_is_loaded_and_nothing_runs(text, page)
    tables_and_pictures_can_be_read_aloud(page)


def everything_is_there(page):
    assert page.texts["h1"] == ["PurSAMERE on digits, test images"]
    assert page.texts["h2"] == ["Accuracy", "Figures", "Images", "Audit", "Cost", "Configuration and environment"]
    assert page.texts["strong"] == ["25.0 %", "0.0 %"], "worst cases; the purifier's leads"
    cells = page.texts["td"] + page.texts["th"]
    assert {"25.0 [4.6, 69.9]", "worst case", "52 + 52", "3", "2026-01-02T03:04:05+00:00", "fail"} <= {*cells}
    assert "a | <b>x" in cells, "text stays text"
    assert any("(the last of 2 starts)" in text for text in page.texts["span"])
    assert page.texts["pre"] == ["seed_everything: 0\nmodel: {class_path: <LitRobustness>}"]
    assert any("few images" in text for text in page.texts["li"])
    assert any("took 8.8 s, for 8 attacked images" in text for text in page.texts["p"])
    kinds = [source.partition(";")[0] for source in page.attributes("img", "src")]
    assert kinds == ["data:image/svg+xml"] * 2 + ["data:image/png"] * 2


def nothing_is_loaded_and_nothing_runs(text, page):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base", "svg"}
    assert all(source.startswith("data:image/") for source in page.attributes("img", "src"))
    used = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in used if name.startswith("on")} | used & {"href", "style", "srcset", "action"}
    assert not re.search(r"url\(|@import|https?://", re.sub(r'src="data:[^"]*"', "", text))
    assert [content for content in page.attributes("meta", "content") if "default-src 'none'" in (content or "")]


def tables_and_pictures_can_be_read_aloud(page):
    assert all(page.attributes("img", "alt"))
    assert set(page.attributes("th", "scope")) == {"col", "row"}
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert sum(tag == "caption" for tag, _ in page.tags) == tables > 3
    assert page.attributes("html", "lang") == ["en"] and "viewport" in page.attributes("meta", "name")


def test_a_bare_run_has_a_shorter_page(records, pgd, write_run):
    report = make_report([write_run("bare", records(), {"BPDA20": pgd()})])
    assert Page(as_html(report)).texts["h2"] == ["Accuracy", "Figures", "Cost"]


def test_words_of_strangers_are_text(records, pgd, write_run):
    name = HOSTILE.replace("\x1b[31m\u202e", "")
    folder = write_run("run", records(name, HOSTILE), {HOSTILE: pgd()}, data=f"{HOSTILE}, test images")
    (folder / "config.yaml").write_text(HOSTILE)
    (folder / "environment.jsonl").write_text(json.dumps({"time": HOSTILE, HOSTILE: HOSTILE}) + "\n")
    text = as_html(make_report([folder]))
    page = Page(text)
    assert "alert(1)" in text and "\x1b" not in text and "\u202e" not in text
    assert not any(
        tag == "script" or "onerror" in attributes or "onload" in attributes for tag, attributes in page.tags
    )
    assert len(page.attributes("img", "src")) == 2


def test_files_of_others_do_not_come_in_through_links(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("private words")
    for name in ("config.yaml", "environment.jsonl", "audit/audit.json", "pictures.png"):
        (run / name).unlink()
        (run / name).symlink_to(secret)
    text = as_html(make_report([run]))
    assert "private" not in text and "Audit" not in Page(text).texts["h2"]


def test_only_regular_files_of_some_size_that_are_pictures_are_shown(run):
    (run / "pictures.png").write_text("<svg onload=alert(1)>")
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    with open(run / "large", "wb") as file:
        file.truncate(LARGEST + 1)
    assert own_file(run, "large") is None and own_file(run, "audit") is None
    page = Page(as_html(make_report([run])))
    assert len(page.attributes("img", "src")) == 3 and "pre" not in page.texts


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without figures, for what has nothing to do with them."""
    monkeypatch.setattr(html, "FIGURES", {})


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": "cd"}, "weights: there 'cd', now 'ab'"),
        ({"defense": {"purifier": {"lr_max": 0.003}}}, "defense.purifier.lr_max: there 0.003, now 0.1"),
        ({"data": "photos, test images"}, "data: there 'photos, test images'"),
        ({"precision": "16-mixed"}, "precision: there '16-mixed'"),
    ],
    ids=str,
)
def test_the_audit_of_another_defence_is_refused(change, named, run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run / "audit", other)
    assert main(["report", str(run), "--format", "html", "--audit", str(other)]) == 0
    write_manifest(other, AUDITED | change)
    assert main(["report", str(run), "--format", "html", "--audit", str(other)]) == 1
    error = capsys.readouterr().err
    assert "is of another defence than any system of" in error and named in error


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", ["[", "5", "[5]", '[["check"]]', '[[["a", "b"], ["c"]]]', "[[]]", "[" * 100_000])
def test_an_audit_that_is_none_is_refused_or_left_out(content, run, tmp_path, capsys):
    (run / "audit/audit.json").write_text(content)
    assert "Audit" not in Page(as_html(make_report([run]))).texts["h2"]
    assert main(["report", str(run), "--format", "html", "--audit", str(run / "audit")]) == 1
    assert "audit.json is damaged; remove it, and run the audit again" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_an_audit_is_asked_for_where_it_belongs(run, tmp_path, capsys):
    other = run / "audit"
    assert main(["report", str(run), "--format", "html", "--audit", str(tmp_path)]) == 1
    assert "no audit in" in capsys.readouterr().err
    assert main(["report", str(run), "--audit", str(other)]) == 1
    assert "an audit is shown by --format html" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "manifest",
    ["{", '{"manifest_format": 3, "weights": "cd"}', '{"manifest_format": 3, "weights": "ab", "defense": 5}'],
)
def test_what_is_damaged_or_foreign_in_the_folder_is_left_out(run, manifest, capsys):
    (run / "audit/manifest.json").write_text(manifest)
    (run / "cost.json").write_text(json.dumps(json.loads((run / "cost.json").read_text()) | {"seconds": "many"}))
    page = Page(as_html(make_report([run])))
    assert "Audit" not in page.texts["h2"] and "worst case" in page.texts["th"]
    assert "there is no cost of a purification in the page" in capsys.readouterr().err


def test_the_verb_writes_one_file_and_prints_no_page(run, capsys, tmp_path):
    assert main(["report", str(run), "--format", "html"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and f"wrote {run / 'report.html'}" in told.err
    assert (run / "report.html").read_text() == as_html(make_report([run]))
    other = shutil.copytree(run, tmp_path / "copy")
    assert main(["report", str(run), str(other), "--format", "html"]) == 1
    assert "where should report.html of 2 runs go? Say --output DIR" in capsys.readouterr().err
    assert main(["report", str(run), str(other), "--format", "html", "--output", str(tmp_path / "both")]) == 0
    page = Page((tmp_path / "both/report.html").read_text())
    assert "Paired comparison" in page.texts["h2"] and {"run", "copy"} <= {*page.texts["h3"]}


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_in_a_browser_the_page_fits_its_width(run, tmp_path, width, scheme):
    """The browser itself says how wide a copy is, in a frame, by a script that the page as it is would forbid."""
    text = as_html(make_report([run])).replace("default-src 'none'", "script-src 'unsafe-inline'")
    measure = """<script>addEventListener("load", () => {
        const page = document.documentElement, loaded = [...document.images].every(image => image.naturalWidth > 0)
        const colour = getComputedStyle(document.body).backgroundColor
        parent.postMessage([page.scrollWidth, innerWidth, colour, loaded].join("|"), "*")
    })</script>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{measure}</body>"))
    (tmp_path / "frame.html").write_text(
        "<!doctype html><html style='color-scheme: light dark'><title></title>"
        "<script>addEventListener('message', told => { document.title = told.data })</script>"
        f"<iframe src='page.html' width='{width}' height='800' style='border: 0'></iframe></html>"
    )
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--dump-dom",
        f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path / 'profile'}",
        f"file://{tmp_path / 'frame.html'}",
    ]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    wide, window, background, loaded = re.search(r"<title>(.*?)</title>", told)[1].split("|")
    assert int(wide) <= int(window) == width and loaded == "true"
    assert background == ("rgb(20, 24, 28)" if scheme == 0 else "rgb(255, 255, 255)")
