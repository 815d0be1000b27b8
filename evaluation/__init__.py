"""How Pocket Diffusion is measured."""
