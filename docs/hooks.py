"""Pages of the site beside docs/: README.md as the first one, and its neighbours, with links as the site has them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = {
    "index.md": "README.md",
    **{
        name: name
        for name in (
            "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff",
            "checkpoints/README.md", "benchmarks/README.md", "benchmarks/gpu/README.md",
        )
    },
}  # fmt: skip
LINK = re.compile(r"(?<=\]\()([^):#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, source in BESIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository, as links between pages: docs/ is the root of the site."""
    beside = page.file.src_uri in BESIDE
    return LINK.sub(lambda link: moved(link[1], beside), markdown)


def moved(link: str, beside: bool) -> str:
    """A link, of a page beside docs/ or of one in it, without the folder that the site does not have."""
    return re.sub(r"^((?:\.\./)*)docs/", r"\1", link) if beside else link.removeprefix("../")
