"""From what the public provides to what the YAMLs read. `python -m dataset_prep` lists the commands.

what they share   common: manifest, resume, skipped.jsonl, arguments, shards, several processes
media             media_jobs: folders of them; clips: one clip
lists             annotation_file: one of MULTIS while it is made; image_index, multis_media: the media that it names;
                  multis_records: records of public layouts as MULTIS has them
web_images        web_lists, web_call, web_stats: before, at and after its call of img2dataset
pages             cards: one per data set
made-up data      tiny_world
"""
