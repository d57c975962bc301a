"""Weights from files: strict, and in all public formats."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatbridge.config.schema import parse
from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders.beats import BEATs
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.loading import fill, load_component, load_weights, read_state, save_component
from chatbridge.models.trainable import set_trainable
from tests.helpers.models_from_golden import beats_of, eva_of, golden
from tests.helpers.tiny_models import AUDIO, LANGUAGE, PERCEIVER, VISION, batch, model_mapping, tiny_model

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def vision() -> EvaViT:
    return EvaViT(EvaViT.Config(**{key: value for key, value in VISION.items() if key != "name"}))


def beats(**more) -> BEATs:
    return BEATs(BEATs.Config(**{**{key: value for key, value in AUDIO.items() if key != "name"}, **more}))


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
def test_pickled_formats(tmp_path: Path, name: str, wrapper: str | None) -> None:
    """Fails when a released file's wrapper, or an entry next to the tensors, prevents loading."""
    content = {**TENSORS, "epoch": 3} if wrapper is None else {wrapper: TENSORS, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / name)
    state = read_state(tmp_path / name)
    assert state.keys() == TENSORS.keys() and torch.equal(state["a"], TENSORS["a"])


def test_old_pickles_and_safetensors(tmp_path: Path) -> None:
    """Fails when a file of torch before 1.6, or a safetensors file, cannot be read."""
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(TENSORS, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        assert torch.equal(read_state(tmp_path / name)["a"], TENSORS["a"])


class Bomb:
    """Its pickle would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    """Fails when reading a pickled file runs what is in it."""
    content = {**TENSORS, "extra": Bomb(tmp_path / "was_run")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pth: refused.*never run"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        read_state(tmp_path / "plain.pth")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "there is no such file"),
        ("none.safetensors", None, "there is no such file"),
        ("/path/to/eva_vit_g.pth", None, "placeholder"),
        ("empty.pth", b"", "empty"),
        ("page.pth", b"<!DOCTYPE html><html>404", "web page"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        ("text.pth", b"these are not weights", "not a weights file"),
        ("weights.onnx", b"onnx", "unknown kind of weights file"),
        ("short.safetensors", b"\x00\x01", "truncated"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """Fails when a file that is missing, or is not a weights file, gives no message with the reason and its name."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_state(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "old.pth"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    """Fails when half a download is read as if it were whole, or crashes obscurely."""
    tensors = {f"t{i}": torch.randn(64, 64) for i in range(4)}
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name.startswith("cut"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=rf"{name}: .*(truncated|damaged)"):
        read_state(path)


def test_tensors_beside_groups_of_tensors(tmp_path: Path) -> None:
    """Fails when a group of tensors among other tensors is ignored without an error."""
    grouped = {**TENSORS, "head": {"weight": torch.ones(2)}}
    torch.save({"model": grouped, "optimizer": {"state": [torch.ones(2)]}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"mixes tensors and groups of tensors \(head\)"):
        read_state(tmp_path / "odd.pth")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    """Fails when a folder is taken for a file."""
    with pytest.raises(ValueError, match="is a folder"):
        read_state(tmp_path)
    torch.save({"cfg": {"a": 1}}, tmp_path / "no_tensors.pt")
    with pytest.raises(ValueError, match="contains no tensors"):
        read_state(tmp_path / "no_tensors.pt")


def test_what_does_not_fit_is_shown_in_a_table(tmp_path: Path) -> None:
    """Fails when a missing, surplus or wrongly shaped tensor passes, or is not named."""
    state = vision().state_dict()
    state["vit.blocks.0.mlp.fc1.bias"] = torch.zeros(7)
    state["vit.surplus"] = torch.zeros(1)
    del state["vit.cls_token"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError) as error:
        load_component(vision(), tmp_path / "w.safetensors")
    rows = {tuple(line.split()) for line in str(error.value).splitlines()[1:]}
    assert ("missing", "vit.cls_token", "1x1x24", "-") in rows
    assert ("unexpected", "vit.surplus", "-", "1") in rows
    assert ("shape", "vit.blocks.0.mlp.fc1.bias", "48", "7") in rows
    assert str(error.value).startswith(str(tmp_path / "w.safetensors"))


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    """Fails when a part is half filled before the mismatch is noticed."""
    save_component(beats(), tmp_path / "sound.safetensors")
    encoder = vision()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit EvaViT"):
        load_component(encoder, tmp_path / "sound.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    """Fails when a damaged file fills a part, or large values are taken for damage."""
    encoder = vision()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    state["vit.cls_token"][0, 0] = 3e38  # a sum of them is infinite
    save_file(state, tmp_path / "large.safetensors")
    load_component(encoder, tmp_path / "large.safetensors")
    state["vit.cls_token"][0, 0, :2] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="nan.safetensors: 2 of the 24 values of vit.cls_token are not numbers"):
        load_component(encoder, tmp_path / "nan.safetensors")


def test_surplus_of_the_released_vision_file() -> None:
    """Fails when the released file's later block, final norm or head is an error, or other tensors are accepted."""
    encoder = vision()
    released = {name.removeprefix("vit."): v for name, v in encoder.state_dict().items() if name.startswith("vit.")}
    later = {name.replace("blocks.0", "blocks.1"): v for name, v in released.items() if "blocks.0" in name}
    ends = {name: torch.zeros(24) for name in ("norm.weight", "norm.bias", "head.weight", "head.bias")}
    report = fill(encoder, {**released, **later, **ends}, Path("eva_vit_g.pth"))
    assert set(report.notes.dropped) == {f"vit.{name}" for name in (*later, *ends)}
    assert set(report.notes.kept) == {"norm.weight", "norm.bias"}
    with pytest.raises(ValueError, match=r"unexpected +vit\.blocks\.2\.norm1\.weight"):
        fill(encoder, {**released, "blocks.2.norm1.weight": torch.zeros(24)}, Path("eva_vit_g.pth"))


def test_the_vision_norm_comes_from_its_own_file(tmp_path: Path) -> None:
    """Fails when ln_vision of the BLIP-2 file is not read, or anything else of that file is."""
    blip2 = {
        "ln_vision.weight": torch.full((24,), 3.0),
        "ln_vision.bias": torch.ones(24),
        "query_tokens": torch.ones(1, 3, 16),
    }
    torch.save({"model": blip2}, tmp_path / "blip2.pth")
    save_component(vision(), tmp_path / "eva.safetensors")
    settings = {**VISION, "weights": str(tmp_path / "eva.safetensors"), "norm_weights": str(tmp_path / "blip2.pth")}
    model = tiny_model(encoders={"vision": settings, "audio": AUDIO})
    load_weights(model)
    assert torch.equal(model.encoders["vision"].norm.weight, blip2["ln_vision.weight"])


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_weight_norm_spellings(reference: Path, spelling: str) -> None:
    """Fails when the weight norm of either torch API is not understood."""
    case = golden(reference, "beats")
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = dict(case.weights)
    for old, new in names.items():
        if spelling == "new":
            state[f"encoder.pos_conv.0.{new}"] = state.pop(f"encoder.pos_conv.0.{old}")
    encoder = beats_of(case.config)
    fill(encoder, state, Path("BEATs.pt"))
    assert torch.equal(encoder.position.gain, case.weights["encoder.pos_conv.0.weight_g"])


def test_copies_of_the_bias_table(reference: Path) -> None:
    """Fails when equal copies are an error, or different ones silently reduced to the first."""
    case = golden(reference, "beats")
    table = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    state = dict(case.weights)
    first = state[table.format(0)]
    fill(beats_of(case.config), {**state, table.format(2): first.clone()}, Path("BEATs.pt"))
    fill(beats_of(case.config), {k: v for k, v in state.items() if k != table.format(2)}, Path("BEATs.pt"))
    with pytest.raises(ValueError, match=r"layers\.2.*differs"):
        fill(beats_of(case.config), {**state, table.format(2): first + 1}, Path("BEATs.pt"))


def test_beats_is_built_from_the_files_own_sizes(reference: Path, tmp_path: Path) -> None:
    """Fails when the settings, not the checkpoint's cfg, decide what network is built."""
    case = golden(reference, "beats")
    cfg = {key: value for key, value in case.config.items() if key != "num_mel_bins"}
    torch.save({"cfg": cfg, "model": case.weights}, tmp_path / "BEATs_iter3.pt")
    encoder = BEATs(BEATs.Config(weights=tmp_path / "BEATs_iter3.pt")).eval()
    assert encoder.width == case.config["encoder_embed_dim"] and len(encoder.blocks) == case.config["encoder_layers"]
    load_component(encoder, tmp_path / "BEATs_iter3.pt")
    torch.save({"cfg": {**cfg, "layer_norm_first": True}, "model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="layer_norm_first=True"):
        BEATs(BEATs.Config(weights=tmp_path / "other.pt"))


@pytest.mark.parametrize("zipped", [True, False])
def test_beats_file_through_a_whole_model(reference: Path, tmp_path: Path, zipped: bool) -> None:
    """Fails when reading the file's sizes is disturbed by building without memory, or values differ afterwards."""
    case = golden(reference, "beats")
    path = tmp_path / "BEATs_iter3.pt"
    torch.save({"cfg": case.config, "model": case.weights}, path, _use_new_zipfile_serialization=zipped)
    model = tiny_model(encoders={"vision": VISION, "audio": {"name": "beats", "weights": str(path)}})
    assert model.encoders["audio"].patches.weight.is_meta
    load_weights(model)
    want = beats_of(case.config)
    fill(want, case.weights, path)
    fbank = case.inputs["fbank"]
    torch.testing.assert_close(model.eval().encoders["audio"](fbank).x, want(fbank).x)


def test_classifier_of_a_fine_tuned_file_is_dropped() -> None:
    """Fails when the fine-tuned BEATs release cannot be loaded because of its classifier."""
    encoder = beats()
    state = {**encoder.state_dict(), "predictor.weight": torch.zeros(5, 16), "predictor.bias": torch.zeros(5)}
    assert set(fill(encoder, state, Path("BEATs.pt")).notes.dropped) == {"predictor.weight", "predictor.bias"}


def qformer(**more) -> QFormer:
    settings = {**{key: value for key, value in PERCEIVER.items() if key != "name"}, **more}
    return QFormer(QFormer.Config(**settings), {"image": 24, "video": 24, "audio": 16}, out_width=20)


def blip2_of(bridge: QFormer) -> dict[str, Tensor]:
    """The file BLIP-2 would have written of it: no projection, one set of queries, another model's head."""
    state = {}
    for name, value in bridge.state_dict().items():
        if name.startswith("qformer."):
            name = name.replace("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm")
            name = name.replace("qformer.encoder", "Qformer.bert.encoder").replace(
                "attention.attention.", "attention.self."
            )
            state[name] = value.clone()
    surplus = {
        "t5_proj.weight": torch.zeros(4, 16),
        "t5_proj.bias": torch.zeros(4),
        "ln_vision.weight": torch.zeros(24),
    }
    queries = bridge.queries["visual"].detach().clone()[None]
    buffer = {"Qformer.bert.embeddings.position_ids": torch.arange(512)[None]}
    return {"query_tokens": queries, **state, **surplus, **buffer}


def test_query_sets_a_file_does_not_have() -> None:
    """Fails when a new set of queries is zeros, or is not initialised as `new_queries` requires (trap 1)."""
    source = qformer()
    copied, drawn = qformer(new_queries="copy"), qformer(new_queries="normal")
    report = fill(copied, blip2_of(source), Path("blip2.pth"))
    fill(drawn, blip2_of(source), Path("blip2.pth"))
    for bridge in (copied, drawn):
        assert torch.equal(bridge.queries["visual"], source.queries["visual"])
    assert torch.equal(copied.queries["sound"], source.queries["visual"])
    assert not torch.equal(drawn.queries["sound"], source.queries["visual"]) and drawn.queries["sound"].std() > 0.01
    assert set(report.notes.dropped) >= {"t5_proj.weight", "ln_vision.weight", "Qformer.bert.embeddings.position_ids"}
    assert "output.weight" in report.notes.kept and "queries.sound" not in report.notes.kept


def test_a_missing_layer_is_not_excused() -> None:
    """Fails when a Q-Former tensor may be missing like the projection may."""
    state = blip2_of(qformer())
    del state["Qformer.bert.encoder.layer.1.output_query.dense.bias"]
    with pytest.raises(ValueError, match=r"missing +qformer\.encoder\.layer\.1\.output_query\.dense\.bias"):
        fill(qformer(), state, Path("blip2.pth"))


@pytest.mark.parametrize("layer", ["llama_proj", "audio_trans"])
def test_half_a_layer_is_not_excused(layer: str) -> None:
    """Fails when a file with a matrix, but without its bias, leaves the bias at its initial value without an error."""
    source = qformer(adapters=("sound",))
    ours = "output" if layer == "llama_proj" else "adapters.sound"
    state = {**blip2_of(source), f"{layer}.weight": source.get_submodule(ours).weight.detach().clone()}
    with pytest.raises(ValueError, match=rf"missing +{ours}\.bias"):
        fill(qformer(adapters=("sound",)), state, Path("trained.pth"))


def language_folder(folder: Path, **save) -> ChatModel:
    """A small language model as `save_pretrained` writes it, and the model it came from."""
    model = tiny_model()
    model.language.lm.save_pretrained(folder, **save)
    return model


def from_folder(folder: Path) -> ChatModel:
    torch.manual_seed(0)
    return ChatModel(parse(ModelConfig, model_mapping(language={"name": "causal_lm", "weights": str(folder)})))


@pytest.mark.parametrize("save", [{}, {"max_shard_size": "4KB"}])
def test_language_model_from_a_folder(tmp_path: Path, save: dict[str, str]) -> None:
    """Fails when a language model, whole or in shards, does not give the loss it gave before it was saved."""
    source = language_folder(tmp_path, **save).eval()
    model = from_folder(tmp_path)
    assert all(parameter.is_meta for parameter in model.language.parameters())
    set_trainable(model, ["bridges.*"])
    lines = load_weights(model)
    assert any("language" in line for line in lines)
    assert not any(parameter.requires_grad for parameter in model.language.parameters())
    for kind in ("encoders", "bridges"):
        getattr(model, kind).load_state_dict(getattr(source, kind).state_dict())
    whole = batch(source, ("image", "audio"))
    torch.testing.assert_close(model.eval()(whole).total, source(whole).total)


def test_language_folders_that_are_not_whole(tmp_path: Path) -> None:
    """Fails when a missing shard, a truncated one or a missing tensor leaves random weights."""
    language_folder(tmp_path / "shards", max_shard_size="4KB")
    shard = next((tmp_path / "shards").glob("model-00002*"))
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match="language model cannot be read"):
        load_weights(from_folder(tmp_path / "shards"))
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="language model cannot be read"):
        load_weights(from_folder(tmp_path / "shards"))
    language_folder(tmp_path / "lacking")
    tensors = read_state(tmp_path / "lacking" / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fill.*\n.*missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_weights(from_folder(tmp_path / "lacking"))


def test_surplus_of_a_language_folder_is_an_error(tmp_path: Path) -> None:
    """Fails when tensors of a folder that the model of its config.json lacks (a layer, a bias) are passed over, or the
    buffers of old files are not."""
    language_folder(tmp_path)
    whole = read_state(tmp_path / "model.safetensors")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.layers.0.attn.bias": torch.ones(2)}
    save_file({**whole, **buffer}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_weights(from_folder(tmp_path))
    surplus = {"model.layers.0.self_attn.q_proj.bias": torch.ones(20)}
    save_file({**whole, **surplus}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fill.*\n.*unexpected: .*q_proj\.bias \(1 in all\)"):
        load_weights(from_folder(tmp_path))


def test_all_files_that_fail_are_named(tmp_path: Path) -> None:
    """Fails when the second wrong file is only found after the first has been mended."""
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(b"")
    encoders = {"vision": {**VISION, "weights": str(tmp_path / "a.pth")}, "audio": AUDIO}
    bridges = {"perceiver": {**PERCEIVER, "weights": str(tmp_path / "b.pth")}}
    with pytest.raises(ValueError, match=r"encoders\.vision.*a\.pth[\s\S]*bridges\.perceiver.*b\.pth"):
        load_weights(tiny_model(encoders=encoders, bridges=bridges, language=LANGUAGE))


def test_a_model_without_values_cannot_be_placed() -> None:
    """Fails when a model of the plan (meta device) can be run as if it had weights."""
    with torch.device("meta"):
        model = ChatModel(parse(ModelConfig, model_mapping()))
    with pytest.raises(ValueError, match="built on the meta device"):
        load_weights(model)


def test_full_size_names_and_shapes(reference: Path) -> None:
    """Fails when a converted manifest differs from our full-size parts by a name or a shape."""
    vision_facts = json.loads((reference / "eva_vit_g.json").read_text())
    sound_facts = json.loads((reference / "beats_iter3_as2m.json").read_text())
    bridge_facts = json.loads((reference / "chatbridge_ckpt.json").read_text())["tensors_without_frozen"]
    with torch.device("meta"):
        encoder, listener = EvaViT(EvaViT.Config(size="g")), BEATs(BEATs.Config())
        sets = {"image": "visual", "video": "visual", "audio": "sound"}
        bridge = QFormer(QFormer.Config(queries=sets), {"image": 1408, "video": 1408, "audio": 768}, out_width=5120)
        assert converted(EvaViT, vision_facts["tensors"]) == shapes(encoder.vit.state_dict(), "vit.")
        released = converted_beats(sound_facts["tensors"])
        mine = {name: shape for name, shape in shapes(listener.state_dict()).items() if not name.startswith("norm.")}
        assert released == mine
        by_medium = converted(QFormer, bridge_facts)
        by_set = {bridge._by_set(name): shape for name, shape in by_medium.items()}
        assert by_set == shapes(bridge.state_dict())
    assert sum(parameter.numel() for parameter in encoder.vit.parameters()) == 985_894_528
    assert sum(parameter.numel() for parameter in bridge.parameters()) == 110_206_848
    assert len(list(bridge.parameters())) == 260


def shapes(state: dict[str, Tensor], prefix: str = "") -> dict[str, list[int]]:
    return {prefix + name: list(value.shape) for name, value in state.items()}


def converted(part: type, tensors: dict[str, list[int]]) -> dict[str, list[int]]:
    return shapes(part.convert({name: torch.empty(shape) for name, shape in tensors.items()}))


def converted_beats(tensors: dict[str, list[int]]) -> dict[str, list[int]]:
    """Meta tensors cannot be compared, so only one copy of the shared table goes through the converter."""
    table = "relative_attention_bias"
    return converted(BEATs, {name: shape for name, shape in tensors.items() if table not in name or ".0." in name})


def test_eva_config_presets() -> None:
    """Fails when single sizes do not override the preset."""
    assert (
        eva_of({"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "img_size": 28, "patch_size": 14}).width
        == 32
    )
    shape = EvaViT.Config(depth=2).shape
    assert (shape.width, shape.depth, shape.heads) == (1408, 2, 16)
