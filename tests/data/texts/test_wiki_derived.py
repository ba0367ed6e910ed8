import json

from coalign.data.texts.conll import entities, read_conll
from coalign.data.texts.squad import read_squad
from coalign.data.texts.wiki import Lead
from coalign.data.texts.wiki_derived import alike, descriptions, questions, statements, subject_tags

ADA = Lead(
    "Ada Lovelace (mathematician)",
    "Ada Lovelace (10 December 1815 – 27 November 1852) was an English mathematician and writer. Ada Lovelace wrote.",
    "English mathematician",
    "People",
)
FLUTE = Lead("Flute", "The flute is a wind instrument, played by blowing.", "instrument", "Arts")
NONE = Lead("Flute", "The flute is a wind instrument.", "instrument", None)


def test_subjects_are_spans_of_their_topic(tmp_path):
    words, tags = zip(*subject_tags(ADA), strict=True)
    assert words[:3] == ("Ada", "Lovelace", "(") and "wrote" not in words
    assert entities(tags) == [("People", 0, 2)]
    assert entities([tag for _, tag in subject_tags(FLUTE)]) == [("Arts", 1, 2)]
    assert subject_tags(NONE) == []
    file = tmp_path / "a.conll"
    file.write_text("\n".join(f"{word} {tag}" for word, tag in subject_tags(ADA)))
    assert read_conll(file)[0].words == words


def test_questions_are_squad(tmp_path):
    others = [Lead(f"Thing {n}", f"A thing is an object {n}.", "", "Arts") for n in range(20)]
    file = tmp_path / "q.json"
    file.write_text(json.dumps(questions([ADA, FLUTE, *others])))
    read = read_squad(file)
    assert not read.problems and read.has_unanswerable
    answered = {row.question: row.answers[0] for row in read.rows if row.answers}
    assert answered["Who is Ada Lovelace?"] == "English mathematician"
    assert answered["When was Ada Lovelace born?"] == "10 December 1815"
    assert answered["When did Ada Lovelace die?"] == "27 November 1852"
    assert answered["What is Flute?"] == "wind instrument"
    assert all(row.start is not None for row in read.rows if row.answers)
    assert any(not row.answers for row in read.rows)


def test_one_of_two_descriptions_is_the_leads_own():
    found = [ADA, *[FLUTE] * 20, Lead("Nothing", "Nothing is said of it.", "", "Arts")]
    rows = descriptions(found)
    assert len(rows) == 21 and rows == descriptions(found) and {row["label"] for row in rows} == {0, 1}
    for lead, row in zip(found, rows, strict=False):
        assert row["context"] == lead.text and row[f"ending{row['label']}"] == lead.description
        assert row["ending0"] != row["ending1"]
    assert descriptions([FLUTE, FLUTE]) == []


def test_a_statement_is_the_leads_own_or_another_s():
    rows = statements([ADA, *[FLUTE] * 20])
    assert {row["label"] for row in rows} == {"own", "other"}
    for lead, row in zip([ADA, *[FLUTE] * 20], rows, strict=True):
        assert row["premise"] == lead.text and (row["hypothesis"] == lead.description) == (row["label"] == "own")


def test_alike_are_descriptions_of_one_topic():
    topics = {lead.description: lead.topic for lead in (ADA, FLUTE)}
    rows = alike([*[ADA] * 10, *[FLUTE] * 10, NONE])
    assert len(rows) == 20 and {row["label"] for row in rows} == {"same", "other"}
    assert all((topics[row["sentence1"]] == topics[row["sentence2"]]) == (row["label"] == "same") for row in rows)
    assert alike([ADA, NONE]) == []
