"""Many requests at once: pages of memory, a scheduler without phases, and what each request wants of its answer."""
