"""BLIP's task models (Li et al. 2022, section 5): retrieval, matching, captions and question answering; `HEADS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.models.blip.model import Blip, Captions, Matches
from coalign.models.blip.names import (
    caption_original,
    caption_transformers,
    matching_original,
    matching_transformers,
    original,
    vqa_original,
    vqa_transformers,
)
from coalign.models.blip.trunk import BlipConfig, BlipTowers, begun, input_spec_of
from coalign.objectives.causal_lm import CausalLM
from coalign.objectives.matching import Matching
from coalign.ops.generation import Generation, generate
from coalign.ops.masking import IGNORED, next_tokens
from coalign.trunks.decoding import DecodingTowers
from coalign.trunks.reading import text_of
from coalign.types import FREE, AnswerSpec, Batch, Draws, Encoding, Head, Images, InputSpec, Layout, Model, Packed


class BlipMatching(Matches, Model):
    """Both towers and the matching head, without momentum and queue: what searches, re-ranks and filters."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.online = BlipTowers(config)
        self.match_head = nn.Linear(config.text.dim, 2)
        self.classify = Matching()

    @property
    def towers(self) -> BlipTowers:
        return self.online

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The cross-entropy of the pairs that labels say match, 1, or do not, 0."""
        del draws
        return {"matching": self.classify(self.encode(batch).pooled["match_logits"], batch.labels.require("label"))}


class BlipCaptioner(Captions, Model):
    """An image encoder and a decoder of its own (section 5.2)."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = DecodingTowers(config.image, config.text)
        self.lm = CausalLM(smoothing=config.smoothing)

    @property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.config)

    def memory(self, images: Images) -> Packed:
        return self.towers.image(images)

    def next_words(self, ids: Tensor, memory: Packed, items: Tensor) -> Tensor:
        return self.towers.next_words(ids, memory, items)

    def start_from(self, pretrained: Blip) -> None:
        """Weights of a pre-trained model: its decoder, with what that shared."""
        start_decoder(self.towers, pretrained)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """States of the image, and of the text where there is one."""
        del record
        assert batch.images is not None
        tokens = {"image": self.towers.image(batch.images)}
        if batch.text is not None:
            ids = begun(batch.text.ids, self.config.decode_id)
            tokens["text"] = self.towers.answer(ids, tokens["image"])
        return Encoding(tokens)

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """The next word of each caption, which begins with the model's prompt."""
        del draws
        assert batch.images is not None
        ids = with_prompt(text_of(batch).ids, self.config.prompt)
        return {"lm": self.loss(ids, self.towers.image(batch.images), len(self.config.prompt))}

    def loss(self, ids: Packed, image: Packed, prompt: int) -> Tensor:
        """The mean loss of the words after the first id and `prompt` more."""
        ids = begun(ids, self.config.decode_id)
        labels = next_tokens(ids)
        rows = ((labels != IGNORED) & (ids.layout.position >= prompt)).nonzero().squeeze(1)
        return self.lm(self.towers.logits(self.towers.answer(ids, image).values[rows]), labels[rows])


class BlipVqa(Model):
    """Answers by a decoder that looks at question and image (section 5.3): ranked among candidates, or generated."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.towers = DecodingTowers(config.image, replace(text, context_dim=text.dim), text)
        self.each = CausalLM("none", config.smoothing)

    @property
    def input_spec(self) -> InputSpec:
        return replace(input_spec_of(self.config), answers=AnswerSpec("answers"))

    def start_from(self, pretrained: Blip) -> None:
        """Weights of a pre-trained model; cross-attention to text states starts anew where these are not as wide."""
        assert self.towers.text is not None
        self.towers.text.load_state_dict(pretrained.online.text.state_dict())
        start_decoder(self.towers, pretrained)

    def read(self, batch: Batch) -> Packed:
        """Question states with the image in view."""
        assert batch.images is not None
        return self.towers.read(begun(text_of(batch).ids, self.config.encode_id), batch.images)

    def encode(self, batch: Batch, *, record: bool = False) -> Encoding:
        """Question states with the image in view."""
        del record
        return Encoding({"fused": self.read(batch)})

    def losses(self, batch: Batch, draws: Draws = FREE) -> dict[str, Tensor]:
        """Σ weight * answer loss / images. Labels: "answers" Packed ids, their "weights", and their "questions" [n]."""
        del draws
        each = self.answer_losses(batch, self.read(batch))
        return {"vqa": (batch.labels.require("weights") * each).sum() / len(batch)}

    def answer_losses(self, batch: Batch, states: Packed) -> Tensor:
        """[n] the loss of each answer, summed over its words."""
        answers = begun(batch.labels.require("answers"), self.config.decode_id)
        return self.towers.text_losses(answers, states, batch.labels.require("questions"), self.each)

    @torch.no_grad()
    def rank(self, batch: Batch, candidates: Packed, k: int) -> tuple[Tensor, Tensor]:
        """The `k` likeliest of `candidates` for each question: numbers [B, k] and probabilities [B, k], best first.

        The first word shortlists k of them; the log-likelihood of the whole answer decides.
        """
        return self.rank_states(self.read(batch), candidates, k)

    def rank_states(self, states: Packed, candidates: Packed, k: int) -> tuple[Tensor, Tensor]:
        """The same from question states."""
        candidates = begun(candidates, self.config.decode_id)
        _, chosen = self.towers.shortlist(states, candidates, k)
        score = -self.towers.candidate_losses(states, candidates, chosen, self.each)
        score, order = score.softmax(1).sort(1, descending=True)
        return chosen.gather(1, order), score

    def answers(self, states: Packed, how: Generation) -> list[Tensor]:
        """The ids of an answer to each question, from its states; the marker first, the end last."""
        begin = torch.full((len(states), 1), self.config.decode_id, device=states.values.device)
        return generate(lambda ids, items: self.towers.next_words(ids, states, items), begin, self.config.sep_id, how)


@torch.no_grad()
def start_decoder(towers: DecodingTowers, pretrained: Blip) -> None:
    """Image encoder, decoder and word head of a pre-trained model, as far as sizes agree."""
    if pretrained.decoder is None:
        raise InputError("the pre-trained BLIP has no decoder: it was made without the language-modelling objective")
    own = pretrained.online.text.state_dict()
    for name, tensor in pretrained.decoder.blocks.state_dict().items():
        own[f"encoder.blocks.{name}"] = tensor
    mine = towers.decoder.state_dict()
    towers.decoder.load_state_dict({name: own[name] if own[name].shape == t.shape else t for name, t in mine.items()})
    towers.image.load_state_dict(pretrained.online.image.state_dict())
    towers.words.load_state_dict(pretrained.decoder.words.state_dict())


def with_prompt(ids: Packed, prompt: Sequence[int]) -> Packed:
    """The texts with `prompt` after their first id."""
    if not prompt:
        return ids
    more = ids.values.new_tensor(prompt).expand(len(ids), -1)
    first, rest = Packed.uniform(torch.cat([ids.first[:, None], more], 1)), ids.values[ids.layout.position > 0]
    return Packed.concat(first, Packed(rest, Layout.of(ids.host_lengths - 1, rest.device)))


def for_retrieval(config: BlipConfig) -> BlipConfig:
    """Retrieval fine-tuning (section 5.1): pairs that share an id are all positive, and no decoder."""
    return replace(config, targets="ids", objectives=("itc", "itm"), max_text_length=35)


def for_matching(config: BlipConfig) -> BlipConfig:
    """Matching alone, as the authors' class and Hugging Face's compute it: texts keep [CLS]."""
    return replace(config, encode_marker=False, max_text_length=35)


def for_captions(config: BlipConfig) -> BlipConfig:
    """Captions: texts of at most 40 ids, the prompt among them."""
    return replace(config, max_text_length=40)


def for_questions(config: BlipConfig) -> BlipConfig:
    """Questions of at most 35 ids."""
    return replace(config, max_text_length=35)


HEADS = {
    "retrieval": Head(Blip, BlipConfig, for_retrieval, {"original": original}),
    "matching": Head(
        BlipMatching, BlipConfig, for_matching, {"original": matching_original, "transformers": matching_transformers}
    ),
    "caption": Head(
        BlipCaptioner, BlipConfig, for_captions, {"original": caption_original, "transformers": caption_transformers}
    ),
    "vqa": Head(BlipVqa, BlipConfig, for_questions, {"original": vqa_original, "transformers": vqa_transformers}),
}
