"""Laws that every quantizer kind keeps; a kind in QUANTIZERS without a case fails here."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.quantizers.cases import CASES, DIM, build, draw, trained
from vqtok.errors import CodeRangeError, ConfigError, ShapeError
from vqtok.quantizers import QUANTIZERS, Codebook

LEARNED = [name for name in CASES if not name.startswith("fsq")]
every_case = pytest.mark.parametrize("name", CASES)
every_learned_case = pytest.mark.parametrize("name", LEARNED)


def same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_every_kind_has_a_case():
    assert {case["kind"] for case in CASES.values()} == set(QUANTIZERS)


@every_case
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (0, 3, 3)])
def test_codes_have_the_promised_shape_dtype_and_range(name, shape):
    quantizer = trained(name)

    codes = quantizer.encode(torch.randn(*shape, DIM) * 3)
    vectors = quantizer.decode(codes)

    assert codes.shape == (*shape, quantizer.num_codebooks)
    assert codes.dtype == torch.int64
    for level, size in enumerate(quantizer.codebook_sizes):
        assert ((codes[..., level] >= 0) & (codes[..., level] < size)).all()
    assert vectors.shape == (*shape, DIM)
    assert vectors.dtype == torch.float32


@every_case
def test_forward_gives_the_codes_of_encode_and_the_vectors_of_decode(name):
    quantizer = trained(name).eval()
    latents = draw(seed=9)

    out = quantizer(latents)

    assert torch.equal(out.codes, quantizer.encode(latents))
    torch.testing.assert_close(out.quantized, quantizer.decode(out.codes), rtol=0, atol=1e-6)
    assert out.loss.shape == ()
    assert out.loss.dtype == torch.float32


@pytest.mark.parametrize("name", ["vq", "vq-unit", "vq-gradient", "spatial", "spatial-unit"])
def test_encoding_a_decoded_code_gives_the_code_again(name):
    quantizer = trained(name).eval()
    codes = quantizer.encode(draw())

    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_reaches_every_latent(name, training):
    quantizer = trained(name).train(training)
    latents = draw(seed=5).requires_grad_()

    quantizer(latents).quantized.mul(draw(seed=6)).sum().backward()

    assert latents.grad.isfinite().all()
    assert (latents.grad.abs().sum(-1) > 0).all()


@every_case
@pytest.mark.parametrize("garbage", [1e6, float("nan")])
def test_masked_positions_change_neither_loss_nor_state_nor_other_codes(name, garbage):
    first = build(name).train()
    quantizers = [first, copy.deepcopy(first)]
    results = []

    for quantizer, filling in zip(quantizers, (0.0, garbage), strict=True):
        torch.manual_seed(3)
        for step in range(3):
            latents = draw(seed=step)
            mask = torch.rand(latents.shape[:-1], generator=torch.Generator().manual_seed(step))
            mask = mask > 0.4
            latents[~mask] = filling
            latents.requires_grad_()
            out = quantizer(latents, mask)
            if out.loss.requires_grad and filling == filling:
                out.loss.backward()
                assert (latents.grad[~mask] == 0).all()
        results.append((out.loss.item(), out.codes[mask], out.quantized[mask]))

    (loss, codes, quantized), (other_loss, other_codes, other_quantized) = results
    assert loss == other_loss
    assert torch.equal(codes, other_codes)
    assert torch.equal(quantized, other_quantized)
    assert same_state(*quantizers)


@every_case
def test_a_batch_without_a_single_valid_position_changes_nothing(name):
    quantizer = build(name).train()
    before = copy.deepcopy(quantizer)
    latents = draw()

    out = quantizer(latents, torch.zeros(latents.shape[:-1], dtype=torch.bool))

    assert out.loss.item() == 0
    assert same_state(quantizer, before)


@every_case
def test_evaluation_changes_nothing(name):
    quantizer = trained(name).eval()
    before = copy.deepcopy(quantizer)

    quantizer(draw(seed=8))
    quantizer.upkeep()

    assert same_state(quantizer, before)


@every_learned_case
def test_training_changes_the_codes(name):
    quantizer = trained(name, steps=1)
    before = copy.deepcopy(quantizer)
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=0.1) if gradient(name) else None

    quantizer(draw(seed=8)).loss.backward() if optimizer else quantizer(draw(seed=8))
    if optimizer:
        optimizer.step()

    assert not torch.equal(tables(quantizer), tables(before))


@every_learned_case
def test_a_frozen_codebook_stays_as_it_is_also_after_a_reload(name):
    quantizer = trained(name)
    quantizer.freeze()
    reloaded = build(name).train()
    reloaded.load_state_dict(quantizer.state_dict())

    for frozen in (quantizer, reloaded):
        optimizer = torch.optim.AdamW(frozen.parameters(), lr=0.1) if gradient(name) else None
        for step in range(3):
            latents = draw(seed=step).requires_grad_()
            frozen(latents).loss.backward()
            if optimizer:
                optimizer.step()
        frozen.upkeep()

    assert torch.equal(tables(quantizer), tables(reloaded))
    assert all(book.is_frozen for book in reloaded.learned_codebooks())
    assert same_state(quantizer, reloaded) or name == "vq-factorized"  # its maps go on learning
    with pytest.raises(ConfigError, match="frozen"):
        reloaded.initialize(draw())


@every_case
def test_codes_survive_a_safetensors_file(name, tmp_path):
    quantizer = trained(name).eval()
    save_file(quantizer.state_dict(), tmp_path / "q.safetensors")
    torch.manual_seed(77)
    reloaded = build(name).eval()

    reloaded.load_state_dict(load_file(tmp_path / "q.safetensors"))

    latents = draw(seed=4)
    codes = quantizer.encode(latents)
    assert quantizer.state_dict()
    assert torch.equal(reloaded.encode(latents), codes)
    assert torch.equal(reloaded.decode(codes), quantizer.decode(codes))


@every_case
def test_bfloat16_latents_get_the_codes_of_the_same_numbers_in_float32(name):
    quantizer = trained(name)
    latents = draw(seed=4).bfloat16()

    out = quantizer.eval()(latents)

    assert torch.equal(out.codes, quantizer.encode(latents.float()))
    assert out.quantized.dtype == torch.bfloat16
    assert torch.equal(out.quantized, quantizer.decode(out.codes).bfloat16())
    assert out.loss.dtype == torch.float32


@every_case
def test_autocast_does_not_reach_inside(name):
    quantizer = trained(name).eval()
    latents = draw(seed=4)
    codes = quantizer.encode(latents)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer.encode(latents)
        vectors = quantizer.decode(inside)
        out = quantizer(latents)

    assert torch.equal(inside, codes)
    assert torch.equal(vectors, quantizer.decode(codes))
    assert torch.equal(out.codes, codes)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_of_the_module_moves_no_code(name, dtype):
    quantizer = trained(name)
    before = copy.deepcopy(quantizer)

    quantizer.to(dtype)
    assert {t.dtype for t in quantizer.state_dict().values()} <= {
        torch.float32, torch.uint8, torch.int64,
    }  # fmt: skip
    quantizer.to(torch.float32)

    assert same_state(quantizer, before)


@every_case
def test_a_bfloat16_default_dtype_does_not_reach_the_state(name):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        quantizer = build(name).train()
        out = quantizer(draw().bfloat16())
    finally:
        torch.set_default_dtype(before)

    assert torch.bfloat16 not in {t.dtype for t in quantizer.state_dict().values()}
    assert out.quantized.dtype == torch.bfloat16


@every_case
def test_a_latent_gets_the_same_code_alone_and_in_company(name):
    quantizer = trained(name).eval()
    latents = draw(batch=5)

    alone = torch.cat([quantizer.encode(latents[i : i + 1]) for i in range(5)])

    assert torch.equal(alone, quantizer.encode(latents))


@every_learned_case
def test_deferred_micro_batches_equal_one_big_batch(name):
    whole, parts = trained(name, revive_below=0), trained(name, revive_below=0)
    parts.load_state_dict(whole.state_dict())
    latents = draw(batch=6, seed=8)
    for quantizer in (whole, parts):
        quantizer.set_deferred_upkeep(True)
    before = tables(parts).clone()

    whole(latents)
    whole.upkeep()
    for piece in latents.split([1, 3, 2]):
        parts(piece)
    assert torch.equal(tables(parts), before)  # deferred means deferred
    parts.upkeep()

    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    assert gradient(name) or not torch.equal(tables(parts), before)


@every_case
def test_a_module_built_on_the_meta_device_can_be_filled(name):
    with torch.device("meta"):
        empty = build(name)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())

    empty.to_empty(device="cpu")
    torch.manual_seed(0)
    filled = fill(empty)

    fresh = build(name)
    torch.manual_seed(0)
    fill(fresh)
    assert same_state(filled, fresh)
    assert torch.equal(filled.encode(draw()), fresh.encode(draw()))


def test_a_fresh_quantizer_holds_its_initial_state():
    for name in CASES:
        fresh = build(name)
        before = copy.deepcopy(fresh)
        assert same_state(fill(fresh, linear=False), before)


@every_case
def test_codes_are_the_same_on_the_device_under_test(name, device):
    quantizer = trained(name).eval()
    latents = draw(batch=4)
    codes, vectors = quantizer.encode(latents), quantizer.decode(quantizer.encode(latents))

    moved = copy.deepcopy(quantizer).to(device)
    out = moved(latents.to(device))

    assert out.codes.device.type == device.type
    assert (out.codes.cpu() == codes).float().mean() > 0.99  # near ties may fall either way
    torch.testing.assert_close(moved.decode(codes.to(device)).cpu(), vectors)


@every_learned_case
def test_training_works_on_the_device_under_test(name, device):
    quantizer = build(name, revive_below=0.9).to(device).train()

    for step in range(3):
        latents = draw(seed=step).to(device).requires_grad_()
        out = quantizer(latents, torch.rand(latents.shape[:-1], device=device) > 0.2)
        (out.loss + out.quantized.square().mean()).backward()

    assert out.loss.isfinite()
    assert all(book.is_initialized for book in quantizer.learned_codebooks())


@every_case
def test_wrong_latents_masks_and_codes_are_refused(name):
    quantizer = build(name)
    latents = draw()
    codes = quantizer.encode(latents)

    with pytest.raises(ShapeError, match="float latents"):
        quantizer.encode(latents[..., :-1])
    with pytest.raises(ShapeError, match="float latents"):
        quantizer(latents.long())
    with pytest.raises(ShapeError, match="mask"):
        quantizer(latents, torch.ones(latents.shape[:-1]))
    with pytest.raises(ShapeError, match="mask"):
        quantizer(latents, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="int64"):
        quantizer.decode(codes.int())
    with pytest.raises(CodeRangeError, match="codebook 0"):
        quantizer.decode(codes + quantizer.codebook_size)
    with pytest.raises(CodeRangeError, match="codebook 0"):
        quantizer.decode(codes - quantizer.codebook_size)
    with pytest.raises(ConfigError, match="num_codebooks"):
        quantizer.encode(latents, num_codebooks=quantizer.num_codebooks + 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vq", [[21], [36], [8], [8]]),
        ("vq-unit", [[21], [36], [8], [8]]),
        ("residual", [[11, 2, 12], [11, 2, 12], [8, 15, 8], [8, 15, 6]]),
        ("residual-unit", [[7, 11, 5], [15, 6, 5], [8, 5, 3], [3, 5, 7]]),
        ("residual-unit-gradient", [[7, 11, 5], [15, 6, 5], [8, 5, 3], [3, 5, 7]]),
        ("fsq-even-odd", [[0], [18420], [38803], [38879]]),
        ("spatial", [[11], [27], [40], [56]]),
    ],
)
def test_untrained_codes_are_golden(name, expected):
    latents = torch.linspace(-2, 2, 4 * DIM).view(1, 2, 2, DIM).sin() * 2

    assert build(name).encode(latents).flatten(0, -2).tolist() == expected


def gradient(name):
    return name.endswith("gradient")


def tables(quantizer):
    return torch.stack([book.table() for book in quantizer.learned_codebooks()])


def fill(quantizer, linear=True):
    """What a model's `_init_weights` does."""
    for module in quantizer.modules():
        if hasattr(module, "initial_state"):
            with torch.no_grad():
                for key, value in module.initial_state().items():
                    getattr(module, key).copy_(value)
        elif linear and isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    assert any(isinstance(m, Codebook) for m in quantizer.modules()) or quantizer.levels.any()
    return quantizer
