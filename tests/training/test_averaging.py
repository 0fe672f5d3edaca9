import pytest
import torch
from torch import nn

from vqtok.errors import ConfigError
from vqtok.training.averaging import ParameterAverage


def test_the_average_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = ParameterAverage(model, decay=0.5)
    wanted = 0.0

    for step, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 1):
        nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value

    assert average.shadow["weight"].item() == pytest.approx(wanted)


def test_the_average_is_lent_to_the_model_and_taken_back():
    model = nn.BatchNorm1d(3)
    average = ParameterAverage(model, decay=0.9)
    nn.init.constant_(model.weight, 5.0)
    model.running_mean.fill_(7.0)

    with average.applied():
        assert model.weight.tolist() == [1.0] * 3
        assert model.running_mean.tolist() == [7.0] * 3  # buffers are not averaged

    assert model.weight.tolist() == [5.0] * 3


def test_the_models_own_weights_come_back_after_an_error():
    model = nn.Linear(2, 2)
    average = ParameterAverage(model, decay=0.9)
    nn.init.constant_(model.weight, 5.0)

    with pytest.raises(KeyError), average.applied():
        raise KeyError

    assert (model.weight == 5.0).all()


def test_the_shadow_is_float32_and_moves_where_bfloat16_would_stand_still():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = ParameterAverage(model, decay=0.999)
    average.updates = 100_000
    nn.init.zeros_(model.weight)

    average.update()

    assert average.shadow["weight"].dtype == torch.float32
    assert average.shadow["weight"].item() == pytest.approx(0.999)


def test_state_of_another_model_is_refused():
    average = ParameterAverage(nn.Linear(1, 1), 0.9)

    with pytest.raises(ConfigError, match="other parameters"):
        average.load_training_state(
            ParameterAverage(nn.BatchNorm1d(2), 0.9).training_state() | {"shadow": {}}
        )


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ConfigError, match="ema_decay"):
        ParameterAverage(nn.Linear(1, 1), decay)
