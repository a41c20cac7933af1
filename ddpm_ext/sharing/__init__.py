"""Sharing models: exports, conversions, model cards, the Hub."""
