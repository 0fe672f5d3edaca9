import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.toy_tokenizer import ToyConfig, ToyTokenizer, toy_tokenizer
from vqtok.errors import LoadError
from vqtok.models.auto import AutoVQTokenizer


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(AutoVQTokenizer, "_registered", {})
    AutoVQTokenizer.register(ToyConfig, ToyTokenizer)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "toy")


def load(folder) -> ToyTokenizer:
    return AutoVQTokenizer.from_pretrained(folder, device="cpu")


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, edit) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "key",
    [
        "_attn_implementation_internal",
        "__class__",
        "_auto_class",
        "attn_implementation",
        "auto_map",
        "configuration_files",
        "id2label",
        "num_labels",
        "quantization_config",
        "torch_dtype",
        "transformers_weights",
        "trust_remote_code",
    ],
)
def test_keys_that_make_a_loader_do_more_than_load_are_refused(folder, key):
    edit_config(folder, **{key: "x"})

    with pytest.raises(LoadError, match=key):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": "six"}, "latent_dim"),
        ({"latent_dim": True}, "latent_dim"),
        ({"latent_dim": 10**12}, "at most"),
        ({"latent_dim": 10**9}, r"asks for \[1000000000"),
        ({"latent_dim": -3}, "does not describe a model"),
        ({"quantizer_config": {"kind": "os.system"}}, "quantizer kinds are"),
        ({"quantizer_config": {"kind": "vq", "codebook_size": 2**30}}, "asks for"),
        ({"quantizer_config": {"kind": "vq", "num_codebooks": 10**6}}, "at most 1024"),
        ({"quantizer_config": {"kind": "spatial", "num_regions": 4096}}, "at most 64"),
        ({"quantizer_config": {"kind": "fsq", "levels": [3] * 5000}}, "5000 entries"),
        ({"quantizer_config": {"kind": "x" * 5000}}, "5000 characters"),
        (
            {"quantizer_config": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}},
            "nested",
        ),
    ],
)
def test_values_out_of_proportion_are_refused_before_memory_is_taken(folder, changes, message):
    edit_config(folder, **changes)

    with pytest.raises(LoadError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1]", "holds a list"),
        ("{" * 100_000, "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"model_type": "vqtok_toy", "model_type": "llama"}', "repeated"),
        ('{"model_type": NaN}', "NaN is not a number"),
        ('{"model_type": "vqtok_toy", "encoder_gain": 1e400}', "is not finite"),
        ('{"model_type": null}', "no tokenizer that vqtok knows"),
        ('{"model_type": ["vqtok_toy"]}', "no tokenizer that vqtok knows"),
        (" " * 1_000_001, "1000001 bytes"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_config_that_is_no_config_is_refused(folder, text, message):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(LoadError, match=message):
        load(folder)


def test_a_missing_tensor_is_named(folder):
    edit_weights(folder, lambda state: state.pop("decoder.project.bias"))

    with pytest.raises(LoadError, match=r"1 tensors are missing \(decoder\.project\.bias\)"):
        load(folder)


def test_a_tensor_too_many_is_named(folder):
    edit_weights(folder, lambda state: state.update(extra=torch.zeros(1)))

    with pytest.raises(LoadError, match=r"1 are left over \(extra\)"):
        load(folder)


def test_another_shape_is_named_with_both(folder):
    edit_config(folder, quantizer_config={"kind": "vq", "codebook_size": 8})

    with pytest.raises(LoadError, match=r"codebook.* is \[16.*\], but its config asks for \[8"):
        load(folder)


def test_another_kind_of_number_is_refused(folder):
    edit_weights(
        folder, lambda s: s.update({"decoder.project.bias": s["decoder.project.bias"].long()})
    )

    with pytest.raises(LoadError, match=r"bias in .* is I64"):
        load(folder)


def test_nan_in_the_weights_is_refused(folder):
    edit_weights(folder, lambda state: state["decoder.project.bias"].fill_(float("nan")))

    with pytest.raises(LoadError, match="holds NaN"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(LoadError, match="is damaged"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("encoder.project.bias", "encoder"),
        ("decoder.project.bias", "decode"),
        ("quantizer.codebook.codes", "decode, codebook"),
    ],
)
def test_one_flipped_bit_is_found(folder, name, part):
    edit_weights(folder, lambda s: s[name].view(torch.int32)[-1:].bitwise_xor_(1))

    with pytest.raises(LoadError, match=f"not those that were saved there: .* of {part} differs"):
        load(folder)


def test_a_damaged_canary_is_refused(folder):
    path = folder / "canary.json"
    canary = json.loads(path.read_text())
    path.write_text(json.dumps({key: canary[key] for key in ("version", "codes")}))

    with pytest.raises(LoadError, match="is no canary of version 1"):
        load(folder)

    canary["codes"][0][0][0][0] += 1
    path.write_text(json.dumps(canary))
    with pytest.raises(LoadError, match="its codes are not those of its sha256"):
        AutoVQTokenizer.from_pretrained(folder, device="cpu", verify=True)


def test_a_pickle_is_not_read(folder):
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    with pytest.raises(LoadError, match=r"only safetensors are read.*pytorch_model\.bin"):
        load(folder)


def test_shards_are_read_together(folder):
    toy = load(folder)
    (folder / "model.safetensors").unlink()
    toy.save_pretrained(folder, max_shard_size=1500)

    assert not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load(folder).fingerprint == toy.fingerprint


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "config.json", "no.safetensors"]
)
def test_an_index_may_name_only_shards_beside_it(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"decoder.project.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(LoadError, match=r"names .*, which is no shard beside it"):
        load(folder)


def test_a_tensor_in_two_shards_is_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "a.safetensors")
    (folder / "model.safetensors").rename(folder / "b.safetensors")
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(LoadError, match="which another shard holds, too"):
        load(folder)


def test_a_processor_option_that_does_not_exist_is_refused(tmp_path):
    from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
    from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel

    VimVQModel(VimVQConfig.preset("nano")).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"

    path.write_text('{"auto_map": {"AutoImageProcessor": "evil.Evil"}}')
    with pytest.raises(LoadError, match="auto_map"):
        load(tmp_path)
    path.write_text('{"max_pixels": -1}')
    with pytest.raises(LoadError, match=r"values that cannot be.*max_pixels"):
        load(tmp_path)


def test_loaded_tensors_outlive_the_file(folder):
    toy = load(folder)
    before = toy.decoder.project.weight.clone()

    (folder / "model.safetensors").write_bytes(b"\0" * 10_000)

    assert torch.equal(toy.decoder.project.weight, before)
