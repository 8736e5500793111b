"""What a notebook shows of our objects: bundles of the same thing in several formats, by MIME type.

Text is what the command line prints; HTML is static and isolated in a frame of its own, so that two outputs of one
notebook cannot colour each other.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bilevel.binding import Parts
    from bilevel.errors import RecipeError
    from bilevel.plan import Plan
    from bilevel.recipe import Recipe
    from bilevel.run import Run

Bundle = dict[str, str]

FRAME = 680
"""Height of a plan in a notebook, in pixels."""


def recipe_bundle(recipe: Recipe) -> Bundle:
    """The flattened recipe, and its problem as equations; a recipe with errors shows these."""
    from bilevel.errors import RecipeError

    text = str(recipe)
    try:
        latex = recipe.to_latex()
    except RecipeError as error:
        return error_bundle(error)
    html = f"<pre>{escape(text)}</pre>"
    return {"text/plain": text, "text/html": html, "text/latex": f"$$\n{latex}\n$$"}


def plan_bundle(plan: Plan, parts: Parts | None = None) -> Bundle:
    """The plan as text, page and picture, and the problem as equations."""
    from bilevel.dsl.latex import to_latex
    from bilevel.explain import plan_text
    from bilevel.plan_json import plan_json
    from bilevel.views import FORMATS, read

    document = read(plan_json(plan))
    page = escape(FORMATS["html"](document))
    frame = f'<iframe srcdoc="{page}" style="width:100%;height:{FRAME}px;border:0" title="plan"></iframe>'
    bundle = {"text/plain": plan_text(plan, parts), "text/html": frame, "image/svg+xml": FORMATS["svg"](document)}
    return {**bundle, "text/latex": f"$$\n{to_latex(plan.program)}\n$$"}


def run_bundle(run: Run) -> Bundle:
    """The reports of a run, first and last, under its headline."""
    from bilevel.explain import summary
    from bilevel.outcome import report_table

    table = report_table(run)
    steps = sum(state.step for state in run.states.values())
    head = f"{summary(run.program.plan)}; {steps:,} steps, seed {run.seed}; followed: {run.exactness}"
    text = "\n".join([head, *("  ".join(row) for row in [table.columns, *table.rows])])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    return {"text/plain": text, "text/html": f"<p>{escape(head)}</p><table><tr>{heads}</tr>{rows}</table>"}


def error_bundle(error: RecipeError) -> Bundle:
    """The messages with the user's own text, as on the command line."""
    return {"text/plain": str(error), "text/html": f"<pre>{escape(str(error))}</pre>"}
