"""What scores a response: reward models, captions and external scorers."""
