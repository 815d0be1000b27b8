"""What goes around a call of the libraries: silence, and advice where a GPU is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn a full GPU into a MemoryError that says in one sentence what helps, and give back what can be given back."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; Apple's MPS has no class of its own for it
        mps = "MPS backend out of memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or mps):
            raise
        # The traceback holds the tensors of every function it passed through: without it they can be freed.
        cause = error.with_traceback(None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        kind = "Mac's GPU" if mps else "GPU"
        raise MemoryError(
            f"The memory of the {kind} is full: draw fewer pictures at a time, or smaller ones; "
            "shut down other notebooks that use it; or restart the kernel and load the pipeline with "
            "safety_checker=False, or with dtype=torch.float16"
        ) from cause


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Keep diffusers and transformers from printing anything but errors, and their loading bars unless `bars`.

    Their settings are as before afterwards. The bars of downloads stay: they take minutes, loading takes seconds.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    downloads = not are_progress_bars_disabled()
    settings = [
        (library, library.get_verbosity(), library.is_progress_bar_enabled())
        for library in (diffusers_logging, transformers_logging)
    ]
    try:
        for library, _, _ in settings:
            library.set_verbosity_error()
            if not bars:
                library.disable_progress_bar()
        if downloads:
            enable_progress_bars()  # transformers switches these off together with its own
        yield
    finally:
        for library, verbosity, bar in settings:
            library.set_verbosity(verbosity)
            if bar and not bars:
                library.enable_progress_bar()
        if not downloads:
            disable_progress_bars()
