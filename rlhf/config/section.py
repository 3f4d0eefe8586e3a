"""The base of the sections of the schema."""


class Section:
    """A group of options; each subclass is one section of the configuration."""
