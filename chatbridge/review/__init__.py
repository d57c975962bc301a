"""GPT-assisted review: a judge compares two answers to each question and scores both.

inputs          questions, answers, descriptions of images and rules, as LLaVA and ChatBind publish them
question_data   a question file as the data set of a task, for the answers of a model
answer_lines    the released line of an answer
matching        the cases of a review, matched by ids
request         the text that a judge reads
judge           a client of any server that speaks OpenAI's protocol, with retries
pacing          the limit of requests per minute, shared by processes
reply_cache     replies by request, each requested once
scores          the two scores of a reply, read strictly and tolerantly
judging         all cases of a review
summary         means per category
line_file       output files that several processes append to
"""
