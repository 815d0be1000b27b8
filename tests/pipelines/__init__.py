"""Makers of pipelines for tests: tiny ones, ones of the size of Stable Diffusion 1.5, and a hub that has them."""
