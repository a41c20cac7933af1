import itertools
import time

import pytest
import torch

from ddpm_ext.randomness import BlockOrder, DataOrder, Draws, generator_for, seed_for


CPU = torch.device("cpu")


@pytest.mark.parametrize("seed, purpose", [(0, "image"), (1, "image"), (0, "noise"), (2**40, "timestep")])
def test_seeds_of_one_purpose_never_collide(seed, purpose):
    seeds = {seed_for(seed, purpose, index) for index in range(2**16)}
    assert len(seeds) == 2**16
    assert min(seeds) >= 0 and max(seeds) < 2**32


def test_seeds_are_spread_over_all_32_bits():
    """Each bit is set in half of 2^16 seeds: 8 standard errors of that count are 1024."""
    seeds = [seed_for(0, "image", index) for index in range(2**16)]
    for bit in range(32):
        assert abs(sum(seed >> bit & 1 for seed in seeds) - 2**15) < 1024


def test_seeds_depend_on_seed_purpose_and_index():
    names = itertools.product((0, 1, 2), ("image", "noise", "order"), (0, 1, 2))
    assert len({seed_for(*name) for name in names}) == 27


def test_a_generator_starts_afresh():
    first, again = (torch.randn(3, generator=generator_for(0, "image", 5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(3, generator=generator_for(0, "image", 6)))


# ------------------------------------------------------------------ draws


def draws(places: slice, step: int = 4, seed: int = 0) -> Draws:
    return Draws(seed, step, 12, places, CPU)


@pytest.mark.parametrize("cuts", [(0, 12), (0, 4, 8, 12), (0, 1, 5, 12)])
def test_windows_tile_the_global_batch(cuts):
    """However a batch is divided among processes and accumulation steps, its samples get the same numbers."""
    windows = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    whole = draws(slice(0, 12))
    normal = torch.cat([draws(window).normal("noise", 2, 3) for window in windows])
    uniform = torch.cat([draws(window).uniform("timestep") for window in windows])
    assert torch.equal(normal, whole.normal("noise", 2, 3)) and normal.shape == (12, 2, 3)
    assert torch.equal(uniform, whole.uniform("timestep")) and uniform.shape == (12,)


def test_draws_are_of_their_distribution_and_precision():
    many = Draws(0, 0, 40_000, slice(None), CPU)
    uniform, normal = many.uniform("u"), many.normal("n")
    assert (uniform.dtype, normal.dtype) == (torch.float64, torch.float32)
    assert 0 <= uniform.min() and uniform.max() < 1
    # 5 standard errors
    assert uniform.mean().item() == pytest.approx(0.5, abs=5 * 12**-0.5 / 200)
    assert normal.mean().item() == pytest.approx(0, abs=5 / 200)
    assert normal.std().item() == pytest.approx(1, abs=5 / (200 * 2**0.5))


def test_draws_differ_by_seed_step_and_purpose_and_by_nothing_else():
    window = slice(0, 12)
    numbers = [
        draws(window).normal("noise"),
        draws(window).normal("other"),
        draws(window, step=5).normal("noise"),
        draws(window, seed=1).normal("noise"),
    ]
    for one, other in itertools.combinations(numbers, 2):
        assert not torch.equal(one, other)
    asked_twice = draws(window)
    asked_twice.uniform("something else first")
    assert torch.equal(asked_twice.normal("noise"), numbers[0])
    assert torch.equal(asked_twice.normal("noise"), numbers[0])


# ------------------------------------------------------------------ the order of the data


@pytest.mark.parametrize("num_samples, batch", [(10, 3), (7, 7), (5, 12), (1, 4)])
def test_every_epoch_holds_every_sample_once(num_samples, batch):
    order, epochs = DataOrder(num_samples, seed=0), 12
    stream = torch.cat([order.indices(start, batch) for start in range(0, epochs * num_samples, batch)])
    for epoch in stream[: epochs * num_samples].split(num_samples):
        assert epoch.sort().values.tolist() == list(range(num_samples))


def test_epochs_and_seeds_have_orders_of_their_own():
    first = DataOrder(50, seed=0)
    epochs = [first.indices(50 * epoch, 50).tolist() for epoch in range(3)]
    epochs.append(DataOrder(50, seed=1).indices(0, 50).tolist())
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("start, count", [(0, 4), (8, 5), (95, 30), (10**6, 3)])
def test_seeking_equals_walking(start, count):
    walked = DataOrder(10, seed=0)
    if start < 1000:
        for position in range(0, start):
            walked.indices(position, 1)
    expected = torch.cat([walked.indices(start + i, 1) for i in range(count)])
    assert torch.equal(DataOrder(10, seed=0).indices(start, count), expected)


def test_seeking_far_costs_no_more_than_seeking_near():
    """Walking a trillion epochs would take days; one permutation takes a fraction of a millisecond."""
    order, began = DataOrder(1000, seed=0), time.perf_counter()
    order.indices(10**12 + 5, 64)
    assert time.perf_counter() - began < 1


# ------------------------------------------------------------------ the order of data that is read in blocks

BLOCKS = {
    "even": [10] * 20,
    "uneven": [7, 1, 30, 4, 4, 4, 19, 2, 11, 5],
    "larger than the window": [50, 3, 60, 40],
    "one": [23],
}


def block_order(sizes: list[int], window: int = 40, batch: int = 8, seed: int = 0) -> BlockOrder:
    return BlockOrder(torch.tensor(sizes), window, batch, seed)


def block_of(sizes: list[int]) -> torch.Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@pytest.mark.parametrize("sizes", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_every_epoch_of_blocks_holds_every_sample_once(sizes, batch):
    order = block_order(sizes, batch=batch)
    count = sum(sizes)
    stream = torch.cat([order.indices(start, batch) for start in range(0, 5 * count, batch)])
    epochs = stream[: 5 * count].split(count)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(count))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert epochs[0].tolist() != block_order(sizes, batch=batch, seed=1).indices(0, count).tolist()


@pytest.mark.parametrize("start, count", [(0, 4), (35, 60), (10**6 - 3, 9)])
def test_seeking_among_blocks_equals_walking(start, count):
    sizes, walked = BLOCKS["uneven"], block_order(BLOCKS["uneven"])
    for position in range(max(0, start - 100), start):
        walked.indices(position, 1)
    expected = torch.cat([walked.indices(start + i, 1) for i in range(count)])
    assert torch.equal(block_order(sizes).indices(start, count), expected)


def test_an_epoch_visits_windows_of_random_blocks_one_after_the_other():
    sizes, block = [10] * 20, block_of([10] * 20)
    order = block_order(sizes)
    windows = [block[order.indices(start, 40)].unique().tolist() for start in range(0, 200, 40)]
    assert [len(window) for window in windows] == [4] * 5
    assert sorted(sum(windows, [])) == list(range(20))
    assert sorted(windows) != [list(range(first, first + 4)) for first in range(0, 20, 4)]


def test_every_batch_has_its_share_of_every_block_of_the_window():
    sizes, block = [100] * 12, block_of([100] * 12)
    order = block_order(sizes, window=400, batch=8)
    for start in range(0, 1200, 8):
        counts = block[order.indices(start, 8)].bincount()
        assert counts[counts > 0].tolist() == [2] * 4


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_the_blocks_of_a_window(processes):
    """Of 16 blocks, each process needs its share, and at either end at most one that another needs as well."""
    sizes, block = [10] * 16, block_of([10] * 16)
    order, size = block_order(sizes, window=160, batch=16), 16 // processes
    for process in range(processes):
        parts = [order.indices(start + process * size, size) for start in range(0, 160, 16)]
        assert len(block[torch.cat(parts)].unique()) <= 16 // processes + 2


def test_a_sample_stands_anywhere_in_its_window():
    """Mean position over 400 seeds: 5 standard errors of a uniform one."""
    positions = []
    for seed in range(400):
        first = block_order([10] * 4, window=40, seed=seed).indices(0, 40)
        positions.append((first == 0).nonzero().item())
    assert sum(positions) / 400 == pytest.approx(19.5, abs=5 * (40**2 / 12 / 400) ** 0.5)
    assert len(set(positions)) == 40
