"""GPT-assisted review: a judge compares two answers to each question and scores both.

input_files      questions, answers, descriptions of images and rules, as LLaVA and ChatBind publish them
question_data    a question file as the data set of a task, for the answers of a model
answer_lines     the released line of an answer
answer_settings  what a file of answers was made with
matching         the cases of a review, matched by ids
request_text     the text that a judge reads
judge_client     a client of any server that speaks OpenAI's protocol, with retries
rate_limit       the limit of requests per minute, shared by processes
reply_cache      replies by request, each requested once
scores           the two scores of a reply, read strictly and tolerantly
parallel_requests  makes many requests at once
review_cases     asks the judge about all cases and writes the reviews
grades           asks the judge about single answers, for the metric `judge`
usage            replies, tokens and cost of one command
summary          means per category
json_lines_file  output files that several processes append to
"""
