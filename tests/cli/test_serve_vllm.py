"""`chatbridge serve --vllm-url`: mistakes are reported at once, and OpenAI's client gets the answers of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.cli import serve
from chatbridge.common.errors import ConfigError
from chatbridge.conversation.messages import user
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.vllm.backend import open_backend
from tests.helpers.exported_runs import ExportedRun

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")


def problems(*arguments: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        serve.main(list(arguments))
    return {one.path: str(one) for one in caught.value.problems}


def test_mistakes_are_reported_at_once(exported_run: ExportedRun, tmp_path: Path):
    """fails when a URL, a key file or a folder is looked at only after the others are right, or a flag is ignored"""
    front = str(exported_run.out / "front")
    found = problems("--vllm-url", "gpu1:8000", "--vllm-key-file", str(tmp_path / "no"), "--port", "99999",
                     "--cfg-path", "x.yaml")  # fmt: skip
    assert {"--vllm-url", "--vllm-key-file", "--port", "--cfg-path", "--checkpoint"} == set(found)
    assert "expected http://HOST:PORT" in found["--vllm-url"] and "export RUN --vllm DIR" in found["--checkpoint"]
    assert "is for a language model that runs in vLLM" in problems("--checkpoint", front)["--vllm-url"]
    given = ["--checkpoint", str(tmp_path), "--vllm-url", "http://gpu1:8000"]
    assert "has no chatbridge.json" in problems(*given)["--checkpoint"]
    found = problems("--checkpoint", front, "--vllm-key-file", str(tmp_path / "k"))
    assert "has no effect without --vllm-url" in found["--vllm-key-file"]
    odd = problems(
        "--checkpoint", front, "--vllm-url", "http://gpu1:8000", "--options", "evaluation.generation.beams=3"
    )
    assert "evaluation.generation.beams" in odd


def test_check_reads_no_weights(exported_run: ExportedRun, capsys: pytest.CaptureFixture[str]):
    """fails when --check needs a vLLM server, or cannot read the folder"""
    given = ["--checkpoint", str(exported_run.out), "--vllm-url", "http://127.0.0.1:9", "--check"]
    assert serve.main(given) == 0
    assert "image" in capsys.readouterr().out


@pytest.mark.slow
def test_the_official_client_gets_the_answers_of_the_run(exported_run: ExportedRun):
    """fails when an answer, a log-probability, a status or a count is lost between OpenAI's client and vLLM"""
    openai = pytest.importorskip("openai")
    from tests.helpers.api_server import data_url, question, running
    from tests.helpers.vllm_stub import Vllm, serving

    vllm, ours = Vllm(exported_run.out / "language_model"), exported_run.ours
    image = next((exported_run.world.folder / "images").iterdir())
    with serving(vllm) as url:
        engine = open_backend(exported_run.out, [url], ["run.device=cpu"])
        wanted = ours.answer(
            (user(*ours.attach(image).media, "what color is it ?"),), GenerateOptions(max_new_tokens=9)
        )
        with running(engine) as server:
            client = server.client()
            asked = {"model": "tiny", "messages": [question("what color is it ?", image=data_url(image))],
                     "max_tokens": 9, "temperature": 0}  # fmt: skip
            whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
            assert whole.choices[0].message.content == wanted.text
            assert len(whole.choices[0].logprobs.content) == wanted.num_tokens == whole.usage.completion_tokens
            pieces = [
                one.choices[0].delta.content or "" for one in client.chat.completions.create(**asked, stream=True)
            ]
            assert "".join(pieces) == wanted.text
            assert engine.stats()["tokens_total"]["answer"] == 2 * wanted.num_tokens
            again = client.chat.completions.create(**asked)
            assert again.usage.prompt_tokens_details.cached_tokens == 3 and engine.encoded.counts().hits == 2
            with pytest.raises(openai.BadRequestError, match="num_beams"):
                client.chat.completions.create(**asked, extra_body={"num_beams": 3})
            vllm.status = 400
            with pytest.raises(openai.APIStatusError) as raised:
                client.chat.completions.create(**asked)
            assert raised.value.status_code == 502
    engine.close()
