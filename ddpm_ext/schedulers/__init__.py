"""Schedulers: ours, and the hand-over of our models' outputs to the stock ones."""

from .scheduling_improved_ddpm import ImprovedDDPMScheduler


__all__ = ["ImprovedDDPMScheduler"]
