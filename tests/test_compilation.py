"""The compiled network of a run: the same run, and `auto` compiles where it pays."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, DynamoBackend
from torch import nn

from ddpm_ext.training import compilation
from ddpm_ext.training.compilation import Compilation
from tests.training_helpers import Script, largest_difference, weights


POINTS = (
    "--num_points 200 --hidden_sizes 16 16 --train_batch_size 16 --max_train_steps 12 --checkpointing_steps 6 "
    "--save_images_steps 100 --num_inference_steps 5 --eval_batch_size 20 --logger none --use_ema"
).split()


def test_a_compiled_run_leaves_the_weights_of_the_other(script: Script, tmp_path):
    for choice in ("never", "always"):
        argv = [*POINTS, "--compile", choice, "--output_dir", str(tmp_path / choice)]
        script.run("train_points", *argv, tiny=False)
    for subfolder in ("unet", "checkpoints/checkpoint-12/unet_raw"):
        never, always = (weights(tmp_path / choice, subfolder) for choice in ("never", "always"))
        assert never.keys() == always.keys()
        assert largest_difference(never, always) < 1e-5
    resumed = [*POINTS, "--compile", "never", "--output_dir", str(tmp_path / "resumed")]
    resumed += ["--resume_from_checkpoint", str(tmp_path / "always" / "checkpoints" / "checkpoint-6")]
    script.run("train_points", *resumed, tiny=False)
    assert largest_difference(weights(tmp_path / "resumed"), weights(tmp_path / "never")) < 1e-5


def an_accelerator(**changes: object) -> Accelerator:
    PartialState()
    usual = {
        "device": torch.device("cpu"),
        "distributed_type": DistributedType.NO,
        "no_sync": lambda network: nullcontext(),
        "state": SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=DynamoBackend.NO)),
    }
    return SimpleNamespace(**{**usual, **changes})


class Clock:
    """Seconds that pass when a network is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(compilation.time, "perf_counter", lambda: self.now)

    def network(self, seconds: float) -> nn.Module:
        network = nn.Linear(1, 1)
        plain = network.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            self.now += seconds
            return plain(x)

        network.forward = forward
        return network


def train(network: Compilation, steps: int, first: int = 0) -> None:
    for step in range(first, steps):
        network.step_begins()
        network(torch.zeros(1))
        network.step_ends(step + 1)


@pytest.mark.parametrize(
    ("seconds", "compiled_seconds", "steps", "chosen"),
    [(1.0, 0.8, 500, False), (1.0, 0.8, 5000, True), (1.0, 1.1, 5000, False), (100.0, 1.0, 90, False)],
    ids=["too little remains", "it pays", "it is slower", "too few steps to try"],
)
def test_auto_compiles_where_that_pays(seconds, compiled_seconds, steps, chosen, monkeypatch):
    clock, said = Clock(monkeypatch), []
    monkeypatch.setattr(torch, "compile", lambda network, **_: clock.network(compiled_seconds))
    network = Compilation(clock.network(seconds), "auto", an_accelerator(), steps, said.append)
    train(network, 30)
    assert network.chosen is chosen
    before = clock.now
    train(network, 31, 30)
    assert clock.now - before == pytest.approx(compiled_seconds if chosen else seconds)
    assert len(said) == (steps == 5000)

    def refuses(*_, **__) -> None:
        raise AssertionError("compiled once more")

    for resumed_steps in (steps, 50):  # the choice is that of the run, however little remains
        again = Compilation(clock.network(seconds), "auto", an_accelerator(), 5000, said.append)
        if not network.chosen:
            monkeypatch.setattr(torch, "compile", refuses)
        again.resume(network.chosen)
        train(again, resumed_steps, resumed_steps - 30)
        assert again.chosen is chosen


class Breaks(torch.autograd.Function):
    """Fails in one of the two directions."""

    @staticmethod
    def forward(_: object, x: torch.Tensor, where: str) -> torch.Tensor:
        if where == "forward":
            raise RuntimeError("no C++ compiler\nwas found.")
        return x.clone()

    @staticmethod
    def backward(_: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        raise RuntimeError("no C++ compiler\nwas found.")


@pytest.mark.parametrize("where", ["forward", "backward"])  # both are compiled when they are first called
def test_where_compiling_fails_auto_goes_on_without_and_always_says_so(where, monkeypatch):
    plain, said = nn.Linear(1, 1), []
    monkeypatch.setattr(torch, "compile", lambda network, **_: lambda x: Breaks.apply(network(x), where))
    network = Compilation(plain, "auto", an_accelerator(), 5000, said.append)
    network.resume(True)
    output = network(torch.ones(1))
    output.sum().backward()
    assert network.chosen is False and plain.weight.grad.item() == 1
    assert said == ["torch.compile fails here (no C++ compiler was found): training goes on without"]
    network = Compilation(plain, "always", an_accelerator(), 5000, said.append)
    with pytest.raises(ValueError, match=r"`compile` is 'always', but torch.compile fails here \(no C\+\+ compiler"):
        network(torch.ones(1))


def test_to_see_whether_it_compiles_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    outcomes = []
    for choice in ("never", "always"):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        network = Compilation(plain, choice, an_accelerator(), 5000, print)
        output = network(torch.randn(8, 4))
        output.square().sum().backward()
        outcomes.append([output, *(parameter.grad for parameter in plain.parameters()), *plain.buffers()])
    for never, always in zip(*outcomes, strict=True):
        assert torch.equal(never, always)


def test_what_is_not_combined(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it was compiled"))
    sharded = an_accelerator(distributed_type=DistributedType.FSDP)
    with pytest.raises(ValueError, match="`compile` is 'always', which is not combined with FSDP"):
        Compilation(nn.Identity(), "always", sharded, 5000, print)
    assert Compilation(nn.Identity(), "auto", sharded, 5000, print).chosen is False
    by_accelerate = SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=DynamoBackend.INDUCTOR))
    for choice in ("auto", "always"):
        assert Compilation(nn.Identity(), choice, an_accelerator(state=by_accelerate), 5000, print).chosen is False


def test_dropout_draws_the_same_compiled_or_not():
    dropout, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), torch.ones(4, 8)
    outputs = []
    for choice in ("never", "always"):
        network = Compilation(dropout, choice, an_accelerator(), 12, print)
        torch.manual_seed(0)
        outputs.append(network(x))
    torch.testing.assert_close(*outputs)
