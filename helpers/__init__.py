"""Helpers for the lessons of *Stable Diffusion, step by step*."""
