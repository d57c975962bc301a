"""`chatbridge migrate OLD.yaml`: a configuration of LAVIS, MiniGPT-4 or ChatBridge becomes one of ours.

files  original: reads the old file with its defaults; rows: what became of every key; target: the new file
rules  families: which model; model_keys; run_keys; lavis_data, mix_file: training data; questions: evaluation
"""
