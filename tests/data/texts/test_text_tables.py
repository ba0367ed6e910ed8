import json

import pytest

from coalign.data.core.samples import Where
from coalign.data.texts.choices import read_choices
from coalign.data.texts.text_tables import class_of, label_names, read_texts, score_of
from coalign.errors import InputError

GLUE = {
    "SST-2": ("sentence\tlabel\nit 's \"fun\t1\ndull\t0\n", ("it 's \"fun",), "1"),
    "CoLA": ('gj04\t1\t\tThe cat "sat.\ngj04\t0\t*\tCat the.\n', ('The cat "sat.',), "1"),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tOne.\tUno.\n0\t1\t2\tA\tB\n",
        ("One.", "Uno."),
        "1",
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tHow?\t0\n8\t3\t4\tA\tB\t1\n",
        ("Why?", "How?"),
        "0",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tnews\tf\t2012\t1\tn\tn\tA plane.\tAn aircraft.\t5.000\n1\tnews\tf\t2012\t2\tn\tn\tA\tB\t0.4\n",
        ("A plane.", "An aircraft."),
        "5.000",
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
        "0\t3\t3n\tfiction\t( a\t( b\t(x\t(y\tA man.\tA person.\tentailment\tneutral\tentailment\n"
        "1\t4\t4n\tfiction\t( a\t( b\t(x\t(y\tA dog.\tA cat.\tneutral\tcontradiction\t-\n"
        "2\t4\t4c\tfiction\t( a\t( b\t(x\t(y\tA dog.\tNo.\tneutral\tcontradiction\tcontradiction\n",
        ("A man.", "A person."),
        "entailment",
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tentailment\n1\tWhat?\tIt.\tnot_entailment\n",
        ("Who?", "He."),
        "entailment",
    ),
}


@pytest.mark.parametrize("task", GLUE)
def test_published_layouts(task, tmp_path):
    content, texts, label = GLUE[task]
    file = tmp_path / "train.tsv"
    file.write_text(content)
    read = read_texts(file, need_labels=True)
    assert read.rows[0].texts == texts
    assert read.rows[0].label == label
    assert len(read) == 2  # MNLI's row without a common label is left out, and said so
    assert [problem.reason for problem in read.problems] == (["'gold_label' has no label"] if task == "MNLI" else [])


def test_a_test_file_has_no_labels(tmp_path):
    file = tmp_path / "test.tsv"
    file.write_text("index\tsentence\n0\tuneasy mishmash\n1\tfine\n")
    read = read_texts(file)
    assert [(row.id, row.texts, row.label) for row in read.rows] == [
        ("0", ("uneasy mishmash",), None),
        ("1", ("fine",), None),
    ]
    with pytest.raises(
        InputError, match="no column is recognised as the label; the columns there are: index, sentence"
    ):
        read_texts(file, need_labels=True)


def test_any_csv_and_jsonl(tmp_path):
    csv = tmp_path / "a.csv"
    csv.write_text('body,kind\n"a, b",x\nc,y\n,x\n')
    read = read_texts(csv, text_columns=["body"], label_column="kind", need_labels=True)
    assert [(row.texts[0], row.label) for row in read.rows] == [("a, b", "x"), ("c", "y")]
    assert str(read.problems[0]) == f"{csv}, row 4: 'body' is empty"
    with pytest.raises(InputError, match=r"no column 'text_'; the columns there are: body, kind"):
        read_texts(csv, text_columns=["text_"])
    with pytest.raises(InputError, match="no column is recognised as the two texts"):
        read_texts(csv, texts=2)
    lines = tmp_path / "a.jsonl"
    records = [{"premise": "p", "hypothesis": "h", "label": 2}, {"premise": "q", "hypothesis": "i", "label": 0.0}]
    lines.write_text("\n".join(map(json.dumps, records)))
    assert [(row.texts, row.label) for row in read_texts(lines).rows] == [(("p", "h"), "2"), (("q", "i"), "0")]
    with pytest.raises(InputError, match="no such file"):
        read_texts(tmp_path / "b.csv")


def test_columns_by_number_where_there_is_no_header(tmp_path):
    file = tmp_path / "news.csv"
    file.write_text("3,Wall St.,Short sellers\n1,Peace,Talks\n")
    read = read_texts(file, text_columns=["2", "3"], label_column="1")
    assert [(row.texts, row.label) for row in read.rows] == [
        (("Wall St.", "Short sellers"), "3"),
        (("Peace", "Talks"), "1"),
    ]


def test_a_damaged_row_is_left_out(tmp_path):
    file = tmp_path / "t.tsv"
    file.write_text("sentence\tlabel\nok\t1\nbroken\nfine\t0\n")
    read = read_texts(file, need_labels=True)
    assert len(read) == 2
    assert "row 3: has 1 fields, the header 2" in str(read.problems[0])


def test_labels():
    class Row:
        def __init__(self, label):
            self.label = label

    assert label_names(map(Row, ["10", "9", "9"])) == ("9", "10")
    assert label_names(map(Row, ["no", "yes", "maybe"])) == ("maybe", "no", "yes")
    with pytest.raises(InputError, match="at least two labels"):
        label_names(map(Row, ["x", "x"]))
    where = Where("dev.tsv", 7)
    assert class_of("yes", ("no", "yes"), where) == 1
    with pytest.raises(InputError, match=r"dev.tsv, row 7: label 'yep' is not in the set .*: no, yes"):
        class_of("yep", ("no", "yes"), where)
    assert score_of("3.5", where) == 3.5
    with pytest.raises(InputError, match="no number"):
        score_of("high", where)


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    assert [row.label for row in read_texts(tmp_path / "saved").rows] == ["good", "bad", None]


SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '0,v1,1,x,"A man walks in, slowly.",He,gold,sits.,runs.,flies.,sings.,2\n'
)


def test_swag(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text(SWAG)
    read = read_choices(file, need_labels=True)
    (row,) = read.rows
    assert read.choices == 4
    assert row.context == "A man walks in, slowly."
    assert row.endings == ("He sits.", "He runs.", "He flies.", "He sings.")
    assert row.label == 2
    file.write_text(SWAG.replace(",2\n", ",4\n"))
    with pytest.raises(InputError, match=r"row 2: 'label' is '4', it should be 0 to 3"):
        read_choices(file)


def test_story_cloze(tmp_path):
    file = tmp_path / "cloze.csv"
    names = [
        "InputStoryid",
        *(f"InputSentence{i}" for i in range(1, 5)),
        "RandomFifthSentenceQuiz1",
        "RandomFifthSentenceQuiz2",
    ]
    file.write_text(",".join([*names, "AnswerRightEnding"]) + "\nid1,A.,B.,C.,D.,E1.,E2.,2\n")
    (row,) = read_choices(file, need_labels=True).rows
    assert (row.context, row.endings, row.label, row.id) == ("A. B. C. D.", ("E1.", "E2."), 1, "id1")
    file.write_text(",".join(names) + "\nid1,A.,B.,C.,D.,E1.,E2.\n")
    assert read_choices(file).rows[0].label is None
    with pytest.raises(InputError, match="no column says which ending is right"):
        read_choices(file, need_labels=True)


def test_any_choices(tmp_path):
    file = tmp_path / "q.jsonl"
    record = {"context": "It rains.", "question": "What to take?", "choice1": "umbrella", "choice2": "sun", "label": 0}
    file.write_text(json.dumps(record) + "\n" + json.dumps({**record, "choice2": ""}))
    read = read_choices(file)
    assert read.rows[0].context == "It rains. What to take?"
    assert read.rows[0].endings == ("umbrella", "sun")
    assert "row 2: 'choice2' is empty" in str(read.problems[0])
