"""Language models behind an OpenAI-compatible endpoint: requests, the replayable store, checks, costs, safety."""

from confitlib.llm.client import Client, Summary, explain
from confitlib.llm.pricing import Estimate, Price, load_prices
from confitlib.llm.requests import Answer, Check, Request, Usage, prompt
from confitlib.llm.store import Store
from confitlib.llm.tasks import TASKS, Task, find_task, register

__all__ = [
    "TASKS",
    "Answer",
    "Check",
    "Client",
    "Estimate",
    "Price",
    "Request",
    "Store",
    "Summary",
    "Task",
    "Usage",
    "explain",
    "find_task",
    "load_prices",
    "prompt",
    "register",
]
