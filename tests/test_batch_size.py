"""How many images are drawn at once where nobody says. The device "meta", for shapes alone, stands for a GPU."""

import pytest
import torch

from ddpm_ext.evaluation.batch_size import fitting_batch_size
from ddpm_ext.evaluation.generate import Sampling
from ddpm_ext.pipelines import ImprovedDDPMPipeline


@pytest.fixture
def hold(monkeypatch):
    """`hold(pipeline, n)` moves it to a device that has memory for n images; returns the sizes that it was tried
    with. There is nothing to collect there, which accelerate would do before each try."""
    monkeypatch.setattr("gc.collect", lambda: 0)

    def put(pipeline: ImprovedDDPMPipeline, most: int) -> list[int]:
        pipeline.unet.to("meta")
        tried, evaluate = [], pipeline.unet.forward

        def forward(x_t: torch.Tensor, *conditions: torch.Tensor):
            tried.append(len(x_t))
            if len(x_t) > most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
            return evaluate(x_t, *conditions)

        monkeypatch.setattr(pipeline.unet, "forward", forward)
        return tried

    return put


class Processes:
    """`num_processes` of them, of which one more has found `other`."""

    device = torch.device("cpu")

    def __init__(self, num_processes: int, other: int) -> None:
        self.num_processes, self.other = num_processes, other

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([own, torch.full_like(own, self.other)])


def test_on_a_cpu_nothing_is_tried(pipeline):
    pipeline.unet.forward = None
    assert fitting_batch_size(pipeline, 1000) == 64
    assert fitting_batch_size(pipeline, 3) == 3


@pytest.mark.parametrize("memory", [3, 20, 100, 700])
def test_a_gpu_is_filled_and_has_room_to_spare(pipeline, hold, memory):
    hold(pipeline, memory)
    found = fitting_batch_size(pipeline, 700)
    assert 0.5 * memory < found * 1.25 <= memory + 1


def test_few_images_are_one_batch(pipeline, hold):
    tried = hold(pipeline, 10_000)
    assert fitting_batch_size(pipeline, 30) == 30
    assert tried == [38]


def test_batches_are_nearly_of_one_size(pipeline, hold):
    hold(pipeline, 10_000)
    assert fitting_batch_size(pipeline, 1025) == 513
    assert fitting_batch_size(pipeline, 5000) == 1000


def test_guidance_takes_twice_the_memory(class_conditional, hold):
    hold(class_conditional, 200)
    plain, guided = (fitting_batch_size(class_conditional, 10_000, is_guided) for is_guided in (False, True))
    assert guided * 2 == pytest.approx(plain, rel=0.15)


def test_all_processes_take_what_fits_each(pipeline, hold):
    hold(pipeline, 10_000)
    assert fitting_batch_size(pipeline, 4000, accelerator=Processes(2, other=1000)) == 1000
    assert fitting_batch_size(pipeline, 4000, accelerator=Processes(2, other=100)) == 100


def test_where_no_image_fits_the_error_says_so(pipeline, hold):
    hold(pipeline, 0)
    with pytest.raises(RuntimeError, match="No executable batch size"):
        fitting_batch_size(pipeline, 10)


def test_a_mistake_of_the_network_is_no_lack_of_memory(pipeline, monkeypatch):
    def forward(*_: torch.Tensor):
        raise RuntimeError("shapes do not fit")

    pipeline.unet.to("meta")
    monkeypatch.setattr(pipeline.unet, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fitting_batch_size(pipeline, 10)


def test_a_size_that_was_asked_for_stays(pipeline, hold):
    tried = hold(pipeline, 10)
    assert Sampling(batch_size=100).with_batch_size(pipeline, 1000).batch_size == 100
    assert tried == []


def test_guidance_is_thought_of(class_conditional, hold):
    tried = hold(class_conditional, 10_000)
    assert Sampling(guidance_scale=2.0).with_batch_size(class_conditional, 8).batch_size == 8
    assert tried == [20]
