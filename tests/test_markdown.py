"""Tables in Markdown are aligned, and hold what cells hold."""

from lit_pursamere.markdown import markdown_table


def test_cells_stand_below_each_other_and_bars_are_escaped():
    table = markdown_table(["name", "n"], [["a|b", 1], ["c", 234]])
    assert table == "| name | n   |\n|------|-----|\n| a\\|b | 1   |\n| c    | 234 |\n"


def test_a_table_without_rows_is_its_head():
    assert markdown_table(["a"], []) == "| a |\n|---|\n"
