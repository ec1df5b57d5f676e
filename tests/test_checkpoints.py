import os

import pytest
import torch
from pyro.infer import RenyiELBO
from safetensors.torch import save_file
from torch import nn

from pyro_vae import VAE, Spec, build, fit, likelihoods, load, posteriors, priors, save
from pyro_vae.checkpoints import read_checkpoint, write_checkpoint
from pyro_vae.checks import InputError

QUIET = {"progress": False, "device": "cpu", "binarization": "threshold"}


def by_hand():
    q = posteriors.DiagonalNormal(2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, q.num_parameters))
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(-1, (1, 8, 8)))
    return VAE(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian(0.1), q)


def test_a_model_made_by_hand_is_loaded_into_another(tmp_path):
    model, other = by_hand(), by_hand()
    path = save(model, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="the file has no spec"):
        load(path)
    assert load(path, other) is other
    assert torch.equal(other.encoder[1].weight, model.encoder[1].weight)
    with pytest.raises(InputError, match="weights that fit the model"):
        load(path, build(Spec(latent_dim=2)))


def test_missing_and_damaged_weights(tmp_path):
    with pytest.raises(InputError, match="a file of weights, or a run folder with one"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="a file of weights"):
        load(tmp_path)
    path = save(build(Spec(latent_dim=2)), tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="an undamaged safetensors file"):
        load(path)


def test_weights_of_another_shape(tmp_path):
    model = build(Spec(latent_dim=2))
    state = {name: value[:1].contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"spec": model.spec.to_json()})
    with pytest.raises(InputError, match="size mismatch"):
        load(tmp_path / "a.safetensors")


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 1, {"x": torch.ones(2)})
    path = write_checkpoint(tmp_path, 2, {"x": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path]
    assert read_checkpoint(tmp_path)["x"].tolist() == [0, 0]


@pytest.mark.parametrize("where", [0, 500, -1])
def test_a_damaged_checkpoint_is_noticed_anywhere(tiny, tmp_path, where):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checkpoint: given .*, expected an undamaged file"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    assert path.read_bytes() == bytes(content)


def test_a_checkpoint_holds_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    write_checkpoint(tmp_path, 1, {"x": Evil()})
    with pytest.raises(InputError, match="no code"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change", [{"lr": 0.5}, {"beta": 2.0}, {"seed": 1}, {"batch_size": 3}, {"objective": "mean-field"}]
)
def test_other_settings_are_refused(tiny, tmp_path, change):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    (name,) = change
    with pytest.raises(InputError, match=f"{name}: given .* as in the checkpoint"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET | change)


def test_other_images_and_other_models_are_refused(tiny, tmp_path):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    with pytest.raises(InputError, match="images: given"):
        fit(build(Spec(latent_dim=2)), tiny.take(slice(0, 6)), epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    for change in ({"latent_dim": 3}, {"likelihood": "continuous-bernoulli"}, {"activation": "relu"}):
        with pytest.raises(InputError, match="model: given .* as in the checkpoint"):
            other = build(Spec(**{"latent_dim": 2} | change))
            fit(other, tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    with pytest.raises(InputError, match="epochs: given 1, expected at least 2"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
        fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, resume=True, **QUIET)


def test_a_model_made_by_hand_is_known_by_its_parts(tiny, tmp_path):
    fit(by_hand(), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    fit(by_hand(), tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    other = by_hand()
    other.likelihood = likelihoods.ContinuousBernoulli()
    with pytest.raises(InputError, match="model: given .* as in the checkpoint"):
        fit(other, tiny, epochs=3, checkpoint=tmp_path, resume=True, **QUIET)


def test_an_objective_is_known_by_its_settings(tiny, tmp_path):
    def renyi(alpha):
        return RenyiELBO(alpha=alpha, num_particles=2, vectorize_particles=True, max_plate_nesting=1)

    fit(by_hand(), tiny, epochs=1, checkpoint=tmp_path, objective=renyi(0), **QUIET)
    with pytest.raises(InputError, match="objective: given .* as in the checkpoint"):
        fit(by_hand(), tiny, epochs=2, checkpoint=tmp_path, resume=True, objective=renyi(0.9), **QUIET)


def test_a_new_training_does_not_overwrite_a_checkpoint(tiny, tmp_path):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    before = [path.name for path in tmp_path.iterdir()]
    with pytest.raises(InputError, match="resume=True goes on with it"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == before
