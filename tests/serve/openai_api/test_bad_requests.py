"""Requests that cannot be answered: each has its status, its parameter and what is accepted."""

from __future__ import annotations

import base64
import json
import shutil
import time
from contextlib import suppress
from typing import Any

import pytest

from chatbridge.models.language import GenerateOptions
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.openai_api.api_errors import ApiError, json_bytes
from chatbridge.serve.openai_api.chat_request import chat_request
from chatbridge.serve.openai_api.json_body import json_object
from chatbridge.serve.openai_api.settings import ServerSettings
from tests.helpers.api_server import MODEL, InProcess, data_url, question
from tests.helpers.scripted_backend import ScriptedBackend

USER = {"role": "user", "content": "what color is it ?"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def api(chat_engine) -> InProcess:
    return InProcess(chat_engine)


def error(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"max_new_tokens": 3}, "max_new_tokens", "did you mean max_completion_tokens?"),
        ({"max_tokens": 0}, "max_tokens", "expected a whole number of at least 1, got 0"),
        ({"max_tokens": "5"}, "max_tokens", 'got "5"'),
        ({"max_tokens": 2.5}, "max_tokens", "got 2.5"),
        ({"max_tokens": True}, "max_tokens", "got true"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differs from max_completion_tokens"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "above max_completion_tokens"),
        ({"temperature": -1}, "temperature", "expected a number from 0 to 100"),
        ({"temperature": 0.001}, "temperature", "0.01"),
        ({"top_p": 1.5}, "top_p", "expected a number from 0 to 1"),
        ({"n": 9}, "n", "more than the 8"),
        ({"seed": 2**64}, "seed", "64 bits"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": ""}, "stop", "1 to 1000 characters"),
        ({"top_logprobs": 3}, "top_logprobs", "set logprobs to true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "include_usage"),
        ({"length_penalty": 2.0}, "length_penalty", "num_beams above 1"),
        ({"num_beams": 65}, "num_beams", "from 1 to 64"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "use repetition_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"model": None}, "model", "is missing"),
        ({"model": 5}, "model", "expected a string"),
        ({"messages": None}, "messages", "is missing"),
        ({"messages": "hi"}, "messages", "expected a list of messages"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": ["hi"]}, "messages.0", "an object with role and content"),
        ({"messages": [USER] * 1001}, "messages", "more than the 1000"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "system, user, assistant, developer"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role", "no tools"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "a list of parts, got null"),
        ({"messages": [{"role": "user", "content": "a", "contents": "b"}]}, "messages.0.contents", "mean content?"),
        ({"messages": [{"role": "user", "content": [{"type": "img_url"}]}]}, "messages.0.content.0.type", "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text", "a string"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_parameter(change, param, words):
    """Fails when a mistake is not noticed, or its message does not help."""
    found = {"model": MODEL, "messages": [USER], **change}
    with pytest.raises(ApiError) as caught:
        chat_request(json_object(json.dumps(found).encode()), ServerSettings(), GenerateOptions(), (MODEL,))
    assert (caught.value.status, caught.value.param) == (400, param) and words in caught.value.message


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "the question is empty"),
        ({"messages": [USER, {"role": "assistant", "content": "red"}]}, "messages", "no question"),
        ({"messages": [question("a", image="cat.jpg")]}, "messages.0.content.0", "data:image/png;base64"),
        ({"messages": [question("a", image="file:///etc/passwd")]}, "messages.0.content.0", ""),
        ({"messages": [question("a", image="http://169.254.169.254/")]}, "messages.0.content.0", "--allow-remote"),
        ({"messages": [question("a", image="data:image/png;base64,!!")]}, "messages.0.content.0", "base64"),
        ({"messages": [question("a", depth="data:image/png;base64,AAAA")]}, "messages.0.content.0", "depth"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_answered_names_its_place(api, change, param, words):
    """Fails when a mistake is not noticed, ends in a 500, or its message does not help."""
    response = api.request("POST", CHAT, json={"model": MODEL, **change})
    problem = error(response, response.status_code)
    assert 400 <= response.status_code < 500 and problem["param"] == param
    assert words in problem["message"] and problem["type"] in ("invalid_request_error", "permission_error")


def test_all_mistakes_are_reported_at_once(api):
    """Fails when a client has to correct its request step by step."""
    message = error(api.chat({"role": "robot"}, top_p="a", n=0, seeds=1), 400)["message"]
    assert "4 problems" in message and all(name in message for name in ("messages.0.role", "top_p", "n:", "seeds"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"model": "a", "model": "b"}', "given twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"\\ud800": 1}', "is not a parameter"),
        (b'{"temperature": 1e999}', "expected a number"),
    ],
)
def test_a_body_that_is_not_a_request(body, words):
    """Fails when bytes of a client end in another error than the refusal."""
    with pytest.raises(ApiError) as caught:
        chat_request(json_object(body), ServerSettings(), GenerateOptions(), (MODEL,))
    assert caught.value.status == 400 and words in caught.value.message
    assert json_bytes(caught.value.content)


def test_a_key_given_twice_among_many_is_found_at_once():
    """fails when the search takes the square of the keys: minutes for a body of a few megabytes"""
    keys = ",".join(f'"k{at}":1' for at in range(20_000))

    def seconds(body: str) -> float:
        begun = time.perf_counter()
        with suppress(ApiError):
            json_object(body.encode())
        return time.perf_counter() - begun

    assert seconds(f'{{{keys},"k19999":2}}') < 20 * seconds(f"{{{keys}}}")
    with pytest.raises(ApiError, match='"k19999" is given twice'):
        json_object(f'{{{keys},"k19999":2}}'.encode())


def test_an_answer_to_thousands_of_mistakes_is_short(api):
    """fails when a client is sent a message for each of them, and a name near to each is looked for"""
    found = error(api.chat(USER, **{f"temprature_{at}": 1 for at in range(5000)}), 400)
    assert "5000 problems" in found["message"] and "and 4950 more" in found["message"]
    assert len(found["message"]) < 30_000


def test_the_type_of_the_body_is_checked(api):
    """Fails when a web page may send a request without asking the server first (CORS)."""
    found = error(api.request("POST", CHAT, content=b"{}", headers={"content-type": "text/plain"}), 415)
    assert "application/json" in found["message"]


def test_media_that_cannot_be_read(api, chat_world):
    """Fails when a damaged file, text for an image, or noise for audio is answered, or ends the server."""
    for name in ("truncated", "words"):
        found = error(api.chat(question("a", image=data_url(chat_world.files[name]))), 400)
        assert found["param"] == "messages.0.content.0" and found["code"] == "invalid_media"
    image = base64.b64encode(chat_world.files["image"].read_bytes()).decode()
    disguised = question("a", video=f"data:application/octet-stream;base64,{image}")
    assert "content is image, not video" in error(api.chat(disguised), 415)["message"]
    audio = {"data": base64.b64encode(b"RIFF" + bytes(100)).decode(), "format": "wav"}
    content = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": "a"}]
    assert error(api.chat({"role": "user", "content": content}), 400)["param"] == "messages.0.content.0"
    assert api.chat(max_tokens=2).status_code == 200


def test_other_models_and_paths(api):
    """Fails when a wrong name or path is answered with another shape than OpenAI's, or without the nearest."""
    assert "did you mean tiny?" in error(api.chat(model="tinyy"), 404)["message"]
    assert error(api.get("/v1/models/none"), 404)["code"] == "model_not_found"
    assert f"did you mean {CHAT}?" in error(api.request("POST", "/v1/chat/completion"), 404)["message"]
    assert "POST" in error(api.get(CHAT), 405)["message"]


def test_values_that_ask_for_nothing_are_accepted(api):
    """Fails when clients that send OpenAI's defaults are refused."""
    extra = {"frequency_penalty": 0, "presence_penalty": 0.0, "tools": None, "user": "me", "logit_bias": {}, "n": 1}
    more = {"top_p": 1, "response_format": {"type": "text"}, "stop": None, "store": False, "metadata": {"a": "b"}}
    assert api.chat(**extra, **more, max_tokens=1).status_code == 200
    answered = {"role": "assistant", "content": "red", "refusal": None, "tool_calls": None, "audio": None}
    assert api.chat(USER, answered, {**USER, "name": ""}, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (Busy("8 requests wait", retry_s=3.4), 429, "rate_limit_exceeded"),
        (Unavailable("closed"), 503, "unavailable"),
        (Unavailable("no reply", 504), 504, "unavailable"),
        (MemoryError(), 503, "out_of_memory"),
        (ValueError("beams cannot draw"), 400, "invalid_value"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model_have_their_status(raised, status, code, stream):
    """Fails when a client cannot tell its own mistake from a busy or broken server, or sees internals."""
    found = error(InProcess(ScriptedBackend(at_once=raised)).chat(stream=stream), status)
    assert found["code"] == code and "secret" not in found["message"]


def test_an_error_within_a_stream_is_an_event():
    """Fails when a stream that broke looks like a complete answer."""
    api = InProcess(ScriptedBackend(later=RuntimeError("lost"), pause_s=0.05))
    response = api.chat(stream=True)
    assert "[DONE]" not in response.text and "internal_error" in response.text
    assert error(api.chat(), 500)["code"] == "internal_error"


def test_files_of_the_server_below_its_folder_only(chat_engine, chat_world, tmp_path):
    """Fails when a file below --media-root cannot be asked about, or one beside it can be read."""
    (tmp_path / "media").mkdir()
    shutil.copy(chat_world.files["image"], tmp_path / "media" / "a.jpg")
    shutil.copy(chat_world.files["image"], tmp_path / "outside.jpg")
    (tmp_path / "media" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    api = InProcess(chat_engine, media_root=tmp_path / "media")
    root = f"file://{tmp_path}/media"
    assert api.chat(question("a", image=f"{root}/a.jpg"), max_tokens=1).status_code == 200
    for bad in ("../outside.jpg", "%2e%2e/outside.jpg", "link.jpg", "absent.jpg", "a.jpg/../../outside.jpg"):
        found = error(api.chat(question("a", image=f"{root}/{bad}")), 403 if "absent" not in bad else 404)
        assert found["param"] == "messages.0.content.0" and str(chat_world.folder) not in found["message"]
