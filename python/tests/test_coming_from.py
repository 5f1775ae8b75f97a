"""The equivalences of docs/coming-from.md: values and gradients, with the factor between them."""

import warnings

import pytest

from reference import batch

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from wgoal.torch import Loss  # noqa: E402

N = 20


def compare(theirs, name, factor, value_too=True, **options):
    """Checks that the objective is `factor` times another loss."""
    x, y = (torch.tensor(side) for side in batch(N, 8))
    found = []
    for loss in (theirs, Loss(name, device="cpu", **options)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = loss(a, b)
        value.backward()
        found.append((value.detach(), a.grad, b.grad))
    (value, *gradients), (own, *own_gradients) = found
    if value_too:
        torch.testing.assert_close(own, factor * value, rtol=1e-4, atol=1e-5)
    for gradient, own in zip(gradients, own_gradients):
        assert own.abs().max() > 1e-3
        torch.testing.assert_close(own, factor * gradient, rtol=1e-3, atol=1e-4)


def metric_learning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_metric_learning")


def of_metric_learning(make):
    metric_learning()
    from pytorch_metric_learning import distances, losses, reducers

    loss = make(losses, distances.CosineSimilarity(), reducers.SumReducer())
    labels = torch.arange(N)
    # Other labels of the same values: the library takes one object for comparing a batch with itself.
    return lambda x, y: loss(x, labels, ref_emb=y, ref_labels=labels.clone())


@pytest.mark.parametrize(
    "make, name, factor, options",
    [
        (lambda of, cos, total: of.NTXentLoss(0.07), "infonce", 1, dict(temperature=0.07)),
        (lambda of, cos, total: of.SupConLoss(0.1), "infonce", 1, dict(temperature=0.1)),
        (lambda of, cos, total: of.NCALoss(10, distance=cos), "infonce", 1, dict(temperature=0.1)),
        (lambda of, cos, total: of.TupletMarginLoss(0, 10), "infonce", 1, dict(temperature=0.1)),
        (lambda of, cos, total: of.TripletMarginLoss(0.2, distance=cos, reducer=total), "hinge@all", 1, {}),
        (
            lambda of, cos, total: of.TripletMarginLoss(0, smooth_loss=True, distance=cos, reducer=total),
            "nt-xent@all",
            1,
            {},
        ),
        (
            lambda of, cos, total: of.ContrastiveLoss(1, 0.5, distance=cos, reducer=total),
            "contrastive@all",
            1,
            dict(lambda_=0.5),
        ),
        (lambda of, cos, total: of.MultiSimilarityLoss(2, 50, 0.5), "multi-similarity", N, dict(beta=50)),
        (lambda of, cos, total: of.CircleLoss(0.4, 80), "circle-all", N / 80, {}),
        (
            lambda of, cos, total: of.GeneralizedLiftedStructureLoss(-1, 0, distance=cos),
            "lifted",
            N,
            dict(margin=1.0),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pytorch_metric_learning(make, name, factor, options):
    compare(of_metric_learning(make), f"{name}@image-to-text", factor, **options)


def clip(x, y, scale=1 / 0.07):
    """open_clip.loss.ClipLoss."""
    logits, labels = scale * x @ y.T, torch.arange(len(x))
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def siglip(x, y, scale=10.0, bias=-10.0):
    """open_clip.loss.SigLipLoss."""
    signs = 2 * torch.eye(len(x)) - 1
    return -functional.logsigmoid(signs * (scale * x @ y.T + bias)).sum() / len(x)


def multiple_negatives(x, y, scale=20.0):
    """sentence_transformers.losses.MultipleNegativesRankingLoss."""
    return functional.cross_entropy(scale * x @ y.T, torch.arange(len(x)))


def mega_batch_margin(x, y, positive=1.0, negative=0.3):
    """sentence_transformers.losses.MegaBatchMarginLoss."""
    scores = x @ y.T
    hardest = (scores - 2 * torch.eye(len(x))).max(1).values
    return (functional.relu(positive - scores.diagonal()) + functional.relu(hardest - negative)).mean()


@pytest.mark.parametrize(
    "theirs, name, factor, options",
    [
        (clip, "infonce", 1, dict(temperature=0.07)),
        (siglip, "siglip", 1, {}),
        (multiple_negatives, "infonce@image-to-text", 1, dict(temperature=0.05)),
        (mega_batch_margin, "contrastive@image-to-text", N, dict(lambda_=0.3)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_open_clip_and_sentence_transformers(theirs, name, factor, options):
    def normalised(x, y):
        return theirs(functional.normalize(x), functional.normalize(y))

    compare(normalised, name, factor, **options)


def test_the_gradient_of_a_scale_of_logits():
    x, y = (torch.tensor(side) for side in batch(N, 8))
    scale = torch.tensor(2.6593, requires_grad=True)
    clip(x, y, scale.exp()).backward()
    loss = Loss("infonce", learn_temperature=True, temperature=float(torch.exp(-scale)), device="cpu")
    loss(x, y).backward()
    torch.testing.assert_close(-loss.temperature * loss.temperature.grad, scale.grad, rtol=1e-3, atol=1e-5)
