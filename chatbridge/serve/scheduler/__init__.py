"""Many requests, one model: answers are generated together, a token each per step, and requests join and leave."""

from chatbridge.serve.scheduler.requests import Request
from chatbridge.serve.scheduler.scheduler import Scheduler

__all__ = ["Request", "Scheduler"]
