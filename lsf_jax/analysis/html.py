"""Pages that open anywhere, offline: everything they need stands in them, and text of users is escaped."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lsf_jax.analysis.render import COLOURS

_FOLDER = Path(__file__).parent / "pages"
_SCRIPT = "viewer.js"


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: str, **values: Any) -> str:
    """A page from one of the package's templates.

    Args:
      template: a file of the folder `pages`.
      values: what it shows; text is escaped wherever it comes from.
    """
    script = Markup((_FOLDER / _SCRIPT).read_text(encoding="utf-8"))
    colours = {role: f"#{red:02x}{green:02x}{blue:02x}" for role, (red, green, blue) in COLOURS.items()}
    return _templates().get_template(template).render(script=script, colours=colours, **values)
