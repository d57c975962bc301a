"""README.md, docs/ and the other pages: links, anchors, and the files, tests and modules that they name."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

import chatbridge
from chatbridge.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
SITE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")]
SITE += sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*SITE, *sorted((ROOT / "dataset_prep/cards").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
MODULE = re.compile(r"(?:chatbridge|dataset_prep|tests)(?:\.\w+)+")
TOP = {path.name for path in ROOT.iterdir()} - {"data", "runs", "weights", "build", "site"}  # those are written by runs
INNER = {path.name for path in (ROOT / "chatbridge").iterdir() if path.is_dir()}  # `conversation/layout.py` is enough
GONE = {
    "chatbridge.data",
    "chatbridge.weights",
    "dataset_prep.torture",
    "dataset_prep.extract_sound",
}  # the changelog names them


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by the rule of GitHub, which the site follows too (`slugify` in mkdocs.yml)."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return {slug if not k else f"{slug}-{k}" for slug, count in found.items() for k in range(count)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    """fails when a relative link names a file or a heading that does not exist"""
    for link, anchor in LINK.findall(prose(page)):
        target = (page.parent / link).resolve() if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}; {sorted(anchors(target))}"


def test_anchors_follow_the_rule_of_github(tmp_path: Path):
    """fails when punctuation, links or repeated headings give anchors that GitHub does not have"""
    page = tmp_path / "page.md"
    page.write_text('# A & B, "c"\n```\n# no heading\n```\n## [Run](x.md) `me`: now\n## Again\n## Again\n')
    assert anchors(page) == {"a--b-c", "run-me-now", "again", "again-1"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_in_backticks_exist(page: Path):
    """fails when a page names a file or folder of the repository that was moved or renamed"""
    missing = []
    for code in CODE.findall(prose(page)):
        first = code.split("/")[0]
        if not PATH.fullmatch(code) or ("/" not in code and code not in TOP):
            continue
        roots = [ROOT] * (first in TOP) + [ROOT / "chatbridge"] * (first in INNER)
        if roots and not any((root / code).exists() for root in roots):
            missing.append(code)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page: Path):
    """fails when a page names a test that was renamed"""
    for path, test in TEST.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return bool(module) and resolves(module) and hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_modules_in_backticks_exist(page: Path):
    """fails when a page names a module, class or function of the repository that does not exist"""
    names = {code.split(" ")[0] for code in CODE.findall(prose(page))}
    names |= set(re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert [name for name in sorted(names - GONE) if MODULE.fullmatch(name) and not resolves(name)] == []


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_commands_in_backticks_exist(page: Path):
    """fails when the text of a page names a command of `chatbridge` or a module to run that does not exist"""
    codes = CODE.findall(prose(page))
    commands = {found[1] for code in codes if (found := re.match(r"(?:python -m )?chatbridge (\w+)", code))}
    modules = {
        found[1]
        for code in codes
        if (found := re.match(r"python -m ((?:chatbridge|dataset_prep|tests)[\w.]*)(?= |$)", code))
    }
    assert commands <= COMMANDS.keys()
    assert [name for name in sorted(modules - GONE) if not resolves(name)] == []


def test_the_readme_is_short():
    """fails when README.md grows beyond 200 lines; the details belong to docs/"""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose slugify is a tag for a Python function."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def pages_of(node: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(node, str):
        return [node]
    return [page for inner in (node.values() if isinstance(node, dict) else node) for page in pages_of(inner)]


def test_every_page_is_in_the_navigation():
    """fails when a page is written that no reader of the site finds, or the navigation names one that is gone"""
    nav = pages_of(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])
    assert sorted(nav) == sorted(name_of(page) for page in SITE)


def test_the_readme_leads_to_every_page():
    """fails when README.md does not link a page of docs/ (the API pages are reached from those)"""
    linked = {link for link, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {name_of(page) for page in SITE if "api" not in page.parts} - {"README.md"} <= linked


def test_the_parity_page_counts_its_cases():
    """fails when a recorded case is added or removed and the page has another number"""
    cases = list((ROOT / "tests/parity/reference/golden").glob("*.json"))
    assert f"All {len(cases)} cases" in (ROOT / "docs/parity.md").read_text(encoding="utf-8")


def test_the_changelog_has_this_version():
    """fails when the version of the package has no section in the changelog"""
    titles = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert titles[1] == "Unreleased" or titles[1].startswith(chatbridge.__version__)
    assert any(title.startswith(chatbridge.__version__) for title in titles)


def test_the_folders_of_the_design_page_exist():
    """fails when a folder of the package is missing in the design page's tree, or the tree names one that is gone"""
    block = (ROOT / "docs/design.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    named = {match[1] for match in re.finditer(r"^  (\w+)/", block, re.MULTILINE)}
    assert named == INNER - {"__pycache__"}
    for parent, inner in re.findall(r"^  (\w+)/.*\n((?:    \w+/.*\n)+)", block, re.MULTILINE):
        for name in re.findall(r"^    (\w+)/", inner, re.MULTILINE):
            assert (ROOT / "chatbridge" / parent / name).is_dir(), f"{parent}/{name}"


def test_api_pages_keep_the_columns_of_docstrings():
    """fails when aligned lines of a docstring are joined, or `<image>` in it is taken for HTML"""
    pytest.importorskip("griffe", reason="the extra docs is not installed")
    as_markdown = runpy.run_path(str(ROOT / "docs/api/aligned_docstrings.py"))["as_markdown"]
    docstring = "The <image> of `<b>`.\n\nx        float[M, N, W]   features\nreturns  int\n\nIt is plain."
    assert as_markdown(docstring) == (
        "The &lt;image> of `<b>`.\n\n```text\nx        float[M, N, W]   features\nreturns  int\n```\n\nIt is plain."
    )


def test_the_workflow_runs_the_checks_of_this_repository():
    """fails when the workflow is not YAML, or stops calling .ci/run"""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    runs = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert runs == {".ci/run", "make test"} and "secrets" not in text
