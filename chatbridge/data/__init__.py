"""Look at the data of a run before it starts: check it, show a sample, count tokens, index shards.

all of them    command: the actions; yaml_data: the sources of any YAML; senses: how its model takes media in; tokens:
               its tokenizer, or words; vocabulary: ids without an embedding row; terminal: colours
check          check: the action; probe: reads a sample; findings: what was found, and the quarantine list
show           show: the action; sample: a sample and what became of it; stream: its row; pictures: its media as PNGs;
               show_text, show_page: for the terminal and as HTML
stats          stats: the action; measure: lengths of rows; budget: what a run sees; stats_text: the tables
index          index: the action
parts          around: a processor with something around it; questions: a question of an evaluation
"""
