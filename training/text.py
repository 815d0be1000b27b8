"""The tokenizer and the text encoder: Stable Diffusion's classes, with a vocabulary made for the scenes."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from helpers.scenes import BACKGROUNDS, RELATIONS, STYLES, WORDS, caption

TOKENS = 32  # the longest caption has 16 tokens with both ends; the rest is room for words never seen
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # each byte as a printable character
LAST_BYTES = [byte + "</w>" for byte in BYTES]  # the same at the end of a word


def vocabulary_captions() -> Iterator[str]:
    """Captions that together hold every word of the grammar."""
    for i, word in enumerate(WORDS):
        yield caption((word, WORDS[i - 1]), relation=RELATIONS[i % len(RELATIONS)], background="blue", style="flat")
    for background in BACKGROUNDS:
        for style in STYLES:
            yield caption(("owl",), background=background, style=style)


def clip_tokenizer(merges: Iterable[tuple[str, str]], length: int) -> CLIPTokenizer:
    """A byte-level BPE tokenizer with these merges, whose text encoder reads `length` tokens, both ends included.

    Its vocabulary is laid out as CLIP's own: 256 bytes, 256 bytes that end a word, merges, start, end.
    """
    merges = list(merges)
    tokens = [*BYTES, *LAST_BYTES, *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE tokenizer (Sennrich et al., 2016, arXiv:1508.07909) that knows each word as one token.

    Any other text still has tokens, byte by byte.
    """
    # Equally frequent pairs are joined in the order of their tokens' numbers. Given beforehand, these are always the
    # same: a resumed run makes its tokenizer anew, and its weights know tokens by number.
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=[*BYTES, *LAST_BYTES],
    )
    trained = CLIPTokenizer().backend_tokenizer
    trained.train_from_iterator(vocabulary_captions(), trainer)
    return clip_tokenizer(map(tuple, json.loads(trained.to_str())["model"]["merges"]), TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int, layers: int) -> CLIPTextModel:
    """A small CLIP text transformer (Radford et al., 2021, arXiv:2103.00020), trained with the U-Net from scratch."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=width,
    )
    return CLIPTextModel(config)
