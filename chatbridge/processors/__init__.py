"""Media files to encoder inputs. Preprocessing belongs to the weights and is built without them.

all of them    limits: what a file may cost, and the base class; media_source: paths, bytes, and reasons; sampling:
               which frames or slices are taken; container_file: the one door to FFmpeg; decoder_messages: its texts
images         image: the processor; image_file: the one door to Pillow; jpeg: the fast way for most files;
               background: the color behind transparent pixels, as a setting
videos         video: the processor; video_pyav, video_torchcodec, video_decord: the backends; animated_image:
               animated images; video_index, video_keyframes: where exact seeking may start; ts_losses: packets that
               are missing
sounds         audio: the processor of BEATs; audio_file, audio_track: files and sound tracks, read in stretches;
               audio_channels: channels to one; audio_headers: headers that state too little;
               audio_lengths: lengths that headers only estimate
Hugging Face   hf_image: pictures; hf_audio: sounds
"""
