"""The receipts of evaluations on the page: the digest of each task, and whether its answers are still those of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.common.revision import revision_text
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.tables import note, section, table, table_row, task_title
from chatbridge.tasks.receipt import Receipt, changed_predictions, read_receipt

LEAD = """Equal receipts mean equal numbers, on any machine; equal answers were generated in the same way and may be
scored differently. <code>chatbridge compare</code> names the settings by which two receipts differ."""
KEPT, EDITED, NONE = "as evaluated", "changed since", "no digest: some settings are not known"


def receipt_section(runs: Runs) -> str:
    """HTML of the receipts of all tasks; "" if no evaluation has one."""
    notes: dict[Path, str] = {}
    receipts: dict[Path, Receipt] = {}
    for folder in dict.fromkeys(task.folder for task in runs.complete if task.folder is not None):
        try:
            found = read_receipt(folder)
        except DataError as error:
            notes[folder] = note(html.escape(f"the receipt is not used: {error}"))
            continue
        if found is not None:
            receipts[folder] = found
            notes[folder] = note(html.escape(_environment(found)))
    changed = {folder: changed_predictions(folder, one) for folder, one in receipts.items()}
    rows = [row for task in runs.complete if (row := _row(task, receipts, changed))]
    content = (table(("", "receipt", "answers", "predictions"), rows) if rows else "") + "".join(notes.values())
    return section("receipts", "Receipts", LEAD, content) if content else ""


def _row(task: TaskRun, receipts: Mapping[Path, Receipt], changed: Mapping[Path, list[str]]) -> str:
    """The line of a task; "" if its folder has no receipt of it."""
    receipt = None if task.folder is None else receipts.get(task.folder)
    if task.folder is None or receipt is None or task.name not in receipt.tasks:
        return ""
    one = receipt.tasks[task.name]
    is_edited = task.name in changed[task.folder]
    state = f'<td class="{"missed" if is_edited else "met"}">{EDITED if is_edited else KEPT}</td>'
    return table_row(task_title(task), (_code(one.digest), _code(one.answers), state))


def _code(digest: str | None) -> str:
    return f"<td><code>{digest}</code></td>" if digest else f"<td>{NONE}</td>"


def _environment(receipt: Receipt) -> str:
    """ChatBridge 0.1.0, commit 1a2b3c4d5e6f, on x86_64, 1 process; torch 2.11.0, ..."""
    found = receipt.environment
    versions = found.get("versions")
    listed = ", ".join(f"{name} {one}" for name, one in versions.items()) if isinstance(versions, dict) else ""
    count = found.get("processes", "?")
    processes = f"{count} process{'' if count == 1 else 'es'}"
    return f"ChatBridge {revision_text(dict(found))}, on {found.get('device', '?')}, {processes}; {listed}"
