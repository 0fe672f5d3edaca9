"""Sounds in pieces: the same codes and samples as the whole, as early as can be."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.rvq_codec.codecs import HOP, MIDDLES, case, noise
from vqtok.errors import CodeRangeError, ConfigError, ShapeError, VqtokError

every_kind = pytest.mark.parametrize("causal", [True, False])
every_middle = pytest.mark.parametrize("middle", MIDDLES)


def pushed(stream, signal, sizes):
    """Everything that comes out for pieces of these sizes, over and over, until the end."""
    outputs, start = [], 0
    while start < signal.shape[-1]:
        size = sizes[len(outputs) % len(sizes)]
        outputs.append(stream.push(signal[..., start : start + size]))
        start += size
    return [*outputs, stream.flush()]


def joined(outputs):
    return torch.cat([y for y in outputs if y is not None], -1)


def tensors_in(state):
    if isinstance(state, torch.Tensor):
        return [state]
    return [t for part in state or () for t in tensors_in(part)]


@torch.no_grad()
@every_kind
@every_middle
@settings(max_examples=12, deadline=None)
@given(chunk=st.integers(1, 22 * HOP))
def test_chunks_of_any_length_give_the_codes_of_the_whole(causal, middle, chunk):
    model, samples, codes = case(causal, middle)

    assert torch.equal(model.encode(samples, chunk_samples=chunk), codes)


@every_kind
@every_middle
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 90), min_size=1, max_size=5).filter(sum))
def test_a_stream_of_any_pieces_gives_the_codes_of_the_whole(causal, middle, sizes):
    model, samples, codes = case(causal, middle)

    with model.stream() as stream:
        got = joined(pushed(stream, samples, sizes))

    assert torch.equal(got, codes)


@torch.no_grad()
@every_kind
@every_middle
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum))
def test_codes_in_any_pieces_give_the_samples_of_the_whole(causal, middle, sizes):
    model, _, codes = case(causal, middle)

    with model.stream_decoder() as stream:
        samples = joined(pushed(stream, codes, sizes))

    torch.testing.assert_close(samples, model.decode(codes), rtol=0, atol=1e-5)


@every_middle
def test_a_causal_codec_gives_every_hop_as_soon_as_it_is_there(middle):
    model, samples, codes = case(True, middle)

    with model.stream() as coder, model.stream_decoder() as decoder:
        for hop in range(20):
            start = hop * HOP
            early = coder.push(samples[..., start : start + HOP - 1])
            now = coder.push(samples[..., start + HOP - 1 : start + HOP])
            heard = decoder.push(now)

            assert early is None
            assert torch.equal(now, codes[..., hop : hop + 1])
            assert heard.shape == (2, 1, HOP)
        assert decoder.flush() is None


@torch.no_grad()
@every_middle
def test_the_future_never_changes_codes_or_samples_of_a_causal_codec(middle):
    model, samples, codes = case(True, middle)
    changed, other = samples.clone(), codes.clone()
    changed[..., 10 * HOP :] = noise(2, 1, changed.shape[-1] - 10 * HOP, seed=5)
    other[..., 10:] = (other[..., 10:] + 1) % 16

    new = model.encode(changed)
    heard, heard_before = model.decode(other), model.decode(codes)

    assert torch.equal(new[..., :10], codes[..., :10])
    assert not torch.equal(new[..., 10:], codes[..., 10:])
    same = heard[..., : 10 * HOP] - heard_before[..., : 10 * HOP]
    assert same.abs().max() < 1e-5
    assert (heard - heard_before)[..., 10 * HOP : 11 * HOP].abs().max() > 1e-3


def test_a_codec_that_looks_ahead_holds_back_what_it_cannot_know():
    model, samples, codes = case(False, "none")

    with model.stream() as stream:
        known = stream.push(samples)
        rest = stream.flush()

    assert 0 < rest.shape[-1] < 15
    assert torch.equal(torch.cat([known, rest], -1), codes)


def test_fewer_codebooks_stream_too():
    model, samples, codes = case(True, "none")
    second = 2 * model.rate.bits / 3

    for options in ({"num_codebooks": 2}, {"bitrate_bps": second}):
        with model.stream(**options) as stream:
            assert torch.equal(stream.push(samples), codes[:, :2, :20])
    with pytest.raises(ConfigError, match="num_codebooks"):
        model.stream(num_codebooks=4)
    with pytest.raises(ConfigError, match="two ways"):
        model.stream(num_codebooks=1, bitrate_bps=second)


def test_a_stream_runs_as_tokenize_does_whatever_the_caller_does():
    model, samples, codes = case(True, "none")
    model = copy.deepcopy(model).train()

    with model.stream() as stream, torch.autocast("cpu", torch.bfloat16):
        first = stream.push(samples[..., : 10 * HOP])
        assert torch.is_grad_enabled()
        assert model.training
    stream = model.stream()  # also without `with`
    got = [stream.push(part) for part in samples.double().split(50, -1)] + [stream.flush()]

    assert torch.equal(first, codes[..., :10])
    assert torch.equal(joined(got), codes)
    assert model.training
    decoder = model.stream_decoder()
    assert not decoder.push(codes).requires_grad


def test_streams_side_by_side_do_not_meet():
    model, samples, codes = case(True, "mamba")
    first, second = model.stream(), model.stream()
    first.__enter__()
    second.__enter__()

    one = [first.push(samples[..., : 3 * HOP])]
    two = [second.push(samples[..., : 7 * HOP])]
    first.__exit__(None, None, None)
    two.append(second.push(samples[..., 7 * HOP : 9 * HOP]))
    second.__exit__(None, None, None)

    assert torch.equal(joined(one), codes[..., :3])
    assert torch.equal(joined(two), codes[..., :9])
    assert torch.is_grad_enabled()


@every_kind
@every_middle
def test_what_a_stream_carries_does_not_grow(causal, middle):
    model = case(causal, middle)[0]
    coder, decoder, sizes = model.stream(), model.stream_decoder(), []

    for _ in range(30 if middle != "transformer" else 90):
        codes = coder.push(noise(1, 1, 4 * HOP))
        if codes is not None:
            decoder.push(codes)
        states = tensors_in(coder._state) + tensors_in(decoder._state)
        sizes.append(sum(t.untyped_storage().nbytes() for t in states))

    assert sizes[-1] == sizes[-2] == max(sizes)
    own = sum(t.numel() * t.element_size() for t in states)
    assert sizes[-1] == own


def test_bfloat16_streams_as_it_encodes():
    model, samples, codes = case(False, "none")
    half = copy.deepcopy(model).compute_in(torch.bfloat16)

    with half.stream() as coder, half.stream_decoder() as decoder:
        got = joined(pushed(coder, samples, [100]))
        heard = joined(pushed(decoder, codes, [7]))

    with half.inference():
        assert (got != half.encode(samples)).float().mean() < 0.02
        torch.testing.assert_close(heard, half.decode(codes), rtol=0, atol=0.05)
    assert heard.dtype == torch.float32
    assert (got != codes).float().mean() < 0.25  # of noise, in three small codebooks


def test_a_wrong_push_is_refused_and_changes_nothing():
    model, samples, codes = case(True, "none")
    coder, decoder = model.stream(), model.stream_decoder()

    for wrong in (
        samples.repeat(1, 2, 1),  # channels
        (samples * 100).long(),
        samples[0],
        samples[..., :0].repeat(1, 1, 1, 1),
    ):
        with pytest.raises(ShapeError):
            coder.push(wrong)
    first = coder.push(samples[..., : 5 * HOP])
    with pytest.raises(ShapeError, match=r"here \[2, 1\]; got \[1, 1, 487\]"):
        coder.push(samples[:1])
    rest = coder.push(samples[..., 5 * HOP :])
    for wrong, error in ((codes + 16, CodeRangeError), (codes.float(), ShapeError)):
        with pytest.raises(error):
            decoder.push(wrong)
    decoder.push(codes)
    with pytest.raises(ShapeError, match="codes"):
        decoder.push(codes[:, :2])

    assert torch.equal(joined([first, rest, coder.flush()]), codes)


def test_a_stream_that_is_over_or_empty_says_so():
    model, samples, _ = case(True, "none")

    for stream in (model.stream(), model.stream_decoder()):
        with pytest.raises(VqtokError, match="empty"):
            stream.flush()
    stream = model.stream()
    assert stream.push(samples[..., :0]) is None
    with pytest.raises(VqtokError, match="empty"):
        stream.flush()
    stream.push(samples)
    stream.flush()
    for call in (stream.flush, lambda: stream.push(samples)):
        with pytest.raises(VqtokError, match="was flushed"):
            call()
    with model.stream() as left:
        left.push(samples)
    for call in (left.flush, lambda: left.push(samples)):
        with pytest.raises(VqtokError, match="was closed"):
            call()


def test_encode_in_chunks_runs_as_called_and_wants_a_chunk():
    model, samples, codes = case(False, "none")
    model = copy.deepcopy(model).train()

    got = model.encode(samples, num_codebooks=2, chunk_samples=100)

    assert torch.equal(got, codes[:, :2])
    assert model.training
    long = noise(4, 1, 200 * HOP)
    exact = model.encode(long, chunk_samples=1000)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model.encode(long, chunk_samples=1000), exact)
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="chunk_samples"):
            model.encode(samples, chunk_samples=wrong)
