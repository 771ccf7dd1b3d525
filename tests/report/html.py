"""A strict reader of our own pages: what a browser would build from them, and an error for what it would have to guess."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "img", "input", "path"}
BLOCKS = {"p", "td", "th", "li", "dt", "dd", "h1", "h2", "h3", "div", "title", "figcaption"}


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # (tag, name, value)
        self.ids: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag in BLOCKS:
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def read(path: Path | str) -> Reader:
    return Reader(path.read_text(encoding="utf-8") if isinstance(path, Path) else path)


def assert_self_contained(reader: Reader) -> None:
    """No host, no other file, no inline handler, one script, unique ids."""
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
        assert not name.startswith("on"), (tag, name)
        assert "url(" not in value
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    assert len(reader.ids) == len(set(reader.ids))
    targets = {value[1:] for _, name, value in reader.attributes if name == "href"}
    assert targets <= set(reader.ids)
    assert len(reader.scripts) == 2  # the data, and the one script
