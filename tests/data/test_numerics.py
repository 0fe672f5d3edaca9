"""Runs in bf16: measured before, frozen, refused where too many codes flip, the same everywhere."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.models.rvq_codec.codecs import lively
from tests.models.test_vim_vq import trained
from vqtok.data import load_codes, tokenize_dataset
from vqtok.data.canary import canary_of, check_canary
from vqtok.data.excerpts import excerpt
from vqtok.data.executors import Execution
from vqtok.data.jobs import Job, pickled
from vqtok.data.numerics import check_flips, sample_units
from vqtok.data.plan import build_plan
from vqtok.data.schema import RowSchema
from vqtok.data.sources import InputShard, open_source
from vqtok.errors import ConfigError, FingerprintError, InputError

INPUTS = 24


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return trained("residual")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Noise in 32 x 32 pixels: the more of it, the more codes are near a tie."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(1)
    for number in range(INPUTS):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def images_of(folder) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def stored(folder) -> list[torch.Tensor]:
    return [torch.as_tensor(row["codes"]).reshape(row["shape"]) for row in load_codes(folder)]


def frozen(folder, name="vqtok.json") -> dict:
    return json.loads((folder / name).read_text())["numerics"]


@pytest.fixture(scope="module")
def both(model, noisy, tmp_path_factory):
    """The same run in either profile: folder and report of each."""
    out = tmp_path_factory.mktemp("both")
    options = {"batch_size": 4, "unit_rows": 8}
    exact = tokenize_dataset(noisy, out / "exact", model, **options)
    bf16 = tokenize_dataset(
        noisy, out / "bf16", model, numerics="bf16", max_flip_rate=0.2, **options
    )
    return out / "exact", exact, out / "bf16", bf16


def test_exact_is_the_default_and_says_so(both, model, noisy):
    folder, report, _, _ = both

    assert frozen(folder) == frozen(folder, ".vqtok/run.json") == {"profile": "exact"}
    assert "numerics" not in report.summary()
    for codes, tokens in zip(stored(folder), model.tokenize(images_of(noisy), 4), strict=True):
        assert torch.equal(codes, tokens.codes)


def test_a_run_in_bf16_holds_the_codes_of_the_profile(both, model, noisy):
    _, _, folder, _ = both

    tokens = model.with_numerics("bf16").tokenize(images_of(noisy), 4)

    for codes, wanted in zip(stored(folder), tokens, strict=True):
        assert torch.equal(codes, wanted.codes)


def test_what_was_measured_is_what_the_run_became(both):
    exact, _, folder, report = both
    pairs = [
        torch.cat([codes.flatten(1) for codes in stored(which)], 1) for which in (exact, folder)
    ]
    rates = (pairs[0] != pairs[1]).double().mean(1)

    found = frozen(folder)

    # fewer inputs than a sample takes: all of them were measured
    assert found["samples"] == INPUTS
    assert found["tokens"] == pairs[0].numel()
    assert found["flip_rate"] == pytest.approx(rates.tolist(), abs=1e-6)
    assert max(found["flip_rate"]) > 0
    assert found["speedup"] > 0
    assert (found["profile"], found["max_flip_rate"]) == ("bf16", 0.2)
    assert frozen(folder, ".vqtok/run.json") == found == report.numerics
    assert f"{max(rates):.2%} of the codes of the worst codebook" in report.summary()


def test_codes_of_either_profile_are_decoded_by_the_same_tokenizer(both, model):
    exact, _, bf16, _ = both
    prints = [
        json.loads((folder / "vqtok.json").read_text())["tokenizer"]["fingerprint"]
        for folder in (exact, bf16)
    ]

    assert prints[0]["decode"] == prints[1]["decode"] == model.fingerprint.decode
    assert prints[0]["encode"] == model.fingerprint.encode != prints[1]["encode"]
    (back,) = model.detokenize([load_codes(bf16)[0]])
    assert back.size == (64, 64)


def test_too_many_flips_are_refused_before_anything_is_written(model, noisy, tmp_path):
    with pytest.raises(ConfigError, match=r"flips .* of codebook \d .of 3.*max_flip_rate=0 allows"):
        tokenize_dataset(noisy, tmp_path / "out", model, numerics="bf16", max_flip_rate=0.0)

    assert not (tmp_path / "out").exists()


def test_the_refusal_names_the_worst_codebook_and_the_ones_that_would_do():
    check_flips([0.02, 0.01], 0.02)
    with pytest.raises(ConfigError) as caught:
        check_flips([0.001, 0.019, 0.021, 0.03], 0.02)

    assert "3.00% of the codes of codebook 3 (of 4" in str(caught.value)
    assert "first 2 codebooks only" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        check_flips([0.5], 0.02)
    assert "first" not in str(caught.value)


def test_a_run_goes_on_in_its_own_profile_only(both, model, noisy, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(both[2], folder)
    before = frozen(folder)
    for name in ("vqtok.json", "data/train-00001-of-00003.parquet"):
        (folder / name).unlink()

    with pytest.raises(ConfigError, match=r"another numerics.*numerics='bf16', now it is 'exact'"):
        tokenize_dataset(noisy, folder, model, numerics="exact", resume=True)
    with pytest.raises(ConfigError, match=r"another max_flip_rate.*max_flip_rate=0\.2, now"):
        tokenize_dataset(noisy, folder, model, max_flip_rate=0.5, resume=True)
    report = tokenize_dataset(noisy, folder, model, resume=True)

    assert report.resumed_units == 2
    assert frozen(folder) == before  # not measured a second time
    assert all(torch.equal(a, b) for a, b in zip(stored(folder), stored(both[2]), strict=True))


def test_an_exact_run_does_not_go_on_in_bf16(both, model, noisy):
    with pytest.raises(ConfigError, match=r"another numerics.*numerics='exact', now it is 'bf16'"):
        tokenize_dataset(noisy, both[0], model, numerics="bf16", resume=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numerics": "fp8"}, "numerics must be one of"),
        ({"max_flip_rate": 0.1}, "max_flip_rate is of numerics 'bf16'"),
        ({"numerics": "exact", "max_flip_rate": 0.1}, "max_flip_rate is of numerics 'bf16'"),
        ({"numerics": "bf16", "max_flip_rate": 1.5}, "max_flip_rate must be from 0 to 1"),
    ],
)
def test_options_that_cannot_be_obeyed_are_refused(options, words, model, noisy, tmp_path):
    with pytest.raises(ConfigError, match=words):
        tokenize_dataset(noisy, tmp_path / "out", model, **options)


def test_a_tokenizer_without_profiles_is_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match="FakeTokenizer has none"):
        tokenize_dataset(photos, tmp_path / "out", FakeTokenizer(), numerics="bf16")


def test_inputs_of_which_none_can_be_read_cannot_be_measured(model, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")

    with pytest.raises(InputError, match="cannot be measured"):
        tokenize_dataset(tmp_path / "bad", tmp_path / "out", model, numerics="bf16")


def test_bad_inputs_are_left_out_of_the_measurement(model, tmp_path):
    root = tmp_path / "mixed"
    root.mkdir()
    for number in range(6):
        data = b"broken" if number in (0, 3) else png(number, 64, 64)
        (root / f"{number}.png").write_bytes(data)

    options = {"numerics": "bf16", "max_flip_rate": 0.2}
    report = tokenize_dataset(root, tmp_path / "out", model, **options)

    assert (report.rows, report.bad) == (6, 2)
    assert report.numerics["samples"] == 4


# Wherever the workers are.


def test_shards_make_the_codes_of_the_profile(both, model, noisy, tmp_path):
    for task in (0, 1):
        execution = Execution("shard", 1, task_index=task, num_tasks=2)
        tokenize_dataset(
            *(noisy, tmp_path / "out", model),
            executor=execution,
            numerics="bf16",
            max_flip_rate=0.2,
            batch_size=4,
            unit_rows=8,
        )

    for codes, wanted in zip(stored(tmp_path / "out"), stored(both[2]), strict=True):
        assert torch.equal(codes, wanted)


def test_processes_make_the_codes_of_the_profile(both, model, noisy, tmp_path):
    tokenize_dataset(
        *(noisy, tmp_path / "out", model),
        workers=2,
        numerics="bf16",
        max_flip_rate=0.2,
        batch_size=4,
        unit_rows=8,
    )

    for codes, wanted in zip(stored(tmp_path / "out"), stored(both[2]), strict=True):
        assert torch.equal(codes, wanted)


def test_a_worker_elsewhere_takes_on_the_profile_and_is_checked_in_it(model, noisy):
    other = model.with_numerics("bf16")
    job = Job(
        source=open_source(noisy),
        factory=pickled(model),
        encode=other.fingerprint.encode,
        schema=RowSchema(model.codebook_sizes),
        metadata={},
        canary=canary_of(other),
        numerics="bf16",
        max_flip_rate=0.0,
    )

    worker = job.worker(lambda row: None)

    assert worker.tokenizer.numerics == "bf16"
    assert worker.tokenizer.fingerprint == other.fingerprint


# The canary.


def canary(flips: int, machine: str = "a") -> dict:
    return {"codes": [[1] * flips + [0] * (100 - flips), [0] * 100], "machine": machine}


def test_in_exact_the_same_machine_makes_every_code_of_the_canary():
    check_canary(canary(0), canary(0), None)
    with pytest.raises(FingerprintError, match=r"0\.50% of the canary's codes differ"):
        check_canary(canary(1), canary(0), None)


def test_in_exact_another_machine_may_differ_in_near_ties(caplog):
    check_canary(canary(2, "b"), canary(0, "a"), None)

    assert "1.00 % of the canary's codes differ" in caplog.text
    with pytest.raises(FingerprintError, match="started on 'a', this is 'b'"):
        check_canary(canary(3, "b"), canary(0, "a"), None)


@pytest.mark.parametrize("machine", ["a", "b"])
def test_in_bf16_the_canary_flips_no_more_than_the_bound(machine):
    check_canary(canary(4, machine), canary(0), 0.02)
    with pytest.raises(FingerprintError, match=r"2\.50% .* 2\.00% may"):
        check_canary(canary(5, machine), canary(0), 0.02)


def test_a_canary_of_another_length_is_never_the_same():
    with pytest.raises(FingerprintError, match=r"100\.00%"):
        check_canary({"codes": [[0]], "machine": "b"}, canary(0), 1 - 1e-9)


def test_the_canary_is_made_in_the_profile(model):
    exact, bf16 = canary_of(model), canary_of(model.with_numerics("bf16"))

    assert exact["machine"] == bf16["machine"]
    assert exact["codes"] != bf16["codes"]
    check_canary(bf16, exact, 0.2)


# What is measured.


@given(
    files=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    unit_rows=st.integers(1, 50),
    rows=st.integers(1, 30),
    blocks=st.integers(1, 20),
)
def test_samples_are_rows_of_the_plan_in_order_and_none_twice(files, unit_rows, rows, blocks):
    shards = [InputShard(f"{i:03}", 9, "e", count) for i, count in enumerate(files)]
    plan = build_plan(shards, unit_rows)

    units = sample_units(plan, min(rows, plan.rows), blocks)

    places = [
        (segment.uri, segment.row_start + i)
        for unit in units
        for segment in unit.segments
        for i in range(segment.row_count)
    ]
    assert places == sorted(set(places))
    assert set(places) <= {(shard.uri, i) for shard in shards for i in range(shard.rows)}
    assert all(1 <= unit.rows <= rows for unit in units)
    assert 1 <= len(units) <= blocks


def test_samples_come_from_all_over_one_file_and_from_the_front_of_many():
    one = build_plan([InputShard("a", 9, "e", 1000)], 64)
    many = build_plan([InputShard(f"{i:02}", 9, "e", 100) for i in range(10)], 64)

    starts = [unit.segments[0].row_start for unit in sample_units(one, 5, 10)]
    heads = [(u.segments[0].uri, u.segments[0].row_start) for u in sample_units(many, 5, 5)]

    assert starts == list(range(0, 1000, 100))
    assert heads == [(f"{i:02}", 0) for i in (0, 2, 4, 6, 8)]


def wav(seconds: float, rate: int = 8000) -> bytes:
    out = io.BytesIO()
    ramp = np.arange(int(seconds * rate)) % 20_000
    soundfile.write(out, ramp.astype(np.int16), rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def test_of_a_long_sound_five_seconds_in_the_middle_are_measured():
    (middle, rate), (whole, _) = (
        soundfile.read(io.BytesIO(data), dtype="float32") for data in (excerpt(wav(31)), wav(31))
    )

    start = (len(whole) - 5 * rate) // 2
    assert np.array_equal(middle, whole[start : start + 5 * rate])
    assert excerpt(wav(4)) == wav(4)
    assert excerpt(b"no sound") == b"no sound"


def test_sounds_in_bf16(tmp_path):
    model = lively()
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(2)
    for number in range(3):
        sound = rng.standard_normal(4000 + 100 * number) * 0.1
        soundfile.write(tmp_path / "in" / f"{number}.wav", sound, 16_000)

    options = {"numerics": "bf16", "max_flip_rate": 0.2}
    report = tokenize_dataset(tmp_path / "in", tmp_path / "out", model, **options)

    assert report.numerics["samples"] == 3
    assert len(report.numerics["flip_rate"]) == 3
    other = model.with_numerics("bf16")
    sounds = [(tmp_path / "in" / f"{number}.wav").read_bytes() for number in range(3)]
    for codes, tokens in zip(stored(tmp_path / "out"), other.tokenize(sounds), strict=True):
        assert torch.equal(codes, tokens.codes)
