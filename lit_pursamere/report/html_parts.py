"""Pieces of a page: every text goes through `text`, so that names of strangers stay names."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence

from lit_pursamere.names import shown

__all__ = ["bullets", "code", "figure", "paragraph", "scrolling", "section", "table", "text"]

LONG = 28  # letters from which on a cell may be broken into lines
JUDGEMENTS = ("pass", "doubt", "fail")  # cells of an audit that are told by colour as well


def text(value: object) -> str:
    """A text that may stand between tags and in attributes."""
    return shown(value, "html")


def section(title: str, *parts: str) -> str:
    """Parts under a heading; nothing if all of them are empty."""
    inner = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{inner}\n</section>" if inner else ""


def paragraph(value: object, kind: str = "") -> str:
    """A paragraph of text."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def bullets(values: Iterable[object], kind: str = "") -> str:
    """A list of texts; empty if there are none."""
    items = "\n".join(f"<li>{text(value)}</li>" for value in values)
    return f'<ul class="{kind}">\n{items}\n</ul>' if items else ""


def scrolling(inner: str, name: str) -> str:
    """What may be wider than a phone, in a box of its own that scrolls, with the keyboard as well."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{text(name)}">\n{inner}\n</div>'


def table(
    head: Sequence[str], body: Iterable[Sequence[str]], caption: str, leading: int = 1, strong: str | None = None
) -> str:
    """A table with a caption; columns that scroll, and cells that say what they head.

    Args:
        head: Names of the columns.
        body: Rows of texts.
        caption: What it shows.
        leading: How many columns name a row.
        strong: Rows with a leading cell that begins with this stand out.
    """
    lines = ["<tr>" + "".join(f'<th scope="col">{text(name)}</th>' for name in head) + "</tr>"]
    before: Sequence[str] = ()
    for row in body:
        again = [k < leading - 1 and row[: k + 1] == before[: k + 1] for k in range(len(row))]
        cells = "".join(_cell(cell, k < leading, again[k]) for k, cell in enumerate(row))
        stands_out = strong is not None and any(cell.startswith(strong) for cell in row[:leading])
        lines.append(f'<tr class="strong">{cells}</tr>' if stands_out else f"<tr>{cells}</tr>")
        before = row
    parts = [
        "<table>",
        f"<caption><span>{text(caption)}</span></caption>",
        "<thead>",
        lines[0],
        "</thead>",
        "<tbody>",
        *lines[1:],
    ]
    inner = "\n".join([*parts, "</tbody>", "</table>"])
    return scrolling(inner, caption)


def _cell(value: str, names: bool, again: bool) -> str:
    kinds = [*(["long"] if len(value) > LONG else []), *(["again"] if again else [])]
    kinds += [value] if value in JUDGEMENTS and not names else []
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<th scope="row"{kind}>{text(value)}</th>' if names else f"<td{kind}>{text(value)}</td>"


def figure(content: bytes, kind: str, caption: str, told: str, style: str) -> str:
    """A picture within the page.

    Args:
        content: A file.
        kind: `svg+xml` or `png`.
        caption: What stands below.
        told: What is read aloud in its place.
        style: `plot`, whose white becomes dark in a dark page, or `picture`.
    """
    data = b64encode(content).decode()
    image = f'<img class="{style}" alt="{text(told)}" src="data:image/{kind};base64,{data}">'
    return f"<figure>\n{scrolling(image, caption)}\n<figcaption>{text(caption)}</figcaption>\n</figure>"


def code(content: str, title: str) -> str:
    """Lines of a file, folded away under a title; nothing if there are none."""
    lines = "\n".join(text(line) for line in content.splitlines())
    return f"<details>\n<summary>{text(title)}</summary>\n<pre>{lines}</pre>\n</details>" if lines else ""
