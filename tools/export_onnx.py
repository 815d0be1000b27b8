"""Pocket Diffusion's three networks as ONNX files, for the page that draws in a browser.

    python -m tools.export_onnx FOLDER

Weights are stored in float16, which halves the files, and made float32 again when a file is loaded, so all computing
is done in float32. Each network takes one picture at a time: in a browser a batch is no quicker, and shapes that never
change leave less to do at every call.

A file's name carries a key of all that it was made from, so that one that is there already is not made again, and a
browser never takes an old one for a new one.
"""

import argparse
import hashlib
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from helpers.library_calls import quiet
from helpers.loading import load_pipeline
from helpers.model_folder import POCKET

LIBRARIES = ("diffusers", "onnx", "onnxscript", "torch", "transformers")
LEAST_STORED_IN_HALF = 64  # numbers: constants of the graph are fewer, and stay as they are


class TextEncoder(nn.Module):
    """Token ids (1, length), int64, to the vectors that the U-Net reads (1, length, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids)[0]


class UNet(nn.Module):
    """Latents (1, 4, h, w), a timestep (1,) and vectors of a prompt (1, length, width) to the noise (1, 4, h, w)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        return self.unet(latents, timestep, words, return_dict=False)[0]


class Decoder(nn.Module):
    """Latents (1, 4, h, w) as the U-Net knows them to a picture (1, 3, 8 h, 8 w), about -1 (black) to 1 (white)."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]


# The name of a file, the folder of the model it is made from, and what its input and its output are called.
PARTS = {
    "text-encoder": ("text_encoder", ["ids"], ["words"]),
    "unet": ("unet", ["latents", "timestep", "words"], ["noise"]),
    "decoder": ("vae", ["latents"], ["picture"]),
}


def key(part: str, model: Path = POCKET) -> str:
    """Of all that a part's file is made from: weights, settings, this program and the libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(" ".join(f"{name} {version(name)}" for name in LIBRARIES).encode())
    for path in sorted((model / PARTS[part][0]).iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def network(part: str, pipe) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """One of `PARTS` of a pipeline, ready to be exported, and inputs of the shapes that it takes."""
    text, unet = pipe.text_encoder, pipe.unet
    ids = torch.zeros(1, text.config.max_position_embeddings, dtype=torch.int64)
    latents = torch.zeros(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    words = torch.zeros(*ids.shape, text.config.hidden_size)
    return {
        "text-encoder": (TextEncoder(text), (ids,)),
        "unet": (UNet(unet), (latents, torch.zeros(1), words)),
        "decoder": (Decoder(pipe.vae), (latents,)),
    }[part]


def made_small(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without the exporter's notes on each node, among which are paths of this machine, and with its
    float32 weights in float16, each followed by a cast to float32.
    """
    graph, casts = model.graph, []
    for noted in (model, graph, *graph.node, *graph.input, *graph.output):
        del noted.metadata_props[:]
    del graph.value_info[:]
    for weights in graph.initializer:
        del weights.metadata_props[:]
        values = numpy_helper.to_array(weights)
        if weights.data_type != TensorProto.FLOAT or values.size < LEAST_STORED_IN_HALF:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:  # no weights, but the mask that hides later words
            continue
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [weights.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def export(folder: Path) -> dict[str, Path]:
    """Write into a folder what is not there yet of `PARTS`, and delete what is there of older ones.

    Returns the file of each part. Takes half a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {part: folder / f"{part}-{key(part)}.onnx" for part in PARTS}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    missing = [part for part, path in files.items() if not path.exists()]
    pipe = load_pipeline("pocket", device="cpu", dtype=torch.float32) if missing else None
    for part in missing:
        module, inputs = network(part, pipe)
        _, names, results = PARTS[part]
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module.eval(), inputs, dynamo=True, verbose=False, input_names=names, output_names=results
            )
        for old in folder.glob(f"{part}-*.onnx"):
            old.unlink()
        unfinished = files[part].with_suffix(".part")  # two builds at once do not see each other's halves
        onnx.save(made_small(program.model_proto), unfinished)
        unfinished.replace(files[part])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for path in export(parser.parse_args().folder).values():
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
