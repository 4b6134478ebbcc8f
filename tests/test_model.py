"The models' wing as a whole: what is imported, training from three-state targets, saved weights, and LWLRAP on the real tables."
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from rfcx_kit.model.losses import LossConfig, make_loss
from rfcx_kit.model.metrics import lwlrap, lwlrap_per_class
from rfcx_kit.model.mixing import draw_mix, mixed_loss
from rfcx_kit.model.sed import POOLING, SED, SEDConfig
from rfcx_kit.stages.train import LitSED, TrainConfig, make_optimizer

torch.set_num_threads(1)
LOSSES = [LossConfig("bce", unknown="absent"), LossConfig("masked_sum"), LossConfig("masked_mean", frame_factor=0.5),
          LossConfig("masked_focal", unknown=0.45, unknown_weight=0.3), LossConfig("masked_frame")]
PRIOR = [113, 204, 44, 923, 53, 41, 3, 213, 44, 23, 26, 149, 255, 14, 123, 222, 46, 6, 474, 4, 17, 18, 23, 72] # of a thousand files


def small(**changes):
    torch.manual_seed(0)
    return SED(SEDConfig(**{"trunk": "test_resnet", "n_species": 4} | changes))


def fresh(code):
    "Run code in a process of its own."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_prediction_needs_no_extra():
    extras = "lightning matplotlib sklearn librosa audiomentations albumentations iterstrat jsonargparse".split()
    done = fresh(f"import sys, rfcx_kit.model.sed, rfcx_kit.model.losses, rfcx_kit.model.mixing; print([m for m in {extras} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_lightning_imports_after_the_trunk():
    done = fresh("import torch; door = torch.library.register_fake; import rfcx_kit.model.trunk; assert torch.library.register_fake is door; import lightning")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("config", LOSSES, ids=lambda c: c.name)
def test_every_loss_learns_what_is_known(config):
    model, loss = small().train(), make_loss(config)
    value, weight = torch.zeros(4, 4, 64), torch.zeros(4, 4, 64)
    x = torch.randn(4, 1, 32, 64)
    x[:2, :, 10:16] += 3 # a hum in the first two clips
    value[:2, 0], weight[:, 0] = 1, 1 # species 0 hums; nothing is known of the others
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(25):
        got = loss(model(x), value, weight)
        optimizer.zero_grad(), got.backward(), optimizer.step()
    scores = model(x)["clipwise_output"][:, 0]
    assert scores[:2].min() > scores[2:].max() + 0.3


@pytest.mark.parametrize("name", ["masked_sum", "masked_mean", "masked_focal", "masked_frame"])
def test_nothing_known_changes_nothing(name):
    model, loss = small().train(), make_loss(LossConfig(name))
    before = [w.clone() for w in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    got = loss(model(torch.randn(2, 1, 32, 64)), torch.rand(2, 4, 64), torch.zeros(2, 4, 64))
    got.backward(), optimizer.step()
    assert got.item() == 0 and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_unknown_species_get_no_gradient():
    model, loss = small(), make_loss(LossConfig("masked_sum"))
    weight = torch.zeros(2, 4)
    weight[:, 2] = 1
    loss(model(torch.randn(2, 1, 32, 64)), torch.ones(2, 4), weight).backward()
    touched = model.pool.cla.weight.grad.abs().sum((1, 2)) > 0
    assert touched.tolist() == [False, False, True, False]


@pytest.mark.parametrize("config", LOSSES, ids=lambda c: c.name)
def test_mixing_at_the_last_layer_trains(config):
    model, mix = small().train(), draw_mix(4, 0.1, np.random.default_rng(0))
    value, weight = (torch.rand(4, 4, 64) < 0.5).float(), (torch.rand(4, 4, 64) < 0.2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mixed_loss(make_loss(config), mix, model(torch.randn(4, 1, 32, 64), mix), value, weight)
    got.backward()
    assert got.dtype == torch.float32 and got > 0
    assert all(w.grad.isfinite().all() for w in model.parameters() if w.grad is not None)


@pytest.mark.parametrize("pooling", list(POOLING))
def test_weights_come_back(pooling, tmp_path):
    config = dict(pooling=pooling, freq_coord=True)
    model = small(**config).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(1)
    again = SED(SEDConfig("test_resnet", 4, **config)).eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.randn(2, 1, 48, 100)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(x).values(), again(x).values()))


def test_a_call_shows_where_it_is():
    "Frames come back in time for any length: moving a call by whole segments moves the scores with it."
    model = small(trunk="test_convnext").eval()
    silence = torch.zeros(1, 1, 32, 1000)
    with torch.no_grad():
        quiet = model(silence)["framewise_logit"]
        for start in (320, 640):
            x = silence.clone()
            x[..., start:start + 32] = 3
            moved = (model(x)["framewise_logit"] - quiet).abs().sum(1)[0]
            centre = (moved * torch.arange(1000)).sum() / moved.sum()
            assert abs(centre - (start + 15.5)) < 16, (start, centre)


def tables(real):
    tp = pd.read_csv(real / "rfcx" / "train_tp.csv")
    truth = pd.crosstab(tp.recording_id, tp.species_id).clip(upper=1)
    return truth.set_axis([f"s{c}" for c in truth.columns], axis=1)


def test_the_prior_alone_on_real_labels(real):
    "Validation on confirmed boxes alone misleads: what knows only the prior scores .163 there, and .72 on labels drawn from it."
    truth = tables(real)
    assert round(lwlrap(truth, np.tile(PRIOR, (len(truth), 1))), 3) == 0.163
    drawn = np.random.default_rng(0).random((20_000, 24)) < np.array(PRIOR) / 1000
    assert abs(lwlrap(drawn, np.tile(PRIOR, (len(drawn), 1))) - 0.72) < 0.01


def test_real_scores_as_scikit_learn(real):
    from sklearn.metrics import label_ranking_average_precision_score
    oof = pd.read_csv(real / "oof" / "fold0_oof.csv").drop(columns="patch").groupby("recording_id")
    truth = tables(real)
    pooled = {"max": oof.max(), "best 3": oof.agg(lambda v: np.sort(v)[-3:].mean()), "mean": oof.mean()}
    found = {}
    for name, scores in pooled.items():
        scores = scores[scores.index.isin(truth.index)]
        there = truth.loc[scores.index]
        found[name] = lwlrap(there.sample(frac=1, random_state=0), scores) # matched by id
        reference = label_ranking_average_precision_score(there, scores, sample_weight=there.sum(axis=1).to_numpy())
        assert abs(found[name] - reference) < 1e-12
        per_class, share = lwlrap_per_class(there, scores)
        assert abs((per_class * share).sum() - reference) < 1e-12
    assert found["max"] > found["best 3"] > found["mean"]


def test_gradients_are_clipped_beside_a_fused_optimizer():
    for how, clipped in (("norm", [0.6, 0.8]), ("value", [1.0, 1.0]), (None, [0.6, 0.8])):
        layer = torch.nn.Linear(2, 1, bias=False)
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
        LitSED.configure_gradient_clipping(layer, None, 1.0, how)
        torch.testing.assert_close(layer.weight.grad, torch.tensor([clipped]))
    assert make_optimizer(layer.parameters(), TrainConfig()).defaults["fused"]
