"""Media that a request names: data URLs, base64, file:// below a folder, http(s) on the public internet only.

sources            MediaSources, one per server, and RequestFiles, the files of one request
limits             SourceLimits: times, redirects, ports, hosts, items and bytes of a request
source_error       SourceError: the message for the user, with the HTTP status it means
content            what every kind of reference becomes before it is stored: chunks, declared type, name
data_urls          data: URLs and the base64 of `input_audio`
local_files        file:// URLs, opened below one folder without following symbolic links
download           http(s): every hop is checked, nothing is decoded, no proxy and no cookie is used
checked_connection connects to the addresses that were checked, within one time limit
public_address     which addresses belong to the public internet
content_types      whether a declared type fits the modality, and the ending of the stored file
"""

from __future__ import annotations

from chatbridge.serve.media_sources.limits import SourceLimits
from chatbridge.serve.media_sources.source_error import SourceError
from chatbridge.serve.media_sources.sources import MediaFile, MediaSources, RequestFiles

__all__ = ["MediaFile", "MediaSources", "RequestFiles", "SourceError", "SourceLimits"]
