"""Takes the place of a package that every Ray process would import and compile for seconds; see `engine.py`."""

raise ImportError("left out in Ray's processes, where nothing checks the format of an IRI")
