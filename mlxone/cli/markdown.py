"""Blocks of markdown as coloured lines, by rich. Imported only when an answer goes to a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment, Segments
from rich.style import Style
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from mlxone.cli.blocks import Block
from mlxone.cli.live import Line
from mlxone.cli.terminal import neutralise

THEME = "ansi_dark"  # the terminal's own sixteen colours, so it is legible on any background
# rich's own box of black behind `code` is a blot on a light terminal.
_STYLES = Theme({"markdown.code": "cyan", "markdown.h1": "bold underline", "markdown.h2": "bold"})


class _Heading(Heading):
    """At the left, where the text is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Code(CodeBlock):
    """Code inside a list item: without the coloured box that spoils copying."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _syntax(str(self.text).rstrip(), self.lexer_name)


class _Answer(Markdown):
    """Markdown as models mean it: line breaks are kept, and what looks like HTML is text."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = parser.parse(text)
        _keep_line_breaks(self.parsed)


def _keep_line_breaks(tokens: Iterable[Token]) -> None:
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_line_breaks(token.children or ())


def _syntax(code: str, language: str) -> Syntax:
    return Syntax(code, language or "text", theme=THEME, background_color="default", word_wrap=True)


def _code_line(block: Block) -> Text:
    """The last line of its context, coloured as part of it."""
    code = "\n".join([*block.context, block.text])
    language = block.info.split()[0].strip("{}.") if block.info else ""
    lines = _syntax(code, language).highlight(code).split("\n", allow_blank=True)
    number = len(block.context)
    line = lines[number] if number < len(lines) else Text(block.text)
    line.overflow = "fold"
    line.expand_tabs(4)
    return line


class RichRenderer:
    def __init__(self, console: Console) -> None:
        console.push_theme(_STYLES)
        self._console = console

    def __call__(self, block: Block, width: int) -> list[Line]:
        if block.kind == "text":
            return _without_blank_ends(self._lines(_Answer(block.text), width))
        shown = Text(block.text, style="dim") if block.kind == "fence" else _code_line(block)
        return self._lines(shown, width)

    def _lines(self, what: RenderableType, width: int) -> list[Line]:
        options = self._console.options.update(width=width, height=None)
        rows = self._console.render_lines(what, options, pad=False)
        return [self._line(row) for row in rows]

    def _line(self, row: list[Segment]) -> Line:
        # Once more, on what really goes out: whatever parsing and formatting made of an entity.
        clean = [Segment(neutralise(text), style) for text, style, control in row if not control]
        clean = _without_padding(clean)
        with self._console.capture() as written:
            self._console.print(Segments(clean), end="", soft_wrap=True)
        return Line(written.get(), sum(segment.cell_length for segment in clean))


def _without_padding(row: list[Segment]) -> list[Segment]:
    """Spaces at the end that only fill the line would be copied along with it."""
    while row and not (row[-1].style or Style()).bgcolor:
        text = row[-1].text.rstrip()
        if text:
            return [*row[:-1], Segment(text, row[-1].style)]
        row = row[:-1]
    return row


def _without_blank_ends(lines: list[Line]) -> list[Line]:
    """rich surrounds lists, quotes and tables with empty lines; the gap between blocks is ours."""
    filled = [number for number, line in enumerate(lines) if line.cells]
    return lines[filled[0] : filled[-1] + 1] if filled else []
