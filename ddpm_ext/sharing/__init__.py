"""Sharing: models from elsewhere come in, and models of ours go where others can open them."""
