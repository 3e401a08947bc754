"""The requests that are served by a generator, which takes (the loaded model, the request), yields between its passes so that streams go on
meanwhile, and returns the result."""

from . import scoring
from .embedding import embed

LISTS = {"classify": scoring.classify, "embed": embed, "prompt_logprobs": scoring.prompt_logprobs}
