"""Inspect the data of a run before it starts: check it, show a sample, measure sequences, index shards.

all commands   command: the actions; terminal: colors; instrumented_processor: intercepts the reading of media;
               evaluation_question: reads a question as an evaluation does
check          check: the action; sample_check: reads one sample; check_report: the results and the quarantine list
show           show: the action; sample: a sample and its layout; token_stream: its tokens; original_file: its
               media files; show_text, show_page: for the terminal and as HTML
stats          stats: the action; measure: lengths of sequences; run_shares: the composition of a run; stats_tables:
               text
index          index: the action
"""
