"""Encoders: vectors, gradients, batching, cache, adapters and the Sentence-Transformers layout."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from confitlib.encoder import TextEncoder, TokenAverage, load_encoder, model, vectors
from confitlib.encoder.loading import recipe_for
from confitlib.encoder.model import length_sorted_batches

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["python", "nurse", "welder", "berlin", "senior", "driver", "query:", "c++", "sales", "audit"]
TEXTS = ["senior python c++", "nurse", "", "welder berlin driver sales audit nurse python", "audit audit", "unheard of"]


def word_tokenizer() -> Tokenizer:
    """One token a word of WORDS, with [CLS] and [SEP] around a text when special tokens are asked for."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def static_encoder(seed: int = 0, max_length: int = 50) -> TextEncoder:
    tokenizer, generator = word_tokenizer(), torch.Generator().manual_seed(seed)
    size = tokenizer.get_vocab_size()
    table = torch.randn(size, 6, generator=generator)
    weights = torch.rand(size, 1, generator=generator) + 0.5
    return TextEncoder("tiny-static", TokenAverage(tokenizer, table, weights), max_length=max_length)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT in the plain Hugging Face layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(), **tokens)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(bert_folder: Path) -> TextEncoder:
    return load_encoder(bert_folder, device="cpu")


@pytest.fixture(params=["static", "bert"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return static_encoder() if request.param == "static" else request.getfixturevalue("bert")


def quietly(encoder: TextEncoder, texts: list[str], cache: Path | None = None) -> np.ndarray:
    return encoder.encode(texts, progress=False, cache=cache)


# --- static vectors and gradients ---------------------------------------------------------------------


def test_static_vector_is_the_mean_of_weighted_token_vectors() -> None:
    encoder = static_encoder()
    table = (encoder.backbone.token_vectors * encoder.backbone.token_weights).detach().numpy()
    ids = [encoder.tokenizer.token_to_id(word) for word in ("senior", "python", "c++")]
    vectors = encoder.embed_frozen(TEXTS, progress=False)
    np.testing.assert_allclose(vectors[0], table[ids].mean(0), rtol=1e-6)


def test_empty_text_is_the_zero_vector_and_gives_finite_gradients() -> None:
    encoder = static_encoder()
    assert not quietly(encoder, ["", "python"])[0].any()
    F.normalize(encoder(encoder.collate(encoder.tokenize(["", "", "python"])))).sum().backward()
    assert torch.isfinite(encoder.backbone.token_vectors.grad.coalesce().values()).all()
    assert encoder(encoder.collate(encoder.tokenize(["", ""]))).tolist() == [[0.0] * 6] * 2


def test_static_gradients_are_sparse_and_equal_dense_ones() -> None:
    encoder = static_encoder()
    table, weights = encoder.backbone.token_vectors, encoder.backbone.token_weights
    target = torch.randn(len(TEXTS), 6, generator=torch.Generator().manual_seed(1))
    ids = encoder.tokenize(TEXTS)
    (encoder(encoder.collate(ids)) * target).sum().backward()
    dense_vectors, dense_weights = (p.detach().clone().requires_grad_() for p in (table, weights))
    rows = [(dense_vectors[row] * dense_weights[row]).sum(0) / max(len(row), 1) for row in ids]
    (torch.stack(rows) * target).sum().backward()
    for parameter, dense in ((table, dense_vectors), (weights, dense_weights)):
        assert parameter.grad is not None and parameter.grad.is_sparse
        torch.testing.assert_close(parameter.grad.to_dense(), dense.grad)


def test_sparse_adam_moves_only_the_tokens_of_the_batch() -> None:
    encoder = static_encoder()
    assert encoder.sparse_parameters
    before = encoder.backbone.token_vectors.detach().clone()
    optimizer = torch.optim.SparseAdam(list(encoder.parameters()), lr=0.1)
    ids = encoder.tokenize(["nurse welder"])
    encoder(encoder.collate(ids)).square().sum().backward()
    optimizer.step()
    moved = (encoder.backbone.token_vectors != before).any(1).nonzero().flatten()
    assert moved.tolist() == sorted(ids[0].tolist())


def test_packaged_static_encoder_starts_from_the_minilm_token_vectors() -> None:
    static, minilm = load_encoder("static", device="cpu"), load_encoder("minilm", device="cpu")
    expected = minilm.backbone.model.embeddings.word_embeddings.weight
    assert torch.equal(static.backbone.token_vectors, expected)
    assert (static.dim, static.pooling, static.prefix) == (384, "mean", "")
    assert (static.backbone.token_weights == 1).all()


# --- tokens and batches -------------------------------------------------------------------------------


def test_tokenize_applies_prefix_special_tokens_and_truncation(bert_folder: Path) -> None:
    encoder = load_encoder(bert_folder, prefix="query: ", max_length=5, device="cpu")
    ids = encoder.tokenize(["python nurse welder berlin", "nurse"])
    words = [[encoder.tokenizer.id_to_token(int(i)) for i in row] for row in ids]
    assert words == [["[CLS]", "query:", "python", "nurse", "[SEP]"], ["[CLS]", "query:", "nurse", "[SEP]"]]


def test_only_an_encoder_with_a_prefix_carries_a_prompt(bert_folder: Path) -> None:
    with_prefix = load_encoder(bert_folder, prefix="query: ", device="cpu").as_sentence_transformer()
    assert with_prefix.prompts[with_prefix.default_prompt_name] == "query: "
    assert static_encoder().as_sentence_transformer().default_prompt_name is None  # or each training would say so


def test_static_encoder_reads_no_special_tokens_and_truncates() -> None:
    assert [len(row) for row in static_encoder(max_length=4).tokenize(["python " * 9, "nurse", ""])] == [4, 1, 0]


def test_collate_pads_to_the_longest_text_of_the_batch(bert: TextEncoder) -> None:
    features = bert.collate(bert.tokenize(["python nurse", "welder"]))
    assert features["input_ids"].shape == (2, 4)
    assert features["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@given(lengths=st.lists(st.integers(0, 300), max_size=60), batch_size=st.integers(1, 20), tokens=st.integers(1, 1000))
def test_batches_partition_the_texts_within_both_limits(lengths: list[int], batch_size: int, tokens: int) -> None:
    batches = list(length_sorted_batches(lengths, batch_size, tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert len(batch) == 1 or (len(batch) <= batch_size and padded <= tokens)
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(lengths, reverse=True)


DOCUMENTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", ["static", "bert"])
def test_vectors_do_not_depend_on_batch_or_neighbours(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = static_encoder() if kind == "static" else request.getfixturevalue("bert")

    @settings(max_examples=15, deadline=None)
    @given(texts=DOCUMENTS, batch_size=st.integers(1, 8))
    def check(texts: list[str], batch_size: int) -> None:
        alone = np.concatenate([quietly(encoder, [text]) for text in texts])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "BATCH_SIZE", batch_size)
            np.testing.assert_allclose(quietly(encoder, texts), alone, atol=1e-5)

    check()


def test_threads_do_not_change_the_vectors_and_are_restored(bert: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, threads = TEXTS * 20, torch.get_num_threads()
    monkeypatch.setattr(model, "BATCH_SIZE", 3)
    try:
        torch.set_num_threads(1)
        alone = quietly(bert, texts)
        torch.set_num_threads(3)
        np.testing.assert_allclose(quietly(bert, texts), alone, atol=1e-6)
        bert.backbone.forward = lambda features: pytest.fail("stop")
        with pytest.raises(pytest.fail.Exception):
            quietly(bert, texts)
        assert torch.get_num_threads() == 3 and not bert.training
    finally:
        torch.set_num_threads(threads)


def test_encode_many_chunks_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = static_encoder()
    whole = quietly(encoder, TEXTS * 5)
    monkeypatch.setattr("confitlib.encoder.model.TEXTS_AT_ONCE", 7)
    np.testing.assert_array_equal(quietly(encoder, TEXTS * 5), whole)


def test_encode_is_the_normalised_forward_without_dropout(bert: TextEncoder) -> None:
    bert.train()
    first, second = quietly(bert, TEXTS), quietly(bert, TEXTS)
    assert bert.training
    np.testing.assert_array_equal(first, second)
    bert.eval()
    with torch.no_grad():
        forward = F.normalize(bert(bert.collate(bert.tokenize(TEXTS))), dim=1).numpy()
    np.testing.assert_allclose(first, forward, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_no_text_gives_no_vector(encoder: TextEncoder) -> None:
    assert quietly(encoder, []).shape == (0, encoder.dim)


# --- adapter and freezing -----------------------------------------------------------------------------


def test_adapter_starts_as_the_identity(encoder: TextEncoder) -> None:
    before = quietly(encoder, TEXTS)
    encoder.add_adapter()
    np.testing.assert_allclose(quietly(encoder, TEXTS), before, atol=1e-6)
    with pytest.raises(ValueError, match="adapter already"):
        encoder.add_adapter()


def test_adapter_runs_alone_on_frozen_vectors(encoder: TextEncoder) -> None:
    encoder.adapter = torch.nn.Linear(encoder.dim, 3)
    assert encoder.dim == 3
    frozen = encoder.embed_frozen(TEXTS, progress=False)
    assert frozen.shape == (len(TEXTS), encoder.backbone_dim)
    with torch.no_grad():
        adapted = encoder({"vectors": torch.from_numpy(frozen)})
        whole = encoder.eval()(encoder.collate(encoder.tokenize(TEXTS)))
    torch.testing.assert_close(adapted, whole, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(quietly(encoder, TEXTS), F.normalize(adapted).numpy(), atol=1e-5)


def trainable(encoder: TextEncoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_freeze_leaves_the_chosen_parameters_trainable(bert: TextEncoder) -> None:
    everything = trainable(bert)
    assert everything and not any("pooler" in name for name in everything)
    bert.add_adapter()
    bert.freeze(1)
    assert {name.split(".layer.")[-1][0] for name in trainable(bert) if "adapter" not in name} == {"1"}
    assert {"adapter.weight", "adapter.bias"} <= trainable(bert)
    bert.freeze("adapter")
    assert trainable(bert) == {"adapter.weight", "adapter.bias"}
    bert.freeze("all")
    assert trainable(bert) == everything | {"adapter.weight", "adapter.bias"}


def test_every_trainable_parameter_gets_a_gradient(bert: TextEncoder) -> None:
    bert(bert.collate(bert.tokenize(TEXTS))).sum().backward()
    lacking = [name for name, p in bert.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []


def test_a_frozen_static_encoder_has_no_sparse_parameters() -> None:
    encoder = static_encoder()
    encoder.add_adapter()
    encoder.freeze("adapter")
    assert not encoder.sparse_parameters


@pytest.mark.parametrize(
    ("choice", "message"), [("adapter", "add_adapter"), (3, "1 to 2"), (0, "1 to 2"), ("top", "all")]
)
def test_freeze_names_the_choices(bert: TextEncoder, choice: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bert.freeze(choice)  # type: ignore[arg-type]


def test_freeze_says_that_a_static_encoder_has_no_layers() -> None:
    with pytest.raises(ValueError, match="no layers"):
        static_encoder().freeze(1)


# --- cache --------------------------------------------------------------------------------------------


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_cache_returns_stored_vectors_without_computing(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quietly(encoder, TEXTS, cache=tmp_path)
    monkeypatch.setattr(TextEncoder, "_embed", lambda *_: pytest.fail("computed in spite of the cache"))
    np.testing.assert_array_equal(quietly(encoder, TEXTS, cache=tmp_path), first)
    encoder.adapter = torch.nn.Linear(encoder.dim, 3)
    assert quietly(encoder, TEXTS, cache=tmp_path).shape == (len(TEXTS), 3)


def test_cache_misses_when_one_weight_changes(encoder: TextEncoder, tmp_path: Path) -> None:
    quietly(encoder, TEXTS, cache=tmp_path)
    with torch.no_grad():
        next(encoder.backbone.parameters()).view(-1)[5 * encoder.dim] += 0.5
    assert np.array_equal(quietly(encoder, TEXTS, cache=tmp_path), quietly(encoder, TEXTS))
    assert len(cached_files(tmp_path)) == 2


def test_cache_misses_when_texts_or_settings_change(bert_folder: Path, tmp_path: Path) -> None:
    for number, options in enumerate([{}, {"prefix": "query: "}, {"max_length": 9}, {"pooling": "cls"}], start=1):
        quietly(load_encoder(bert_folder, device="cpu", **options), TEXTS, cache=tmp_path)  # type: ignore[arg-type]
        assert len(cached_files(tmp_path)) == number
    encoder = load_encoder(bert_folder, device="cpu")
    for number, texts in enumerate([TEXTS[::-1], TEXTS[1:], ["".join(TEXTS)]], start=5):
        quietly(encoder, texts, cache=tmp_path)
        assert len(cached_files(tmp_path)) == number


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replace_by_foreign_file(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00 not ours")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_shape(path: Path) -> None:
    other = np.zeros((len(TEXTS), 2), dtype=np.float32)
    save_file({"vectors": other}, path, metadata=vectors._header(path.stem, other))


def put_another_key(path: Path) -> None:
    other = np.zeros((len(TEXTS), 6), dtype=np.float32)
    save_file({"vectors": other}, path, metadata=vectors._header("0" * 64, other))


@pytest.mark.parametrize(
    "damage", [truncate, flip_one_bit, replace_by_foreign_file, empty, change_shape, put_another_key]
)
def test_damaged_cache_files_are_reported_and_replaced(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = static_encoder()
    expected = quietly(encoder, TEXTS, cache=tmp_path)
    (path,) = cached_files(tmp_path)
    stored = load_file(path)["vectors"]
    damage(path)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(quietly(encoder, TEXTS, cache=tmp_path), expected)
    assert path.name in caplog.text
    np.testing.assert_array_equal(load_file(path)["vectors"], stored)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vectors, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        quietly(static_encoder(), TEXTS, cache=tmp_path)
    assert cached_files(tmp_path) == []


def test_weight_hash_follows_weights_settings_and_adapter(bert_folder: Path) -> None:
    encoder = load_encoder(bert_folder, device="cpu")
    hashes = [encoder.weight_hash(), load_encoder(bert_folder, device="cpu", prefix="query: ").weight_hash()]
    hashes.append(load_encoder(bert_folder, device="cpu", max_length=7).weight_hash())
    encoder.add_adapter()
    hashes.append(encoder.weight_hash())
    with torch.no_grad():
        encoder.backbone.model.encoder.layer[1].output.dense.bias[3] += 1e-3
    hashes.append(encoder.weight_hash())
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == load_encoder(bert_folder, device="cpu").weight_hash()


# --- folders ------------------------------------------------------------------------------------------


def built(kind: str, bert_folder: Path) -> TextEncoder:
    """A fresh encoder of a kind such as "minilm+adapter", its trainable parts away from their start."""
    name, *extras = kind.split("+")
    options = {"pooling": "cls", "prefix": "query: ", "max_length": 6} if name == "bert" else {}
    encoder = load_encoder(bert_folder if name == "bert" else name, device="cpu", **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    if name == "static":
        torch.nn.init.uniform_(encoder.backbone.token_weights, 0.5, 2, generator=generator)
    if "adapter" in extras:
        encoder.adapter = torch.nn.Linear(encoder.dim, 20)
        torch.nn.init.normal_(encoder.adapter.weight, generator=generator)
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static", "static+adapter", "minilm", "minilm+adapter", "bert", "bert+adapter"])
def test_saved_encoders_load_here_and_in_sentence_transformers(kind: str, bert_folder: Path, tmp_path: Path) -> None:
    encoder = built(kind, bert_folder)
    expected = quietly(encoder, TEXTS)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path, device="cpu")
    np.testing.assert_array_equal(quietly(again, TEXTS), expected)
    assert again.weight_hash() == encoder.weight_hash()
    assert (again.prefix, again.pooling, again.max_length) == (encoder.prefix, encoder.pooling, encoder.max_length)
    weights = again.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in encoder.state_dict().items())
    peer = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    np.testing.assert_allclose(peer.encode(TEXTS), expected, atol=1e-6)
    assert "license: mit" in (tmp_path / "README.md").read_text() or kind.startswith("minilm")  # whose card it keeps


def test_static_folders_of_other_programs_load_with_unit_weights(tmp_path: Path) -> None:
    encoder = static_encoder()
    expected = quietly(encoder, TEXTS)
    encoder.save(tmp_path)
    (tmp_path / "token_factors.safetensors").unlink()
    foreign = load_encoder(tmp_path, device="cpu")
    assert (foreign.backbone.token_weights == 1).all()
    np.testing.assert_allclose(quietly(foreign, TEXTS), expected, atol=1e-6)


def test_arguments_replace_what_the_folder_says(bert_folder: Path, tmp_path: Path) -> None:
    load_encoder(bert_folder, prefix="query: ", device="cpu").save(tmp_path)
    encoder = load_encoder(tmp_path, pooling="cls", prefix="", max_length=12, device="cpu")
    assert (encoder.pooling, encoder.prefix, encoder.max_length) == ("cls", "", 12)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_parts_without_counterpart_are_refused(bert_folder: Path, tmp_path: Path) -> None:
    built("bert+adapter", bert_folder).save(tmp_path)
    edit_json(tmp_path / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.Tanh")
    with pytest.raises(ValueError, match="without activation"):
        load_encoder(tmp_path)
    edit_json(tmp_path / "2_Dense" / "config.json", activation_function="torch.nn.modules.linear.Identity")
    edit_json(tmp_path / "1_Pooling" / "config.json", pooling_mode="max")
    with pytest.raises(ValueError, match="'max' is not supported"):
        load_encoder(tmp_path)
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"in safetensors"):
        load_encoder(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    for kind in ("sentence_transformers.models.LSTM", "somewhere.Transformer"):
        modules[0]["type"] = kind
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ValueError, match=kind):
            load_encoder(tmp_path)


@pytest.mark.parametrize(
    "asked",
    [
        {"model_kwargs": {"trust_remote_code": True}},
        {"config_args": {"cache_dir": "/elsewhere"}},
        {"processor_kwargs": {"endpoint": "http://elsewhere"}},
        {"tokenizer_name_or_path": "some/other"},
    ],
)
def test_a_folder_cannot_ask_for_more_than_the_caller_allows(asked: dict, bert_folder: Path, tmp_path: Path) -> None:
    load_encoder(bert_folder, device="cpu").save(tmp_path)
    edit_json(tmp_path / "sentence_bert_config.json", **asked)
    if "tokenizer_name_or_path" in asked:  # other names of the file are read as well
        (tmp_path / "sentence_bert_config.json").rename(tmp_path / "sentence_roberta_config.json")
    with pytest.raises(ValueError, match=f"{next(iter(asked))} cannot be set by a folder"):
        load_encoder(tmp_path, trust_remote_code=False)


def test_missing_weights_are_an_error_but_for_a_pooler_that_follows_the_seed(bert_folder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    poolers = [load_encoder(bert_folder, seed=seed, device="cpu").backbone.model.pooler for seed in (1, 1, 2)]
    first, same, different = (pooler.dense.weight for pooler in poolers)
    assert torch.equal(first, same) and not torch.equal(first, different)
    assert torch.equal(state, torch.random.get_rng_state())
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.bias")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as encoder\.layer\.1\.output\.dense\.bias"):
        load_encoder(tmp_path)


def test_pushing_uploads_the_saved_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded = {}

    def push(self: SentenceTransformer, name: str, local_model_path: str, private: bool) -> str:
        uploaded[name] = sorted(path.name for path in Path(local_model_path).iterdir() if path.is_file())
        return f"address of {name}"

    monkeypatch.setattr(SentenceTransformer, "push_to_hub", push)
    assert static_encoder().push_to_hub("me/mine", private=True) == "address of me/mine"
    assert {"README.md", "modules.json", "model.safetensors", "tokenizer.json"} <= set(uploaded["me/mine"])


# --- names and bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("intfloat/multilingual-e5-base", ("mean", "query: ", 512)),
        ("intfloat/e5-large-v2", ("mean", "query: ", 512)),
        ("jinaai/jina-embeddings-v2-base-zh", ("mean", "", 8192)),
        ("sentence-transformers/all-MiniLM-L6-v2", ("mean", "", 256)),
        ("BAAI/bge-base-en-v1.5", ("cls", "", 512)),
        ("bert-base-multilingual-cased", ("mean", "", 512)),
    ],
)
def test_known_families_have_their_recipe(name: str, expected: tuple[str, str, int]) -> None:
    assert recipe_for(name) == expected


def test_minilm_reads_as_many_tokens_as_it_has_positions() -> None:
    assert load_encoder("minilm").max_length == 256 and load_encoder("minilm", max_length=512).max_length == 512
    with pytest.raises(ValueError, match="at most 512"):
        load_encoder("minilm", max_length=513)


def test_default_length_is_cut_to_the_model_and_a_longer_one_refused(bert_folder: Path) -> None:
    assert load_encoder(bert_folder, device="cpu").max_length == 40
    with pytest.raises(ValueError, match="at most 40"):
        load_encoder(bert_folder, max_length=41)
    for short in (0, 2):
        with pytest.raises(ValueError, match="at least 3"):
            load_encoder(bert_folder, max_length=short)


@pytest.mark.parametrize(("name", "pooling"), [("static", "cls"), ("minilm", "max")])
def test_unknown_pooling_is_refused(name: str, pooling: str) -> None:
    with pytest.raises(ValueError, match=f"pooling='{pooling}'"):
        load_encoder(name, pooling=pooling)  # type: ignore[arg-type]


def test_a_missing_model_says_at_once_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *_, **options: asked.append(options) or Path("gone").stat()
    )
    with pytest.raises(FileNotFoundError, match=r"connect to the network.*minilm"):
        load_encoder("nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'static'"):
        load_encoder("Statc")
    assert [options["timeout"] for options in asked] == [5, 5]
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_encoder(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no encoder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("texts", "message"), [("python", "one str where"), (["python", float("nan")], "text 1"), ([None], "text 0")]
)
def test_values_that_are_not_texts_are_named(texts: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        static_encoder().encode(texts)  # type: ignore[arg-type]


def test_texts_are_tokenised_once_and_forgotten_on_demand() -> None:
    encoder, twin = static_encoder(), static_encoder()
    encoder.forget()
    first = encoder.tokenize(["python nurse", "python nurse", "nurse"])
    assert [row.tolist() for row in twin.tokenize(["nurse", "python nurse"])] == [first[2].tolist(), first[0].tolist()]
    assert twin.tokenize(["nurse"])[0] is first[2]  # an equal tokenizer shares what was read
    encoder.forget()
    again = encoder.tokenize(["nurse"])[0]
    assert again is not first[2] and np.array_equal(again, first[2])
    assert static_encoder(max_length=1 + 2).tokenize(["python nurse python nurse"])[0].size == 3


def test_the_memory_of_texts_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(model, "REMEMBERED", 3)
    encoder = static_encoder()
    encoder.forget()
    texts = ["nurse", "python", "nurse python", "python nurse"]
    assert [row.tolist() for row in encoder.tokenize(texts[:2])] == [
        row.tolist() for row in encoder.tokenize(texts)[:2]
    ]
    assert len(encoder.tokenize(texts)) == 4
