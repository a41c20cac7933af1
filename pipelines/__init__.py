"""Pipelines: one subclass of DiffusionPipeline per file, all known to diffusers by their names."""

from ddpm_ext.registration import register

from .pipeline_class_conditional_ddpm import ClassConditionalDDPMPipeline
from .pipeline_improved_ddpm import ImprovedDDPMPipeline
from .pipeline_points_ddpm import PointsDDPMPipeline


__all__ = ["ClassConditionalDDPMPipeline", "ImprovedDDPMPipeline", "PointsDDPMPipeline"]

register(ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, PointsDDPMPipeline)
