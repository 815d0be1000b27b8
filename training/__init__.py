"""How Pocket Diffusion is made and measured."""
