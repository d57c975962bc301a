"""The hash of source files."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

from chatbridge.common.source_digest import code_digest, source_digest, source_words


def test_only_differences_of_code_change_the_code(tmp_path):
    """fails when a comment or a docstring changes the hash, or a changed line, name or file does not"""
    code = b'"""Text."""\ndef f(x):\n    """More."""\n    return x + 1  # why\n'
    assert code_digest(code) == code_digest(b"def f(x):\n    # other\n    return (x + 1)\n")
    assert len({code_digest(code.replace(b"x + 1", one)) for one in (b"x + 2", b"x - 1", b"y + 1", b"x + 1.0")}) == 4
    assert code_digest(b"f(") != code_digest(b"f((")  # not this Python's code: its bytes
    tree = ast.parse('f"{x}"')
    as_in_other_versions = list(source_words(tree))
    tree.body[0].value.values.append(ast.Constant(""))  # type: ignore[attr-defined]  # as Python 3.12 reads it
    assert list(source_words(tree)) == as_in_other_versions
    (tmp_path / "a.py").write_bytes(code)
    before = digest_of_folder(tmp_path)
    (tmp_path / "a.py").write_bytes(code.replace(b"# why", b"# because"))
    assert digest_of_folder(tmp_path) == before
    (tmp_path / "a.py").write_bytes(code.replace(b"x + 1", b"x + 2"))
    changed_line = digest_of_folder(tmp_path)
    (tmp_path / "a.py").write_bytes(code)
    assert digest_of_folder(tmp_path) == before != changed_line
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert digest_of_folder(tmp_path) != before


def digest_of_folder(folder: Path) -> str:
    return source_digest.__wrapped__((folder,))  # other tests keep the digests that they know


def test_a_known_digest_is_not_computed_again(tmp_path, monkeypatch):
    """fails when the code is parsed each time, a damaged file of digests ends the evaluation, or a folder that cannot
    be written to does"""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "a.py").write_text("x = 1")
    first = digest_of_folder(tmp_path)
    kept = tmp_path / "__pycache__/source_digest.json"
    assert list(json.loads(kept.read_text()).values()) == [first]
    with monkeypatch.context() as without:
        without.setattr(ast, "parse", None)
        assert digest_of_folder(tmp_path) == first
    kept.write_text("{")
    assert digest_of_folder(tmp_path) == first
    kept.unlink()
    kept.mkdir()
    assert digest_of_folder(tmp_path) == first
