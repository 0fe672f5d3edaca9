"""A foreign folder is not believed: pickles, redirects, bombs and damage are refused."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.models.adapters import natives
from vqtok.errors import ConfigError, LoadError
from vqtok.models import auto
from vqtok.models.adapters.chameleon import ChameleonTokenizer
from vqtok.models.adapters.dac import DacTokenizer
from vqtok.models.adapters.registry import ADAPTERS, adapter_for
from vqtok.models.auto import AutoVQTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of one audio family and of one picture family inside its multimodal model."""
    root = tmp_path_factory.mktemp("saved")
    extractor = transformers.DacFeatureExtractor(hop_length=40)
    natives.save(natives.dac(), root / "dac", extractor)
    natives.save(natives.emu3(), root / "emu3", transformers.Emu3ImageProcessor())
    return root


@pytest.fixture(params=["dac", "emu3"])
def folder(request, saved, tmp_path):
    return shutil.copytree(saved / request.param, tmp_path / request.param)


@pytest.fixture
def dac(saved, tmp_path):
    return shutil.copytree(saved / "dac", tmp_path / "dac")


def load(folder, **options):
    return AutoVQTokenizer.from_pretrained(folder, device="cpu", **options)


def change_json(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def vq_names(state):
    return [name for name in sorted(state) if name.endswith("bias") and "text_model" not in name]


def test_every_known_type_has_its_adapter():
    for model_type in ADAPTERS:
        adapter = adapter_for({"model_type": model_type})
        assert adapter.modality in ("audio", "image")
        assert adapter.processor_class is not None
    assert adapter_for({"_class_name": "VQModel"}) is not None
    assert adapter_for({"_class_name": "AutoencoderKL"}) is None
    assert adapter_for({"model_type": "llama", "_class_name": "VQModel"}) is None
    assert adapter_for({"model_type": ["dac"]}) is None


def test_an_unknown_type_names_what_is_known(dac):
    change_json(dac / "config.json", model_type="llama")

    with pytest.raises(LoadError, match=r"'llama' .*known are vqtok_.*encodec.*diffusers VQModel"):
        load(dac)


def test_a_known_type_cannot_be_taken():
    class Mine(transformers.PreTrainedConfig):
        model_type = "dac"

    with pytest.raises(ConfigError, match="'dac' is taken"):
        AutoVQTokenizer.register(Mine, DacTokenizer)


def test_the_adapters_class_itself_points_to_the_checks(dac):
    with pytest.raises(ConfigError, match=r"with AutoVQTokenizer\.from_pretrained"):
        DacTokenizer.from_pretrained(dac)


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")

    with pytest.raises(LoadError, match=r"only safetensors are read.*pytorch_model\.bin"):
        load(folder)


def test_a_tensor_too_few_or_too_many_is_refused(folder):
    def drop(state):
        del state[vq_names(state)[0]]

    change_weights(folder, drop)
    with pytest.raises(LoadError, match="missing"):
        load(folder)


def test_a_tensor_left_over_is_refused(folder):
    def add(state):
        state[vq_names(state)[0] + "_more"] = torch.zeros(2)

    change_weights(folder, add)
    with pytest.raises(LoadError, match=r"left over|unexpected_keys"):
        load(folder)


def test_a_tensor_of_another_shape_is_refused(folder):
    def widen(state):
        name = vq_names(state)[0]
        state[name] = torch.zeros(len(state[name]) + 1)

    change_weights(folder, widen)
    with pytest.raises(LoadError):
        load(folder)


def test_nan_in_the_weights_is_refused(folder):
    def spoil(state):
        state[vq_names(state)[0]][0] = float("nan")

    change_weights(folder, spoil)
    with pytest.raises(LoadError, match="holds NaN or infinity"):
        load(folder)


def test_damaged_weights_are_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])

    with pytest.raises(LoadError, match="damaged"):
        load(folder)


def test_weights_may_not_lie_elsewhere(folder):
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    names = dict.fromkeys(load_file(outside), "../outside.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(LoadError, match="no shard beside it"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_size": 2**30},
        {"n_codebooks": 10**6},
        {"downsampling_ratios": [2] * 2000},
        {"downsampling_ratios": [2, 4, 6]},
        {"encoder_hidden_size": 2**20},
        {"codebook_size": "many"},
        {"codebook_size": 33},
        {"sampling_rate": -(10**12)},
    ],
    ids=str,
)
def test_a_config_out_of_proportion_is_refused(dac, changes):
    change_json(dac / "config.json", **changes)

    with pytest.raises(LoadError):
        load(dac)


def test_what_could_redirect_is_not_looked_at(dac):
    plain = load(dac)
    change_json(
        dac / "config.json",
        auto_map={"AutoModel": "evil--Model"},
        attn_implementation="someone/kernel",
        _attn_implementation_internal="someone/kernel",
        quantization_config={"quant_method": "evil"},
        transformers_weights="other.safetensors",
        configuration_files=["config.4.0.0.json"],
        num_labels=2_000_000,
        return_dict=False,
        dtype="load",
        trust_remote_code=True,
    )
    change_json(dac / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "evil--X"})

    tok = load(dac)

    assert tok.fingerprint == plain.fingerprint
    assert tok.encode(torch.zeros(1, 1, 400)).shape == (1, 5, 10)


def test_peft_adapters_are_refused(dac):
    (dac / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')

    with pytest.raises(LoadError, match="without adapters"):
        load(dac)


@pytest.mark.parametrize(
    "changes", [{"sampling_rate": 44_100}, {"feature_size": {"a": 10**12}}], ids=str
)
def test_a_feature_extractor_of_another_model_is_refused(dac, changes):
    change_json(dac / "preprocessor_config.json", **changes)

    with pytest.raises(LoadError):
        load(dac)


@pytest.mark.parametrize(
    "changes", [{"size": {"height": 10**6, "width": 10**6}}, {"min_pixels": 2**40}], ids=str
)
def test_an_image_processor_that_would_fill_the_memory_is_refused(saved, tmp_path, changes):
    folder = shutil.copytree(saved / "emu3", tmp_path / "emu3")
    change_json(folder / "preprocessor_config.json", **changes)

    with pytest.raises(LoadError):
        load(folder)


def test_options_inside_a_processor_config_are_found(saved, tmp_path):
    folder = shutil.copytree(saved / "emu3", tmp_path / "emu3")
    options = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"image_processor": options | {"min_pixels": 1234}, "processor_class": "Emu3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))

    assert load(folder).processor.native.min_pixels == 1234


def test_a_multimodal_config_may_carry_its_vocabulary(saved, tmp_path):
    folder = shutil.copytree(saved / "emu3", tmp_path / "emu3")
    words = {f"a word of the vocabulary, number {i}": i for i in range(30_000)}
    change_json(folder / "config.json", vocabulary_map=words)
    assert (folder / "config.json").stat().st_size > 1_000_000

    assert load(folder).codebook_sizes == (64,)
    change_json(folder / "config.json", model_type="dac")
    with pytest.raises(LoadError, match="at most 1000000"):
        load(folder)


def test_of_a_sharded_multimodal_model_only_the_shards_with_the_part_are_needed(
    tmp_path, monkeypatch
):
    """As from the Hub: the other shards are not even fetched."""
    model = natives.chameleon()
    snapshot = tmp_path / "hub" / "models--me--chameleon" / "snapshots" / COMMIT
    model.save_pretrained(snapshot, max_shard_size="2KB")
    index = json.loads((snapshot / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = {file for name, file in index.items() if "vqmodel." in name}
    others = set(index.values()) - wanted
    assert others
    assert ChameleonTokenizer.weight_names(index) == sorted(wanted)
    for name in others:
        (snapshot / name).unlink()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fetched = []
    download = auto.snapshot_download
    monkeypatch.setattr(
        auto,
        "snapshot_download",
        lambda repo, allow_patterns, **where: (
            fetched.extend(allow_patterns) or download(repo, allow_patterns=allow_patterns, **where)
        ),
    )

    tok = load("me/chameleon", local_files_only=True)

    assert {name for name in fetched if name.endswith(".safetensors")} == wanted
    inputs = torch.rand(1, 3, 32, 32)
    assert torch.equal(
        tok.encode(inputs).flatten(), model.model.vqmodel.encode(inputs).image_tokens
    )


def test_a_codec_comes_from_the_cache_of_the_hub(saved, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--me--dac"
    shutil.copytree(saved / "dac", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    tok = load("me/dac", local_files_only=True)

    assert tok.fingerprint == load(saved / "dac").fingerprint


def test_a_flipped_weight_is_found_where_a_canary_lies(dac):
    load(dac).save_pretrained(dac)
    load(dac, verify=True)

    def flip(state):
        state[vq_names(state)[0]][0] += 1e-3

    change_weights(dac, flip)
    with pytest.raises(LoadError, match="not those that were saved"):
        load(dac)


def test_older_names_of_a_librarys_tensors_are_read_as_the_library_reads_them(tmp_path):
    """EnCodec's files hold weight norm by its former names."""
    native = natives.save(natives.encodec(), tmp_path / "new")
    shutil.copytree(native, tmp_path / "old")

    def rename(state):
        for name in sorted(state):
            older = name.replace("parametrizations.weight.original0", "weight_g")
            older = older.replace("parametrizations.weight.original1", "weight_v")
            state[older] = state.pop(name)

    change_weights(tmp_path / "old", rename)

    assert any(name.endswith("weight_g") for name in load_file(tmp_path / "old/model.safetensors"))
    assert load(tmp_path / "old").fingerprint == load(tmp_path / "new").fingerprint


def test_the_fingerprint_knows_every_part_and_no_tensor_names(dac):
    tok = load(dac)
    before = tok.fingerprint

    with torch.no_grad():
        tok.native.encoder.conv1.bias.add_(1)
    encoder = tok.fingerprint
    with torch.no_grad():
        tok.native.quantizer.quantizers[1].codebook.weight.add_(1)
    codebook = tok.fingerprint

    assert encoder.decode == before.decode
    assert encoder.encode != before.encode
    assert codebook.decode != encoder.decode
    assert codebook.codebook != encoder.codebook
    assert all(name.split(".")[1].isdigit() for name in tok.part_digests("decoder"))
