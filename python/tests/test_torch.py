import copy
import pickle

import numpy as np
import pytest

import wgoal
from reference import batch

torch = pytest.importorskip("torch")

from wgoal.torch import Loss  # noqa: E402


def tensors(pairs=24, dim=16, **options):
    return [torch.tensor(side).requires_grad_() for side in batch(pairs, dim, **options)]


def hinge(x, y, margin=0.2):
    """The hinge triplet with the hardest negative, in plain PyTorch."""
    s = x @ y.T
    p = s.diagonal()
    masked = s - 1e9 * torch.eye(len(s))
    return sum((margin + masked.max(axis).values - p).clamp(min=0).sum() for axis in (0, 1))


def infonce(x, y, temperature):
    logits = x @ y.T / temperature
    own = torch.arange(len(x))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def test_value_and_gradient_are_those_of_autograd():
    for name, plain in [("hinge", hinge), ("infonce", lambda x, y: infonce(x, y, 0.07))]:
        x, y = tensors()
        other = [side.detach().clone().requires_grad_() for side in (x, y)]
        value = Loss(name, normalize=False, device="cpu")(x, y)
        expected = plain(*other)
        (3 * value).backward()
        (3 * expected).backward()
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x.grad, other[0].grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(y.grad, other[1].grad, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_an_encoder_is_that_of_autograd():
    torch.manual_seed(0)
    model = torch.nn.Linear(10, 8)
    twin = copy.deepcopy(model)
    images, y = torch.randn(12, 10), torch.nn.functional.normalize(torch.randn(12, 8))
    Loss("infonce", device="cpu")(model(images), y).backward()
    infonce(torch.nn.functional.normalize(twin(images)), y, 0.07).backward()
    torch.testing.assert_close(model.weight.grad, twin.weight.grad, rtol=1e-3, atol=1e-6)


def test_a_loss_takes_a_weight_file(root):
    file = root / "examples" / "weights" / "cir_sig.wgsl"
    own, built_in = tensors(), tensors()
    Loss("custom", weights=file, param={"tau": 2.0}, device="cpu")(*own).backward()
    Loss("cir:sig", tau=2.0, device="cpu")(*built_in).backward()
    torch.testing.assert_close(own[0].grad, built_in[0].grad, rtol=1e-4, atol=1e-6)


def test_the_mean_is_divided_by_the_pairs():
    x, y = tensors()
    total, mean = Loss(device="cpu")(x, y), Loss(reduction="mean", device="cpu")(x, y)
    torch.testing.assert_close(mean, total / 24)
    total.backward()
    of_sum, x.grad = x.grad.clone(), None
    mean.backward()
    torch.testing.assert_close(x.grad, of_sum / 24)
    with pytest.raises(ValueError, match="reduction: expected sum or mean"):
        Loss(reduction="none")


def test_a_temperature_is_learned():
    loss = Loss("infonce+0.5*cir:sig-ms", learn_temperature=True, temperature=0.1, device="cpu")
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    x, y = tensors()
    loss(x, y).backward()
    plain = torch.tensor(0.1, requires_grad=True)
    infonce(*(torch.nn.functional.normalize(side.detach()) for side in (x, y)), plain).backward()
    torch.testing.assert_close(loss.temperature.grad, plain.grad, rtol=1e-3, atol=1e-5)
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)
    optimizer.step()
    loss(x, y)
    assert 0.001 <= float(loss.temperature) <= 0.5 and float(loss.temperature) != 0.1
    siglip = Loss("siglip", device="cpu")
    assert {name for name, _ in siglip.named_parameters()} == {"temperature", "logit_bias"}
    siglip(x, y).backward()
    assert float(siglip.logit_bias.grad) != 0
    with pytest.raises(ValueError, match="learn_temperature: expected an objective with infonce or siglip"):
        Loss("hinge", learn_temperature=True)
    assert not list(Loss("infonce").parameters()) or not Loss("infonce").temperature.requires_grad


def test_a_second_backward_is_a_clear_error():
    x, y = tensors()
    value = Loss(device="cpu")(x, y)
    with pytest.raises(RuntimeError, match="wgoal has no second derivatives"):
        torch.autograd.grad(value, x, create_graph=True)


def test_only_what_requires_a_gradient_gets_one():
    x, y = tensors()
    y = y.detach()
    Loss(device="cpu")(x, y).backward()
    assert x.grad is not None and y.grad is None
    assert not Loss(device="cpu")(x.detach(), y).requires_grad


def test_half_precision_and_autocast():
    x, y = tensors()
    expected = Loss(device="cpu")(x, y)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        a = x.detach().to(dtype).requires_grad_()
        value = Loss(device="cpu")(a, y.detach().to(dtype))
        value.backward()
        assert value.dtype == torch.float32 and a.grad.dtype == dtype
        torch.testing.assert_close(value, expected, rtol=3e-2, atol=1e-1)
    model = torch.nn.Linear(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = Loss(device="cpu")(model(x), y)
    value.backward()
    assert torch.isfinite(model.weight.grad).all()


def test_gradients_accumulate():
    x, y = tensors()
    loss = Loss("hinge", device="cpu")
    loss(x, y).backward()
    once = x.grad.clone()
    loss(x, y).backward()
    torch.testing.assert_close(x.grad, 2 * once)


def test_a_module_of_every_day():
    loss = Loss("infonce", learn_temperature=True, device="cpu")
    again = pickle.loads(pickle.dumps(loss))
    x, y = tensors()
    assert again(x, y) == loss(x, y) and "infonce" in repr(loss)
    again.load_state_dict(loss.state_dict())
    ids = torch.arange(24) // 2
    assert loss(x, y, ids) != loss(x, y)
    with pytest.raises(ValueError, match="images: expected a matrix"):
        loss(x[0], y)
    with pytest.raises(TypeError, match="images: expected a torch.Tensor"):
        loss(x.detach().numpy(), y)


def test_tensors_are_inputs_of_gradients():
    x, y = (side.detach() for side in tensors())
    expected = wgoal.gradients(x.numpy(), y.numpy(), device="cpu")
    for a, b in [(x, y), (x.clone().requires_grad_(), y), (x.T.contiguous().T, y)]:
        g = wgoal.gradients(a, b, device="cpu")
        np.testing.assert_array_equal(g.images, expected.images)
    assert wgoal.gradients(x.bfloat16(), y, device="cpu").loss == pytest.approx(expected.loss, rel=0.05)


def _process(rank, folder):
    """One of two processes, with half of the batch each."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    from torch.distributed.nn.functional import all_gather

    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 8))
    x, y = batch(24, 16)
    own = slice(12 * rank, 12 * rank + 12)
    images = torch.cat(all_gather(model(torch.tensor(x[own]))))
    texts = torch.cat(all_gather(torch.tensor(y[own, :8])))
    Loss("cir:sig-ms", device="cpu")(images, texts).backward()
    if rank == 0:
        torch.save(model.module.weight.grad, f"{folder}/grad")
    dist.destroy_process_group()


def test_two_processes_with_gathered_embeddings_are_one_batch(tmp_path):
    dist = pytest.importorskip("torch.distributed.nn.functional")
    assert dist.all_gather
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 8)
    x, y = batch(24, 16)
    Loss("cir:sig-ms", device="cpu")(model(torch.tensor(x)), torch.tensor(y[:, :8])).backward()
    # Each process computes the whole loss; all_gather adds their gradients, and DDP takes the mean.
    torch.testing.assert_close(torch.load(tmp_path / "grad"), model.weight.grad, rtol=1e-3, atol=1e-5)
