import json
import shutil

import pytest
import torch

from tests.conftest import SAMPLES
from tests.models.toy_tokenizer import ToyConfig, ToyTokenizer, noise_image, toy_tokenizer
from vqtok.data import evaluate_dataset
from vqtok.errors import ConfigError, FingerprintError, LoadError
from vqtok.models import auto
from vqtok.models.auto import AutoVQTokenizer
from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(AutoVQTokenizer, "_registered", {})
    AutoVQTokenizer.register(ToyConfig, ToyTokenizer)


@pytest.fixture(scope="module")
def toy() -> ToyTokenizer:
    return toy_tokenizer()


@pytest.fixture
def folder(toy, tmp_path):
    toy.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def hub_cache(folder, tmp_path, monkeypatch):
    """The cache of a Hub repository "me/toy" that was downloaded earlier."""
    repository = tmp_path / "hub" / "models--me--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT / "inner")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / COMMIT


def test_a_folder_gives_the_same_tokenizer_ready_to_use(toy, folder):
    loaded = AutoVQTokenizer.from_pretrained(folder, device="cpu")
    image = noise_image(11, 7)

    tokens = toy.tokenize([image])

    assert type(loaded) is ToyTokenizer
    assert not loaded.training
    assert loaded.name_or_path == str(folder)
    assert loaded.fingerprint == toy.fingerprint
    assert torch.equal(loaded.tokenize([image])[0].codes, tokens[0].codes)
    assert loaded.detokenize(tokens)[0].tobytes() == toy.detokenize(tokens)[0].tobytes()


def test_a_loaded_tokenizer_can_be_trained_and_saved_again(folder, tmp_path):
    loaded = AutoVQTokenizer.from_pretrained(folder, device="cpu").train()

    loaded(torch.rand(2, 3, 8, 8)).loss.backward()
    with torch.no_grad():
        loaded.encoder.project.weight.sub_(loaded.encoder.project.weight.grad)
    loaded.save_pretrained(tmp_path / "again")

    again = AutoVQTokenizer.from_pretrained(tmp_path / "again", device="cpu")
    assert again.fingerprint == loaded.fingerprint


def test_a_subfolder_is_found_and_may_not_lead_out(folder):
    inside = AutoVQTokenizer.from_pretrained(folder.parent, subfolder="toy", device="cpu")

    assert type(inside) is ToyTokenizer
    with pytest.raises(LoadError, match="must lie inside"):
        AutoVQTokenizer.from_pretrained(folder, subfolder="../toy")


def test_a_vim_vq_model_is_found_by_its_type_with_its_processor(tmp_path):
    config = VimVQConfig.preset("nano", quantizer_config={"kind": "fsq", "levels": [4, 4]})
    model = VimVQModel(config)
    model.processor = type(model.processor)(max_pixels=5000, background=(1, 2, 3))
    model.save_pretrained(tmp_path)

    loaded = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert type(loaded) is VimVQModel
    assert loaded.processor.to_dict() == model.processor.to_dict()
    assert loaded.fingerprint == model.fingerprint


def test_a_bundled_name_needs_no_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "PRETRAINED", tmp_path)

    assert auto.bundled() == ["vqtok/toy"]
    assert type(AutoVQTokenizer.from_pretrained("vqtok/toy", device="cpu")) is ToyTokenizer


def test_every_bundled_tokenizer_loads_and_gives_its_canary():
    loaded = {
        name: AutoVQTokenizer.from_pretrained(name, device="cpu", verify=True)
        for name in auto.bundled()
    }

    assert "vqtok/vim-vq-tiny" in loaded
    assert all(len(tokenizer.fingerprint.encode) == 64 for tokenizer in loaded.values())


def test_the_bundled_image_tokenizer_reaches_its_quality_on_the_samples():
    tokenizer = AutoVQTokenizer.from_pretrained("vqtok/vim-vq-tiny", device="cpu")

    report = evaluate_dataset(tokenizer, SAMPLES, size=128)

    # a band, not a number: 128 pixel squares of seven photos are no benchmark
    assert 22.5 < report.psnr < 27
    assert report.bits_per_pixel == 0.1875


@pytest.mark.parametrize("subfolder", ["", "inner"])
def test_a_hub_repository_comes_from_the_cache(hub_cache, subfolder):
    found = auto.find("me/toy", subfolder=subfolder, local_files_only=True)

    assert found == hub_cache / subfolder
    loaded = AutoVQTokenizer.from_pretrained(
        "me/toy", subfolder=subfolder, local_files_only=True, device="cpu"
    )
    assert type(loaded) is ToyTokenizer


def test_a_commit_of_the_hub_can_be_named(hub_cache):
    assert auto.find("me/toy", revision=COMMIT, local_files_only=True) == hub_cache
    with pytest.raises(LoadError, match="not found"):
        auto.find("me/toy", revision="other", local_files_only=True)


def test_of_a_repository_that_is_no_tokenizer_only_the_config_is_fetched(hub_cache, monkeypatch):
    (hub_cache / "config.json").write_text('{"model_type": "llama", "architectures": ["Llama"]}')
    monkeypatch.setattr(auto, "snapshot_download", lambda *a, **k: pytest.fail("downloaded"))

    with pytest.raises(LoadError, match=r"me/toy is no tokenizer.*'llama'.*Llama.*vqtok_vim_vq"):
        AutoVQTokenizer.from_pretrained("me/toy", local_files_only=True)


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "/nowhere/at all"])
def test_what_is_neither_folder_nor_hub_id_is_named(name):
    with pytest.raises(LoadError, match="is no folder, and no Hub id"):
        AutoVQTokenizer.from_pretrained(name)


def test_an_unknown_repository_offers_the_bundled_names(hub_cache):
    with pytest.raises(LoadError, match=r"me/other is no folder here.*Bundled tokenizers"):
        AutoVQTokenizer.from_pretrained("me/other", local_files_only=True)


def test_a_folder_without_config_says_what_is_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")

    with pytest.raises(LoadError, match=r"no config.json.*notes\.txt"):
        AutoVQTokenizer.from_pretrained(tmp_path)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(LoadError, match="is a folder, which has no revision"):
        AutoVQTokenizer.from_pretrained(folder, revision="main")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_lower_precision_is_for_encoder_and_decoder(toy, folder, dtype):
    loaded = AutoVQTokenizer.from_pretrained(folder, dtype=dtype, device="cpu")

    assert loaded.dtype == torch.bfloat16
    assert loaded.decoder.project.weight.dtype == torch.bfloat16
    assert loaded.quantizer.codebook.codes.dtype == torch.float32
    assert loaded.fingerprint.decode == toy.fingerprint.decode


@pytest.mark.parametrize("dtype", ["int8", torch.float64, "auto"])
def test_an_unknown_precision_is_refused(folder, dtype):
    with pytest.raises(ConfigError, match="dtype must be one of float32"):
        AutoVQTokenizer.from_pretrained(folder, dtype=dtype)


def test_half_stored_weights_compute_in_float32_and_keep_the_codebook(toy, folder):
    toy.save_pretrained(folder, dtype=torch.float16)

    loaded = AutoVQTokenizer.from_pretrained(folder, device="cpu", verify=True)

    assert loaded.dtype == torch.float32
    assert loaded.fingerprint.codebook == toy.fingerprint.codebook
    rounded = toy.encoder.project.weight.half().float()
    assert torch.equal(loaded.encoder.project.weight, rounded)
    assert torch.equal(loaded.encoder.project.bias, toy.encoder.project.bias)


def test_verify_finds_a_machine_that_gives_other_codes(folder, monkeypatch):
    encode = ToyTokenizer.encode
    monkeypatch.setattr(ToyTokenizer, "encode", lambda self, x, n=None: encode(self, -x, n))

    AutoVQTokenizer.from_pretrained(folder, device="cpu")
    with pytest.raises(FingerprintError, match="of the canary's codes"):
        AutoVQTokenizer.from_pretrained(folder, device="cpu", verify=True)


def test_verify_wants_a_canary(folder):
    (folder / "canary.json").unlink()

    AutoVQTokenizer.from_pretrained(folder, device="cpu")
    with pytest.raises(LoadError, match=r"verify=True wants canary\.json"):
        AutoVQTokenizer.from_pretrained(folder, device="cpu", verify=True)


def test_elsewhere_a_few_codes_of_the_canary_may_flip(folder):
    path = folder / "canary.json"
    canary = json.loads(path.read_text())
    canary["machine"] = "tpu riscv float32"
    path.write_text(json.dumps(canary))

    assert type(AutoVQTokenizer.from_pretrained(folder, device="cpu", verify=True)) is ToyTokenizer


def test_a_config_gives_a_fresh_model():
    model = AutoVQTokenizer.from_config(ToyConfig(latent_dim=5))

    assert type(model) is ToyTokenizer
    assert model.config.latent_dim == 5


def test_the_class_itself_is_not_made():
    with pytest.raises(ConfigError, match="use from_pretrained"):
        AutoVQTokenizer()


def test_a_model_type_is_registered_once():
    class OtherToy(ToyTokenizer):
        pass

    AutoVQTokenizer.register(ToyConfig, ToyTokenizer)
    with pytest.raises(ConfigError, match="'vqtok_toy' is taken"):
        AutoVQTokenizer.register(ToyConfig, OtherToy)
    with pytest.raises(ConfigError, match="'vqtok_vim_vq' is taken"):
        AutoVQTokenizer.register(VimVQConfig, OtherToy)
    with pytest.raises(ConfigError, match="a subclass of VQTokenizerModel"):
        AutoVQTokenizer.register(ToyConfig, torch.nn.Linear)
