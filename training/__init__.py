"""How Pocket Diffusion is made."""
