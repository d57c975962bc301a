"""Look at the data of a run before it starts: check it, show a sample, count tokens, index shards.

all of them    command: the actions; terminal: colours
check          check: the action; probe: reads a sample; findings: what was found, and the quarantine list
show           show: the action; sample: a sample and what became of it; token_stream: its row; media_png: its media as PNGs;
               show_text, show_page: for the terminal and as HTML
stats          stats: the action; measure: lengths of rows; budget: what a run sees; stats_text: the tables
index          index: the action
parts          instrumented_processor: a processor with something around it; task_questions: a question of an evaluation
"""
