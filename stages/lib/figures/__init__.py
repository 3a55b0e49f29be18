"""The charts: one Vega-Lite specification each, and what draws it for the report and the README. No TensorFlow."""
