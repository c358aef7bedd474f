"""A report as its reader sees it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sayo.report import build_report


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.attributes, self.images, self.words = [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag == "img":
            pair = dict(attributes)
            self.images.setdefault(pair["alt"], []).append(pair["src"])

    def handle_data(self, data):
        self.words.append(data)


def page(*runs: Path, out: Path, **options) -> Page:
    return Page(build_report(runs, out, **{"questions": 1, **options}))
