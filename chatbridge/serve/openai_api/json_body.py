"""The JSON of a request, read strictly: what Python's reader tolerates or guesses is refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from chatbridge.serve.openai_api.api_errors import ApiError


def json_object(body: bytes) -> dict[str, Any]:
    """The mapping in a request's body.

    raises   ApiError 400 for text that is not JSON, a key given twice, NaN, nesting that is too deep, or another value
    """
    if not body.strip():
        raise _invalid("the body is empty; send a JSON object with model and messages")
    try:
        found = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not text in UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"the body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise _invalid(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _invalid(f"the body must be a JSON object, got {shown(found)}")
    return found


def shown(value: Any, most: int = 60) -> str:
    """A value in a message, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value[: most + 1] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _invalid(f"the key {shown(twice)} is given twice in one object; which one counts is not defined")
    return found


def _refuse_constant(name: str) -> Any:
    raise _invalid(f"{name} is not JSON; leave the parameter out, or give a number")


__all__ = ["json_object", "shown"]
