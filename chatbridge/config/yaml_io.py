"""Read and write YAML: 1e-4 is a number, duplicate keys are errors, and the line of every key is recorded."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.file_kind import head_of, other_kind
from chatbridge.common.safe_files import replace_text
from chatbridge.config.origins import MISSING, Origin, join

FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
TIMESTAMP = "tag:yaml.org,2002:timestamp"
MOST_VALUES = 100_000  # in a document with its aliases expanded; far above any real configuration
BASE_60 = re.compile(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$")  # 1:30 is 90 in YAML 1.1
CARD = re.compile(r"\bCard:\s+(?:#\s*)?(\S+)")  # in the comment at the top of a file, also on its next line
OCTAL = re.compile(r"^[-+]?0[0-9_]+$")  # 010 is 8 in YAML 1.1 and 10 in YAML 1.2


class YamlLoader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a float (YAML 1.1 requires 1.0e-4), dates stay text and {weights: ???} is valid.

    PyYAML reads any "?" inside braces as the start of a key, so `???` is recognised first.
    """

    def check_key(self) -> bool:
        return not self._is_missing_value() and super().check_key()

    def check_plain(self) -> bool:
        return self._is_missing_value() or super().check_plain()

    def scan_plain(self) -> yaml.Token:
        if not self._is_missing_value():
            return super().scan_plain()
        start = self.get_mark()
        self.forward(len(MISSING))
        return yaml.ScalarToken(MISSING, True, start, self.get_mark())

    def _is_missing_value(self) -> bool:
        following = self.peek(len(MISSING)) if self.prefix(len(MISSING)) == MISSING else ""
        return bool(self.flow_level) and following != "" and following in " \t\r\n,]}\0"


class YamlDumper(yaml.SafeDumper):
    """Quotes exactly those scalars that `YamlLoader` would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


YamlDumper.add_multi_representer(str, lambda dumper, text: dumper.represent_str(str(text)))  # Reference is a str

for _class in (YamlLoader, YamlDumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in _class.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


class Document(NamedTuple):
    """One YAML document: its data, the origin of each path, and problems that do not hide the rest (duplicate keys)."""

    data: Any
    entries: dict[str, Origin]
    problems: list[Problem]


def parse_yaml(text: str, file: str) -> Document:
    """Parse one document; `file` names it in origins and problems. Raises ConfigError for invalid syntax."""
    try:
        loader = YamlLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {}, [])
        if _num_values(node, {}) > MOST_VALUES:
            message = f"expands to more than {MOST_VALUES:,} values once aliases (*name) are replaced"
            raise ConfigError([Problem("", message, file=file, hint="write the values out instead of nesting aliases")])
        walk = _Walk(loader, text.splitlines(), file)
        walk.entries[""] = walk.origin(node, node)
        walk.visit(node, "", ())
        return Document(None if walk.is_unusable else loader.construct_document(node), walk.entries, walk.problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([_unreadable(what, file, mark.line + 1 if mark else None)]) from None
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError([_unreadable("nested too deeply", file, None)]) from None
    except (yaml.YAMLError, ValueError) as error:  # characters that YAML does not allow, impossible numbers
        raise ConfigError([_unreadable(str(error).splitlines()[0], file, None)]) from None


def _unreadable(what: str, file: str, line: int | None) -> Problem:
    hint = "YAML indents with spaces; replace the tab" if "'\\t'" in what else None
    if "mapping values are not allowed" in what:
        hint = "check the indentation, and quote text that contains ': '"
    return Problem("", f"is not valid YAML: {what}", file=file, line=line, hint=hint)


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with its aliases expanded; counts are cached per node."""
    if id(node) not in known:
        known[id(node)] = 0  # for a node inside itself, which the walk reports
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [one for pair in inner for one in pair] if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_num_values(one, known) for one in flat)
    return known[id(node)]


def ambiguous(text: str) -> str | None:
    """Describe an unquoted scalar that YAML 1.1 reads as a different number than written; None for others."""
    if BASE_60.match(text):
        return f"{text} is a base-60 number in YAML 1.1"
    if OCTAL.match(text):
        return f"{text} is an octal number in YAML 1.1 and a decimal number in YAML 1.2"
    return None


class _Walk:
    """Visits every node once and records lines, comments and duplicate keys."""

    def __init__(self, loader: YamlLoader, lines: list[str], file: str):
        self.loader, self.lines, self.file = loader, lines, file
        self.entries: dict[str, Origin] = {}
        self.problems: list[Problem] = []
        self.is_unusable = False
        top = " ".join(takewhile(lambda line: line.startswith("#"), lines))
        self.card = found.group(1) if (found := CARD.search(top)) else None

    def visit(self, node: yaml.Node, path: str, open_nodes: tuple[yaml.Node, ...]) -> None:
        if any(node is above for above in open_nodes):
            line = node.start_mark.line + 1
            self.problems.append(Problem(path, "contains itself (circular YAML alias)", self.file, line=line))
            self.is_unusable = True
        elif isinstance(node, yaml.ScalarNode):
            self._refuse_ambiguous(node, path)
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path, (*open_nodes, node))
        elif isinstance(node, yaml.SequenceNode):
            for at, item in enumerate(node.value):
                inner = join(path, at)
                self.entries[inner] = self.origin(item, item)
                self.visit(item, inner, (*open_nodes, node))

    def _visit_mapping(self, node: yaml.MappingNode, path: str, open_nodes: tuple[yaml.Node, ...]) -> None:
        seen: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            key, line = self.loader.construct_object(key_node), key_node.start_mark.line + 1
            inner = join(path, key)
            if not isinstance(key, (str, int, float)):
                message = "is not a valid key; write text before the colon"
                self.problems.append(Problem(join(path, key_node.value), message, self.file, line=line))
                self.is_unusable = True
            if key in seen:
                message = f"is defined twice (first on line {seen[key]}); YAML would silently keep the last value"
                self.problems.append(Problem(inner, message, self.file, line=line, hint="remove one of them"))
            seen[key] = line
            self._refuse_ambiguous(key_node, inner)
            self.entries[inner] = self.origin(key_node, value_node)
            self.visit(value_node, inner, open_nodes)

    def _refuse_ambiguous(self, node: yaml.ScalarNode, path: str) -> None:
        is_number = node.tag.endswith((":int", ":float"))
        if not (is_number and _is_plain(node)) or (fault := ambiguous(node.value)) is None:
            return
        number = f", or write the intended number, such as {int(node.value)}" if OCTAL.match(node.value) else ""
        hint = f'for text, put it in quotes: "{node.value}"{number}'
        self.problems.append(Problem(path, fault, self.file, line=node.start_mark.line + 1, hint=hint))

    def origin(self, place: yaml.Node, value: yaml.Node) -> Origin:
        comment = self._comment_after(value) if isinstance(value, yaml.ScalarNode) else None
        written = value.value if _is_plain(value) else None
        key = place.value if place is not value and _is_plain(place) and not place.tag.endswith(":str") else None
        return Origin(self.file, place.start_mark.line + 1, comment, written, key, self.card)

    def _comment_after(self, value: yaml.ScalarNode) -> str | None:
        """Return the comment at the end of the line. Behind other keys of the line it belongs to a ??? alone."""
        lines, end = self.lines, value.end_mark
        if value.style in ("|", ">"):  # ends where the next line starts
            return None
        rest = lines[end.line][end.column :] if end.line < len(lines) else ""
        found = re.search(r"(?:^|\s)#\s*(.*\S)", rest)
        is_next = found is not None and not rest[: found.start()].strip(" ,}]")
        return found.group(1) if found and (is_next or value.value == MISSING) else None


def _is_plain(node: yaml.Node) -> bool:
    """Return whether the node is an unquoted scalar, whose type YAML infers."""
    return isinstance(node, yaml.ScalarNode) and node.style is None


def read_yaml(path: Path, shown: str) -> Document:
    """Parse a file that `shown` names in messages. Raises ConfigError also if the file cannot be read."""
    try:
        head = head_of(path)
        if head and (what := other_kind(head, path)) is not None:
            raise ConfigError([Problem("", what, file=shown)])
        return parse_yaml(path.read_text(encoding="utf-8-sig"), shown)
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"is not UTF-8 text (byte {error.start})", file=shown)]) from None
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", file=shown)]) from None


def write_yaml(data: Any, path: Path) -> None:
    """Write plain data; `read_yaml` returns the same data."""
    text = yaml.dump(data, Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=110)
    replace_text(path, text)
