"""Typed conversations, chat templates, and the layout that turns them into token sequences.

typed          messages: roles, text, media and drawings; modalities: the registered kinds of media
templates      templates: one file per chat template; spans: what a template writes
sequences      layout: where labels are made; fitting: what is too long; token_sequence: ids, positions, targets and
               media slots; attention: which positions see each other; varlen_attention: by the borders of
               conversations; tokenizer: text to ids; gguf_tokenizer: that of a GGUF file; clip_tokenizer: text to
               the ids of ImageBind's text trunk
answers        stop_strings: what ends an answer; answer_parts: generated ids back to text and drawings
data           text_cleaning: captions, questions and media markers of annotation files
"""
