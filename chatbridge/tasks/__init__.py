"""What a trained model is evaluated on, and how its answers are scored.

kinds        vqa, captioning, dialogue, choice, mme, mmbench, generate: a file per kind, whose name is the YAML name;
             `base` has their contract, `settings` what all of them can set
answers      `evaluator` runs all tasks; `question_loader` reads questions, `predict` answers them,
             `partial_answers` resumes, `prediction_lines` reads and writes their files
scores       `metrics/` has a file per metric, `scoring` applies them, `scores_file` keeps the results,
             `statistics` has intervals and tests, `submissions` the files for test servers
reports      `modality_report/`: which modalities a model uses; `receipt`: hashes of all that a number depends on
"""

from chatbridge.tasks.base import TASKS, Prediction, Task, TaskConfig
from chatbridge.tasks.predict import iter_predictions, predictions
from chatbridge.tasks.prompt import question_of, room_for_answer

__all__ = [
    "TASKS", "Prediction", "Task", "TaskConfig", "iter_predictions", "predictions", "question_of", "room_for_answer"
]  # fmt: skip
