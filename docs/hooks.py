"""Pages of the site that no file of docs/ is as it stands: README.md and its neighbours, and the notebooks.

Links between them are as the site has them. A notebook is shown as it is stored, nothing is executed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

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
LINK = re.compile(r"(?:(?<=\]\()|(?<=\]: )(?=\.\./))([^):#\n]+)")  # [text](address), and [name]: ../address


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, source in BESIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        page = as_markdown(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository, as links between pages: docs/ is the root of the site."""
    place = page.file.src_uri
    if place.startswith("notebooks/"):  # written with links of the site
        return markdown
    return LINK.sub(lambda link: moved(link[1], place in BESIDE), markdown)


def moved(link: str, beside: bool) -> str:
    """A link, of a page beside docs/ or of one in it, without the folder that the site does not have."""
    link = re.sub(r"^((?:\.\./)*)docs/", r"\1", link) if beside else link.removeprefix("../")
    return link.replace(".ipynb", ".md")


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """A page of the cells of a notebook and what they left, below its title a link to the notebook itself."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(LINK.sub(lambda link: link[1].replace(".ipynb", ".md"), source))
        else:
            parts += [f"```python\n{source}\n```", *map(shown, cell["outputs"])]
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, f"[This page as a notebook](<{name}>)", rest, *parts[1:]])


def shown(output: dict[str, Any]) -> str:
    """An output of a cell: a picture, a table as it is, or text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f'<img alt="what the cell above draws" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return f"<div>{''.join(data['text/html'])}</div>"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
