"""Pipelines: one subclass of DiffusionPipeline per file."""

from .pipeline_class_conditional_ddpm import ClassConditionalDDPMPipeline
from .pipeline_improved_ddpm import ImprovedDDPMPipeline


__all__ = ["ClassConditionalDDPMPipeline", "ImprovedDDPMPipeline"]
