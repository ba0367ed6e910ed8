"""An image encoder, perhaps a text encoder that looks at the image, and a causal decoder of words that looks at what
they give: question answering of ALBEF and BLIP, BLIP's captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coalign.errors import InputError
from coalign.layers.heads import MaskedLMHead
from coalign.layers.transformer import Context
from coalign.objectives.causal_lm import CausalLM
from coalign.ops.attention import Mask
from coalign.ops.masking import next_tokens, predicted_rows
from coalign.ops.packing import summed
from coalign.trunks.bert import BertConfig, BertTrunk
from coalign.trunks.vit import VitConfig, VitTrunk
from coalign.types import Images, Packed


class DecodingTowers(nn.Module):
    """`decoder` is the configuration of the decoder, whose context is the image's rows, or with `text` those of that
    encoder."""

    def __init__(self, image: VitConfig, decoder: BertConfig, text: BertConfig | None = None) -> None:
        super().__init__()
        self.image = VitTrunk(image)
        self.text = None if text is None else BertTrunk(text)
        self.decoder = BertTrunk(decoder)
        self.words = MaskedLMHead(decoder.dim, decoder.vocab_size, eps=decoder.eps)

    def read(self, question: Packed, images: Images) -> Packed:
        """States of questions with their images in view."""
        if self.text is None:
            raise InputError("this model reads no questions")
        image = self.image(images)
        return self.text(question, context=Context(image.values, Mask.between(question, image)))

    def answer(self, ids: Packed, states: Packed, questions: Tensor | None = None) -> Packed:
        """Decoder states of texts `ids`; text i is of item i of the states, or of `questions[i]`."""
        context = Context(states.values, Mask.between(ids, states, questions))
        return self.decoder(ids, mask=Mask.within(ids, causal=1), context=context)

    def logits(self, rows: Tensor) -> Tensor:
        """Logits [n, V] of the word after these states."""
        return self.words(rows, self.decoder.embedding.word.weight)

    def next_words(self, ids: Tensor, states: Packed, items: Tensor) -> Tensor:
        """Logits [n, V] of the word after each of `ids` [n, L], which is of item `items[n]`."""
        return self.logits(self.answer(Packed.uniform(ids), states, items).to_padded()[:, -1])

    def text_losses(self, ids: Packed, states: Packed, items: Tensor | None, loss: CausalLM) -> Tensor:
        """[n] the loss of each text, summed over its words."""
        labels = next_tokens(ids)
        rows = predicted_rows(labels)
        each = loss(self.logits(self.answer(ids, states, items).values[rows]), labels[rows])
        return summed(each, ids.layout.item[rows], len(ids))

    def shortlist(self, states: Packed, candidates: Packed, k: int) -> tuple[Tensor, Tensor]:
        """Probabilities [B, k] and numbers [B, k] of the candidates whose first words are likeliest."""
        size, k = len(states), min(k, len(candidates))
        begin = candidates.first[:1].expand(size, 1)
        first = self.next_words(begin, states, torch.arange(size, device=states.values.device))
        best = first.softmax(1)[:, candidates.values[candidates.layout.first + 1]].topk(k, 1)
        return best.values, best.indices

    def candidate_losses(self, states: Packed, candidates: Packed, chosen: Tensor, loss: CausalLM) -> Tensor:
        """[B, k] the loss of the candidates `chosen` [B, k] for each item."""
        items = torch.arange(len(chosen), device=chosen.device).repeat_interleave(chosen.shape[1])
        return self.text_losses(candidates.select(chosen.flatten()), states, items, loss).view(chosen.shape)
