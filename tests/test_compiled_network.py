"""The compiled network of many samples: CUDA graphs where the network is on a GPU."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_ext.evaluation.compiled_network import compile_network


class Network(torch.nn.Module):
    """Says that it is on `device`, and writes each output into the same memory, as a CUDA graph does."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.memory = torch.zeros(2)

    def forward(self, x_t: torch.Tensor) -> UNet2DOutput:
        return UNet2DOutput(sample=self.memory.copy_(x_t))


@pytest.mark.parametrize("device, options", [("cpu", {}), ("cuda", {"mode": "reduce-overhead"})])
def test_cuda_graphs_are_for_gpus(device, options, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda forward, **options: asked.append(options) or forward)
    compile_network(Network(device))
    assert asked == [{"dynamic": False, **options}]


def test_what_a_cuda_graph_returns_outlives_the_next_evaluation(monkeypatch):
    begun = SimpleNamespace(steps=0)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: setattr(begun, "steps", begun.steps + 1))
    network = Network("cuda")
    compile_network(network)
    outputs = [network.forward(torch.full((2,), float(i))).sample for i in range(3)]
    assert [output.tolist() for output in outputs] == [[0, 0], [1, 1], [2, 2]]
    assert begun.steps == 3
