"""Media files to encoder inputs. Preprocessing belongs to the weights and is built without them.

all of them    limits: what a file may cost, and the base class; source: paths, bytes, and reasons; sampling: which
               frames or slices are taken; container_file: the one door to FFmpeg; decoder_words: what decoders say
images         image: the processor; image_file: the one door to Pillow; jpeg: the fast way for most files;
               background: the color behind transparent pixels, as a setting
videos         video: the processor; video_pyav, video_decord: the two backends; video_image: animated images;
               video_index, video_keys: where exact seeking may start; ts_losses: packets that are missing
sounds         audio: the processor of BEATs; sound, sound_track: files and sound tracks, read in stretches;
               sound_mix: channels to one; sound_headers: headers that state too little;
               sound_lengths: lengths that headers only estimate
Hugging Face   preprocessor_config: pictures; extractor: sounds
"""
