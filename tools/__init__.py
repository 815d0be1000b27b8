"""What maintainers run, each as `python -m tools.NAME` from the top of the repository; CONTRIBUTING.md says when."""
