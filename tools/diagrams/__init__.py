"""The diagrams of the lessons as SVG, drawn from runs of the shipped model: `python -m tools.diagrams [name ...]`."""
