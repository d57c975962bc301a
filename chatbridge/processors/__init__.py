"""Media files to encoder inputs. Preprocessing belongs to the weights and is built without them.

shared         media_processor: the contract and the base class; limits: what a file may cost; media_source: references
               to media, and errors; decoder_messages: the texts of decoders in plain words; piece_choice: which
               frames or slices are taken; description: what decides the output of a processor
images         image: the processor; image_file: opens files with Pillow; fast_jpeg: usual files by torchvision;
               png_file: images in memory as files
videos         video: the processor; video_pyav, video_torchcodec, video_decord: the backends; animated_image: GIF, WebP
               and APNG; video_index, video_keyframes: where exact seeking may start; ts_packet_loss: lost packets;
               container_file: opens files with FFmpeg
audio          audio: the processor of BEATs; audio_file: opens audio; audio_soundfile, audio_pyav: the two decoders;
               audio_reader: their contract, and how channels become one; audio_header_check: headers that state too
               little; audio_mp3_ogg: lengths found by walking through a file
ImageBind      imagebind_image, imagebind_audio, imagebind_video: by its own rules or by ChatBind's; imagebind_depth,
               imagebind_thermal, imagebind_imu; video_rate: frames per second; array_file, imu_file: arrays, tables
Hugging Face   hf_image, hf_audio: the processors that a model folder describes
"""
