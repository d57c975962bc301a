"""What a trained model is evaluated on, and how its answers are scored. A file per task; its name is the YAML name."""

from chatbridge.tasks.base import TASKS, Prediction, Task, TaskConfig
from chatbridge.tasks.predict import iter_predictions, predictions
from chatbridge.tasks.prompt import question_of, room_for_answer

__all__ = [
    "TASKS", "Prediction", "Task", "TaskConfig", "iter_predictions", "predictions", "question_of", "room_for_answer"
]  # fmt: skip
