"""What the package says of itself; imports nothing."""

__version__ = "0.1.0"
DISCLAIMER = "Research use only, not a medical device."
DEFAULT = "brain-flair"  # the model that is used unless another is named
