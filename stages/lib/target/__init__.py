"""What the generated C of a model costs on processors, and what it answers there: built, emulated, timed."""
