"""Refusals of kernels: the reference runs, the reasons are said once, VQTOK_STRICT forbids."""

import logging

import pytest
import torch

from vqtok.errors import ConfigError
from vqtok.ops import dispatch, nearest_code, residual_codes
from vqtok.ops.dispatch import fall_back


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.delenv("VQTOK_STRICT", raising=False)


def double(x):
    return 2 * x


def test_a_refusal_runs_the_reference_and_says_its_reasons_once(caplog):
    with caplog.at_level(logging.INFO, logger="vqtok.ops.dispatch"):
        results = [fall_back("op on cpu", ["too wide", "too odd"], double, x) for x in (1, 2)]
        fall_back("op on cpu", ["too wide"], double, 3)

    assert results == [2, 4]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "op on cpu refuses: too wide; too odd." in said[0]
    assert all(record.levelno == logging.INFO for record in caplog.records)


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("0", False), ("", False)])
def test_vqtok_strict_turns_a_refusal_into_an_error(value, strict, monkeypatch):
    monkeypatch.setenv("VQTOK_STRICT", value)

    if strict:
        with pytest.raises(ConfigError, match=r"op on cpu refuses: too wide.*VQTOK_STRICT=1"):
            fall_back("op on cpu", ["too wide"], double, 1)
    else:
        assert fall_back("op on cpu", ["too wide"], double, 1) == 2


@pytest.mark.parametrize(
    ("op", "codebook_shape"), [(nearest_code, (9, 3)), (residual_codes, (2, 9, 3))]
)
def test_the_ops_refuse_through_it(op, codebook_shape, monkeypatch, caplog):
    latents = torch.randn(5, 3, dtype=torch.float64)
    codebook = torch.randn(codebook_shape, dtype=torch.float64)

    with caplog.at_level(logging.INFO, logger="vqtok.ops.dispatch"):
        plain = op(latents, codebook)
    monkeypatch.setenv("VQTOK_STRICT", "1")

    assert plain.shape[0] == 5
    assert f"{op.__name__} on cpu refuses: arithmetic in float64" in caplog.text
    with pytest.raises(ConfigError, match="float64"):
        op(latents, codebook)
    assert op(latents.float(), codebook.float()).shape == plain.shape
