"""Language models behind an OpenAI-compatible endpoint: requests, the replayable store, checks, costs."""

from confitlib.llm.client import Client, Estimate, Price, Summary
from confitlib.llm.requests import Answer, Check, Request, Usage, prompt
from confitlib.llm.store import Store
