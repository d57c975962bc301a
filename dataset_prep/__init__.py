"""Scripts that convert published data sets to the files that the YAMLs read. `python -m dataset_prep` lists them.

shared            common: manifest, resume, skipped.jsonl, arguments, shards, process pool
media             media_jobs: folders of media files; video_frames: the frames of one video
annotations       annotation_file: an annotation file of MULTIS and its manifest; image_index, multis_media: the media
                  that it names; multis_records, mmgpt_records: records of public layouts in those of MULTIS and of
                  Multimodal-GPT
web_images        link_lists, img2dataset_call, img2dataset_stats: before, during and after the call of img2dataset
pages             cards: one per data set
construction      textbind: its commands are listed by `python -m dataset_prep.textbind`
synthetic data    tiny_world
real weights      stamps: a small run that needs no model hub
"""
