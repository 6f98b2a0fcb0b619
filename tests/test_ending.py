"""The last line of a command is one line, whatever others called their files."""

from lit_pursamere.ending import command, ending


def test_made_headline_and_next_command():
    line = ending("2 runs in runs/a", "worst case 40.0 %", command("report", "my runs/a"))
    assert line == "2 runs in runs/a; worst case 40.0 %; next: lit-pursamere report 'my runs/a'"
    assert ending("done") == "done"


def test_names_of_others_stay_names():
    assert ending("in a\x1b[2Jb\nc") == r"in a\x1b[2Jb\nc"
