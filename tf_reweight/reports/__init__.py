"""What a model or a run looks like: tables, curves, charts and the page."""
