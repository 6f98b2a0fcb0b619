"""`lit-pursamere completion`: what makes a shell complete commands.

The script that a shell reads once asks this module at every tab, so that what is completed is what is installed:
verbs, their options, the names of configurations, parts and weights. What has none of these is a file, which the shell
knows best. Nothing heavy is imported.
"""

from __future__ import annotations

import shlex

from lit_pursamere.cli.suggesting import suggestions

__all__ = ["SCRIPTS", "completion"]

SCRIPTS = {
    "bash": """\
_lit_pursamere() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" completion bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o bashdefault -o default -F _lit_pursamere lit-pursamere
""",
    "zsh": """\
#compdef lit-pursamere
_lit_pursamere() {
    local -a found
    found=("${(@f)$("${words[1]}" completion zsh "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if (( ${#found[1]} )); then compadd -Q -- "${found[@]}"; else _files; fi
}
compdef _lit_pursamere lit-pursamere
""",
    "fish": """\
function __lit_pursamere
    set -l found (lit-pursamere completion fish (commandline -cp | string collect) 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c lit-pursamere -f -a '(__lit_pursamere)'
""",
}
BREAKS = "=:"  # bash completes only what stands behind the last of these


def completion(*options: str) -> None:
    """Print what makes a shell complete verbs, options, and the names of configurations, parts and weights.

    Args:
        options: bash, zsh or fish; and, as the script asks for it, a line up to the cursor.

    Raises:
        ValueError: If it is none of these shells.
    """
    shell, line = (*options, "", "")[:2]
    if shell not in SCRIPTS or len(options) > 2:
        raise ValueError(f"completion needs one of {', '.join(SCRIPTS)}; got {shlex.join(options) or 'nothing'}")
    if len(options) == 1:
        print(SCRIPTS[shell], end="")
        return
    words = words_of(line)
    found = suggestions(words[1:-1], words[-1])
    given = max(words[-1].rfind(sign) for sign in BREAKS) + 1 if shell == "bash" else 0
    print("".join(f"{word[given:]}\n" for word in found), end="")


def words_of(line: str) -> list[str]:
    """The words of a line that is being typed; the last is the one at the cursor, perhaps empty."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return words + [""] * (not closing and not line[-1:].strip())
    return line.split()
