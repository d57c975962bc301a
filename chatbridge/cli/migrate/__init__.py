"""`chatbridge migrate OLD.yaml`: a configuration of LAVIS, MiniGPT-4 or ChatBridge becomes one of ours.

files  original: reads the old file with its defaults; rows: what became of every key; target: the new file
rules  families: which model; model_keys; run_keys; prompts; lavis_data, lavis_processors, shares, mix_file: training
       data; questions: evaluation
"""
