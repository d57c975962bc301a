"""What a trained model is asked, and how its answers are scored."""

from chatbridge.tasks._answers import answer_rows, answers, question_of, room_for_answer
from chatbridge.tasks.base import TASKS, Row, Task, TaskConfig

__all__ = ["TASKS", "Row", "Task", "TaskConfig", "answer_rows", "answers", "question_of", "room_for_answer"]
