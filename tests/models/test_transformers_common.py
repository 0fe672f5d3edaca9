"""transformers' own common model tests, in the installed version, on our models.

scripts/test.sh fetches them (scripts/fetch_common_tests.py). Without them this file fails: tests
that are missing must not look like tests that passed.
"""

import importlib
import importlib.util
import sys
import unittest
from importlib.metadata import version
from pathlib import Path

import torch

from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.models.rvq_codec.modeling_rvq_codec import RVQCodecModel
from vqtok.models.text_vq.configuration_text_vq import TextVQConfig
from vqtok.models.text_vq.modeling_text_vq import TextVQModel
from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel

PACKAGE = "transformers_tests"
FOLDER = Path(__file__).parents[2] / ".cache" / f"transformers-{version('transformers')}" / PACKAGE


def load_common_tests():
    """The classes ModelTesterMixin and ConfigTester; two empty ones if they are not there."""
    if not FOLDER.is_dir():
        return type("ModelTesterMixin", (), {}), None
    spec = importlib.util.spec_from_file_location(
        PACKAGE, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    modeling = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    configuration = importlib.import_module(f"{PACKAGE}.test_configuration_common")
    return modeling.ModelTesterMixin, configuration.ConfigTester


ModelTesterMixin, ConfigTester = load_common_tests()


def test_the_common_tests_have_been_fetched():
    assert FOLDER.is_dir(), f"{FOLDER} is missing: run `python scripts/fetch_common_tests.py`."


class VimVQTester:
    """What the common tests ask about a model: a small config and inputs for it."""

    batch_size = 2
    is_training = True
    num_hidden_layers = 2  # of the encoder
    expected_num_hidden_layers = 4  # and of the decoder
    hidden_size = 16
    seq_length = 3  # the last axis of the grid, 24 pixels in patches of 8

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> VimVQConfig:
        return VimVQConfig.preset(
            "nano",
            width=self.hidden_size,
            latent_dim=4,
            state_size=8,
            refiner_channels=8,
            quantizer_config={"kind": "vq", "codebook_size": 32},
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, 3, 24, 24)
        return self.get_config(), {"pixel_values": torch.rand(shape) * 2 - 1}


class TestVimVQWithTransformers(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (VimVQModel,)
    pipeline_model_mapping = None
    has_attentions = False
    test_resize_embeddings = False
    # off by default for files without a licence line of 2023 or later
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = VimVQTester(self)
        # by default it asks for hidden_size and other words of language models
        self.config_tester = ConfigTester(
            self, VimVQConfig, has_text_modality=False, common_properties=["width"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """Wants an nn.Embedding; pixels enter through a linear map, as in transformers' ViTs."""
        model = VimVQModel(self.model_tester.get_config())

        assert model.get_input_embeddings() is model.encoder.embedding.proj
        assert model.get_output_embeddings() is None


class RVQCodecTester:
    """The same for the audio codec."""

    batch_size = 2
    is_training = True
    num_hidden_layers = 2  # of the encoder
    expected_num_hidden_layers = 4  # and of the decoder
    hidden_size = 24  # of the last layer
    seq_length = 5

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> RVQCodecConfig:
        return RVQCodecConfig.preset(
            "nano",
            strides=[12],
            widths=[self.hidden_size],
            encoder_depths=[2],
            decoder_depths=[2],
            latent_dim=8,
            quantizer_config={"kind": "residual", "codebook_size": 16, "num_codebooks": 2},
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, 1, self.seq_length * 12)
        return self.get_config(), {"input_values": torch.rand(shape) - 0.5}


class TestRVQCodecWithTransformers(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (RVQCodecModel,)
    pipeline_model_mapping = None
    has_attentions = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = RVQCodecTester(self)
        self.config_tester = ConfigTester(
            self, RVQCodecConfig, has_text_modality=False, common_properties=["latent_dim"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """Wants an nn.Embedding; samples enter through a linear map."""
        model = RVQCodecModel(self.model_tester.get_config())

        assert model.get_input_embeddings() is model.encoder.paths.second[0].proj
        assert model.get_output_embeddings() is None


class TextVQTester:
    """The same for texts: bytes, one position for four of them."""

    batch_size = 2
    is_training = True
    num_hidden_layers = 1  # of the encoder
    expected_num_hidden_layers = 2  # and of the decoder
    hidden_size = 16
    seq_length = 5

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> TextVQConfig:
        return TextVQConfig.preset(
            "nano",
            width=self.hidden_size,
            quantizer_config={"kind": "residual", "codebook_size": 32, "num_codebooks": 2},
        )

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"byte_values": torch.randint(256, (self.batch_size, 20))}


class TestTextVQWithTransformers(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (TextVQModel,)
    pipeline_model_mapping = None
    has_attentions = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = TextVQTester(self)
        self.config_tester = ConfigTester(
            self, TextVQConfig, has_text_modality=False, common_properties=["width"]
        )

    def test_config(self):
        self.config_tester.run_common_tests()
