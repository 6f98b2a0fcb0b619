"""Names from somebody else's files stay names on terminals, in Markdown, tables, LaTeX and figures."""

from __future__ import annotations

import pytest

from lit_pursamere.names import shown

PLACES = ["terminal", "markdown", "html", "csv", "latex", "figure"]
EVIL = "\x1b]0;title\x07\x1b[31m\u202e\u2028\n<img src=x onerror=alert(1)>[a](http://b)"


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_hidden(place):
    text = shown(EVIL, place)
    assert text.isprintable() and "title" in text and "x1b" in text and "202e" in text


@pytest.mark.parametrize("place", ["terminal", "markdown", "csv"])
@pytest.mark.parametrize("text", ["PurSAMERE(rho_pur=3)", "APGD-ce (8/255)", "2 < 3", "naïve → 猫", "-0.5", "1e-3", ""])
def test_ordinary_text_is_as_it_is(text, place):
    assert shown(text, place) == text


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("<b>|", "markdown", r"\<b>\|"),
        (r"\<b>", "markdown", r"\\\<b>"),
        ("![a](b)", "markdown", r"![a]\(b)"),
        ("[a]: b", "markdown", r"[a]\: b"),
        ("<b a='1' c=\"2\">&", "html", "&lt;b a=&#x27;1&#x27; c=&quot;2&quot;&gt;&amp;"),
        ("=1+1", "csv", "'=1+1"),
        (" @x", "csv", "' @x"),
        ("+x", "csv", "'+x"),
        ("-2", "csv", "-2"),
        ("a_b$", "latex", r"a\_b\$"),
        ("$x$", "figure", r"\$x\$"),
    ],
)
def test_what_would_act_is_escaped(text, place, expected):
    assert shown(text, place) == expected
