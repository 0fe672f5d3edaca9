"""The table of proofs names tests that exist, and says so when one does not hold."""

import ast
import re
from pathlib import Path

import pytest

from scripts.prove_pipeline import PROOFS, Proofs
from scripts.storms import NotProved

REPOSITORY = Path(__file__).parents[2]
TESTS = [test for _, tests in PROOFS for test in tests]


def test_the_twelve_proofs_have_tests():
    assert len(PROOFS) == 12
    assert all(tests for _, tests in PROOFS)


@pytest.mark.parametrize("test", TESTS)
def test_a_named_test_exists(test):
    file, *names = test.split("::")
    body = ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body

    for name in names:
        (found,) = [node for node in body if getattr(node, "name", None) == name]
        body = found.body


def test_a_step_that_fails_does_not_hide_among_the_others(capsys):
    def fails():
        raise NotProved("a row is there twice")

    proofs = Proofs()
    proofs.step("first", "what holds", lambda: "2 rows")
    proofs.step("second", "what does not", fails)

    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"proved +\d+\.\d s  first +what holds: 2 rows", first)
    assert re.match(r"FAILED +\d+\.\d s  second +what does not: a row is there twice", second)
    summary = proofs.summary()
    assert not summary["proved"]
    assert [step["proved"] for step in summary["steps"]] == [True, False]
