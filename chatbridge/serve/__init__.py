"""Talking to a model: one engine behind the command line, the demo, Python code and the servers.

the engine     engine: conversations in, growing answers out; load: a trained model in one line; backend: what servers
               need of an engine; request: settings of a request, usage and timing; answer: one, whole or so far
a request      message_inputs: what `reply` accepts; conversation_inputs: media read and decoded; context_length: turns
               that do not fit; scheduler: requests share one model; answer_stream, growing_answer: from its events to
               answers; token_texts: the text of a token; rendering: progress of an image
shared by all  uploads: files of users; media_pictures: media as pictures; caches: what is kept between requests
chats          session: turns as plain values; dialogue: attach, ask, retry, undo; media_refs: files named in text;
               saved_conversations: chats in files, votes; drawn_files: images of answers; what_it_saw: what the model
               was given
front ends     demo: the page; openai_api: the HTTP server; media_sources: media of its requests; vllm: language models
               that run in vLLM; transformers_model: the code of an exported folder; lmms_eval_model: lmms-eval
messages       moved_files: hints for files that are elsewhere
"""
