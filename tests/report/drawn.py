"""What a browser draws of a report: read from the open page, and checked."""

from __future__ import annotations

from tests.browser import Page

SHOWN = '[...document.querySelectorAll("svg")].filter((svg) => getComputedStyle(svg).display !== "none")'
# Of each drawing: its label, its size, and how many of its shapes have one.
DRAWN = f"""{SHOWN}.map((svg) => {{
  const box = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll("path, rect, circle, line, use, polygon")].filter((shape) => {{
    const own = shape.getBoundingClientRect();
    return own.width > 0 || own.height > 0;
  }});
  return [svg.getAttribute("aria-label"), box.width, box.height, shapes.length];
}})"""
# Letters that stand outside their drawing, by more than two pixels.
OUTSIDE = f"""{SHOWN}.flatMap((svg) => {{
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {{
    const own = text.getBoundingClientRect();
    return own.left < box.left - 2 || own.right > box.right + 2 || own.top < box.top - 2 || own.bottom > box.bottom + 2;
  }}).map((text) => text.textContent);
}})"""
# Lines of the pipeline's picture that leave their box.
OVERFULL = """[...document.querySelectorAll("svg.picture g.box")].flatMap((box) => {
  const edge = box.querySelector("rect").getBoundingClientRect();
  return [...box.querySelectorAll("text")].filter((text) => text.getBoundingClientRect().right > edge.right)
    .map((text) => text.textContent);
})"""
WIDTH = "document.documentElement.scrollWidth"


def check_run_report(page: Page, width: int) -> list[str]:
    """Checks that nothing is wrong with a run's report, and that all of it is drawn in the window's width.

    Returns: what is drawn, by its label.
    """
    assert page.complaints == []
    assert page.requests == []
    drawn: list[tuple[str, float, float, int]] = page.evaluate(DRAWN)
    for label, box_width, height, shapes in drawn:
        assert box_width > 200, label
        assert height > 60, label
        assert shapes >= 5, label
    assert page.evaluate(WIDTH) == width  # tables scroll by themselves, the page does not
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(OVERFULL) == []
    labels = [label for label, *_ in drawn]
    assert len(labels) == len(set(labels))
    return labels
