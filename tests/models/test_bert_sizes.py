"""Hugging Face folders of any size, read and written; `transformers` itself is the oracle."""

import json

import pytest
import torch
from safetensors.torch import save_file

import coalign
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.evaluation.bert_weights import starting_weights
from coalign.models.bert import model as bert
from coalign.models.bert.heads import BertClassifier, BertTagger, BertTaskConfig
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.models.bert.sizes import of_config, of_weights
from coalign.registry import describe
from coalign.trunks.bert import BertConfig
from coalign.types import Batch, Packed, Text

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
}
TRUNK = BertConfig(vocab_size=40, dim=32, depth=2, heads=4, hidden_dim=48, positions=20)
IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 12, 13, 3]])


def batch():
    return Batch(text=Text(Packed.uniform(IDS)))


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_a_folder_of_any_size_and_number_of_classes(tmp_path, activation):
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(**SIZES, num_labels=5, hidden_act=activation)
    ).eval()
    theirs.save_pretrained(tmp_path / "hf")
    ours = coalign.load(tmp_path / "hf", "bert").model
    assert isinstance(ours, BertClassifier)
    assert ours.config.classes == 5 and ours.config.trunk.heads == 4
    assert torch.allclose(ours.encode(batch()).pooled["logits"], theirs(IDS).logits, atol=1e-5)


@torch.no_grad()
def test_a_fine_tuned_run_becomes_a_folder_that_transformers_loads(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    model = BertTagger(BertTaskConfig(TRUNK, classes=3)).eval()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(describe(model) | {"labels": ["O", "B-X", "I-X"]}))
    Tokenizer.from_vocabulary(words).save(run)
    save_file(model.state_dict(), run / "model.safetensors")
    coalign.convert(run, tmp_path / "hf", system="bert", to="transformers")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    expected = model.encode(batch()).tokens["tags"].to_padded()
    assert torch.allclose(theirs(IDS).logits, expected, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "w3 W5 w7"
    assert tokenizer(text)["input_ids"] == Tokenizer.from_vocabulary(words).encode([text]).ids.values.tolist()
    with pytest.raises(InputError, match="exists already"):
        coalign.convert(run, tmp_path / "hf", system="bert", to="transformers")
    back = coalign.load(tmp_path / "hf", "bert", head="tagging").model
    assert torch.equal(back.encode(batch()).tokens["tags"].values, model.encode(batch()).tokens["tags"].values)


@torch.no_grad()
def test_pretraining_weights_go_there_and_back(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**SIZES)).eval()
    theirs.save_pretrained(tmp_path / "hf")
    model = coalign.load(tmp_path / "hf", "bert").model
    assert isinstance(model, Bert)
    coalign.convert(tmp_path / "hf", tmp_path / "again", system="bert", to="transformers")
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "again").eval()
    assert torch.allclose(again(IDS).prediction_logits, theirs(IDS).prediction_logits, atol=1e-6)
    states = model.encode(batch()).tokens["text"]
    assert torch.allclose(model.logits(states).to_padded(), theirs(IDS).prediction_logits, atol=1e-5)


def test_sizes_from_shapes_alone():
    wanted = BertPretrainingConfig(BertConfig(vocab_size=50, dim=128, depth=3, heads=2, hidden_dim=256))
    with torch.device("meta"):
        state = Bert(wanted).state_dict()
        for layout in (bert.original, bert.transformers):
            assert of_weights(layout(wanted).export(state, None)) == wanted
    assert of_weights({"x": torch.empty(1)}) is None


def test_what_ours_does_not_compute_is_refused():
    told = {**SIZES, "model_type": "bert"}
    assert of_config({**told, "model_type": "roberta"}) is None
    with pytest.raises(InputError, match="relative_key"):
        of_config({**told, "position_embedding_type": "relative_key"})
    with pytest.raises(InputError, match="no activation 'swish'"):
        of_config({**told, "hidden_act": "swish"})


@torch.no_grad()
def test_recipes_start_from_an_encoder_with_other_heads(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).eval()  # has no pooler
    theirs.save_pretrained(tmp_path / "hf")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    (tmp_path / "hf" / "vocab.txt").write_text("\n".join(words) + "\n")
    model, tokenizer = starting_weights(str(tmp_path / "hf"))
    assert tokenizer.vocab_size == 40
    expected = theirs.bert(IDS).last_hidden_state
    assert torch.allclose(model.eval().encode(batch()).tokens["text"].to_padded(), expected, atol=1e-5)
    (tmp_path / "hf" / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"no vocab\.txt or tokenizer\.json beside the weights"):
        starting_weights(str(tmp_path / "hf"))
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(InputError, match="no such file"):
        starting_weights(str(tmp_path / "nothing"), vocab=tmp_path / "vocab.txt")
