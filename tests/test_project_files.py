"""Files for people and services around the package agree with it."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

import lit_pursamere

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version():
    citation = load("CITATION.cff")
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    assert citation["version"] == lit_pursamere.__version__ and citation["license"] == "MIT"


def test_every_page_is_in_the_menu_of_the_site_and_every_entry_is_a_page():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(load("mkdocs.yml")["nav"])
    assert len(listed) == len({*listed})
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {*listed}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    assert notebooks <= {*listed}
    pages_there = {page for page in listed if (ROOT / "docs" / page).exists() or (ROOT / page).exists()} | notebooks
    lost = [page for page in listed if page not in pages_there]
    assert lost == ["index.md"]  # README.md


def test_every_purifier_and_attack_has_a_paper_or_is_told_to_have_none():
    told = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    ours = {"Attack", "IterativeAttack", "Outcome", "Purifier", "Trajectory", "Identity"}  # bases, values, no defence
    ours |= {"RandomSearch", "Restarts", "SaltAndPepper", "WorstCase", "Wrapped"}  # brute force, and made of others
    names = {*lit_pursamere.PURIFIERS, *lit_pursamere.ATTACKS} - ours
    assert sorted(name for name in names if f"`{name}`" not in told) == []


def test_hosted_checks_are_those_of_the_script():
    steps = [step.get("run") for job in load(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_for_issues_have_what_they_need(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem != "config":
        assert {"name", "description", "body"} <= content.keys()
        assert all(field["type"] and field["attributes"]["label"] for field in content["body"])


def test_the_image_has_the_sources_of_the_package():
    copied = " ".join(re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)).split()
    assert {"lit_pursamere", "configs", "checkpoints", "setup.py", "setup.cfg", "pyproject.toml"} <= {*copied}
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert {*copied} == {*allowed}
    assert all((ROOT / name).exists() for name in copied)


def test_environment_and_image_take_a_python_and_extras_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tested = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    *packages, last = load("environment.yml")["dependencies"]
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert (
        packages[0].removeprefix("python=") in tested and re.search(r"^FROM python:(3\.\d+)", image, re.M)[1] in tested
    )
    extras = [re.search(r"\.\[(\w+)\]", text)[1] for text in (last["pip"][0], image)]
    assert {*extras} <= {*setup["options.extras_require"]}
