"""What the process can run: catalogue records, the user's folders with every mistake named, loading once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from embedgate.core.errors import ConfigError, UnknownModel
from embedgate.inference.runtime import LocalModels
from embedgate.inference.weights import MINILM, WORDLLAMA
from embedgate.settings import LocalModelSettings, LocalSettings

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

from bert_reference import write_tiny_folder


def _models(data_dir: Path, **entries: Any) -> LocalModels:
    return LocalModels(
        LocalSettings(models={name: LocalModelSettings.model_validate(entry) for name, entry in entries.items()}),
        data_dir,
    )


@pytest.mark.skipif(
    MINILM.folder() is None or WORDLLAMA.folder() is None, reason="the model packages are not installed"
)
def test_built_in_models_are_catalogue_records(tmp_path: Path) -> None:
    minilm, wordllama = _models(tmp_path).models()
    assert (minilm.id, minilm.space) == ("local/all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")
    assert (minilm.max_input_tokens, minilm.is_matryoshka) == (256, False)
    assert (wordllama.id, wordllama.space) == ("local/wordllama-256", "wordllama/l2-supercat-256")
    assert wordllama.dims is not None
    assert [dim for dim in (64, 65, 128, 256, 384) if dim in wordllama.dims] == [64, 128, 256]
    for model in (minilm, wordllama):
        (route,) = model.routes
        assert (route.provider, route.tokenizer, route.accepts_dim) == ("local", "local", False)
        assert route.price is not None
        assert route.price.picodollars_per_token == 0


def test_folder_brings_its_own_settings_and_the_configuration_overrides_them(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": true}')
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    models = _models(
        tmp_path / "data",
        own={"path": folder},
        other={"path": folder, "space": "me/tiny", "query_prefix": "", "max_input_tokens": 8},
    )
    own, other = (model for model in models.models() if model.name in ("own", "other"))
    assert (own.space, own.max_input_tokens) == ("local/own", 12)
    assert (own.routes[0].query_prefix, own.routes[0].document_prefix) == ("query: ", "passage: ")
    assert (other.space, other.max_input_tokens) == ("me/tiny", 8)
    assert (other.routes[0].query_prefix, other.routes[0].document_prefix) == (None, "passage: ")
    assert models.tokenizer("own").count("ONE Two") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}, "XLMRobertaModel"),
        ({"hidden_act": "gelu_new"}, "gelu_new"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_encoder_that_cannot_be_reproduced_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = write_tiny_folder(tmp_path / "tiny", **change)
    with pytest.raises(ConfigError, match=message):
        _models(tmp_path / "data", tiny={"path": folder})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}], "Dense"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "pooling_mode_lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False}, "include_prompt"),
    ],
)
def test_pipeline_that_cannot_be_reproduced_is_refused_by_name(
    tmp_path: Path, file: str, content: Any, message: str
) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        _models(tmp_path / "data", tiny={"path": folder})


def test_all_mistakes_in_the_users_models_are_reported_at_once(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    entries = {
        "../up": {"path": folder},
        "wordllama-256": {"path": folder},
        "absent": {"path": tmp_path / "absent"},
        "long": {"path": folder, "max_input_tokens": 17},
    }
    with pytest.raises(ConfigError) as caught:
        _models(tmp_path / "data", **entries)
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == [
        f"local.models.{name}" for name in entries
    ]


def test_files_that_do_not_fit_together_are_refused_on_loading(tmp_path: Path) -> None:
    small = write_tiny_folder(tmp_path / "small", vocab_size=11)
    whole = write_tiny_folder(tmp_path / "whole")
    models = _models(
        tmp_path / "data",
        small={"path": small},
        narrow={"path": whole, "max_input_tokens": 2},
        other={"path": whole, "sha256": "0" * 64},
    )
    for name, message in (("small", "different models"), ("narrow", "special tokens"), ("other", "SHA-256")):
        with pytest.raises(ConfigError, match=message):
            models.load(name)
    with pytest.raises(UnknownModel, match="'nobody'"):
        models.load("nobody")


def test_model_is_loaded_once_by_many_threads_and_can_be_unloaded(tmp_path: Path) -> None:
    models = _models(tmp_path / "data", tiny={"path": write_tiny_folder(tmp_path / "tiny")})
    assert models.loaded("tiny") is None
    with ThreadPoolExecutor(8) as threads:
        loaded = set(map(id, threads.map(models.load, ["tiny"] * 16)))
    assert loaded == {id(models.loaded("tiny"))}
    models.unload()
    assert models.loaded("tiny") is None


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json"])
def test_other_files_are_another_revision_and_are_not_loaded_under_the_old_one(tmp_path: Path, changed: str) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    models = _models(tmp_path / "data", tiny={"path": folder})
    (revision,) = (model.revision for model in models.models() if model.name == "tiny")
    (again,) = (m.revision for m in _models(tmp_path, tiny={"path": folder}).models() if m.name == "tiny")
    assert revision == again
    content = (folder / changed).read_bytes()
    (folder / changed).write_bytes(content + b" " if changed == "tokenizer.json" else content)
    with pytest.raises(ConfigError, match=changed):
        models.load("tiny")
    (other,) = (m.revision for m in _models(tmp_path, tiny={"path": folder}).models() if m.name == "tiny")
    assert other != revision


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:7],
        lambda content: b"\xff" * 8 + content[8:],  # a header of absurd length
        lambda content: b"\x00" * len(content),
        lambda content: b"[" * 100_000,
    ],
    ids=["empty", "half", "seven bytes", "absurd length", "zeros", "deep"],
)
def test_a_spoiled_file_of_a_model_is_named_and_ends_nothing(tmp_path: Path, name: str, spoil: Any) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(ConfigError, match=r"model\.safetensors|tokenizer\.json|config\.json"):
        _models(tmp_path / "data", tiny={"path": folder}).load("tiny")


def test_a_prepared_model_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    _models(tmp_path / "data", tiny={"path": folder}).load("tiny")
    (prepared,) = (tmp_path / "data" / "models").glob("*.onnx")
    for content in (b"", prepared.read_bytes()[:1000], b"\xff" * 5_000):
        prepared.write_bytes(content)
        assert _models(tmp_path / "data", tiny={"path": folder}).load("tiny").engine.dim
