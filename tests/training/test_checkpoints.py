import copy
import json
import os

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pyro_vae import VAE, Spec, build, fit, likelihoods, load, posteriors, priors, save
from pyro_vae._utils.checks import InputError
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint

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


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"beta": 2.0}, {"seed": 1}, {"batch_size": 3}, {"objective": "elbo"}])
def test_other_settings_are_refused(tiny, tmp_path, change):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    (name,) = change
    with pytest.raises(InputError, match=f"{name}: given .* as in the checkpoint"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=2, checkpoint=tmp_path, resume=True, **QUIET | change)


def test_other_images_and_other_models_are_refused(tiny, tmp_path):
    fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    with pytest.raises(InputError, match="images: given"):
        fit(build(Spec(latent_dim=2)), tiny.take(slice(0, 6)), epochs=2, checkpoint=tmp_path, resume=True, **QUIET)
    for change in (
        {"latent_dim": 3},
        {"likelihood": "continuous-bernoulli"},
        {"network": {"kind": "mlp", "activation": "relu"}},
    ):
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
    with pytest.raises(InputError, match="resume=True resumes from it"):
        fit(build(Spec(latent_dim=2)), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == before


class Vamp(nn.Module):
    """A mixture of the posteriors of learned images, by the encoder of the model itself."""

    def __init__(self, encoder, posterior):
        super().__init__()
        self.encoder, self.posterior = encoder, posterior
        self.images = nn.Parameter(torch.rand(3, 1, 8, 8))
        self.register_buffer("first", self.images.data[0])  # a part of it

    def forward(self):
        components = dist.Normal(*self.encoder(self.images).chunk(2, -1)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components)


def with_shared_weights():
    model = by_hand()
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Linear(2, 4), nn.Softplus())
    model.decoder[0].weight = nn.Parameter(model.encoder[1].weight.data.T)  # the same memory, turned
    model.prior = Vamp(model.encoder, model.posterior)
    return model


def test_shared_weights_are_saved_once_and_loaded_shared(tiny, tmp_path):
    model = with_shared_weights()
    fit(model, tiny, epochs=2, snapshots={1: tmp_path / "1.safetensors"}, checkpoint=tmp_path / "state", **QUIET)
    path = save(model, tmp_path / "2.safetensors")
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == [
            *("decoder.0.bias", "decoder.0.weight", "encoder.1.bias", "encoder.1.weight", "encoder.2.bias"),
            *("encoder.2.weight", "likelihood.log_variance", "prior.first", "prior.images"),
        ]
        assert json.loads(file.metadata()["shared"])["prior.encoder.1.weight"] == "encoder.1.weight"
    for other in (with_shared_weights(), copy.deepcopy(with_shared_weights())):
        load(path, other)
        assert other.prior.encoder[1].weight is other.encoder[1].weight
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
    load(tmp_path / "1.safetensors", other)


def test_shared_weights_and_models_that_do_not_share_them(tmp_path):
    shared, apart = with_shared_weights(), with_shared_weights()
    apart.prior = Vamp(copy.deepcopy(apart.encoder), apart.posterior)
    load(save(shared, tmp_path / "shared.safetensors"), apart)
    assert torch.equal(apart.prior.encoder[1].weight, shared.encoder[1].weight)
    with torch.no_grad():
        apart.prior.encoder[2].bias += 1
    with pytest.raises(InputError, match=r"weights that fit the model \(encoder.2.bias shares its memory"):
        load(save(apart, tmp_path / "apart.safetensors"), shared)


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    tied, apart, wider = with_shared_weights(), with_shared_weights(), with_shared_weights()
    apart.prior = Vamp(copy.deepcopy(apart.encoder), apart.posterior)
    apart.prior.encoder[2].bias.data += 1
    wider.decoder = nn.Sequential(nn.Linear(2, 65), nn.Unflatten(-1, (1, 5, 13)))
    fewer = by_hand()
    before = {name: value.clone() for name, value in tied.state_dict().items()}
    for other in (apart, wider, fewer):
        path = save(other, tmp_path / "other.safetensors")
        with pytest.raises(InputError, match="weights that fit the model"):
            load(path, tied)
        assert tied.prior.encoder[1].weight is tied.encoder[1].weight
        for name, value in tied.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_what_a_module_makes_itself_is_no_part_of_the_file(tmp_path):
    """Batch normalization takes files from before it counted batches."""
    model, other = by_hand(), by_hand()
    model.encoder.append(nn.BatchNorm1d(4))
    other.encoder.append(nn.BatchNorm1d(4))
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors", other).encoder[1].weight, model.encoder[1].weight)


@pytest.mark.parametrize(
    "shared", ["[]", "{", '{"encoder.1.weight": "encoder.1.bias"}', '{"a": "none"}', '{"a": ["encoder.1.bias"]}', "1"]
)
def test_damaged_names_of_shared_weights(tmp_path, shared):
    state = {name: value.contiguous() for name, value in by_hand().state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"shared": shared})
    with pytest.raises(InputError, match="expected an undamaged safetensors file") as error:
        load(tmp_path / "a.safetensors", by_hand())
    assert "\n" not in str(error.value)


def test_a_state_that_is_no_tensor_is_named(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    model = by_hand()
    model.encoder[1] = Counting(64, 4)
    with pytest.raises(InputError, match="model: given 'a dict as encoder.1._extra_state', expected tensors alone"):
        save(model, tmp_path / "a.safetensors")
