"""The tokenizer and the text encoder: Stable Diffusion's classes, with a vocabulary made for the captions."""

import copy
import json
from collections.abc import Iterable, Iterator, Sequence

import torch
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from helpers.scenes import COLOURS, GROUNDS, RELATIONS, STYLES, WORDS, Scene, Thing

TOKENS = 32  # the longest caption has 19 tokens with both ends; the rest is room for words never seen
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # each byte as a printable character
LAST_BYTES = [byte + "</w>" for byte in BYTES]  # the same at the end of a word


def vocabulary_captions() -> Iterator[str]:
    """Captions that together hold every word of the grammar."""
    for i, word in enumerate(WORDS):
        yield Scene((Thing(word), Thing(WORDS[i - 1], "blue")), RELATIONS[i % len(RELATIONS)]).caption()
    for colour in COLOURS:
        yield Scene((Thing("owl", colour),)).caption()
    for ground in GROUNDS:
        for style in STYLES:
            yield Scene((Thing("owl"),), ground=ground, style=style).caption()


def clip_tokenizer(merges: Iterable[tuple[str, str]], length: int) -> CLIPTokenizer:
    """A byte-level BPE tokenizer with these merges, whose text encoder reads `length` tokens, both ends included.

    Its vocabulary is laid out as CLIP's own: 256 bytes, 256 bytes that end a word, merges, start, end.
    """
    merges = list(merges)
    tokens = [*BYTES, *LAST_BYTES, *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def build_tokenizer(captions: Sequence[str] = ()) -> CLIPTokenizer:
    """A byte-level BPE tokenizer (Sennrich et al., 2016, arXiv:1508.07909) that knows each word as one token.

    captions: texts that hold the words, by default those of the grammar. Of very many words, some thousands, the
    rarest remain in pieces. Any other text still has tokens, byte by byte.
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
    trained.train_from_iterator(captions or vocabulary_captions(), trainer)
    return clip_tokenizer(map(tuple, json.loads(trained.to_str())["model"]["merges"]), TOKENS)


@torch.no_grad()
def reading(text_encoder: CLIPTextModel, old: CLIPTokenizer, new: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder for another tokenizer's tokens: each begins as the mean of the old ones with the same text."""
    vectors = text_encoder.get_input_embeddings().weight
    known_before, vocabulary = old.get_vocab(), new.get_vocab()
    rows = []
    for token in sorted(vocabulary, key=vocabulary.get):
        known = known_before.get(token)
        numbers = old(token.removesuffix("</w>"), add_special_tokens=False).input_ids if known is None else [known]
        rows.append(vectors[numbers].mean(dim=0))
    config = copy.deepcopy(text_encoder.config)
    config.vocab_size = len(rows)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = new.bos_token_id, new.eos_token_id, new.pad_token_id
    other = CLIPTextModel(config)
    weights = dict(text_encoder.state_dict())
    name = next(name for name, weight in other.named_parameters() if weight is other.get_input_embeddings().weight)
    other.load_state_dict(weights | {name: torch.stack(rows)})
    return other


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
