import json

import pytest

from coalign.data.core.samples import Problem, Where
from coalign.errors import InputError
from coalign.evaluation.texts import check_out, report_problems, write_predictions


def test_rows_that_are_left_out_are_told_up_to_a_limit(capsys):
    problems = [Problem(Where("a.tsv", row), "is empty") for row in range(5)]
    report_problems(problems, 100, cut=2)
    told = capsys.readouterr().err
    assert "a.tsv, row 0: is empty" in told and "2 more rows" in told and "2 texts are longer" in told
    report_problems((), 1)
    assert not capsys.readouterr().err
    with pytest.raises(InputError, match=r"5 of 20 rows are unusable; the first: a\.tsv, row 0: is empty"):
        report_problems(problems, 15)


def test_predictions(tmp_path):
    tsv, lines = tmp_path / "p.tsv", tmp_path / "p.jsonl"
    write_predictions(tsv, ["3", "4"], ["yes", "no"])
    assert tsv.read_text() == "index\tprediction\n3\tyes\n4\tno\n"
    write_predictions(lines, ["3"], ["é"], [{"probabilities": {"é": 1.0}}])
    assert json.loads(lines.read_text()) == {"id": "3", "prediction": "é", "probabilities": {"é": 1.0}}
    with pytest.raises(InputError, match="exists already"):
        check_out(tsv, overwrite=False)
    check_out(tsv, overwrite=True)
    with pytest.raises(InputError, match=r"should end in \.tsv or \.jsonl"):
        check_out(tmp_path / "p.csv", overwrite=False)
