"""The residual bottleneck: residuals shrink, codes and forward agree, dead codes revive, evaluation changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist

from espnet_musa.codec.quantizer import Codebook, ResidualBottleneck, kmeans, nearest
from espnet_musa.errors import UserError


def bottleneck(n: int = 4, size: int | list[int] = 32, **more) -> ResidualBottleneck:
    torch.manual_seed(0)
    return ResidualBottleneck(16, n, size, **more)


def frames(batch: int = 4, count: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 16, count, generator=torch.Generator().manual_seed(seed))


def trained(**more) -> ResidualBottleneck:
    net = bottleneck(**more)
    for step in range(10):
        net(frames(seed=step))
    return net.eval()


def test_more_quantizers_leave_less():
    net, x = trained(), frames(seed=99)
    codes = net.encode(x)
    errors = [float((net.decode(codes[:n]) - x).square().mean()) for n in range(5)]
    assert errors == sorted(errors, reverse=True) and errors[4] < 0.7 * errors[1] < 0.7 * errors[0]


def test_forward_encode_and_decode_agree():
    net, x = trained(size=[32, 16, 8, 4]), frames(seed=99)
    out = net(x)
    assert torch.equal(out.codes, net.encode(x))
    assert torch.equal(out.codes[:2], net.encode(x, 2))
    assert [int(layer.max()) < size for layer, size in zip(out.codes, (32, 16, 8, 4), strict=True)] == [
        True
    ] * 4
    assert torch.allclose(out.q, net.decode(out.codes), atol=1e-6)
    assert torch.allclose(out.q1, net.decode(out.codes[:1]), atol=1e-6)
    assert net.encode(x, 0).shape == (0, 4, 50)
    assert torch.equal(net.decode(net.encode(x, 0)), torch.zeros_like(x))
    shares = [len(layer.unique()) / size for layer, size in zip(out.codes, (32, 16, 8, 4), strict=True)]
    assert out.usage.tolist() == pytest.approx(shares)


def test_commitment_is_the_sum_of_mean_squared_residuals():
    net, x = trained(), frames(seed=99)
    codes = net.encode(x)
    by_hand = sum(float((net.decode(codes[: n + 1]) - x).square().mean()) for n in range(4))
    assert float(net(x).commitment) == pytest.approx(by_hand, rel=1e-5)


def test_gradients_go_straight_through():
    net, x = bottleneck(), frames().requires_grad_()
    out = net(x)
    weight = torch.randn_like(x)
    for tensor in (out.q, out.q1):
        (gradient,) = torch.autograd.grad((tensor * weight).sum(), x, retain_graph=True)
        assert torch.equal(gradient, weight)
    (gradient,) = torch.autograd.grad(out.commitment, x)
    # Every layer pulls: 2 (x_i - q_i) / elements, x_i the residual of layer i.
    residuals = sum(x - total for total in partial_sums(x))
    assert torch.allclose(gradient, 2 * residuals / x.numel(), atol=1e-6)


def partial_sums(x):
    """What the quantizers have added up after each layer: a fresh bottleneck that sees the same first batch."""
    net = bottleneck()
    seen = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _module, _inputs, result: seen.append(result[1]))
    net(x)
    total = torch.zeros_like(x)
    for quantized in seen:
        total = total + quantized.unflatten(0, (len(x), -1)).transpose(1, 2)
        yield total


def test_masked_frames_teach_nothing():
    x = frames()
    mask = torch.arange(50) < torch.tensor([50, 50, 20, 1])[:, None]
    noisy = torch.where(mask[:, None], x, 100.0)
    first, second = bottleneck(), bottleneck()
    for _ in range(3):
        torch.manual_seed(5)
        a = first(x, mask)
        torch.manual_seed(5)
        b = second(noisy, mask)
    assert all(torch.equal(p, q) for p, q in zip(first.buffers(), second.buffers(), strict=True))
    assert torch.equal(a.commitment, b.commitment) and torch.equal(a.usage, b.usage)


def test_evaluation_changes_nothing():
    net = trained()
    before = copy.deepcopy(net.state_dict())
    generator = torch.get_rng_state()
    net(frames(seed=7))
    net.encode(frames(seed=7))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    fresh = bottleneck().eval()
    fresh(frames())
    assert not fresh.layers[0].initialized


def test_same_seed_same_codebooks():
    first, second = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_dead_codes_revive():
    torch.manual_seed(0)
    book = Codebook(8, 2, decay=0.5)
    data = torch.randn(400, 2)
    book(data, None)
    book.embed[3] = 1000.0  # far from everything
    book.embed_avg[3] = 1000.0 * book.cluster_size[3]
    for _ in range(10):
        book(data, None)
    index, _ = book(data, None)
    assert (index == 3).any() and book.embed.abs().max() < 10
    kept = Codebook(8, 2, decay=0.5, dead_code_threshold=0.0)
    kept.load_state_dict(book.state_dict())
    kept.embed[3] = 1000.0
    kept.embed_avg[3] = 1000.0 * kept.cluster_size[3]
    for _ in range(10):
        kept(data, None)
    assert not (kept(data, None)[0] == 3).any()


def test_the_threshold_is_scaled_for_small_batches():
    """100 frames a step for 128 codes: a fixed threshold of 2 would replace most codes at every step."""
    torch.manual_seed(0)
    moved = {}
    for share in (0.1, 1e9):
        book = Codebook(128, 4, dead_code_share=share)
        data = torch.randn(2000, 4)
        for step in range(20):
            before = book.embed.clone()
            book(data[100 * step : 100 * (step + 1)], None)
        # A moving average of 0.99 takes small steps; a replaced code jumps.
        moved[share] = float(((book.embed - before).norm(dim=1) > 0.5).float().mean())
    assert moved[0.1] < 0.2 < 0.5 < moved[1e9]


def test_initial_codes_are_distinct_even_with_few_frames():
    torch.manual_seed(0)
    few = torch.randn(10, 4).repeat(3, 1)
    centroids, count = kmeans(few, 16, 50)
    assert len(torch.unique(centroids, dim=0)) == 16 and float(count.sum()) == 30
    assert len(torch.unique(nearest(few, centroids))) == 10
    net = bottleneck(n=1, size=64)
    net(frames(batch=1, count=20))
    for step in range(8):
        net(frames(batch=1, count=40, seed=step))
    assert len(torch.unique(net.layers[0].embed, dim=0)) == 64
    usage = net.eval()(frames(batch=8, count=100, seed=50)).usage
    assert float(usage) > 0.7


def test_kmeans_finds_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    data = (centres[:, None] + 0.1 * torch.randn(4, 200, 2)).flatten(0, 1)
    best = min(
        (kmeans(data, 4, 50)[0] for _ in range(10)), key=lambda c: float(torch.cdist(data, c).amin(1).sum())
    )
    assert torch.cdist(centres, best).amin(1).max() < 0.1


def one_of_two(rank: int, place: str) -> None:
    """A process with frames, and a seed, of its own; leaves its codebooks in `place`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{place}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    net = ResidualBottleneck(16, 2, 32)
    for _ in range(4):
        net(torch.randn(2, 16, 20 + 10 * rank))
    torch.save(net.state_dict(), f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_one_codebook(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert float(first["layers.0.cluster_size"].sum()) == pytest.approx(
        100, rel=0.1
    )  # both processes' frames


@pytest.mark.parametrize("size", [[32, 32], 0, []])
def test_bad_sizes(size):
    with pytest.raises(UserError, match="codebook_size"):
        ResidualBottleneck(16, 4, size)


def test_too_many_quantizers_asked_for():
    net = bottleneck()
    with pytest.raises(UserError, match="5 quantizers asked for; expected 0 to 4"):
        net.encode(frames(), 5)
    with pytest.raises(UserError, match="5 quantizers"):
        net.decode(torch.zeros(5, 1, 3, dtype=torch.long))
