"""How the page looks. It loads no font or script from elsewhere."""

from __future__ import annotations

from typing import Any

CSS = """
.gradio-container {max-width: 1240px !important; margin: 0 auto !important}
#head h1 {margin: 0; font-size: 1.5rem} #head p {opacity: .75; margin: 0}
.chat img, .chat video {max-height: 240px; min-height: 96px; object-fit: contain}
#given {font-size: .92em} #given h3 {margin: .9em 0 .3em; font-size: .95em} #given h3:first-child {margin-top: 0}
#given ol {margin: 0; padding-left: 1.3em} #given li {margin: .5em 0; overflow-wrap: anywhere}
#given img {display: block; width: 100%; height: auto; border-radius: 6px; margin: .3em 0; background: #fff}
#given .note {opacity: .75; font-size: .92em}
#given pre {white-space: pre-wrap; overflow-wrap: anywhere; max-height: 260px; overflow-y: auto; margin: 0;
  padding: .6em; border-radius: 6px; background: var(--background-fill-secondary); font-size: .92em}
#given .media {background: var(--primary-100); color: var(--primary-800); border-radius: 4px; padding: 0 .3em}
.dark #given .media {background: var(--primary-800); color: var(--primary-100)}
#given h2 {margin: 1.2em 0 .2em; font-size: 1.05em; overflow-wrap: anywhere}
#given table {width: 100%; border-collapse: collapse; margin: 0}
#given table, #given tr, #given td {border: 0 !important}
#given td {padding: .12em 0 !important}
#given td:last-child {text-align: right; font-variant-numeric: tabular-nums}
#buttons {gap: 8px} #buttons button {min-width: 74px; flex: 1 1 74px}
#status {min-height: 0} #status p {margin: 0; font-size: .9em; opacity: .8; overflow-wrap: anywhere}
.chat .message-row:not(:has(.message-content .md)) + .message-buttons-right button[aria-label="Edit"] {display: none}
.chat button[aria-label="Share"] {display: none}
.gallery {flex-wrap: nowrap !important; overflow-x: auto; padding-bottom: 6px; contain: inline-size; width: 100%}
.gallery-item {flex: 0 0 210px; width: 210px}
.gallery-item > span {display: block} .gallery-item p {white-space: normal !important; margin: 0}
#fetch {position: absolute; width: 1px; height: 1px; overflow: hidden; opacity: 0; pointer-events: none}
.gallery-item .container {flex-wrap: wrap; min-width: 0 !important} .gallery-item audio {max-width: 180px}
@media (max-width: 600px) {.gradio-container .main > .wrap {padding: 12px !important}}
footer {display: none !important}
"""


def theme(gr: Any) -> Any:
    """Gradio's theme in our colours, with the fonts of the machine that shows the page."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Soft(primary_hue="teal", secondary_hue="teal", **fonts)


__all__ = ["CSS", "theme"]
