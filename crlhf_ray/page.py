"""Templates of the pages that are one file, all with one head (head.html): nothing fetched, nothing run."""

from __future__ import annotations

import jinja2


def page(name: str) -> jinja2.Template:
    """A template of the package, by its path in it; it escapes what it is given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crlhf_ray", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
