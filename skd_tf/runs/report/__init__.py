"""The HTML report of one run, or of several side by side; no TensorFlow.

runs       what the workdirs hold, and who stands in the charts
svg        matplotlib to inline SVG whose colours follow the page
charts     the charts
page       tables, sections and the page
"""
