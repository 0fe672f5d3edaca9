"""Training tokenizers: `VQTrainer`, loss plug-ins, callbacks, and recipes in YAML."""

from vqtok.training.losses import LOSSES, LossTerms, build_losses
from vqtok.training.recipe import Recipe, load_recipe, parse_recipe
from vqtok.training.run import RunResult, run_recipe
from vqtok.training.trainer import VQTrainer

__all__ = [
    "LOSSES",
    "LossTerms",
    "Recipe",
    "RunResult",
    "VQTrainer",
    "build_losses",
    "load_recipe",
    "parse_recipe",
    "run_recipe",
]
