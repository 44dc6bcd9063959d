"""The classroom: JupyterLab on copies of the notebooks, the book of executed notebooks, the drawing of the method."""
