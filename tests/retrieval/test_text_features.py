import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import coalign
from coalign.cli.commands import run_command
from coalign.data.loaded import Loaded
from coalign.data.texts.text_tables import read_lines
from coalign.data.words.tokenizer import Tokenizer
from coalign.errors import InputError
from coalign.models.bert.model import Bert, BertPretrainingConfig
from coalign.registry import describe
from coalign.retrieval.text_features import embed_texts, text_states, text_vectors, word_vectors
from coalign.training.run import Run
from coalign.trunks.bert import BertConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "bank", "##s", "rob", "a"]
TEXTS = ["the river bank", "rob the Banks", "a river"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    trunk = BertConfig(vocab_size=len(WORDS), dim=16, depth=3, heads=2, hidden_dim=16, positions=16)
    return Bert(BertPretrainingConfig(trunk)).eval()


TOKENIZER = Tokenizer.from_vocabulary(WORDS)


def test_layers_and_pools(model):
    batch = coalign.prepare(Loaded(model, TOKENIZER), texts=TEXTS)
    encoding = model.encode(batch, record=True)
    assert torch.allclose(text_vectors(model, batch), encoding.vectors["text"], atol=1e-6)
    last, _ = text_states(model, batch, 3)
    assert torch.allclose(last.values, encoding.tokens["text"].values)
    assert torch.allclose(text_states(model, batch, 0)[0].values, encoding.record["text.embedding"])
    middle = encoding.tokens["text"].with_values(encoding.record["text.1.hidden"])
    unit = torch.nn.functional.normalize
    assert torch.allclose(text_vectors(model, batch, 2, "mean"), unit(middle.mean(), dim=-1))
    assert torch.allclose(text_vectors(model, batch, 2, "cls"), unit(middle.first, dim=-1))
    ends = [middle.values[int(end) - 1] for end in middle.offsets[1:]]
    assert torch.allclose(text_vectors(model, batch, 2, "last"), unit(torch.stack(ends), dim=-1))
    with pytest.raises(InputError, match="no layer 4: 0 is the embedding, 3 the last"):
        text_states(model, batch, 4)
    with pytest.raises(InputError, match="must be pooled"):
        text_vectors(model, batch, 2)


def test_words_in_context(model):
    batch = coalign.prepare(Loaded(model, TOKENIZER), texts=TEXTS)
    words = [TOKENIZER.words(text) for text in TEXTS]
    found = word_vectors(model, batch, words, ["banks", "bank"])
    assert [(one.text, one.word) for one in found] == [(0, 2), (1, 2)]
    states = model.encode(batch).tokens["text"].values
    assert torch.allclose(found[0].vector, states[3])  # [CLS] the river bank
    assert torch.allclose(found[1].vector, states[8:10].mean(0))  # [CLS] rob the bank ##s
    same = word_vectors(model, coalign.prepare(Loaded(model, TOKENIZER), texts=["a bank"]), [["a", "bank"]], ["bank"])
    assert not torch.allclose(found[0].vector, same[0].vector)  # another context


def test_rows_do_not_depend_on_the_batch(model):
    alone = embed_texts(Loaded(model, TOKENIZER), TEXTS, batch_size=1)
    together = embed_texts(Loaded(model, TOKENIZER), TEXTS)
    assert [row["row"] for row in alone] == [1, 2, 3]
    for a, b in zip(alone, together, strict=True):
        assert a["vector"] == pytest.approx(b["vector"], abs=1e-5)


def test_the_command(model, tmp_path, capsys):
    run = tmp_path / "run"
    with Run(run, describe(model)).writing():
        Run(run, describe(model)).begin({}, 0)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, run / "model.safetensors")
    TOKENIZER.save(run)
    texts = tmp_path / "t.txt"
    texts.write_text("\n".join(TEXTS) + "\n\n")
    out = tmp_path / "words.parquet"
    assert run_command("embed", [str(run), "--texts", str(texts), "--out", str(out), "--tokens", "river"]) == 0
    table = pq.read_table(out).to_pylist()
    assert [(row["row"], row["word"], row["position"]) for row in table] == [(1, "river", 3 - 1), (3, "river", 2)]
    assert len(table[0]["vector"]) == 16
    with pytest.raises(InputError, match="none of its texts has the word zebra"):
        run_command(
            "embed", [str(run), "--texts", str(texts), "--out", str(tmp_path / "z.parquet"), "--tokens", "zebra"]
        )
    with pytest.raises(InputError, match="exists already"):
        run_command("embed", [str(run), "--texts", str(texts), "--out", str(out)])


def test_texts_of_files(tmp_path):
    (tmp_path / "a.csv").write_text("label,text\nx,One\ny,Two\n")
    assert read_lines(str(tmp_path / "a.csv")) == ["One", "Two"]
    (tmp_path / "e.txt").write_text("\n")
    with pytest.raises(InputError, match="has no text"):
        read_lines(str(tmp_path / "e.txt"))
    with pytest.raises(InputError, match="no such file"):
        read_lines(str(tmp_path / "no.txt"))
